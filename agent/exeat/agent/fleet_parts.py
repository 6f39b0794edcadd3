"""What a node of a fleet is made of, beside the conversation itself: each replaceable for itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from exeat.agent.bundles import Bundle
from exeat.agent.trust import Trust
from exeat.v1 import plane_pb2 as pb


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Who speaks."""

    name: str
    labels: Mapping[str, str]
    version: str
    kernel: str
    features: tuple[str, ...]
    start: str  # made up anew at each start
    started_ns: int
    trust: Trust


@dataclass(frozen=True, slots=True)
class Enforced:
    """What became of a bundle."""

    switched: int = 0
    failures: tuple[str, ...] = ()  # workloads that stay as they were


@dataclass(frozen=True, slots=True)
class Health:
    """How the agent is."""

    workloads: int = 0
    lost_events: int = 0
    complaints: tuple[str, ...] = ()


class Ground(Protocol):
    """What a fleet's node stands on. All of it is called in the control loop."""

    def enforce(self, bundle: Bundle) -> Enforced:
        """Returns once the kernel judges by it. Where it raises, all is as it was before."""

    def states(self) -> Mapping[str, pb.WorkloadState]:
        """Every workload by name; the same message again where nothing has changed."""

    def health(self) -> Health:
        """For the beats."""


class Keeping(Protocol):
    """Where a bundle outlives the agent."""

    def save(self, bundle: Bundle) -> None:
        """Called in a thread. Raises OSError."""


class Obeying(Protocol):
    """Who does commands."""

    async def obey(self, signed: pb.Signed) -> pb.CommandResult | None:
        """What became of it; None: it cannot even be said which command it was."""
