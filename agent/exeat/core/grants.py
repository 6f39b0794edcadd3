"""The grants' book of one workload, "name N is at address A until T": what the kernel's tables hold and must hold next.

The kernel judges by two tables. `grants` holds each pair of name and address, and under the address SOMEWHERE that a
name was resolved at all, so that a denial can say "elsewhere" in place of "never". `granted` holds for each address
what its names may be used for together: one slot for each set of ports, because a connect gives no name yet.
Twins: struct grant and struct granted in bpf/entries.h.

A pair that ended stays until no open connection uses its address: a policy change judges open connections by their
grants, and a connection may outlive its grant. Times are nanoseconds of the kernel's boot clock; a pair lives while
`now_ns < until_ns`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, nsmallest
from operator import attrgetter

from exeat.core.grant_entries import Pair, Place, ResolvedName

SLOTS = 16  # Twin: GRANT_SLOTS in bpf/entries.h
SOMEWHERE = bytes(16)
# A program connects right after it resolved, and an answer may be given again for a second. Until then its grant looks
# unused, and is the last that may be taken.
CONNECT_WITHIN_NS = 2_000_000_000
_BATCH = 16  # the share of the limit that goes at once: looking for what is unused costs a walk through everything
_HEAP_SLACK = 1024


@dataclass(frozen=True, slots=True)
class Slot:
    """A set of ports that an address may be used for, and until when."""

    ports_id: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class Change:
    """What must be written, in the order of the fields, and then removed, in theirs: no moment allows too little.

    `grants` go before the `granted` that open the address, and stay until that is closed. False if there is nothing.
    """

    grants: tuple[tuple[str, bytes, int, int], ...] = ()  # name, address, ports_id, until_ns
    granted: tuple[tuple[bytes, tuple[Slot, ...]], ...] = ()  # an address and all its slots
    gone_granted: tuple[bytes, ...] = ()
    gone_grants: tuple[tuple[str, bytes], ...] = ()
    evicted: tuple[tuple[str, bytes], ...] = ()  # of gone_grants: alive, but there was no room; each is told
    refused: tuple[bytes, ...] = ()  # not granted, so no answer may lead there

    def __bool__(self) -> bool:
        return bool(self.grants or self.granted or self.gone_granted or self.gone_grants or self.refused)


_NOTHING = Change()


class Grants:
    """The book. Every change of it returns the Change that makes the kernel's tables say the same."""

    def __init__(self, limit: int) -> None:
        assert limit > 0
        self._limit = limit  # of pairs; those under SOMEWHERE, at most one for each, come on top
        self._pairs: dict[tuple[str, bytes], Pair] = {}
        self._places: dict[bytes, Place] = {}
        self._names: dict[str, ResolvedName] = {}
        self._order = 0
        # Each pair stands here once, under an end that it had, or among those whose end has come.
        self._ends: list[tuple[int, int, Pair]] = []
        self._ended: dict[tuple[str, bytes], Pair] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def grant(
        self,
        name: str,
        addresses: Sequence[bytes],
        ports_id: int,
        until_ns: int,
        now_ns: int,
        used: Callable[[bytes], int],
    ) -> Change:
        """Open addresses for a name. An earlier grant is extended and never shortened; another ports_id replaces its.

        Beyond the limit the pairs go first that ended, then those whose address was used longest ago (`used` gives the
        time of the last connect, 0 for never), then the oldest; what is granted here, and what was granted so lately
        that its program may be about to connect, goes last. An address is refused if it has no slot left for these
        ports, or if this grant alone exceeds the limit.
        """
        assert ports_id > 0
        assert until_ns > 0
        wanted = [address for address in addresses if not self._lasts(name, address, ports_id, until_ns, now_ns)]
        if not wanted:
            return _NOTHING
        changes = _Changes()
        mine = {(name, address) for address in addresses}
        room = self._limit - sum(key in self._pairs for key in mine)
        for address in dict.fromkeys(wanted):
            is_new = (name, address) not in self._pairs
            place = self._places.get(address)
            if address == SOMEWHERE or (is_new and not room) or (place and not _has_room(place, ports_id)):
                changes.refused.append(address)
                continue
            room -= is_new
            self._order += 1
            self._put(Pair(name, address, ports_id, until_ns, now_ns, self._order), changes)
        if len(self._pairs) > self._limit:
            self._evict(mine, now_ns, used, changes)
        return self._settled(changes)

    def forget(self, name: str, addresses: Sequence[bytes]) -> Change:
        """Take back what the kernel did not take: a later answer is granted anew."""
        changes = _Changes()
        for address in addresses:
            pair = self._pairs.get((name, address))
            if pair:
                self._remove(pair, changes)
        return self._settled(changes)

    def expire(self, now_ns: int, is_in_use: Callable[[bytes], bool]) -> Change:
        """Collect the pairs that ended and whose address no open connection uses. Cheap when there are none."""
        while self._ends and self._ends[0][0] <= now_ns:
            _, _, pair = heappop(self._ends)
            if pair.is_gone:
                continue
            if pair.until_ns > now_ns:  # it was extended
                heappush(self._ends, (pair.until_ns, pair.order, pair))
            else:
                self._ended[pair.key] = pair
        if not self._ended:
            return _NOTHING
        in_use = {address: is_in_use(address) for address in {pair.address for pair in self._ended.values()}}
        changes = _Changes()
        for pair in [pair for pair in self._ended.values() if not in_use[pair.address]]:
            self._remove(pair, changes)
        return self._settled(changes)

    def names_at(self, address: bytes, now_ns: int) -> tuple[str, ...]:
        """The names that lead to an address now, sorted."""
        place = self._places.get(address)
        return tuple(sorted(name for name, pair in place.pairs.items() if pair.until_ns > now_ns)) if place else ()

    def alive(self, now_ns: int) -> list[Pair]:
        """Every pair that may be used now."""
        return [pair for pair in self._pairs.values() if pair.until_ns > now_ns]

    def is_resolved(self, name: str, now_ns: int) -> bool:
        """Whether a name was resolved to any address, and that still holds."""
        resolved = self._names.get(name)
        return resolved is not None and resolved.until_ns > now_ns

    def absorb(self, other: "Grants", ports_id_of: Callable[[str], int | None], now_ns: int) -> Change:
        """Take over what another policy's book holds: the names that this policy allows too, with its ports.

        Where there is less room, what ended goes first, then the oldest. Nothing is removed: what the other policy's
        tables hold goes with them. The other book stays as it is.
        """
        changes = _Changes()
        ports_ids = {name: ports_id_of(name) for name in other._names}
        oldest_first = sorted(other._pairs.values(), key=lambda pair: (pair.until_ns > now_ns, pair.order))
        first, self._order = self._order + 1, self._order + len(oldest_first)
        for order, pair in reversed(list(enumerate(oldest_first, first))):
            ports_id = ports_ids[pair.name]
            if not ports_id:
                continue
            place = self._places.get(pair.address)
            if place and not _has_room(place, ports_id):
                changes.refused.append(pair.address)
            elif len(self) < self._limit or pair.key in self._pairs:
                self._put(Pair(pair.name, pair.address, ports_id, pair.until_ns, pair.granted_ns, order), changes)
                name = self._names[pair.name]
                name.until_ns = max(name.until_ns, other._names[pair.name].until_ns)
            elif pair.until_ns > now_ns:
                changes.evicted.append(pair.key)
        return self._settled(changes)

    def widen(self, limit: int) -> None:
        """Changes how many pairs there may be; what is too much goes with the next grant."""
        self._limit = limit

    def _lasts(self, name: str, address: bytes, ports_id: int, until_ns: int, now_ns: int) -> bool:
        """Whether there is nothing to write; its program is about to connect all the same."""
        pair = self._pairs.get((name, address))
        if pair is None or pair.until_ns < until_ns or pair.ports_id != ports_id:
            return False
        pair.granted_ns = now_ns
        return True

    def _put(self, new: Pair, changes: "_Changes") -> None:
        """Add a pair, or extend the one that there is."""
        place = self._places.setdefault(new.address, Place())
        name = self._names.setdefault(new.name, ResolvedName(new.ports_id, 0))
        pair = self._pairs.get(new.key)
        if pair is None:
            pair = self._pairs[new.key] = place.pairs[new.name] = new
            name.pairs += 1
            self._watch_end(pair)
        else:
            if pair.ports_id != new.ports_id:
                changes.recounted.add(pair.address)
            pair.ports_id, pair.granted_ns, pair.order = new.ports_id, new.granted_ns, new.order
            pair.until_ns = max(pair.until_ns, new.until_ns)
            if self._ended.pop(pair.key, None):
                self._watch_end(pair)
        changes.pairs.append(pair)
        if pair.until_ns > place.slots.get(pair.ports_id, 0):
            place.slots[pair.ports_id] = pair.until_ns
            changes.places.add(pair.address)
        if pair.until_ns > name.until_ns or pair.ports_id != name.ports_id:
            name.ports_id, name.until_ns = pair.ports_id, max(pair.until_ns, name.until_ns)
            changes.names.add(pair.name)

    def _watch_end(self, pair: Pair) -> None:
        heappush(self._ends, (pair.until_ns, pair.order, pair))
        if len(self._ends) > 2 * len(self._pairs) + _HEAP_SLACK:  # what was evicted would stay until its end
            self._ends = [entry for entry in self._ends if not entry[2].is_gone]
            heapify(self._ends)

    def _evict(
        self, mine: set[tuple[str, bytes]], now_ns: int, used: Callable[[bytes], int], changes: "_Changes"
    ) -> None:
        last_used = {address: used(address) for address in self._places}

        def worth(pair: Pair) -> tuple[bool, int, int]:
            used_ns = last_used[pair.address]
            if now_ns - pair.granted_ns < CONNECT_WITHIN_NS:
                used_ns = max(used_ns, pair.granted_ns)
            return pair.until_ns > now_ns, used_ns, pair.order

        count = max(len(self._pairs) - self._limit, self._limit // _BATCH)
        for pair in nsmallest(count, (pair for pair in self._pairs.values() if pair.key not in mine), key=worth):
            if pair.until_ns > now_ns:
                changes.evicted.append(pair.key)
            self._remove(pair, changes)

    def _remove(self, pair: Pair, changes: "_Changes") -> None:
        pair.is_gone = True
        del self._pairs[pair.key]
        del self._places[pair.address].pairs[pair.name]
        self._ended.pop(pair.key, None)
        changes.gone.append(pair.key)
        changes.recounted.add(pair.address)
        self._names[pair.name].pairs -= 1
        if not self._names[pair.name].pairs:
            del self._names[pair.name]
            changes.gone.append((pair.name, SOMEWHERE))

    def _settled(self, changes: "_Changes") -> Change:
        """Recount the places once, however many of their pairs went, and put the change together."""
        gone_places = []
        for address in changes.recounted:
            place = self._places[address]
            if not place.pairs:
                del self._places[address]
                gone_places.append(address)
            elif place.recount():
                changes.places.add(address)
        resolved = ((name, self._names[name]) for name in sorted(changes.names))
        return Change(
            grants=(
                *((pair.name, pair.address, pair.ports_id, pair.until_ns) for pair in _in_order(changes.pairs)),
                *((name, SOMEWHERE, entry.ports_id, entry.until_ns) for name, entry in resolved),
            ),
            granted=tuple((address, _slots(self._places[address])) for address in sorted(changes.places)),
            gone_granted=tuple(sorted(gone_places)),
            gone_grants=tuple(changes.gone),
            evicted=tuple(changes.evicted),
            refused=tuple(dict.fromkeys(changes.refused)),
        )


@dataclass(slots=True)
class _Changes:
    """A Change that is being collected."""

    pairs: list[Pair] = field(default_factory=list)
    places: set[bytes] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    gone: list[tuple[str, bytes]] = field(default_factory=list)
    recounted: set[bytes] = field(default_factory=set)
    evicted: list[tuple[str, bytes]] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)


def _has_room(place: Place, ports_id: int) -> bool:
    return ports_id in place.slots or len(place.slots) < SLOTS


def _slots(place: Place) -> tuple[Slot, ...]:
    return tuple(Slot(ports_id, until_ns) for ports_id, until_ns in place.slots.items())


def _in_order(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted(pairs, key=attrgetter("order"))
