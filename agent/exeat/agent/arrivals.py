"""Cgroups and interfaces that came and went, settled a few at a time: a storm of them keeps nothing else waiting."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from exeat.agent.census import News
from exeat.agent.host import Host
from exeat.errors import ExeatError

_log = logging.getLogger("exeat")
_SLICE_S = 0.02  # each cgroup is some tables written and some listeners opened: a millisecond or two
_CUT_S = 0.1  # to look at every socket of the host takes longer: once for all that became known meanwhile


class Arrivals:
    """Belongs to the control loop. What fails for one is said, and keeps no other waiting."""

    def __init__(self, host: Host, follow: Callable[[int], None]) -> None:
        self._host = host
        self._follow = follow  # has the gate listen where the processes of a workload are, and where they go next
        self._waiting: dict[int, None] = {}
        self._running: set[int] = set()  # of them those that may have connections already
        self._has_turn = False
        self._to_cut: set[int] = set()

    def take(self, news: News) -> None:
        """What is new; the first of it at once."""
        self._waiting.update(dict.fromkeys(self._host.concerned(news)))
        if not self._has_turn:
            self._settle_some()

    def settle_soon(self, workload: int) -> None:
        """Something else is known of it than before. Its packets are judged by that at once; what is idle ends soon."""
        self._waiting[workload] = None
        self._running.add(workload)
        if not self._has_turn:
            self._settle_some()

    def _settle_some(self) -> None:
        deadline = time.monotonic() + _SLICE_S
        try:
            while self._waiting and time.monotonic() < deadline:
                workload = next(iter(self._waiting))
                del self._waiting[workload]
                self._settle(workload)
        finally:  # whatever was wrong with that one
            self._has_turn = bool(self._waiting)
            if self._has_turn:
                asyncio.get_running_loop().call_soon(self._settle_some)

    def _settle(self, workload: int) -> None:
        is_running = workload in self._running
        self._running.discard(workload)
        try:
            settled = self._host.settle((workload,))
            for one in settled:
                self._follow(one)
        except (ExeatError, OSError) as error:
            _log.error("workload %d is not what it should be yet: %s", workload, error)
            return
        if is_running:
            self._cut_soon(settled)

    def _cut_soon(self, workloads: Iterable[int]) -> None:
        is_due = bool(self._to_cut)
        self._to_cut.update(workloads)
        if self._to_cut and not is_due:
            asyncio.get_running_loop().call_later(_CUT_S, self._cut)

    def _cut(self) -> None:
        workloads, self._to_cut = self._to_cut, set()
        try:
            self._host.enforcer.cut(workloads)
        except (ExeatError, OSError) as error:  # no packet of theirs passes; their programs wait
            _log.error("connections that are not allowed any more stay open, and silent: %s", error)
