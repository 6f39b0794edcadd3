"""Ends the connections that denials tell of: at once, or as soon as the agent is in their network namespace.

The kernel judges a workload a moment before its gate listens, and only from within its namespace can its connections be
ended. The kernel does not tell of one again: it would hang until its program loses patience.
"""

from collections import deque
from collections.abc import Callable

from exeat.kernel.events import Event

_AGAIN_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_WAITING_MAX = 256  # of one that has ended by itself nothing is found either: a workload may make many of these


class Endings:
    """Belongs to the verdicts' thread. `end`: whether the connection was found."""

    def __init__(self, end: Callable[[Event], bool]) -> None:
        self._end = end
        self._waiting: deque[tuple[float, int, Event]] = deque()  # when it is tried again, how often it was

    def end(self, event: Event, now_s: float) -> None:
        """Now, or later."""
        self._try(event, 0, now_s)

    def end_waiting(self, now_s: float) -> None:
        """Those whose time has come."""
        due = [one for one in self._waiting if one[0] <= now_s]
        self._waiting = deque(one for one in self._waiting if one[0] > now_s)
        for _, tries, event in due:
            self._try(event, tries, now_s)

    def wait_s(self, now_s: float, longest_s: float) -> float:
        """How long there is nothing to do."""
        return max(0.0, min([longest_s, *(due_s - now_s for due_s, _, _ in self._waiting)]))

    def _try(self, event: Event, tries: int, now_s: float) -> None:
        if not self._end(event) and tries < len(_AGAIN_S) and len(self._waiting) < _WAITING_MAX:
            self._waiting.append((now_s + _AGAIN_S[tries], tries + 1, event))
