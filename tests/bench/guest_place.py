"""Guests behind interfaces: one for each setting that is compared.

    guest namespace              the bed's client namespace, which routes             hosts namespace
    eth0 198.51.100.66 <- veth -> g0 198.51.100.65, no programs      uplink <- veth -> wire
    eth0 198.51.100.70 <- veth -> g1 198.51.100.69, ten rules
    ...                           g4 ..., a tap whose program writes frames itself

All of a guest's packets go the same way, with our programs on its interface or without. Guests are bound to the
policies of the place's cgroups: what is compared there is compared here.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from bed.namespace import Namespace
from bed.network import CLIENT4, ip_batch
from bench.place import CLIENT, CLIENT_CPU, GRANTS, OFF, TEN, TEN_THOUSAND, Client, Place
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.guests import GuestPlace, GuestTables
from exeat.model.networks import mapped

GUESTS = (OFF, TEN, TEN_THOUSAND, GRANTS)
TAPS = (OFF, TEN_THOUSAND)
DENIED_NAME = "denied.test"
_NETWORK = "198.51.100.64/26"
_FIRST = IPv4Address("198.51.100.64")  # four addresses for each: the middle ones are the host's and the guest's
_GROUP = 6
_SYSCTLS = CLIENT | {
    "net.ipv6.conf.all.disable_ipv6": 1,  # a kernel's neighbour messages are not what is measured
    "net.ipv6.conf.default.disable_ipv6": 1,
}


@dataclass(frozen=True, slots=True)
class Link:
    """The host's side of a guest's interface, and whom it leads to."""

    name: str
    mac: str
    guest_mac: str
    host: IPv4Address
    guest: IPv4Address

    @property
    def said(self) -> GuestPlace:
        """What the programs are told of it."""
        guest_mac, mac = (bytes.fromhex(text.replace(":", "")) for text in (self.guest_mac, self.mac))
        return GuestPlace(
            network=0,
            gate=(),
            guest_mac=guest_mac,
            gateway_macs=(mac,),
            addresses=(mapped(self.guest),),
            gateways=(mapped(self.host),),
            learn=(),
            allows_dhcp=False,
        )

    @property
    def lines(self) -> str:
        """For `ip`, on the host's side. Neighbours are known to both ends, so that nothing waits for an answer."""
        return (
            f"addr add {self.host}/30 dev {self.name}\nlink set {self.name} group {_GROUP} address {self.mac} up\n"
            f"neigh add {self.guest} lladdr {self.guest_mac} nud permanent dev {self.name}\n"
        )


def _link(number: int) -> Link:
    host = _FIRST + 4 * number + 1
    return Link(f"g{number}", f"02:00:5e:00:54:{number:02x}", f"02:00:5e:00:55:{number:02x}", host, host + 1)


class GuestBed:
    """The guests of a place, and the programs on their interfaces."""

    settings = GUESTS

    def __init__(self, place: Place) -> None:
        self.place, self.host = place, place.bed.network.client
        self.workloads: dict[str, int] = {}  # of the guests, by setting
        self.hooks, self.tables = GuestHooks(place.guard.instance), GuestTables(place.guard.instance)
        self._guests: dict[str, Namespace] = {}
        self._clients: dict[tuple[str, str], Client] = {}
        self._judged: list[int] = []

    def open(self) -> None:
        """Puts up the guests, with our programs on their interfaces."""
        self.hooks.load()
        self.host.sysctl("net.ipv4.conf.all.forwarding", 1)
        with contextlib.suppress(FileNotFoundError):  # before 6.13 it is the whole machine's
            self.place.bed.network.hosts.sysctl("net.ipv4.icmp_msgs_burst", 100_000)
        ip_batch(self.place.bed.network.hosts, f"route replace {_NETWORK} via {CLIENT4} dev wire\n")
        for number, setting in enumerate(GUESTS):
            self._add_guest(setting, _link(number))

    def _add_guest(self, setting: str, link: Link) -> None:
        guest = self._guests[setting] = Namespace()
        for key, value in _SYSCTLS.items():
            guest.sysctl(key, value)
        peer = f"peer name eth0 address {link.guest_mac} netns {guest.path}"
        ip_batch(self.host, f"link add {link.name} type veth {peer}\n" + link.lines)
        ip_batch(
            guest,
            f"link set lo up\naddr add {link.guest}/30 dev eth0\nlink set eth0 up\n"
            f"neigh add {link.host} lladdr {link.mac} nud permanent dev eth0\nroute add default via {link.host}\n",
        )
        if setting != OFF:
            self.workloads[setting] = self.host.call(lambda: self.judge(link.name, link.said, setting))

    def judge(self, name: str, said: GuestPlace, setting: str) -> int:
        """Has our programs judge an interface by the policy of a setting; the workload. To be called on the host."""
        index = socket.if_nametoindex(name)
        self.tables.put(index, said)
        bound = {TEN: self.place.ten, TEN_THOUSAND: self.place.many, GRANTS: self.place.granted}[setting]
        self.place.guard.tables.switch(INTERFACE_BIT | index, bound.policy_ids[-1])
        self.hooks.attach(index)
        self._judged.append(INTERFACE_BIT | index)
        return INTERFACE_BIT | index

    def leave(self, workload: int) -> None:
        """The opposite, also on the host."""
        index = workload & ~INTERFACE_BIT
        self.hooks.detach(index)
        self.place.guard.tables.unbind(workload)
        self.tables.forget(index)
        self._judged.remove(workload)

    def forget_events(self) -> None:
        """As the place does."""
        self.place.forget_events()

    def _leave_all(self) -> None:
        for workload in list(self._judged):
            self.leave(workload)

    def guest(self, setting: str) -> Namespace:
        """Where the guest of a setting lives."""
        return self._guests[setting]

    def client(self, setting: str) -> Client:
        """The place's client, in a guest; started once."""
        if ("load", setting) not in self._clients:
            argv = [*self.place.program, "client", self.place.address, CLIENT_CPU]
            self._clients["load", setting] = Client(self.place.bed, argv, at=self._guests[setting])
        return self._clients["load", setting]

    def denied(self, program: str, setting: str) -> Client:
        """A client that is told no (denied.c), in a guest."""
        if (program, setting) not in self._clients:
            argv = [program, "client", self.place.address, CLIENT_CPU]
            self._clients[program, setting] = Client(self.place.bed, argv, at=self._guests[setting], name=DENIED_NAME)
        return self._clients[program, setting]

    def tap(self, program: str, setting: str) -> Client:
        """A tap, and the program behind it that writes its frames (frames.c)."""
        if (program, setting) not in self._clients:
            link = _link(len(GUESTS) + TAPS.index(setting))
            argv = [program, link.name, link.guest_mac, str(link.guest), self.place.address, CLIENT_CPU]
            self._clients[program, setting] = Client(self.place.bed, argv, at=self.host)
            ip_batch(self.host, link.lines)
            if setting != OFF:
                self.host.call(lambda: self.judge(link.name, link.said, setting))
        return self._clients[program, setting]

    def arrived(self) -> int:
        """How many packets the hosts have taken in."""
        text = self.place.bed.network.hosts.call(lambda: Path("/proc/thread-self/net/snmp").read_text())
        names, values = (line.split() for line in text.splitlines() if line.startswith("Ip:"))
        return int(values[names.index("InDelivers")])

    def sent(self, setting: str) -> int:
        """How many packets of a guest our programs have let out, by their own count."""
        return self.place.guard.tables.traffic(self.workloads[setting]).packets_out

    def close(self) -> None:
        """Leaves what was there before."""
        self.host.call(self._leave_all)
        for client in self._clients.values():
            client.end()
        if self._guests:
            ip_batch(self.host, f"link del group {_GROUP}\n")  # a namespace takes a while to take them along
        for guest in self._guests.values():
            guest.close()


@contextlib.contextmanager
def guest_bed(place: Place) -> Iterator[GuestBed]:
    """Set up, and taken down again."""
    bed = GuestBed(place)
    try:
        bed.open()
        yield bed
    finally:
        bed.close()
