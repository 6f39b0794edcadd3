"""How long to wait before trying again: longer each time, and at random, so that a fleet does not come back as one."""

import random
from collections.abc import Callable


class Backoff:
    """A random time up to 1 s, 2 s, 4 s and so on, `most_s` at most (full jitter)."""

    def __init__(self, most_s: float = 60.0, chance: Callable[[], float] = random.random) -> None:
        self._most_s = most_s
        self._chance = chance  # from 0 to 1
        self._limit_s = 1.0

    def next_s(self) -> float:
        """The next one."""
        limit_s = self._limit_s
        self._limit_s = min(limit_s * 2, self._most_s)
        return limit_s * self._chance()

    def reset(self) -> None:
        """It went well for a while."""
        self._limit_s = 1.0
