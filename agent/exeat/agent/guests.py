"""Guests behind interfaces: what the programs are told of each, the programs' hooks, and where their gates listen."""

import os
from ipaddress import IPv4Address, IPv6Address

from exeat.agent.enforcer import Bound
from exeat.agent.guest_places import GateEnds, place_of
from exeat.agent.guest_said import GuestSaid
from exeat.dns.listeners import network_cookie
from exeat.errors import ExeatError, Refused, StatusWord
from exeat.interface_settings import InterfaceSettings
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.guests import AddressTaken, GuestPlace, GuestTables
from exeat.kernel.local_addresses import put_on_loopback
from exeat.kernel.network_links import NetworkLinks

_LOOPBACK_INDEX = 1


class Guests:
    """Belongs to the control loop. Whose interfaces these are, and under which policy, others know."""

    def __init__(
        self, hooks: GuestHooks, tables: GuestTables, links: NetworkLinks, settings: InterfaceSettings
    ) -> None:
        self._hooks = hooks
        self._tables = tables
        self._links = links
        self._wanted: tuple[IPv4Address | IPv6Address, ...] = settings.gate
        self._gate: GateEnds | None = None
        self._said: dict[int, GuestSaid | None] = {}
        self._places: dict[int, GuestPlace] = {}
        self._own_namespace = os.stat("/proc/self/ns/net").st_ino

    def start(self) -> None:
        """Has the programs in the kernel and the gate's addresses on `lo`; the first time takes a second."""
        if not self._hooks.is_loaded:
            self._hooks.load()
        self.mend()

    def mend(self) -> None:
        """Puts the gate's addresses back where somebody has removed them."""
        self._gate = GateEnds(network_cookie(), tuple(one for one in self._wanted if put_on_loopback(one)))

    def attend(self, index: int, said: GuestSaid | None) -> None:
        """Has an interface judged from its next packet on. Raises Refused for words that cannot be meant.

        The same again, with other words, is a change.
        """
        place = self._place(index, said)
        is_new = index not in self._said
        self._put(index, place)
        try:
            self._hooks.attach(index)
        except (ExeatError, OSError):
            if is_new:
                self._places.pop(index)
                self._tables.forget(index)
            raise
        self._said[index] = said

    def leave(self, index: int) -> None:
        """Judges it no more: it has gone, or nobody manages it."""
        self._hooks.detach(index)
        self._said.pop(index, None)
        self._places.pop(index, None)
        self._tables.forget(index)

    def refresh(self, index: int) -> None:
        """A link has changed: an interface, a bridge, or `lo`. Says to the programs what follows."""
        if index == _LOOPBACK_INDEX and self._gate:
            self.mend()
        for one in self._touched_by(index):
            self._put(one, self._place(one, self._said[one]))

    def open_gate(self, bound: Bound) -> bool:
        """Has a guest's gate listen; whether it does. Else it may be tried again at once."""
        if self._own_namespace in bound.namespaces:
            return True
        try:
            bound.namespaces[self._own_namespace] = bound.house.open_for_guest(self._ends().addresses)
        except OSError:  # somebody has cleared `lo`, perhaps
            self.mend()
            return False
        return True

    def _touched_by(self, index: int) -> list[int]:
        touched = [index] if index in self._said else []
        for one in self._said:
            link = self._links.of(one)
            if link and link.master == index:
                touched.append(one)
        return touched

    def _place(self, index: int, said: GuestSaid | None) -> GuestPlace:
        link = self._links.of(index)
        if link is None:
            raise Refused(StatusWord.NOT_FOUND, f"this host has no interface of the index {index}: it has just gone")
        return place_of(link, self._links.of(link.master) if link.master else None, said, self._ends())

    def _put(self, index: int, place: GuestPlace) -> None:
        if self._places.get(index) == place:
            return
        try:
            self._tables.put(index, place)
        except AddressTaken as taken:
            other = self._links.of(taken.index)
            raise AddressTaken(taken.address, taken.index, other.name if other else "") from None
        self._places[index] = place

    def _ends(self) -> GateEnds:
        if self._gate is None:
            self.start()
        assert self._gate
        return self._gate
