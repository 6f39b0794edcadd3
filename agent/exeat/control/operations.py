"""What the agent must be able to do for those who ask: one method for each of proto/exeat/v1/agent.proto."""

from collections.abc import AsyncGenerator
from typing import Protocol

from exeat.control.peer import Peer
from exeat.v1 import agent_pb2 as pb


class Operations(Protocol):
    """The agent, as its API sees it. A method refuses by raising Refused; every other ExeatError means INTERNAL.

    Once begun, all but watch_verdicts run to their end, also when the asker has gone.
    """

    async def get_status(self, request: pb.GetStatusRequest, peer: Peer) -> pb.GetStatusResponse:
        """What the agent holds and how it is."""

    async def list_workloads(self, request: pb.ListWorkloadsRequest, peer: Peer) -> pb.ListWorkloadsResponse:
        """Every workload, or one."""

    async def register(self, request: pb.RegisterRequest, peer: Peer) -> pb.RegisterResponse:
        """Puts a cgroup under a policy."""

    async def unregister(self, request: pb.UnregisterRequest, peer: Peer) -> pb.UnregisterResponse:
        """Ends a registration."""

    async def set_mode(self, request: pb.SetModeRequest, peer: Peer) -> pb.SetModeResponse:
        """Sets a workload's mode."""

    async def allow(self, request: pb.AllowRequest, peer: Peer) -> pb.AllowResponse:
        """Adds a rule that ends by itself."""

    async def disallow(self, request: pb.DisallowRequest, peer: Peer) -> pb.DisallowResponse:
        """Takes such a rule back."""

    async def set_session(self, request: pb.SetSessionRequest, peer: Peer) -> pb.SetSessionResponse:
        """Gives a workload a session context, or ends the one that it has."""

    def watch_verdicts(
        self, request: pb.WatchVerdictsRequest, peer: Peer
    ) -> AsyncGenerator[pb.WatchVerdictsResponse, None]:
        """Verdicts of the past, then those to come; closed when the asker goes."""

    async def list_grants(self, request: pb.ListGrantsRequest, peer: Peer) -> pb.ListGrantsResponse:
        """Which names were resolved to which addresses."""

    async def explain(self, request: pb.ExplainRequest, peer: Peer) -> pb.ExplainResponse:
        """Which rule decides about a destination."""

    async def get_counters(self, request: pb.GetCountersRequest, peer: Peer) -> pb.GetCountersResponse:
        """The kernel's and the gates' counters."""

    async def reload(self, request: pb.ReloadRequest, peer: Peer) -> pb.ReloadResponse:
        """Reads the policy files again."""
