"""The API's calls that have a node do something at once, and wait for what becomes of it there."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.responses import Response

from exeat.core.verdict_text import time_text
from exeat.errors import Refused, StatusWord
from exeat.model.policy import Mode
from exeat.plane.api.calls import Asked, Call, answered, asked_of, person_of, told
from exeat.plane.api.fields import Given
from exeat.plane.api.nodes import time_or_none
from exeat.plane.api.room import ApiRoom
from exeat.plane.nodes import commands
from exeat.plane.nodes.commands import Asked as Command
from exeat.plane.parts import Plane
from exeat.plane.people import Role
from exeat.plane.store.database import Database, News, Topic, Tx
from exeat.v1 import agent_pb2, plane_pb2

_OWN = "policy"  # the mode that its policies say
_WITHIN_S = 600
_WAIT_MAX_S = 120
_FOR_MAX_S = 10 * 365 * 86_400
_LISTED_MAX = 1000
_LOOK_S = 1.0  # news can be lost


class Results:
    """Wakes who waits for a command's result. One for each event loop."""

    def __init__(self, database: Database, room: ApiRoom) -> None:
        self._database = database
        self._room = room
        self._waiting: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        database.listen(self._heard)

    async def wait(self, id: str, seconds: int) -> Command | None:
        """The command as it is when it has ended, or when the time is over."""
        event = asyncio.Event()
        self._waiting[id] = asyncio.get_running_loop(), event
        deadline = time.monotonic() + seconds
        try:
            while True:
                found = await self._room.run(self._look, id)
                left = deadline - time.monotonic()
                if found is None or found.has_ended or left <= 0:
                    return found
                event.clear()
                try:
                    async with asyncio.timeout(min(left, _LOOK_S)):
                        await event.wait()
                except TimeoutError:
                    continue
        finally:
            del self._waiting[id]

    def _heard(self, news: News) -> None:
        if news.topic is not Topic.RESULTS:
            return
        for id in [news.about] if news.about else list(self._waiting):
            if waiting := self._waiting.get(id):
                loop, event = waiting
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    def _look(self, id: str) -> Command | None:
        with self._database.reading() as tx:
            return commands.asked(tx, id)


def command_json(one: Command) -> dict[str, Any]:
    """docs/plane-api.md tells it field by field."""
    what = one.command.WhichOneof("what") or ""
    result = one.result
    has_workload = result is not None and result.HasField("workload")
    return {
        "id": one.id,
        "node": one.node,
        "what": what,
        "request": MessageToDict(getattr(one.command, what), preserving_proto_field_name=True) if what else {},
        "by": one.by,
        "at": time_text(one.at_ns),
        "expires": time_text(one.expires_ns),
        "state": one.state.value,
        "ended": time_or_none(one.ended_ns),
        "refusal": result.refusal if result else "",
        "workload": _workload_json(one.node, result.workload) if result and has_workload else None,
        "cut": result.cut if result else 0,
        "allowance": result.allowance if result else "",
    }


def post(plane: Plane, room: ApiRoom, results: Results) -> Callable[[Request], Awaitable[Response]]:
    """Asks a node, and answers once it has, or once the caller has waited long enough."""
    call = Call(Role.APPROVER, lambda _, __: None, has_body=True)

    async def answer(request: Request) -> Response:
        asked = await asked_of(plane, request, call, await person_of(plane, room, request, call))
        wanted, within_s = _wanted(asked.body, asked.person.name), asked.body.number("within_s", _WITHIN_S, 1, 3600)
        wait_s = asked.body.number("wait_s", 10, 0, _WAIT_MAX_S)
        asked.refuse_unknown()

        def ask() -> str:
            with plane.database.writing() as tx:
                return commands.ask(tx, wanted, asked.now_ns, within_s)

        found = await results.wait(await room.run(ask), wait_s)
        assert found is not None
        return answered(command_json(found))

    return told(answer)


def _wanted(body: Given, by: str) -> plane_pb2.Command:
    node, workload, what = body.text("node"), body.text("workload", longest=4096), body.text("do")
    command = plane_pb2.Command(node=node, by=by)
    if what == "mode":
        word = body.text("mode")
        if word != _OWN and word not in tuple(Mode):
            raise _invalid(f"`mode` of the body is none of {', '.join((*Mode, _OWN))}")
        mode = agent_pb2.MODE_UNSPECIFIED if word == _OWN else agent_pb2.Mode.Value(f"MODE_{word.upper()}")
        for_s = body.number("for_s", 0, 0, _FOR_MAX_S)
        if for_s and word == _OWN:
            raise _invalid(f"`{_OWN}` holds until it is changed: leave `for_s` out")
        reason = body.text("reason", "")
        command.set_mode.CopyFrom(agent_pb2.SetModeRequest(workload=workload, mode=mode, for_s=for_s, reason=reason))
    elif what == "allow":
        command.allow.CopyFrom(
            agent_pb2.AllowRequest(
                workload=workload,
                destination=body.text("destination"),
                for_s=body.number("for_s", None, 1, _FOR_MAX_S),
                reason=body.text("reason"),
            )
        )
    elif what == "disallow":
        command.disallow.CopyFrom(agent_pb2.DisallowRequest(workload=workload, allowance=body.text("allowance")))
    else:
        raise _invalid("`do` of the body is none of mode, allow, disallow")
    return command


def _workload_json(node: str, said: plane_pb2.WorkloadState) -> dict[str, Any]:
    mode = agent_pb2.Mode.DESCRIPTOR.values_by_number.get(said.mode)
    return {
        "node": node,
        "name": said.name,
        "policies": list(said.policies),
        "mode": mode.name.removeprefix("MODE_").lower() if mode else str(said.mode),
        "mode_until": time_text(said.mode_until.ToNanoseconds()) if said.HasField("mode_until") else None,
    }


def _list(tx: Tx, asked: Asked) -> Any:
    node, limit = asked.query.text("node", ""), asked.query.number("limit", 100, 1, _LISTED_MAX)
    return {"commands": [command_json(one) for one in commands.latest(tx, node or None, limit)]}


def _one(tx: Tx, asked: Asked) -> Any:
    found = commands.asked(tx, asked.path["id"])
    if found is None:
        raise Refused(StatusWord.NOT_FOUND, "there is no such command, or it ended so long ago that it is forgotten")
    return command_json(found)


def _invalid(sentence: str) -> Refused:
    return Refused(StatusWord.INVALID, sentence)


CALLS = {
    ("GET", "/commands"): Call(Role.VIEWER, _list),
    ("GET", "/commands/{id}"): Call(Role.VIEWER, _one),
}
