"""Every verdict on its way: from the kernel's ring and the gates to the log, and to those who watch.

One thread reads and writes. Who watches too slowly loses verdicts, is told how many, and holds up nobody.
"""

import asyncio
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from exeat.agent.endings import Endings
from exeat.agent.enforcer import Enforcer
from exeat.agent.sets import Sets
from exeat.audit.log import VerdictLog
from exeat.core.filters import Filter
from exeat.core.verdict_text import json_line
from exeat.errors import ExeatError, KernelError
from exeat.kernel.cutting import DENYING, end, must_end
from exeat.kernel.events import Event, EventRing
from exeat.kernel.instance import Instance
from exeat.kernel.telling import tell
from exeat.model.record import Record
from exeat.model.verdicts import Reason

_BATCH = 1000
QUARANTINING = frozenset((Reason.LIMIT_BYTES, Reason.LIMIT_CONNECTIONS, Reason.LIMIT_DESTINATIONS, Reason.UNDECLARED))
_WAIT_S = 1.0
_REST_S = 3.0
_QUEUE_MAX = 10_000  # of one watcher
_FROM_GATES_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Heed:
    """What the agent wants to hear of at once, by a workload's id. Called in the hub's thread."""

    no_gate: Callable[[int, int], None]  # and the process that asked
    quarantined: Callable[[int, Reason], None]


class Watcher:
    """Somebody who watches."""

    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._lock = threading.Lock()
        self._queue: deque[Record] = deque()
        self._lost = 0

    def offer(self, records: list[Record]) -> None:
        """From the hub's thread."""
        wanted = [record for record in records if self._wanted.accepts(record)]
        if not wanted:
            return
        with self._lock:
            room = _QUEUE_MAX - len(self._queue)
            self._queue.extend(wanted[:room])
            self._lost += max(0, len(wanted) - room)
        self._loop.call_soon_threadsafe(self._news.set)

    async def wait(self, seconds: float) -> tuple[list[Record], int]:
        """What came, and how many were lost before it; nothing when the time is over."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return [], 0
        with self._lock:
            records = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            lost, self._lost = self._lost, 0
            if not self._queue:
                self._news.clear()
        return records, lost


class Hub:
    """From start() to finish()."""

    def __init__(self, instance: Instance, enforcer: Enforcer, sets: Sets, log: VerdictLog, heed: Heed) -> None:
        self.failure: BaseException | None = None
        self._enforcer = enforcer
        self._sets = sets
        self._log = log
        self._heed = heed
        self._endings = Endings(self._end, enforcer.joined)
        self._ring = EventRing(instance.map("events"))
        self._from_gates: deque[Record] = deque()
        self._unheard = 0
        self._watchers: set[Watcher] = set()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_ending = False
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._run, name="verdicts", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def finish(self) -> None:
        """Reads what is left, then stops."""
        self._is_ending = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._ring.close()
        os.close(self._wake)

    @property
    def is_alive(self) -> bool:
        """Whether verdicts are read."""
        return self._thread.is_alive()

    @property
    def unheard(self) -> int:
        """Verdicts of the gates for which there was no room."""
        return self._unheard

    def take(self, record: Record) -> None:
        """One of a gate's."""
        if len(self._from_gates) >= _FROM_GATES_MAX:
            self._unheard += 1
            return
        who = self._enforcer.who_at.get(record.workload)
        self._from_gates.append(replace(record, who=who) if who else record)
        os.eventfd_write(self._wake, 1)

    def watch(self, wanted: Filter) -> Watcher:
        """One more watcher."""
        watcher = Watcher(wanted)
        self._watchers = self._watchers | {watcher}
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """One less."""
        self._watchers = self._watchers - {watcher}

    def _run(self) -> None:
        try:
            news = select.poll()  # select() knows no descriptor beyond 1,023, and systemd may have kept 4,096
            for source in (self._ring.fileno(), self._wake):
                news.register(source, select.POLLIN)
            while not self._is_ending:
                news.poll(self._endings.wait_s(time.monotonic(), _WAIT_S) * 1000)
                self._drain()
                self._endings.end_waiting(time.monotonic())
            self._drain()
        except (ExeatError, OSError, ValueError) as error:
            self.failure = error

    def _drain(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            self._log.append(())  # nothing new, perhaps: seals what is due
            self._rest()
        self._pass_on([self._from_gates.popleft() for _ in range(len(self._from_gates))])
        events = self._ring.drain()
        while batch := list(islice(self._told(events), _BATCH)):
            self._busy_s = time.monotonic()
            self._pass_on(batch)

    def _rest(self) -> None:
        now_s = time.monotonic()
        if now_s - self._busy_s > _REST_S:
            self._ring.rest()

    def _pass_on(self, records: list[Record]) -> None:
        if not records:
            return
        self._log.append([json_line(record).encode(errors="surrogateescape") for record in records])
        for watcher in self._watchers:
            watcher.offer(records)

    def _told(self, events: Iterator[Event]) -> Iterator[Record]:
        for event in events:
            if event.verdict in DENYING:
                self._attend(event)
            yield tell(event, self._enforcer.paths, self._sets.namings.known, self._enforcer.whos)

    def _attend(self, event: Event) -> None:
        if event.reason == Reason.NO_GATE:
            self._heed.no_gate(event.workload, event.pid)
        elif event.reason in QUARANTINING:
            self._heed.quarantined(event.workload, Reason(event.reason))
        if must_end(event):
            self._endings.end(event, time.monotonic())

    def _end(self, event: Event) -> bool:
        try:
            return self._enforcer.cut_flow(event.workload, lambda diagnosis: end(event, diagnosis))
        except (KernelError, OSError) as error:
            self.failure = error
            return True
