"""Verdicts as they come, for whoever watches: a page, a terminal.

    async for glimpse in feed.watch(wanted):
        show(glimpse.verdicts, glimpse.lost)

They are read back from the store when it says that there are more, so that those of other replicas come too. One task
reads for all who watch, and none where nobody does. Who is too slow loses verdicts and is told how many.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

from exeat.plane.store.database import Database, News, StoreError, Topic
from exeat.plane.verdicts.denials import Stored, last_id, newer
from exeat.plane.verdicts.wanted import Wanted

_log = logging.getLogger("exeat.plane")
_QUEUE_MAX = 2_000  # of one watcher
_GLIMPSE_MAX = 200
_READ_MAX = 2_000
_BEHIND_MAX = 20_000
_PAUSE_S = 0.1  # between two looks at the store
_ANYWAY_S = 5.0  # news can be lost
_PATIENCE_S = 5.0  # with an id that is missing: its transaction may not have ended yet
_KNOWN_MAX = 5_000  # read again each time while one is missing


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What came; nothing at all when the time is over."""

    verdicts: tuple[Stored, ...]
    lost: int = 0  # before these, as near as can be told


class Feed:
    """For one event loop. It begins to read with the first who watches."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watchers: set[_Watcher] = set()
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading: asyncio.Task[None] | None = None
        database.listen(self._heard)

    async def watch(self, wanted: Wanted, wait_s: float = 15.0) -> AsyncGenerator[Glimpse, None]:
        """What comes from now on. Something each `wait_s`, so that who watches finds out that nobody is there."""
        watcher = _Watcher(wanted)
        if self._reading is None or self._reading.done():
            self._loop = asyncio.get_running_loop()
            place = _Place(await asyncio.to_thread(self._last))
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read_on(place))
        self._watchers.add(watcher)
        try:
            while True:
                yield await watcher.wait(wait_s)
        finally:
            self._watchers.discard(watcher)
            if not self._watchers and self._reading:
                self._reading.cancel()
                self._reading = None

    def _heard(self, news: News) -> None:
        loop = self._loop
        if news.topic is Topic.VERDICTS and loop and self._watchers and not loop.is_closed():
            loop.call_soon_threadsafe(self._news.set)

    async def _read_on(self, place: "_Place") -> None:
        while True:
            try:
                stored, lost = await asyncio.to_thread(self._more, place)
            except StoreError as error:
                _log.warning("live verdicts: %s", error)
                stored, lost = [], 0
            for watcher in self._watchers:
                watcher.offer(stored, lost)
            await asyncio.sleep(_PAUSE_S)
            if len(stored) < _READ_MAX and not place.is_waiting:
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_ANYWAY_S):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    def _more(self, place: "_Place") -> tuple[list[Stored], int]:
        with self._database.reading() as tx:
            lost = place.skip(last_id(tx))
            return place.take(newer(tx, place.floor, _READ_MAX + place.known), time.monotonic()), lost

    def _last(self) -> int:
        with self._database.reading() as tx:
            return last_id(tx)


class _Watcher:
    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._queue: deque[Stored] = deque()
        self._lost = 0
        self._is_there = asyncio.Event()

    def offer(self, stored: Iterable[Stored], lost: int) -> None:
        accepted = [one for one in stored if self._wanted.accepts(one.node, one.record)]
        room = _QUEUE_MAX - len(self._queue)
        self._queue.extend(accepted[:room])
        self._lost += lost + max(0, len(accepted) - room)
        if self._queue or self._lost:
            self._is_there.set()

    async def wait(self, seconds: float) -> Glimpse:
        try:
            async with asyncio.timeout(seconds):
                await self._is_there.wait()
        except TimeoutError:
            return Glimpse(())
        shown = tuple(self._queue.popleft() for _ in range(min(_GLIMPSE_MAX, len(self._queue))))
        lost, self._lost = self._lost, 0
        if not self._queue:
            self._is_there.clear()
        return Glimpse(shown, lost)


class _Place:
    """How far was read. PostgreSQL hands out ids before it commits, so that smaller ones may come after larger ones."""

    def __init__(self, floor: int) -> None:
        self.floor = floor  # all up to here were seen, or are no longer waited for
        self._seen: set[int] = set()  # beyond
        self._missing_s = 0.0  # since when the one after the floor is

    @property
    def known(self) -> int:
        """How many beyond the floor were seen."""
        return len(self._seen)

    @property
    def is_waiting(self) -> bool:
        """Whether one is missing."""
        return bool(self._seen)

    def skip(self, last: int) -> int:
        """Where too many wait, only the newest are read; how many are not."""
        floor = last - _READ_MAX
        if last - self.floor <= _BEHIND_MAX:
            return 0
        lost = floor - self.floor - sum(1 for one in self._seen if one <= floor)
        self.floor, self._seen = floor, {one for one in self._seen if one > floor}
        return lost

    def take(self, stored: list[Stored], now_s: float) -> list[Stored]:
        """Those that were not seen before."""
        fresh = [one for one in stored if one.id not in self._seen]
        self._seen.update(one.id for one in fresh)
        before = self.floor
        self._rise()
        if not self._seen or before != self.floor:
            self._missing_s = now_s
        elif now_s - self._missing_s > _PATIENCE_S or len(self._seen) > _KNOWN_MAX:
            self.floor = min(self._seen) - 1
            self._rise()
            self._missing_s = now_s
        return fresh

    def _rise(self) -> None:
        while self.floor + 1 in self._seen:
            self.floor += 1
            self._seen.discard(self.floor)
