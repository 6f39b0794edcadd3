"""What the gate may resolve under a policy, and to which special addresses a name may lead.

Asked of the same compiled entries that the kernel judges by, so that the gate never grants what no rule allows.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exeat.model.names import NAME_MAX
from exeat.model.networks import MAPPED_PREFIX, SPECIAL_NETWORKS, mapped_prefix
from exeat.model.tables import HostEntry, HostSlot, TableSet

_RESOLVABLE = 0  # the policy's own id: the set of names that the gate may resolve
_ADDRESS_BITS = 128
# Names as certificates and ClientHellos have them: underscores, and what DNS writes with a backslash, are in no rule.
_HOST_NAME = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*")


@dataclass(frozen=True, slots=True)
class Found:
    """What the policy says of a name."""

    slot: HostSlot  # until when it may be resolved, and what its addresses may then be used for
    is_exact: bool  # a rule names it exactly
    is_doh: bool  # it resolves names over HTTPS and no rule names it exactly: denied


class Resolvable:
    """A policy as the gate asks it. Expiry is for the asker to look at: no clock is read here."""

    def __init__(self, table_set: TableSet):
        self._exact: dict[str, Found | None] = {}
        self._suffixes: dict[str, tuple[Found | None, Found | None]] = {}  # one label more, several labels more
        self._shared: dict[tuple[HostSlot, bool, bool], Found] = {}
        for entry in table_set.hosts:
            if entry.names_id == _RESOLVABLE:
                self._add(entry)
        networks = ((entry.address, entry.prefix_len, entry.ports_id) for entry in table_set.networks)
        self._ports_ids = _Prefixes(networks)

    def find(self, name: str) -> Found | None:
        """The longest key for a lower-case name without its last dot, as the kernel's trie has it; None: no rule."""
        if len(name) > NAME_MAX or not _HOST_NAME.fullmatch(name):
            return None
        if name in self._exact:
            return self._exact[name]
        is_parent = True
        dot = name.find(".")
        while dot >= 0:
            one_or_many = self._suffixes.get(name[dot + 1 :])
            if one_or_many:
                return one_or_many[0 if is_parent else 1]
            is_parent = False
            dot = name.find(".", dot + 1)
        return None

    def allows_special(self, address: bytes) -> bool:
        """Whether a network rule covers an address (16 bytes, IPv4 mapped), on whatever port."""
        return bool(self._ports_ids.longest(address))

    @staticmethod
    def is_special(address: bytes) -> bool:
        """Whether an address (16 bytes, IPv4 mapped) is private, loopback, metadata or the like: none for a name."""
        return _SPECIAL.longest(address) is not None

    def _add(self, entry: HostEntry) -> None:
        name = entry.reversed_name[-2::-1].decode("ascii")  # without its end mark, a NUL or a dot
        if entry.is_exact:
            self._exact[name] = self._found(entry.one, entry)
        else:
            self._suffixes[name] = self._found(entry.one, entry), self._found(entry.many, entry)

    def _found(self, slot: HostSlot, entry: HostEntry) -> Found | None:
        if not (slot.until or entry.is_doh):
            return None
        key = slot, entry.is_exact, entry.is_doh
        found = self._shared.get(key)  # ten thousand hosts of one rule say the same
        if found is None:
            found = self._shared[key] = Found(slot, entry.is_exact and not entry.is_doh, entry.is_doh)
        return found


class _Prefixes:
    """Values by prefixes of an address."""

    def __init__(self, entries: Iterable[tuple[bytes, int, int]]):
        by_length: dict[int, dict[int, int]] = {}
        for address, prefix_len, value in entries:
            by_length.setdefault(prefix_len, {})[_front(address, prefix_len)] = value
        self._by_length = sorted(by_length.items(), reverse=True)

    def longest(self, address: bytes) -> int | None:
        """The value of the longest prefix of an address."""
        for prefix_len, values in self._by_length:
            value = values.get(_front(address, prefix_len))
            if value is not None:
                return value
        return None


def _front(address: bytes, bits: int) -> int:
    return int.from_bytes(address, "big") >> _ADDRESS_BITS - bits


def _special() -> Iterator[tuple[bytes, int, int]]:
    for _, network in SPECIAL_NETWORKS:
        address, prefix_len = mapped_prefix(network)
        if not (network.version == 6 and address.startswith(MAPPED_PREFIX)):  # it holds every IPv4 address
            yield address, prefix_len, 1


_SPECIAL = _Prefixes(_special())
