"""What may be asked of the agent: the methods of its API. All run in the control loop, one after the other."""

import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass, replace

from exeat.agent.allowances import parse_destination
from exeat.agent.explaining import explain
from exeat.agent.host import Host
from exeat.agent.hub import Hub
from exeat.agent.interface_ids import is_interface
from exeat.agent.notices import agent_record
from exeat.agent.registering import registration_of
from exeat.agent.rights import rights_of
from exeat.agent.session_context import SessionContext
from exeat.agent.targets import session_target, target_of
from exeat.agent.views import MODES, allowance_view, workload_views
from exeat.agent.vitals import Vitals
from exeat.agent.watching import Past, watch
from exeat.agent.wishes import Allowance, Override, Wish
from exeat.control.peer import Peer
from exeat.core.allow_flag import warnings_of
from exeat.dns.gate import boot_ns
from exeat.errors import ExeatError, KernelError, PolicyError, Refused, StatusWord
from exeat.kernel.tables import Tables
from exeat.model.record import Process
from exeat.model.verdicts import Reason, Verdict
from exeat.v1 import agent_pb2 as pb
from exeat.v1 import verdict_pb2

_log = logging.getLogger("exeat")
_NAME = re.compile(r"[A-Za-z0-9/][A-Za-z0-9._:@/+-]{0,252}")
_TEXT_MAX = 1024  # of a reason
_ALLOW_MAX_S = 30 * 86_400
_ALLOWANCES_MAX = 256  # of one workload
_SECOND = 10**9
_BY_NUMBER = {number: mode for mode, number in MODES.items()}


@dataclass(frozen=True, slots=True)
class Agent:
    """What the operations work on."""

    host: Host
    hub: Hub
    tables: Tables
    vitals: Vitals
    past: Past
    reload: Callable[[], int]  # reads the policy files; how many workloads were switched
    look: Callable[[int], None]  # has a workload's gate listen where its processes are


class AgentOperations:
    """Each refuses by raising Refused."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def get_status(self, request: pb.GetStatusRequest, peer: Peer) -> pb.GetStatusResponse:
        """What the agent holds and how it is."""
        return self._agent.vitals.status()

    async def list_workloads(self, request: pb.ListWorkloadsRequest, peer: Peer) -> pb.ListWorkloadsResponse:
        """Every workload, or one."""
        bound = self._agent.host.enforcer.bound
        ids = [self._one(request.workload)] if request.workload else sorted(bound, key=lambda one: bound[one].name)
        found = pb.ListWorkloadsResponse(workloads=workload_views(ids, self._agent.host, self._agent.tables))
        if request.workload and found.workloads[0].cgroup:
            roll = self._agent.host.roll
            pids, are_stopped = roll.census.pids(bound[ids[0]].path), roll.interfaces.frames.are_stopped
            found.workloads[0].rights.extend(rights_of(pids, frames_are_stopped=are_stopped))
        return found

    async def register(self, request: pb.RegisterRequest, peer: Peer) -> pb.RegisterResponse:
        """Puts a cgroup, or the guest behind an interface, under a policy."""
        host = self._agent.host
        name = request.name or request.interface
        if not _NAME.fullmatch(name):
            raise _invalid("the name must have at most 253 letters, digits and . _ : @ / + -")
        path, workload = await target_of(request, host)
        other = [one for one in host.enforcer.bound.values() if one.name == name and one.id != workload]
        if other:
            raise Refused(StatusWord.PRECONDITION, f"{name} is the name of {other[0].path} already")
        registration, warnings = registration_of(name, request, peer, host.shelf)
        wish, names = host.wishes.of(workload, path), host.assigning.names_of(workload, name)
        session = wish.session if wish.session and wish.session.subject in names else None
        if request.session:
            session = self._accept(workload, request.session, names, wish.session, peer)
        self._apply(workload, replace(wish, cgroup=path, registration=registration, session=session))
        self._note(workload, peer, f"registered as {name}{self._session_text(workload) if request.session else ''}")
        self._agent.look(workload)
        return pb.RegisterResponse(workload=self._view(workload), warnings=warnings)

    async def unregister(self, request: pb.UnregisterRequest, peer: Peer) -> pb.UnregisterResponse:
        """Ends a registration."""
        workload = self._one(request.workload)
        host = self._agent.host
        registration = host.registration(workload)
        if registration is None:
            raise Refused(
                StatusWord.PRECONDITION, f"{request.workload} was not registered: a policy's subject names it"
            )
        last = self._view(workload)
        wish = host.wishes.of(workload, "")
        session = None if wish.session and wish.session.subject == registration.name else wish.session
        self._note(workload, peer, "unregistered")
        cut = self._apply(workload, replace(wish, registration=None, allowances=(), override=None, session=session))
        return pb.UnregisterResponse(workload=last, cut=cut)

    async def set_mode(self, request: pb.SetModeRequest, peer: Peer) -> pb.SetModeResponse:
        """Sets a workload's mode."""
        workload = self._one(request.workload)
        override = None
        if request.mode:
            mode = _BY_NUMBER.get(request.mode)
            if mode is None:
                raise _invalid(f"there is no mode {request.mode}")
            until_ns = boot_ns() + request.for_s * _SECOND if request.for_s else 0
            override = Override(mode, until_ns, _short(request.reason, "the reason"), str(peer))
        elif request.for_s:
            raise _invalid("a time needs a mode: say which one holds until then")
        cut = self._apply(workload, replace(self._wish(workload), override=override))
        lasts = f" for {request.for_s} s" if request.for_s else ""
        self._note(workload, peer, f"mode {override.mode if override else 'of its policies'}{lasts}", request.reason)
        return pb.SetModeResponse(workload=self._view(workload), cut=cut)

    async def allow(self, request: pb.AllowRequest, peer: Peer) -> pb.AllowResponse:
        """Adds a rule that ends by itself."""
        workload = self._one(request.workload)
        if not 0 < request.for_s <= _ALLOW_MAX_S:
            raise _invalid("say for how long: at most 30 days")
        if not request.reason.strip():
            raise _invalid("say why: the reason stands beside the rule and in the log")
        try:
            rule = parse_destination(request.destination)
        except PolicyError as error:
            raise _invalid(str(error)) from error
        wish = self._wish(workload)
        if len(wish.allowances) >= _ALLOWANCES_MAX:
            raise Refused(StatusWord.PRECONDITION, f"there are {_ALLOWANCES_MAX} allowances already: end some")
        until_ns = time.time_ns() + request.for_s * _SECOND
        reason = _short(request.reason, "the reason")
        allowance = Allowance(secrets.token_hex(4), request.destination, until_ns, reason, str(peer))
        self._apply(workload, replace(wish, allowances=(*wish.allowances, allowance)))
        self._note(workload, peer, f"allowed {request.destination} for {request.for_s} s", reason)
        return pb.AllowResponse(rule=allowance_view(allowance), warnings=warnings_of(rule))

    async def disallow(self, request: pb.DisallowRequest, peer: Peer) -> pb.DisallowResponse:
        """Takes such a rule back."""
        workload = self._one(request.workload)
        wish = self._wish(workload)
        kept = tuple(one for one in wish.allowances if one.id != request.allowance)
        if len(kept) == len(wish.allowances):
            raise Refused(StatusWord.NOT_FOUND, f"{request.workload} has no allowance {request.allowance}")
        cut = self._apply(workload, replace(wish, allowances=kept))
        self._note(workload, peer, f"took back the allowance {request.allowance}")
        return pb.DisallowResponse(cut=cut)

    async def set_session(self, request: pb.SetSessionRequest, peer: Peer) -> pb.SetSessionResponse:
        """Gives a workload a session context, or ends the one that it has."""
        host = self._agent.host
        workload = await session_target(request.workload, host) or self._one(request.workload)
        wish = host.wishes.of(workload, host.roll.path_of(workload) or "")
        if request.token:
            names = host.assigning.names_of(workload, wish.registration.name if wish.registration else "")
            session = self._accept(workload, request.token, names, wish.session, peer)
            cut = self._apply(workload, replace(wish, session=session))
            self._note(workload, peer, f"has a session context{self._session_text(workload)}")
            self._agent.look(workload)
            return pb.SetSessionResponse(workload=self._view(workload), cut=cut)
        if wish.session is None:
            raise Refused(StatusWord.PRECONDITION, f"{request.workload} has no session context")
        self._note(workload, peer, "its session context was ended")
        last = self._view(workload)
        cut = self._apply(workload, replace(wish, session=None))
        is_managed = workload in host.enforcer.bound
        return pb.SetSessionResponse(workload=self._view(workload) if is_managed else last, cut=cut)

    async def watch_verdicts(
        self, request: pb.WatchVerdictsRequest, peer: Peer
    ) -> AsyncGenerator[pb.WatchVerdictsResponse, None]:
        """Verdicts of the past, then those to come."""
        named = self._agent.host.named(request.filter.workload) if request.filter.workload else []
        path = self._agent.host.enforcer.bound[named[0]].path if len(named) == 1 else None
        async for response in watch(self._agent.hub, self._agent.past, request, path):
            yield response

    async def list_grants(self, request: pb.ListGrantsRequest, peer: Peer) -> pb.ListGrantsResponse:
        """Which names were resolved to which addresses."""
        bound = self._agent.host.enforcer.bound[self._one(request.workload)]
        return pb.ListGrantsResponse(grants=self._agent.vitals.grants(bound))

    async def explain(self, request: pb.ExplainRequest, peer: Peer) -> pb.ExplainResponse:
        """Which rule decides about a destination."""
        bound = self._agent.host.enforcer.bound[self._one(request.workload)]
        try:
            return explain(bound, request.destination, self._agent.tables)
        except PolicyError as error:
            raise _invalid(str(error)) from error

    async def get_counters(self, request: pb.GetCountersRequest, peer: Peer) -> pb.GetCountersResponse:
        """The kernel's and the gates' counters."""
        counts = self._agent.tables.counters()
        counters = [
            pb.Counter(
                verdict=verdict_pb2.Verdict.ValueType(verdict), reason=verdict_pb2.Reason.ValueType(reason), count=count
            )
            for (verdict, reason), count in sorted(counts.items())
        ]
        held_back = [
            pb.HeldBack(reason=verdict_pb2.Reason.ValueType(reason), count=count)
            for reason, count in sorted(self._agent.tables.held_back().items())
        ]
        lost = self._agent.tables.lost_events()
        return pb.GetCountersResponse(counters=counters, lost_events=lost, held_back=held_back)

    async def reload(self, request: pb.ReloadRequest, peer: Peer) -> pb.ReloadResponse:
        """Reads the policy files again."""
        switched = self._agent.reload()
        return pb.ReloadResponse(policies=self._agent.vitals.policies(), switched=switched)

    def _accept(
        self, workload: int, token: str, names: Collection[str], before: SessionContext | None, peer: Peer
    ) -> SessionContext:
        assigning = self._agent.host.assigning
        try:
            return assigning.sessions.accept(token, names, before, str(peer))
        except Refused as error:
            why = assigning.identities.why_unknown(workload)
            raise Refused(error.word, f"{error}; {why}") if why else error from None

    def _session_text(self, workload: int) -> str:
        """For the log, in which every later verdict carries it."""
        session = self._agent.host.assigning.session_of(workload)
        if session is None:
            return ""
        said = {key: getattr(session, key) for key in ("session", "user", "tool", "run")}
        return ": " + ", ".join(f"{key} {value}" for key, value in said.items() if value)

    def _apply(self, workload: int, wish: Wish) -> int:
        """Keeps and enforces what was asked; how many connections it ended."""
        try:
            self._agent.host.wish(workload, wish)
        except (PolicyError, ValueError) as error:
            raise _invalid(str(error)) from error
        except OSError as error:
            raise ExeatError(f"it cannot be kept, so it is not done: {error}") from error
        except KernelError as error:  # of a guest: its address is another one's, or its interface takes no programs
            raise Refused(StatusWord.PRECONDITION, str(error)) if is_interface(workload) else error from None
        return self._agent.host.enforcer.cut([workload])

    def _note(self, workload: int, peer: Peer, what: str, why: str = "") -> None:
        """Who changed what stands in the log, between the verdicts before and after."""
        bound = self._agent.host.enforcer.bound[workload]
        policy, process = bound.table_set.united.policy.name, Process(peer.pid, "", peer.uid)
        said = f"{bound.name}: {what}, by {peer}" + (f": {why}" if why else "")
        _log.info("%s", said.encode("ascii", "backslashreplace").decode().replace("\n", " "))
        self._agent.hub.take(
            agent_record(Reason.CHANGED, Verdict.FORWARDED, said, workload=bound.path, policy=policy, process=process)
        )

    def _one(self, text: str) -> int:
        found = self._agent.host.named(text)
        if not text or not found:
            raise Refused(StatusWord.NOT_FOUND, f"there is no workload {text}: exeat workloads shows them")
        if len(found) > 1:
            names = sorted(self._agent.host.enforcer.bound[one].name for one in found)
            some = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            raise Refused(StatusWord.PRECONDITION, f"{text} could be {some}: write more of it")
        return found[0]

    def _view(self, workload: int) -> pb.Workload:
        return workload_views([workload], self._agent.host, self._agent.tables)[0]

    def _wish(self, workload: int) -> Wish:
        return self._agent.host.wishes.of(workload, self._agent.host.enforcer.bound[workload].path)


def _invalid(sentence: str) -> Refused:
    return Refused(StatusWord.INVALID, sentence)


def _short(text: str, what: str) -> str:
    if len(text) > _TEXT_MAX:
        raise _invalid(f"{what} has {len(text)} characters, of which at most {_TEXT_MAX} are kept")
    return text
