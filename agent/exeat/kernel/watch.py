"""Reads the verdicts of one workload while it runs, and ends its sockets that the backstop has silenced."""

import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exeat.errors import KernelError
from exeat.kernel.cutting import end, must_end
from exeat.kernel.events import EventRing
from exeat.kernel.instance import Instance
from exeat.kernel.sockets import Diagnosis
from exeat.kernel.sweep import cut_revoked
from exeat.kernel.tables import Tables, boot_ns
from exeat.kernel.telling import Naming, tell
from exeat.model.record import Record

_CERTAINLY_NS = 50_000_000  # later than the kernel's idea of an end, which was reckoned a little earlier
_DAY_S = 86_400.0  # select() takes no centuries


@dataclass(frozen=True, slots=True)
class Watched:
    """What the events of a workload speak about."""

    cgroup: int
    workloads: Mapping[int, str]
    policies: Mapping[int, Naming]
    policy_id: int
    ends_ns: tuple[int, ...]  # wall clock, sorted: open connections are looked at then


class Watch:
    """A thread: the caller's own waits for signals."""

    def __init__(self, instance: Instance, tables: Tables, watched: Watched, take: Callable[[Record], None]) -> None:
        self._instance = instance
        self._tables = tables
        self._watched = watched
        self._take = take
        self._ring = EventRing(instance.map("events"))
        self._diagnosis = Diagnosis()
        self._ends = [boot_ns(end) + _CERTAINLY_NS for end in watched.ends_ns]
        self._stopped, self._stop = os.pipe()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"verdicts of {instance.name}", daemon=True)
        for name in ("stamps", "names", "traffic", "counters"):
            instance.map(name)  # opened now: at the end the pins go first
        instance.program("on_question")

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def finish(self) -> None:
        """Reads what is left, then stops. A failure on the way is raised here."""
        os.close(self._stop)
        self._thread.join()
        os.close(self._stopped)
        self._ring.close()
        self._diagnosis.close()
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._wait():
                self._drain()
            self._drain()
        except (KernelError, OSError, ValueError) as error:
            self._failure = error

    def _wait(self) -> bool:
        """Whether it is time to stop."""
        seconds = None
        if self._ends:
            seconds = min(max(0.0, (self._ends[0] - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9), _DAY_S)
        readable, _, _ = select.select([self._ring.fileno(), self._stopped], [], [], seconds)
        if self._ends and time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= self._ends[0]:
            self._ends.pop(0)
            cut_revoked(self._instance, self._tables, self._watched.cgroup, self._watched.policy_id)
        return self._stopped in readable

    def _drain(self) -> None:
        for event in self._ring.drain():
            if must_end(event):
                end(event, self._diagnosis)
            self._take(tell(event, self._watched.workloads, self._watched.policies))
