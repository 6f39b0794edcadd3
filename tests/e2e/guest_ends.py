"""Guests behind veths of an agent stage: a namespace each, whose one interface ends in the agent's.

with guests_of(stage) as guests:
    one = guests.add("tap-1")                       # its host side is called so, in the agent's namespace
    stage.run_at(one, lambda: say(stage.shop.address4))

Of 198.51.100.128/25 each gets four addresses: the host's and its own, and the same of 2001:db8:3::/48.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from bed import call_in
from bed.namespace import Namespace
from e2e.agent_stage import AgentStage

_T = TypeVar("_T")
_FIRST4 = 128
MAC = "02:00:5e:00:53:{:02x}"


@dataclass
class Guest:
    """One of them."""

    name: str  # of the host side
    number: int
    namespace: Namespace

    @property
    def mac(self) -> str:
        """Its own."""
        return MAC.format(0x80 + self.number)

    @property
    def gateway4(self) -> str:
        """The host's end."""
        return f"198.51.100.{_FIRST4 + 4 * self.number + 1}"

    @property
    def address4(self) -> str:
        """Its own."""
        return f"198.51.100.{_FIRST4 + 4 * self.number + 2}"

    @property
    def gateway6(self) -> str:
        """The host's end."""
        return f"2001:db8:3:{self.number + 1:x}::1"

    @property
    def address6(self) -> str:
        """Its own."""
        return f"2001:db8:3:{self.number + 1:x}::2"


@dataclass
class Guests:
    """All of a stage's."""

    stage: AgentStage
    _all: dict[str, Guest] = field(default_factory=dict)

    def add(self, name: str, *, has_addresses: bool = True, index: int = 0) -> Guest:
        """One more, whose link is up when this returns; its host side comes under its name, complete."""
        used = {one.number for one in self._all.values()}
        guest = Guest(name, next(number for number in range(31) if number not in used), Namespace())
        self._all[name] = guest
        host, number = self.stage.bed.network.client, f"index {index}" if index else ""
        guest.namespace.sysctl("net.ipv6.conf.default.accept_dad", 0)
        host.command("ip", "link", "add", name, *number.split(), "type", "veth", "peer", "name", "eth0",
                     "address", guest.mac, "netns", guest.namespace.path)  # fmt: skip
        if has_addresses:
            host.command("ip", "addr", "add", f"{guest.gateway4}/30", "dev", name)
            host.command("ip", "addr", "add", f"{guest.gateway6}/64", "dev", name, "nodad")
        host.command("ip", "link", "set", name, "up")
        inside = (
            "link set lo up", f"addr add {guest.address4}/30 dev eth0", f"addr add {guest.address6}/64 dev eth0 nodad",
            "link set eth0 up", f"route add default via {guest.gateway4}", f"route add default via {guest.gateway6}",
        )  # fmt: skip
        guest.namespace.command("ip", "-batch", "-", stdin="\n".join(inside))
        return guest

    def remove(self, guest: Guest) -> None:
        """Its interface goes, as with a VM that ends."""
        self.stage.bed.network.client.command("ip", "link", "del", guest.name)
        self._all.pop(guest.name).namespace.close()

    def rename(self, guest: Guest, name: str) -> None:
        """The host side."""
        self.stage.bed.network.client.command("ip", "link", "set", guest.name, "name", name)
        del self._all[guest.name]
        guest.name = name
        self._all[name] = guest

    def call(self, guest: Guest, function: Callable[[], _T]) -> _T:
        """Calls a function inside a guest."""
        return call_in(self.stage.bed, function, at=guest.namespace)

    def clear(self) -> None:
        """Removes all."""
        for guest in list(self._all.values()):
            self.remove(guest)


@contextmanager
def guests_of(stage: AgentStage) -> Iterator[Guests]:
    """The agent's namespace forwards, and the hosts know the way back."""
    host, hosts = stage.bed.network.client, stage.bed.network.hosts
    host.sysctl("net.ipv4.conf.all.forwarding", 1)
    host.sysctl("net.ipv6.conf.all.forwarding", 1)
    hosts.command("ip", "route", "replace", "198.51.100.128/25", "via", "198.51.100.1", "dev", "wire")
    guests = Guests(stage)
    try:
        yield guests
    finally:
        guests.clear()
