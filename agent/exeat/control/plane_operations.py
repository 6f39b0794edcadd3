"""What a plane must be able to do for agents: one method for each of proto/exeat/v1/plane.proto."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from exeat.v1 import plane_pb2 as pb


class PlaneOperations(Protocol):
    """The plane, as its gRPC door sees it.

    `names` are those of the agent's certificate. A method ends its stream by returning, by raising Refused, which
    becomes a status with its sentence, or any other ExeatError, which means INTERNAL. It is closed when the agent goes.
    `requests` ends when the agent says no more, and raises Refused where what came is no message.
    """

    def sync(
        self, names: frozenset[str], requests: AsyncIterator[pb.SyncRequest]
    ) -> AsyncGenerator[pb.SyncResponse, None]:
        """Policies and commands to a node, for as long as it is there."""

    def report(
        self, names: frozenset[str], requests: AsyncIterator[pb.ReportRequest]
    ) -> AsyncGenerator[pb.ReportResponse, None]:
        """Takes a node's verdicts."""
