"""Makes the store's policies those of the objects that are known: one pass after the other, by one task."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exeat.plane.cluster import placing
from exeat.plane.cluster.document import Unfit, explained, read_document
from exeat.plane.cluster.objects import Key, Kind, Outcome, Reason, kind_of
from exeat.plane.cluster.pace import Pace
from exeat.plane.cluster.placing import Fresh, Here
from exeat.plane.cluster.shelf import Seen, Shelf
from exeat.plane.policies.policies import Source
from exeat.plane.store.database import Database

_TOGETHER, _TOGETHER_BYTES = 50, 1 << 20  # documents of a transaction: others want to write too
_AGAIN_S = 60.0  # what was too large may fit by then


@dataclass(frozen=True, slots=True)
class Known:
    """What became of an object, as it was then."""

    identity: tuple[str, int, str]
    outcome: Outcome
    at_s: float


class Reconciler:
    """As long as a replica leads, by the name of `who`."""

    def __init__(
        self, shelves: Mapping[Kind, Shelf], database: Database, who: str, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._shelves = shelves
        self._database = database
        self._who = who
        self._now_ns = now_ns
        self._pace = Pace()
        self._known: dict[Key, Known] = {}

    def seen(self) -> dict[Key, Seen]:
        """All objects at this moment."""
        return {key: one for shelf in self._shelves.values() for key, one in shelf.seen.items()}

    def outcome(self, one: Seen) -> Outcome | None:
        """What became of it, if that is known of the object as it is."""
        known = self._known.get(one.key)
        return known.outcome if known and known.identity == one.identity else None

    def counts(self) -> Counter[Reason]:
        """How many objects came to what."""
        return Counter(known.outcome.reason for known in list(self._known.values()))

    async def pass_once(self) -> bool:
        """Whether all has its place; False: something waits for its turn. Raises StoreError and Lost."""
        seen = self.seen()
        here = await asyncio.to_thread(self._here)
        owners: dict[str, Key] = {}
        for key in seen:
            policy = key.policy
            owners[policy] = min(key, owners.get(policy, key))
        waiting = []
        for one in seen.values():
            outcome = self._without_reading(one, here, owners)
            if outcome is None:
                waiting.append(one)
            else:
                self._note(one, outcome)
        # The small ones first: nobody waits for somebody's megabyte.
        now_s = time.monotonic()
        due = []
        for one in sorted(waiting, key=lambda one: (len(one.text), one.key)):
            if self._pace.take(one.key.namespace, len(one.text), now_s):
                due.append(one)
            else:
                self._note(one, Outcome(Reason.PENDING, "its namespace has changed too much lately: it waits its turn"))
        for some in _portions(due):
            for one, outcome in await asyncio.to_thread(self._bring, some, owners):
                self._note(one, outcome)
        await self._remove(here)
        for key in self._known.keys() - seen.keys():
            del self._known[key]
        return len(due) == len(waiting)

    async def _remove(self, here: Mapping[str, Here]) -> None:
        """What is there and has no object any more, of the kinds that are known whole."""
        names = {key.policy for key in self.seen()}
        gone = [
            name
            for name, one in here.items()
            if one.source is Source.CLUSTER and name not in names and self._shelves[kind_of(name)].is_complete
        ]
        if gone:
            await asyncio.to_thread(self._take_away, gone)
            self._known = {key: one for key, one in self._known.items() if one.outcome.reason is not Reason.TOO_LARGE}

    def _without_reading(self, one: Seen, here: Mapping[str, Here], owners: Mapping[str, Key]) -> Outcome | None:
        if one.unfit:
            return one.unfit
        policy = one.key.policy
        if owners[policy] != one.key:
            sentence = f"metadata.name: {owners[policy]} has the name {policy} already: name this anew"
            return Outcome(Reason.NAME_TAKEN, sentence)
        held, known = here.get(policy), self.outcome(one)
        if held and held.source is not Source.CLUSTER:
            return placing.taken(one.key, held)
        if held and held.revision == one.revision:
            return known if known and known.reason is Reason.ACCEPTED else Outcome(Reason.ACCEPTED)
        if known is None:
            return None
        if known.reason is Reason.TOO_LARGE:
            return known if time.monotonic() - self._known[one.key].at_s < _AGAIN_S else None
        return known if known.reason in (Reason.INVALID, Reason.SUBJECT) else None

    def _bring(self, some: Sequence[Seen], owners: Mapping[str, Key]) -> list[tuple[Seen, Outcome]]:
        found: list[tuple[Seen, Outcome]] = []
        fresh: dict[Key, Fresh] = {}
        for one in some:
            try:
                fresh[one.key] = Fresh(one.key, one.generation, read_document(one.key, one.text))
            except Unfit as error:
                found.append((one, error.outcome))
        outcomes: Mapping[Key, Outcome] = {}
        if fresh:
            with self._database.writing() as tx:
                outcomes = placing.place(tx, self._who, tuple(fresh.values()), owners, self._now_ns())
        for one in some:
            if outcome := outcomes.get(one.key):
                if outcome.reason is Reason.ACCEPTED and (doubts := fresh[one.key].draft.warnings):
                    outcome = Outcome.of(Reason.ACCEPTED, explained(one.text, doubts))
                found.append((one, outcome))
        return found

    def _take_away(self, names: Sequence[str]) -> None:
        with self._database.writing() as tx:
            placing.remove(tx, self._who, names, self._now_ns())

    def _here(self) -> dict[str, Here]:
        with self._database.reading() as tx:
            return placing.held(tx)

    def _note(self, one: Seen, outcome: Outcome) -> None:
        had = self._known.get(one.key)
        if had is None or (had.identity, had.outcome) != (one.identity, outcome):
            self._known[one.key] = Known(one.identity, outcome, time.monotonic())


def _portions(due: Sequence[Seen]) -> Iterator[list[Seen]]:
    some: list[Seen] = []
    size = 0
    for one in due:
        if some and (len(some) == _TOGETHER or size + len(one.text) > _TOGETHER_BYTES):
            yield some
            some, size = [], 0
        some.append(one)
        size += len(one.text)
    if some:
        yield some
