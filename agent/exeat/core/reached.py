"""What a run reached, counted, and the fewest rules that allow exactly this."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import TypeVar

from exeat.core.proposal_text import ProposedRule
from exeat.core.resolvable import Resolvable
from exeat.model.networks import Address, mapped
from exeat.model.policy import Protocol

_TEXT_BYTES = 900_000  # of a proposal's rules: the policy reader takes a little more
_ENTRY_BYTES = 300  # what one destination takes there at most, beside its name

_K = TypeVar("_K")
_V = TypeVar("_V")


class Room:
    """How much may still be remembered, so that no run makes a policy that is too long to be read."""

    def __init__(self) -> None:
        self.refusals = 0
        self._left = _TEXT_BYTES
        self._admitted: set[object] = set()

    def admits(self, entry: object, name: str = "") -> bool:
        """Whether an entry is known already, or finds room."""
        if entry in self._admitted:
            return True
        cost = _ENTRY_BYTES + len(name)
        if cost > self._left:
            self.refusals += 1
            return False
        self._left -= cost
        self._admitted.add(entry)
        return True


class Reached:
    """Destinations by name, by name at an address, and by address alone."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._hosts: defaultdict[tuple[Protocol, str], Counter[int]] = defaultdict(Counter)  # by port
        self._hosts_at: defaultdict[tuple[str, int], Counter[Address]] = defaultdict(Counter)  # name and port
        self._addresses: defaultdict[tuple[Protocol, Address], Counter[int]] = defaultdict(Counter)  # by port

    def copy(self) -> "Reached":
        """One that can be added to without a trace in this one."""
        return deepcopy(self)

    def add_host(self, protocol: Protocol, host: str, port: int, count: int) -> None:
        """A host that was resolved to where the connection went."""
        if self.room.admits((protocol, host, port), host):
            self._hosts[protocol, host][port] += count

    def add_host_at(self, host: str, port: int, address: Address, count: int) -> None:
        """A host that a hello named at an address that is not known, or may not be known, by its name."""
        if self.room.admits((host, port, address), host):
            self._hosts_at[host, port][address] += count

    def add_address(self, protocol: Protocol, address: Address, port: int, count: int) -> None:
        """An address without any name; of icmp with port 0."""
        if self.room.admits((protocol, address, port)):
            self._addresses[protocol, address][port] += count

    def add(self, protocol: Protocol, hosts: tuple[str, ...], address: Address, port: int, count: int) -> None:
        """By name if there are any: without a hello nobody knows which of an address's names was meant."""
        if hosts and not is_special(address):
            for host in hosts:
                self.add_host(protocol, host, port, count)
        else:
            self.add_address(protocol, address, port, count)

    def hosts(self) -> set[str]:
        """Every host that a rule will name."""
        return {host for _, host in self._hosts} | {host for host, _ in self._hosts_at}

    def over_tcp(self) -> set[tuple[str, int]]:
        """Each host and port that was reached over TCP."""
        by_name = {
            (host, port) for (its, host), ports in self._hosts.items() if its is not Protocol.UDP for port in ports
        }
        return by_name | set(self._hosts_at)

    def rules(self) -> Iterator[ProposedRule]:
        """A rule multiplies its hosts, networks and ports, so only what has the same others shares one."""
        for protocol in Protocol:
            hosts = {host: frozenset(ports) for (its, host), ports in self._hosts.items() if its is protocol}
            for ports, together in _by_value(hosts):
                counted = {host: self._hosts[protocol, host].total() for host in together}
                yield ProposedRule(protocol, tuple(sorted(ports)), hosts=counted)
            addresses = {one: frozenset(ports) for (its, one), ports in self._addresses.items() if its is protocol}
            for ports, at in _by_value(addresses):
                its_ports = () if protocol is Protocol.ICMP else tuple(sorted(ports))
                yield ProposedRule(
                    protocol, its_ports, cidrs={one: self._addresses[protocol, one].total() for one in at}
                )
        wanted = {key: (key[1], frozenset(at)) for key, at in self._hosts_at.items()}
        for (port, ends), keys in _by_value(wanted):
            hosts_there = {host: self._hosts_at[host, port].total() for host, _ in keys}
            cidrs = {one: sum(self._hosts_at[key][one] for key in keys) for one in ends}
            yield ProposedRule(Protocol.TLS, (port,), hosts=hosts_there, cidrs=cidrs)


def is_special(address: Address) -> bool:
    """Whether it is private, loopback or the like: the gate lets no name lead there unless a network rule does."""
    return Resolvable.is_special(mapped(address))


def _by_value(values: Mapping[_K, _V]) -> list[tuple[_V, list[_K]]]:
    """The keys that have the same value, together."""
    together: defaultdict[_V, list[_K]] = defaultdict(list)
    for key, value in values.items():
        together[value].append(key)
    return list(together.items())
