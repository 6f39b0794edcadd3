"""What an agent tells who asks for numbers. Where a method raises ExeatError or OSError, its metric is missing."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from exeat.model.identity import Who
from exeat.model.policy import Mode
from exeat.model.verdicts import Reason, Verdict


class Source(StrEnum):
    """Who brought a workload."""

    SUBJECT = "subject"
    REGISTRATION = "registration"
    RUN = "run"


class PolicyCounts(NamedTuple):
    """How many policy files are in force as they are, and how many are rejected."""

    accepted: int
    rejected: int


class Use(NamedTuple):
    """How full a table in the kernel is."""

    used: int
    limit: int


class WorkloadCounts(NamedTuple):
    """One workload's."""

    name: str  # no two have the same
    who: Who
    verdicts: Mapping[Verdict, int]  # the kernel's and its gate's
    bytes_out: int
    bytes_in: int


class PlaneCounts(NamedTuple):
    """How the agent stands with its control plane."""

    is_connected: bool
    serial: int  # of the manifest in force; 0: none
    is_refused: bool  # what the plane sent last
    unreported: int  # lines of the log that the plane has yet to get
    lost: int  # and those that it never will


class Readings(Protocol):
    """The agent, as its metrics see it. Called from the metrics' own thread."""

    def counters(self) -> Mapping[tuple[Verdict, Reason], int]:
        """The kernel's verdicts, since the programs were first loaded."""

    def held_back(self) -> Mapping[Reason, int]:
        """Frames of guests that were dropped without a verdict."""

    def questions(self) -> Mapping[Verdict, int]:
        """The gates' verdicts, since the agent started."""

    def lost_events(self) -> int:
        """Verdicts for which the kernel's ring had no room."""

    def unwritten(self) -> int:
        """Verdicts that could not be written to the log."""

    def workloads(self) -> Mapping[tuple[Source, Mode], int]:
        """How many there are of each kind; what is left out is none."""

    def by_workload(self) -> Iterable[WorkloadCounts]:
        """Every one."""

    def policies(self) -> PolicyCounts:
        """Of the policy files."""

    def endings_within(self) -> Mapping[int, int]:
        """How many policies and rules end within so many days: exeat.core.endings.count_within."""

    def table_use(self) -> Mapping[str, Use]:
        """By the map's name."""

    def grants(self) -> int:
        """Pairs of name and address that may be used now."""

    def plane(self) -> PlaneCounts | None:
        """None: the agent has no plane."""

    def started_s(self) -> float:
        """When the agent started, in seconds since 1970."""
