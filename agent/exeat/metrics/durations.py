"""How long something took, as a histogram with fixed buckets; cheap enough for every answer of a gate."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock


@dataclass(frozen=True, slots=True)
class Counted:
    """A histogram at one moment."""

    buckets: tuple[tuple[float, int], ...]  # up to so many seconds, so many; without the last, which has no end
    total: int
    sum_s: float


class Durations:
    """Counts durations by bucket; several threads may do so at once."""

    def __init__(self, buckets_s: Sequence[float]) -> None:
        self._ends = tuple(buckets_s)
        self._counts = [0] * (len(self._ends) + 1)
        self._sum_s = 0.0
        self._one_at_a_time = Lock()

    def observe(self, seconds: float, count: int = 1) -> None:
        """One more, or several that took equally long."""
        at = bisect_left(self._ends, seconds)
        with self._one_at_a_time:
            self._counts[at] += count
            self._sum_s += seconds * count

    def counted(self) -> Counted:
        """What was observed so far."""
        with self._one_at_a_time:
            counts, sum_s = list(self._counts), self._sum_s
        sums = list(accumulate(counts))
        return Counted(tuple(zip(self._ends, sums[:-1], strict=True)), sums[-1], sum_s)
