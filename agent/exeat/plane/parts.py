"""What a plane is made of, for those who work on it: the pages, the API, the metrics.

The daemon builds it. Pages and the API read and write the store by the functions beside this file, each in a
transaction of `database`, and in a thread: `await asyncio.to_thread(...)`.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from exeat.plane.counts import Counts
from exeat.plane.settings import PlaneSettings
from exeat.plane.store.database import Database

if TYPE_CHECKING:
    from exeat.plane.cluster.objects import Reason
    from exeat.plane.verdicts.live import Feed


class Presence(Protocol):
    """Which agents are connected to this replica at this moment; the store says it of all, seconds later."""

    def is_connected(self, node: str) -> bool:
        """To this replica."""

    def connected(self) -> int:
        """How many are."""


class Collected(Protocol):
    """What became of verdicts here since the start."""

    stored: int
    lost: int  # by agents' word
    failures: int  # transactions that the store refused

    @property
    def waiting(self) -> int:
        """Came, and are not stored yet."""


@dataclass(slots=True)
class NothingCollected:
    """No agent reports here."""

    stored: int = 0
    lost: int = 0
    failures: int = 0
    waiting: int = 0


class Directory(Protocol):
    """The policies in `settings.policies`."""

    def problems(self) -> tuple[str, ...]:
        """Why what is there now is not in force, each as `file:line: what, what instead`; empty: it is."""


class NoDirectory:
    """Policies are in the store only."""

    def problems(self) -> tuple[str, ...]:
        """None."""
        return ()


class Cluster(Protocol):
    """The Kubernetes cluster in `settings.cluster`."""

    @property
    def is_leading(self) -> bool:
        """Whether this replica follows it."""

    def problems(self) -> tuple[str, ...]:
        """What keeps its policies from being in force as they are there now, in sentences."""

    def counts(self) -> "Counter[Reason]":
        """How many objects came to what."""


class NoCluster:
    """No policies are objects of Kubernetes."""

    is_leading = False

    def problems(self) -> tuple[str, ...]:
        """None."""
        return ()

    def counts(self) -> "Counter[Reason]":
        """None."""
        return Counter()


@dataclass(frozen=True, slots=True)
class Plane:
    """The parts."""

    settings: PlaneSettings
    database: Database
    presence: Presence
    feed: "Feed"  # verdicts as they come
    counts: Counts = field(default_factory=Counts)  # for /metrics
    collected: Collected = field(default_factory=NothingCollected)  # the same
    directory: Directory = field(default_factory=NoDirectory)
    cluster: Cluster = field(default_factory=NoCluster)
    now_ns: Callable[[], int] = time.time_ns
