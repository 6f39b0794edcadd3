"""Cgroups and interfaces that came and went, settled a few at a time: a storm of them keeps nothing else waiting."""

import asyncio
import time
from collections.abc import Callable, Iterable

from exeat.agent.census import News
from exeat.agent.host import Host

_SLICE_S = 0.02  # each cgroup is some tables written and some listeners opened: a millisecond or two


class Arrivals:
    """Belongs to the control loop."""

    def __init__(self, host: Host, look: Callable[[Iterable[int]], None]) -> None:
        self._host = host
        self._look = look  # has the gates listen where the processes of these workloads are
        self._waiting: dict[int, None] = {}
        self._running: set[int] = set()  # of them those that may have connections already
        self._has_turn = False

    def take(self, news: News) -> None:
        """What is new; the first of it at once."""
        self._waiting.update(dict.fromkeys(self._host.concerned(news)))
        if not self._has_turn:
            self._settle_some()

    def settle_soon(self, workload: int) -> None:
        """Something else is known of it than before."""
        self._waiting[workload] = None
        self._running.add(workload)
        if not self._has_turn:
            self._settle_some()

    def _settle_some(self) -> None:
        deadline = time.monotonic() + _SLICE_S
        changed: list[int] = []
        while self._waiting and time.monotonic() < deadline:
            workload = next(iter(self._waiting))
            del self._waiting[workload]
            settled = self._host.settle((workload,))
            changed += settled
            if workload in self._running:
                self._running.discard(workload)
                self._host.enforcer.cut(settled)
        self._look(changed)
        self._has_turn = bool(self._waiting)
        if self._has_turn:
            asyncio.get_running_loop().call_soon(self._settle_some)
