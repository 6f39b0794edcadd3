"""What this replica has counted since it started, for /metrics."""

from collections import Counter
from dataclasses import dataclass, field

from exeat.metrics.durations import Durations

_PUSH_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Counts:
    """Counted from any thread; a reader may see one event late."""

    push_seconds: Durations = field(default_factory=lambda: Durations(_PUSH_BUCKETS_S))  # from a push to its ACK
    answers: Counter[str] = field(default_factory=Counter)  # ack, nack
    commands: Counter[str] = field(default_factory=Counter)  # done, refused
    store_errors: Counter[str] = field(default_factory=Counter)  # read, write: the store did not do it
    web: Counter[int] = field(default_factory=Counter)  # requests by status
