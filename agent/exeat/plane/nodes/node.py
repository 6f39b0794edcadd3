"""A node, as the store knows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from exeat.plane.policies.assign import Entries

AWAY_NS = 45 * 1_000_000_000  # three beats of ten seconds, and what a replica needs to write them down


class Standing(StrEnum):
    """A node's state, as people see it."""

    CURRENT = "current"  # it enforces what it was sent
    BEHIND = "behind"  # it was sent something and has not answered yet
    REFUSED = "refused"  # it answered that it cannot, and enforces what it had
    AWAY = "away"  # it enforces what it had
    NEVER = "never"  # it was added, and has not come yet
    RETIRED = "retired"  # it may not come


@dataclass(frozen=True, slots=True)
class Node:
    """All that is known of one."""

    name: str
    is_retired: bool
    labels: Mapping[str, str]  # by its own word
    pinned: Mapping[str, str]  # by the plane's, which counts
    version: str
    kernel: str
    features: tuple[str, ...]
    start: str
    protocol: int
    first_ns: int  # when it came first; 0: it has not
    seen_ns: int
    is_connected: bool
    replica: str
    serial: int  # of the manifest that was sent last
    acked: int  # of the one that it enforces
    acked_ns: int
    took_ns: int
    fault: str  # why it refuses what it was sent last; empty: it does not
    fault_ns: int
    failures: tuple[str, ...]  # workloads that stay as they were
    complaints: tuple[str, ...]
    skew_ms: int  # its clock less the plane's
    lost_events: int
    unreported: int

    @property
    def effective_labels(self) -> dict[str, str]:
        """What policies' `subject.nodes` is compared with."""
        return {**self.labels, **self.pinned}

    def standing(self, now_ns: int) -> Standing:
        """In a word."""
        if self.is_retired:
            return Standing.RETIRED
        if not self.first_ns:
            return Standing.NEVER
        # A replica that died could not say that its nodes have gone.
        if not self.is_connected or now_ns - self.seen_ns > AWAY_NS:
            return Standing.AWAY
        if self.fault:
            return Standing.REFUSED
        return Standing.CURRENT if self.acked == self.serial else Standing.BEHIND


@dataclass(frozen=True, slots=True)
class Holding:
    """A policy that a node enforces."""

    name: str
    revision: str
    since_ns: int


@dataclass(frozen=True, slots=True)
class Beat:
    """How a node was when it was heard last."""

    node: str
    seen_ns: int
    skew_ms: int = 0
    lost_events: int = 0
    unreported: int = 0
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """What a node made of a push."""

    node: str
    serial: int  # of the push
    entries: Entries
    at_ns: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """To whom a node came, and when."""

    replica: str
    at_ns: int
    is_listed_only: bool = False  # whoever was not added before is refused
