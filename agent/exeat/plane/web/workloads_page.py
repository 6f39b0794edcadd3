"""Workloads: under which policies and mode each is; and what can be done to one at once."""

from dataclasses import dataclass

from starlette.responses import RedirectResponse, Response

from exeat.core.duration_text import parse_duration
from exeat.core.problems import shown
from exeat.errors import Refused, StatusWord
from exeat.plane.nodes import commands, nodes, workloads
from exeat.plane.nodes.commands import Asked
from exeat.plane.nodes.node import Standing
from exeat.plane.nodes.workloads import Workload
from exeat.plane.store.database import Tx
from exeat.plane.web.command_words import workload_of
from exeat.plane.web.listing import has_words, listing
from exeat.plane.web.rendering import link
from exeat.plane.web.visit import Visit
from exeat.v1 import agent_pb2, plane_pb2

MODES = ("enforce", "monitor", "open", "quarantine")
_MODE_NUMBERS = {
    "enforce": agent_pb2.MODE_ENFORCE,
    "monitor": agent_pb2.MODE_MONITOR,
    "open": agent_pb2.MODE_OPEN,
    "quarantine": agent_pb2.MODE_QUARANTINE,
    "own": agent_pb2.MODE_UNSPECIFIED,
}
_COMMANDS = 50
_REASON_MAX = 500
_KEYS = {
    "name": lambda one: (one.name, one.node),
    "node": lambda one: (one.node, one.name),
    "mode": lambda one: (one.mode, one.name),
    "since": lambda one: one.since_ns,
}


@dataclass(frozen=True, slots=True)
class Detail:
    """A workload by itself."""

    workload: Workload
    standing: Standing  # of its node
    commands: tuple[Asked, ...]

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is still to come."""
        return any(not one.has_ended for one in self.commands)


async def workload_list(visit: Visit) -> Response:
    """GET /workloads."""
    every = await visit.reading(workloads.workloads)
    mode, node, policy, sought = (visit.asked(name) for name in ("mode", "node", "policy", "q"))
    fitting = [
        one
        for one in every
        if (not mode or one.mode == mode)
        and (not node or one.node == node)
        and (not policy or policy in one.policies)
        and has_words(sought, one.name, one.cgroup, *(f"{name}={value}" for name, value in one.labels.items()))
    ]
    found = listing(fitting, visit.asked("sort"), _KEYS, "name")
    return visit.page("workloads.html", found=found, total=len(every), modes=MODES)


async def workload_detail(visit: Visit) -> Response:
    """GET /workloads/one?node=NODE&workload=NAME."""
    node, name = visit.request.query_params.get("node", ""), visit.request.query_params.get("workload", "")
    if not node or not name:
        return RedirectResponse("/workloads", 303)
    detail = await visit.reading(_detail, node, name, visit.now_ns)
    return visit.page("workload.html", detail=detail, workload=detail.workload, modes=MODES)


async def set_mode_now(visit: Visit) -> Response:
    """POST /workloads/mode?node=NODE&workload=NAME: a mode, for a time or until it is changed."""
    mode = visit.form.get("mode", "")
    if mode not in _MODE_NUMBERS:
        raise Refused(StatusWord.INVALID, f"{shown(mode)} is no mode: choose one of the list")
    wanted = _command(visit)
    wanted.set_mode.workload = visit.request.query_params.get("workload", "")
    wanted.set_mode.mode = _MODE_NUMBERS[mode]
    wanted.set_mode.for_s = _seconds(visit.form.get("for", ""), 0)
    wanted.set_mode.reason = _reason(visit)
    return await _ask(visit, wanted)


async def allow_now(visit: Visit) -> Response:
    """POST /workloads/allow?node=NODE&workload=NAME: one destination, for a time."""
    wanted = _command(visit)
    wanted.allow.workload = visit.request.query_params.get("workload", "")
    wanted.allow.destination = visit.form.get("destination", "").strip()
    wanted.allow.for_s = _seconds(visit.form.get("for", ""), 3600)
    wanted.allow.reason = _reason(visit)
    if not wanted.allow.destination:
        raise Refused(StatusWord.INVALID, "say what is to be allowed, as in `pypi.org` or `203.0.113.7:5432/tcp`")
    return await _ask(visit, wanted)


def _command(visit: Visit) -> plane_pb2.Command:
    return plane_pb2.Command(node=visit.request.query_params.get("node", ""), by=visit.person.name)


async def _ask(visit: Visit, wanted: plane_pb2.Command) -> Response:
    asked = await visit.writing(_asked, wanted, visit.now_ns)
    there = link("/workloads/one", node=asked.node, workload=workload_of(asked))
    return visit.done(there, f"{asked.node} was asked to do it: its answer comes below")


def _asked(tx: Tx, wanted: plane_pb2.Command, now_ns: int) -> Asked:
    found = commands.asked(tx, commands.ask(tx, wanted, now_ns))
    assert found is not None
    return found


def _detail(tx: Tx, node: str, name: str, now_ns: int) -> Detail:
    found, its_node = workloads.workload(tx, node, name), nodes.node(tx, node)
    if found is None or its_node is None:
        raise Refused(StatusWord.NOT_FOUND, f"there is no workload {shown(name)} on {shown(node)} (any more)")
    mine = tuple(one for one in commands.latest(tx, node, _COMMANDS) if workload_of(one) == name)
    return Detail(found, its_node.standing(now_ns), mine)


def _seconds(text: str, otherwise: int) -> int:
    try:
        return parse_duration(text.strip()) if text.strip() else otherwise
    except ValueError as error:
        raise Refused(StatusWord.INVALID, str(error)) from error


def _reason(visit: Visit) -> str:
    reason = " ".join(visit.form.get("reason", "").split())
    if not reason:
        raise Refused(StatusWord.INVALID, "say why: the reason stands in the agent's log and beside the workload")
    return reason[:_REASON_MAX]
