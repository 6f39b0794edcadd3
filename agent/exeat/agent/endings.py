"""Ends the connections that denials tell of: at once, or as soon as the agent is in their network namespace.

The kernel judges a workload a moment before its gate listens, and only from within its namespace can its connections be
ended. The kernel does not tell of one again: it would hang until its program loses patience.
"""

from collections import Counter, deque
from collections.abc import Callable

from exeat.kernel.events import Event

_AGAIN_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_WAITING_MAX = 1024  # of one that has ended by itself nothing is found either: a workload may make many of these,
_OF_ONE_MAX = 32  # and takes no other's place


class Endings:
    """Belongs to the verdicts' thread.

    `end`: whether the connection was found. `joined`: how many namespaces of a workload the agent has joined so far.
    """

    def __init__(self, end: Callable[[Event], bool], joined: Callable[[int], int]) -> None:
        self._end = end
        self._joined = joined
        # When it is tried again, how often it was, and in how many namespaces it was looked for.
        self._waiting: deque[tuple[float, int, int, Event]] = deque()
        self._of: Counter[int] = Counter()

    def end(self, event: Event, now_s: float) -> None:
        """Now, or later."""
        joined = self._joined(event.workload)
        if not self._end(event):
            self._wait(event, 0, joined, now_s)

    def end_waiting(self, now_s: float) -> None:
        """Those whose time has come. Where it was looked for in vain, it need not be looked for again."""
        due = [one for one in self._waiting if one[0] <= now_s]
        self._waiting = deque(one for one in self._waiting if one[0] > now_s)
        for _, tries, before, event in due:
            self._of[event.workload] -= 1
            joined = self._joined(event.workload)
            if joined == before or not self._end(event):
                self._wait(event, tries, joined, now_s)
        self._of = +self._of

    def wait_s(self, now_s: float, longest_s: float) -> float:
        """How long there is nothing to do."""
        return max(0.0, min([longest_s, *(one[0] - now_s for one in self._waiting)]))

    def _wait(self, event: Event, tries: int, joined: int, now_s: float) -> None:
        has_room = len(self._waiting) < _WAITING_MAX and self._of[event.workload] < _OF_ONE_MAX
        if tries < len(_AGAIN_S) and has_room:
            self._waiting.append((now_s + _AGAIN_S[tries], tries + 1, joined, event))
            self._of[event.workload] += 1
