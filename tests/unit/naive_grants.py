"""The grants' book written down naively, and the kernel's tables as its changes leave them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from exeat.core.grants import CONNECT_WITHIN_NS, SLOTS, SOMEWHERE, Change, Grants, Slot

Key = tuple[str, bytes]


@dataclass
class Tables:
    """The tables `grants` and `granted`, after every change that was written to them."""

    grants: dict[Key, tuple[int, int]] = field(default_factory=dict)
    granted: dict[bytes, frozenset[Slot]] = field(default_factory=dict)

    def write(self, change: Change) -> None:
        """Execute a change, and check at each step that no address is open by names that no grant tells."""
        for name, address, ports_id, until_ns in change.grants:
            self.grants[name, address] = ports_id, until_ns
        for address, slots in change.granted:
            assert 0 < len(slots) <= SLOTS
            assert len({slot.ports_id for slot in slots}) == len(slots)
            self.granted[address] = frozenset(slots)
        self._check_each_address_has_a_name()
        for address in change.gone_granted:
            del self.granted[address]  # a KeyError would be a removal of what was never written
        self._check_each_address_has_a_name()
        for key in change.gone_grants:
            del self.grants[key]
        self._check_each_address_has_a_name()

    def _check_each_address_has_a_name(self) -> None:
        assert set(self.granted) <= {address for _, address in self.grants}


@dataclass
class NaivePair:
    """What was granted."""

    ports_id: int
    until_ns: int
    granted_ns: int
    order: int


class NaiveGrants:
    """Every question is answered by looking at every pair."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pairs: dict[Key, NaivePair] = {}
        self.resolved: dict[str, tuple[int, int]] = {}
        self.order = 0

    def grant(
        self, name: str, addresses: list[bytes], ports_id: int, until_ns: int, now_ns: int, used: Callable[[bytes], int]
    ) -> tuple[set[Key], set[bytes]]:
        """Evicted alive, refused."""
        refused = set()
        mine = {(name, address) for address in addresses}
        for address in dict.fromkeys(addresses):
            pair = self.pairs.get((name, address))
            if pair and pair.ports_id == ports_id and pair.until_ns >= until_ns:
                pair.granted_ns = now_ns
                continue
            others = {other.ports_id for (_, place), other in self.pairs.items() if place == address}
            is_full = not pair and len(mine & self.pairs.keys()) == self.limit
            if address == SOMEWHERE or is_full or len(others | {ports_id}) > SLOTS:
                refused.add(address)
                continue
            self.order += 1
            until = max(until_ns, pair.until_ns if pair else 0)
            self.pairs[name, address] = NaivePair(ports_id, until, now_ns, self.order)
            self.resolved[name] = ports_id, max(until, self.resolved.get(name, (0, 0))[1])
        evicted = self._evict(mine, now_ns, used) if len(self.pairs) > self.limit else set()
        return evicted, refused

    def _evict(self, mine: set[Key], now_ns: int, used: Callable[[bytes], int]) -> set[Key]:
        def worth(key: Key) -> tuple[bool, int, int]:
            pair = self.pairs[key]
            is_fresh = now_ns - pair.granted_ns < CONNECT_WITHIN_NS
            recent = max(used(key[1]), pair.granted_ns) if is_fresh else used(key[1])
            return pair.until_ns > now_ns, recent, pair.order

        going = sorted(self.pairs.keys() - mine, key=worth)
        going = going[: max(len(self.pairs) - self.limit, self.limit // 16)]
        alive = {key for key in going if self.pairs[key].until_ns > now_ns}
        self._drop(going)
        return alive

    def expire(self, now_ns: int, is_in_use: Callable[[bytes], bool]) -> None:
        """Drop what ended and is in no use."""
        self._drop([key for key, pair in self.pairs.items() if pair.until_ns <= now_ns and not is_in_use(key[1])])

    def _drop(self, keys: list[Key]) -> None:
        for key in keys:
            del self.pairs[key]
        left = {name for name, _ in self.pairs}
        self.resolved = {name: value for name, value in self.resolved.items() if name in left}

    def tables(self) -> Tables:
        """What the kernel must hold."""
        grants = {key: (pair.ports_id, pair.until_ns) for key, pair in self.pairs.items()}
        granted = {}
        for place in {address for _, address in self.pairs}:
            slots: dict[int, int] = {}
            for (_, address), pair in self.pairs.items():
                if address == place:
                    slots[pair.ports_id] = max(pair.until_ns, slots.get(pair.ports_id, 0))
            granted[place] = frozenset(Slot(*slot) for slot in slots.items())
        grants |= {(name, SOMEWHERE): value for name, value in self.resolved.items()}
        return Tables(grants, granted)

    def check(self, book: Grants, now_ns: int) -> None:
        """The book answers as this one."""
        assert len(book) == len(self.pairs) <= self.limit
        for name, (_, until_ns) in self.resolved.items():
            assert book.is_resolved(name, now_ns) is (until_ns > now_ns)
        for place in {address for _, address in self.pairs}:
            alive = {
                name for (name, address), pair in self.pairs.items() if address == place and pair.until_ns > now_ns
            }
            assert book.names_at(place, now_ns) == tuple(sorted(alive))


def rebased(book: Grants, ports_id_of: Callable[[str], int | None], limit: int, now_ns: int) -> tuple[Grants, Change]:
    """The book under a new policy, and all of it to write."""
    fresh = Grants(limit)
    return fresh, fresh.absorb(book, ports_id_of, now_ns)
