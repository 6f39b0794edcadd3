"""The entries of the grants' book: a pair of name and address, an address with all its names, a name that was resolved.

Only the book (grants.py) makes and changes them.
"""

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Pair:
    """A name that was resolved to an address. Each is itself only: one granted anew is another pair."""

    name: str
    address: bytes
    ports_id: int
    until_ns: int
    granted_ns: int
    order: int  # later grants have higher ones: the clock may stand still between two
    is_gone: bool = False

    @property
    def key(self) -> tuple[str, bytes]:
        """What the book finds it by."""
        return self.name, self.address


@dataclass(slots=True)
class Place:
    """An address, with its names, and with what they open together."""

    pairs: dict[str, Pair] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)  # ports_id: until_ns

    def recount(self) -> bool:
        """Whether the slots changed, now that pairs went or use other ports."""
        slots: dict[int, int] = {}
        for pair in self.pairs.values():
            slots[pair.ports_id] = max(pair.until_ns, slots.get(pair.ports_id, 0))
        is_changed = slots != self.slots
        self.slots = slots
        return is_changed


@dataclass(slots=True)
class ResolvedName:
    """A name that was resolved to some address."""

    ports_id: int
    until_ns: int  # the latest that was granted, even if that pair was evicted since
    pairs: int = 0
