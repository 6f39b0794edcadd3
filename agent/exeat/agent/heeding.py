"""Carries what the verdicts' thread sees to the control loop, however fast a workload has it seen again and again."""

import asyncio
import threading
from collections.abc import Callable

REST_S = 0.05  # a workload that is denied a thousand times in it is heeded twice
_KEPT_MAX = 64  # different things about one workload, until it is heeded


class Heeding:
    """For each workload the first thing is acted upon at once, what comes in the rest after it together."""

    def __init__(self, act: Callable[[int, set[int]], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._act = act
        self._lock = threading.Lock()
        self._waiting: dict[int, set[int]] = {}  # by workload; an empty set rests

    def say(self, workload: int, what: int) -> None:
        """From any thread."""
        with self._lock:
            waiting = self._waiting.get(workload)
            if waiting is None:
                self._waiting[workload] = {what}
            elif len(waiting) < _KEPT_MAX:
                waiting.add(what)
        if waiting is None:
            self._loop.call_soon_threadsafe(self._heed, workload)

    def _heed(self, workload: int) -> None:
        with self._lock:
            whats = self._waiting[workload]
            if not whats:
                del self._waiting[workload]
                return
            self._waiting[workload] = set()
        self._loop.call_later(REST_S, self._heed, workload)
        self._act(workload, whats)
