"""What a plane asks to be done at once: believed as manifests are, done as if asked at the agent's own socket, once."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import DecodeError

from exeat.agent.command_memory import CommandMemory
from exeat.agent.trust import Trust
from exeat.audit.signing import COMMAND
from exeat.control.peer import Peer
from exeat.errors import ExeatError
from exeat.v1 import agent_pb2
from exeat.v1 import plane_pb2 as pb

_AHEAD_MAX_NS = 3600 * 10**9
_AHEAD_LENIENT_NS = 60 * 10**9  # the clocks may differ
_ID_MAX = 128
_BY_MAX = 200
_BUG = "the agent failed at this; its log says how: journalctl -u exeat"
_UNKNOWN_END = "it was begun before the agent ended, and nobody knows whether it was done: look, and ask anew"
_log = logging.getLogger("exeat")


class Doing(Protocol):
    """The agent's own operations, as far as a plane may ask for them."""

    async def set_mode(self, request: agent_pb2.SetModeRequest, peer: Peer) -> agent_pb2.SetModeResponse:
        """Sets a workload's mode."""

    async def allow(self, request: agent_pb2.AllowRequest, peer: Peer) -> agent_pb2.AllowResponse:
        """Adds a rule that ends by itself."""

    async def disallow(self, request: agent_pb2.DisallowRequest, peer: Peer) -> agent_pb2.DisallowResponse:
        """Takes such a rule back."""


class Commands:
    """Those of one node."""

    def __init__(
        self,
        node: str,
        trust: Trust,
        memory: CommandMemory,
        doing: Doing,
        state_of: Callable[[str], pb.WorkloadState | None],
    ) -> None:
        self._node = node
        self._trust = trust
        self._memory = memory
        self._doing = doing
        self._state_of = state_of

    async def obey(self, signed: pb.Signed) -> pb.CommandResult | None:
        """What became of it; None: it cannot even be said which command it was."""
        try:
            command = pb.Command.FromString(signed.content)
        except DecodeError:
            _log.warning("what the plane sent as a command is none")
            return None
        if not 0 < len(command.id) <= _ID_MAX:
            _log.warning("the plane sent a command without an identifier, or with one that is too long")
            return None
        if refusal := self._why_not_ours(signed, command):
            return self._refused(command, refusal)
        known = self._memory.result_of(command.id)
        if known:
            return known
        if self._memory.has(command.id):
            return self._refused(command, _UNKNOWN_END)
        if refusal := self._why_not_now(command):
            return self._refused(command, refusal)
        return await self._do_once(command)

    def _why_not_ours(self, signed: pb.Signed, command: pb.Command) -> str:
        try:
            self._trust.check(COMMAND, "the command", signed)
        except ExeatError as error:
            return str(error)
        return "" if command.node == self._node else f"the command is for node {command.node!r}: this is {self._node}"

    def _why_not_now(self, command: pb.Command) -> str:
        now_ns = time.time_ns()
        expires_ns = command.expires.seconds * 10**9 + command.expires.nanos
        if expires_ns <= now_ns:
            return f"the command has expired, {(now_ns - expires_ns) / 1e9:.0f} s ago by this node's clock: ask anew"
        if expires_ns > now_ns + _AHEAD_MAX_NS + _AHEAD_LENIENT_NS:
            return "the command could be begun for more than an hour, and commands are for now: let it expire sooner"
        return ""

    async def _do_once(self, command: pb.Command) -> pb.CommandResult:
        expires_ns = command.expires.seconds * 10**9 + command.expires.nanos
        try:
            self._memory.begin(command.id, expires_ns, time.time_ns())
        except OSError as error:
            return self._refused(command, f"it cannot be noted that it is done, so it is not done: {error}")
        except ExeatError as error:
            return self._refused(command, str(error))
        try:
            result = await self._do(command, Peer(0, 0, 0, f"plane: {_name(command.by)}"))
        except ExeatError as error:
            result = self._refused(command, str(error))
        except Exception:  # noqa: BLE001  # whatever it is, the plane must know that it is not done
            _log.exception("a command of the plane's failed")
            result = self._refused(command, _BUG)
        self._memory.end(command.id, result)
        return result

    async def _do(self, command: pb.Command, peer: Peer) -> pb.CommandResult:
        result = pb.CommandResult(id=command.id)
        what = command.WhichOneof("what")
        if what == "set_mode":
            result.cut = (await self._doing.set_mode(command.set_mode, peer)).cut
        elif what == "allow":
            result.allowance = (await self._doing.allow(command.allow, peer)).rule.allowance
        elif what == "disallow":
            result.cut = (await self._doing.disallow(command.disallow, peer)).cut
        else:
            return self._refused(command, "this agent does not know what is asked: update it")
        if state := self._state_of(getattr(command, what).workload):
            result.workload.CopyFrom(state)
        return result

    def _refused(self, command: pb.Command, refusal: str) -> pb.CommandResult:
        refusal = refusal.encode(errors="backslashreplace").decode()
        _log.warning("a command of the plane's is refused: %s", refusal.encode("ascii", "backslashreplace").decode())
        return pb.CommandResult(id=command.id, refusal=refusal)


def _name(by: str) -> str:
    """Who asked, as it may stand in a log."""
    return "".join(one if one.isprintable() else "?" for one in by[:_BY_MAX]) or "somebody"
