"""The asker's end of the local API: one method for each of the agent's, and errors that say what to do."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

# Before the import: it writes to the terminal of who asks. Daemons say so themselves, and nobody else may: a command of
# `exeat run` has the caller's environment and nothing of ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc  # noqa: E402

from exeat.control.client import trouble_at  # noqa: E402
from exeat.errors import AgentUnavailable, ExeatError, Refused, StatusWord  # noqa: E402
from exeat.v1 import agent_pb2 as pb  # noqa: E402
from exeat.v1.agent_pb2_grpc import AgentStub  # noqa: E402

_T = TypeVar("_T")
_RESPONSE_MAX = 64 << 20
_OPTIONS = (("grpc.max_receive_message_length", _RESPONSE_MAX), ("grpc.enable_http_proxy", 0))
_WORDS = {grpc.StatusCode[word.value]: word for word in StatusWord}


class AgentClient:
    """One connection to the agent; `with` closes it."""

    def __init__(self, path: Path, deadline_s: float = 30.0) -> None:
        self._path = path
        self._deadline_s = deadline_s
        self._channel = grpc.insecure_channel(f"unix:{path.absolute()}", _OPTIONS)
        self._stub = AgentStub(self._channel)

    def __enter__(self) -> "AgentClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hangs up."""
        self._channel.close()

    def get_status(self) -> pb.GetStatusResponse:
        """What the agent holds and how it is."""
        return self._ask(self._stub.GetStatus, pb.GetStatusRequest())

    def list_workloads(self, request: pb.ListWorkloadsRequest) -> pb.ListWorkloadsResponse:
        """Every workload, or one."""
        return self._ask(self._stub.ListWorkloads, request)

    def register(self, request: pb.RegisterRequest) -> pb.RegisterResponse:
        """Puts a cgroup under a policy."""
        return self._ask(self._stub.Register, request)

    def unregister(self, request: pb.UnregisterRequest) -> pb.UnregisterResponse:
        """Ends a registration."""
        return self._ask(self._stub.Unregister, request)

    def set_mode(self, request: pb.SetModeRequest) -> pb.SetModeResponse:
        """Sets a workload's mode."""
        return self._ask(self._stub.SetMode, request)

    def allow(self, request: pb.AllowRequest) -> pb.AllowResponse:
        """Adds a rule that ends by itself."""
        return self._ask(self._stub.Allow, request)

    def disallow(self, request: pb.DisallowRequest) -> pb.DisallowResponse:
        """Takes such a rule back."""
        return self._ask(self._stub.Disallow, request)

    def set_session(self, request: pb.SetSessionRequest) -> pb.SetSessionResponse:
        """Gives a workload a session context, or ends the one that it has."""
        return self._ask(self._stub.SetSession, request)

    def watch_verdicts(self, request: pb.WatchVerdictsRequest) -> Iterator[pb.WatchVerdictsResponse]:
        """Verdicts of the past, then those to come. It has no deadline where it follows."""
        stream: Any = self._stub.WatchVerdicts(request)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise self._told(error) from error
        finally:
            stream.cancel()

    def list_grants(self, request: pb.ListGrantsRequest) -> pb.ListGrantsResponse:
        """Which names were resolved to which addresses."""
        return self._ask(self._stub.ListGrants, request)

    def explain(self, request: pb.ExplainRequest) -> pb.ExplainResponse:
        """Which rule decides about a destination."""
        return self._ask(self._stub.Explain, request)

    def get_counters(self) -> pb.GetCountersResponse:
        """The kernel's and the gates' counters."""
        return self._ask(self._stub.GetCounters, pb.GetCountersRequest())

    def reload(self) -> pb.ReloadResponse:
        """Reads the policy files again."""
        return self._ask(self._stub.Reload, pb.ReloadRequest())

    def _ask(self, method: Callable[..., _T], request: Any) -> _T:
        try:
            return method(request, timeout=self._deadline_s)
        except grpc.RpcError as error:
            raise self._told(error) from error

    def _told(self, error: Any) -> ExeatError:
        """gRPC's error as one of ours: a sentence, and what to do."""
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE:
            return AgentUnavailable(trouble_at(self._path) or f"the agent hung up: {details}")
        if code in _WORDS:
            return Refused(_WORDS[code], details)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            why = details if " goes on" in details else f"the agent has not answered within {self._deadline_s:g} s"
            return AgentUnavailable(f"{why}: journalctl -u exeat")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ExeatError("the running agent is of another version and does not know this: systemctl restart exeat")
        return ExeatError(details or f"the agent answered with {code.name}")
