"""The grants of one policy: their book, and the kernel's tables. Shared by all workloads under the policy.

Belongs to the gates' thread.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from exeat.core.grants import Change, Grants
from exeat.core.resolvable import Resolvable
from exeat.dns.desk import Desk
from exeat.errors import KernelError
from exeat.kernel.grants import GrantTables
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.kernel.guest_flows import peers_in_use
from exeat.kernel.instance import Instance
from exeat.kernel.sockets import Diagnosis
from exeat.kernel.sweep import destination
from exeat.model.policy import DnsSettings
from exeat.model.tables import TableSet

_COLLECT_NS = 10 * 10**9  # how often grants that ended are looked at: a walk over the workloads' sockets
_GRANTS_MAX = 65_536  # of one policy, however many workloads share it


class Holder(Protocol):
    """A workload's gate."""

    workload: int

    @property
    def desk(self) -> Desk:
        """By which it answers: it may have learnt of hosts by service records."""

    def diagnoses(self) -> dict[int, Diagnosis]:
        """Where its sockets are, by network namespace."""

    def forget(self, names: Sequence[str]) -> None:
        """Gives no answer about these again unasked."""


class Ledger:
    """From the loading of a table set to its removal."""

    def __init__(self, instance: Instance, policy_id: int, table_set: TableSet, dns: DnsSettings) -> None:
        self.instance = instance
        self.policy_id = policy_id
        self.resolvable = Resolvable(table_set)
        self.table_set = replace(table_set, networks=(), ports=(), hosts=())  # the kernel has them
        self.dns = dns
        self.book = Grants(dns.max_grants)
        self._tables = GrantTables(instance, policy_id)
        self._holders: list[Holder] = []
        self._collected_ns = 0

    @property
    def is_used(self) -> bool:
        """Whether a gate grants by it."""
        return bool(self._holders)

    def join(self, holder: Holder) -> None:
        """One more workload: there is room for its grants too."""
        self._holders.append(holder)
        self._make_room()

    def leave(self, holder: Holder) -> None:
        """One less."""
        self._holders.remove(holder)
        self._make_room()

    def adopt(self, before: "Ledger", now_ns: int) -> Change:
        """Takes over what was granted under another policy, of names that this one allows too."""
        return self.adopt_book(before.book, [holder.desk for holder in before._holders], now_ns)

    def adopt_book(self, book: Grants, desks: Sequence[Desk], now_ns: int) -> Change:
        """The same of a book, and of what desks have learnt of service records."""
        desk = Desk(self.table_set, self.dns, self.names_at, resolvable=self.resolvable)
        for other in desks:
            desk.inherit(other, now_ns)
        self.book.widen(max(self._limit(), min(len(book) + len(self.book), _GRANTS_MAX)))
        change = self.book.absorb(book, partial(desk.ports_id_of, boot_ns=now_ns), now_ns)
        self._tables.apply(change)
        self._make_room()
        return change

    def restore(self, grants: Sequence[tuple[str, bytes, int, int]], now_ns: int) -> None:
        """Fills the book from the kernel's table: name, address, ports and end of each grant."""
        self.book.widen(_GRANTS_MAX)
        for name, address, ports_id, until_ns in grants:
            self.book.grant(name, (address,), ports_id, until_ns, now_ns, self._tables.used)
        self._make_room()

    def names_at(self, address: bytes, now_ns: int) -> tuple[str, ...]:
        """The names that lead to an address now."""
        return self.book.names_at(address, now_ns)

    def addresses_of(self, name: str, now_ns: int) -> list[bytes]:
        """Where a name leads now."""
        return [grant.address for grant in self.book.alive(now_ns) if grant.name == name]

    def used(self, address: bytes) -> int:
        """When a connection last used an address, by the boot clock; 0: never."""
        return self._tables.used(address)

    def grant(self, name: str, addresses: Sequence[bytes], ports_id: int, until_ns: int, now_ns: int) -> Change:
        """Opens addresses in the kernel; `refused` of the change are those that it could not open."""
        change = self.book.grant(name, addresses, ports_id, until_ns, now_ns, self._tables.used)
        try:
            self._tables.apply(change)
        except KernelError:  # the tables are full: an answer would lead where the kernel lets nobody
            undone = self.book.forget(name, addresses)
            gone_granted = change.gone_granted + undone.gone_granted
            self._tables.apply(
                replace(undone, gone_granted=gone_granted, gone_grants=change.gone_grants + undone.gone_grants)
            )
            change = replace(change, refused=tuple(addresses))
        if change.evicted:
            names = [name for name, _ in change.evicted]
            for holder in self._holders:
                holder.forget(names)
        return change

    def collect(self, now_ns: int) -> None:
        """Takes back what ended and no open connection uses."""
        if now_ns - self._collected_ns < _COLLECT_NS:
            return
        self._collected_ns = now_ns
        used: set[bytes] | None = None

        def is_in_use(address: bytes) -> bool:
            nonlocal used
            if used is None:
                used = self._addresses_in_use() | self._addresses_of_guests()
            return address in used

        try:
            change = self.book.expire(now_ns, is_in_use)
        except (KernelError, OSError):  # as when descriptors are short: what ended is closed, and is looked at again
            return
        if change:
            self._tables.apply(change)

    def _addresses_in_use(self) -> set[bytes]:
        by_network = {network: one for holder in self._holders for network, one in holder.diagnoses().items()}
        mine = {holder.workload for holder in self._holders}
        stamps = [one.stamp for diagnosis in by_network.values() for one in diagnosis.stamped(self.instance)]
        ends = [destination(stamp) for stamp in stamps if stamp.workload in mine]
        return {end[1] for end in ends if end}

    def _addresses_of_guests(self) -> set[bytes]:
        guests = [holder.workload for holder in self._holders if holder.workload & INTERFACE_BIT]
        return {address for guest in guests for address in peers_in_use(self.instance, guest)}

    def _limit(self) -> int:
        return max(self.dns.max_grants, min(self.dns.max_grants * len(self._holders), _GRANTS_MAX))

    def _make_room(self) -> None:
        self.book.widen(self._limit())
