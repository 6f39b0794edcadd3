"""Writes the statuses of objects: what matters at once, mere numbers now and then."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from exeat.errors import ExeatError
from exeat.plane.cluster.api_server import ApiError, ApiServer
from exeat.plane.cluster.enforcing import Enforcing
from exeat.plane.cluster.objects import Key, Kind, Outcome, Reason, read_item
from exeat.plane.cluster.shelf import Seen, Shelf
from exeat.plane.cluster.status import Differs, difference, status_of

_TOGETHER = 4  # requests at once
_ROUND_MAX = 200  # of a round: others want to know too
_SOON_S = 2.0  # between two writes of one status
_COUNTS_S = 30.0  # the same, where only numbers differ
_REFUSED_S = 30.0  # after one that was refused
_CONFLICT, _NOT_FOUND = 409, 404
_GARBLED = 500


@dataclass(frozen=True, slots=True)
class _Write:
    seen: Seen
    status: Mapping[str, Any]


class StatusWriter:
    """For one task. `outcome`: what is known of an object."""

    def __init__(self, shelves: Mapping[Kind, Shelf], outcome: Callable[[Seen], Outcome | None]) -> None:
        self._shelves = shelves
        self._outcome = outcome
        self._not_before_s: dict[Key, float] = {}  # by Differs.YES
        self._written_s: dict[Key, float] = {}
        self.problem = ""

    async def round(self, server: ApiServer, enforcing: Mapping[str, Enforcing], now_s: float) -> bool:
        """Writes what is due; whether the server answers."""
        there = {key: one for shelf in self._shelves.values() for key, one in shelf.seen.items()}
        due = iter((await asyncio.to_thread(self._due, there, enforcing, now_s))[:_ROUND_MAX])
        problems: list[str] = []

        async def write_some() -> bool:
            for one in due:
                try:
                    await self._write(server, one)
                except ExeatError as error:
                    status = error.status if isinstance(error, ApiError) else _GARBLED
                    # After a conflict the watch is about to tell what has changed; what is not there need not know.
                    is_usual = status in (_CONFLICT, _NOT_FOUND)
                    self._not_before_s[one.seen.key] = now_s + (_SOON_S if is_usual or not status else _REFUSED_S)
                    problems.extend([] if is_usual else [str(error)])
                    if not status:
                        return False
            return True

        answers = await asyncio.gather(*(write_some() for _ in range(_TOGETHER)))
        self.problem = problems[0] if problems else ""
        return all(answers)

    async def _write(self, server: ApiServer, one: _Write) -> None:
        key = one.seen.key
        self._not_before_s[key] = time.monotonic() + _SOON_S
        said = await server.patch_status(key, one.seen.version, one.status)
        self._written_s[key] = time.monotonic()
        self._shelves[key.kind].note(Seen.of(read_item(key.kind, said)))

    def _due(self, there: Mapping[Key, Seen], enforcing: Mapping[str, Enforcing], now_s: float) -> list[_Write]:
        found = []
        for key, one in there.items():
            outcome = self._outcome(one)
            if outcome is None or now_s < self._not_before_s.get(key, 0.0):
                continue
            now = enforcing.get(key.policy) if outcome.reason is not Reason.NAME_TAKEN else None
            if outcome.reason is Reason.ACCEPTED and (now is None or now.revision != one.revision):
                continue  # what is known of the nodes is older than that
            status = status_of(one, outcome, now, datetime.now(UTC))
            differs = difference(status, one)
            is_early = now_s - self._written_s.get(key, -_COUNTS_S) < _COUNTS_S
            if differs is Differs.YES or (differs is Differs.COUNTS and not is_early):
                found.append(_Write(one, status))
        for times in (self._not_before_s, self._written_s):
            for key in times.keys() - there.keys():
                del times[key]
        return found
