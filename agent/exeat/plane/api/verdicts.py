"""The API's calls about what was judged: verdicts one by one and as they come, and denials that are alike."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from exeat.control.convert import from_wire
from exeat.core.filters import Filter, parse_to
from exeat.core.verdict_text import json_line, protocol_word, time_text
from exeat.errors import ExeatError, Refused, StatusWord
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.api.calls import Asked, Call, asked_of, is_still_known, person_of, told
from exeat.plane.api.room import ApiRoom
from exeat.plane.approval.aim import aim_text
from exeat.plane.approval.rule import can_rule
from exeat.plane.parts import Plane
from exeat.plane.people import Role
from exeat.plane.store.database import Tx
from exeat.plane.verdicts.denials import Denial, Stored, denials, verdicts
from exeat.plane.verdicts.live import Glimpse
from exeat.plane.verdicts.wanted import Wanted
from exeat.v1 import verdict_pb2

_PAGE_MAX = 5000
_PAST_MAX = 20_000  # verdicts that a follower is told of before those to come
_DENIALS_MAX = 5000
_RECENT, _DAY = timedelta(minutes=10), timedelta(days=1)
_ASK_AGAIN_S = 60.0  # whether who follows may still
_REASONS = frozenset(Reason)
_NO_TIME = (ValueError, OverflowError, OSError)  # what Python says of a time that no calendar has


def verdict_json(one: Stored) -> dict[str, Any]:
    """A line as docs/verdicts.md describes it, with its id and node."""
    try:
        line: dict[str, Any] = json.loads(json_line(from_wire(one.record)))
    except (ExeatError, *_NO_TIME) as error:  # a newer agent's words, or a damaged row: what is sure, and why
        line = {"time": _time_of(one.record), "unknown": str(error)}
    return {"id": one.id, "node": one.node, **line}


def _time_of(record: verdict_pb2.VerdictRecord) -> str | None:
    try:
        return time_text(record.time.seconds * 10**9 + record.time.nanos)
    except _NO_TIME:
        return None


def denial_json(one: Denial) -> dict[str, Any]:
    """docs/plane-api.md tells it field by field."""
    reason = Reason(one.reason) if one.reason in _REASONS else None
    return {
        "destination": aim_text(one.target, one.port, one.protocol, one.hook),
        "target": one.target,
        "port": one.port,
        "protocol": protocol_word(one.protocol),
        "hook": one.hook,
        "workload": one.workload,
        "policy": one.policy,
        "verdict": Verdict(one.verdict).name,
        "reason": reason.word if reason else str(one.reason),
        "can_approve": bool(one.target) and reason is not None and can_rule(reason),
        "nodes": list(one.nodes),
        "node_count": one.node_count,
        "count": one.count,
        "first": time_text(one.first_ns),
        "last": time_text(one.last_ns),
    }


def follow(plane: Plane, room: ApiRoom) -> Callable[[Request], Awaitable[Response]]:
    """Verdicts as they come, one object of JSON a line; an empty line now and then says that nothing is broken."""
    call = Call(Role.VIEWER, lambda _, __: None)

    async def answer(request: Request) -> Response:
        person = await person_of(plane, room, request, call)
        room.check_stream(person.name)
        asked = await asked_of(plane, request, call, person)
        has_past = asked.query.has("since") and bool(asked.query.text("since", ""))
        wanted = _wanted(asked, _RECENT)
        asked.refuse_unknown()

        def past() -> tuple[set[int], bytes]:
            if not has_past:
                return set(), b""
            with plane.database.reading() as tx:
                found = list(_past(tx, wanted))
            return {one.id for one in found}, _text(reversed(found))

        async def lines() -> AsyncGenerator[bytes, None]:
            with room.for_stream(person.name):
                there = _lines(plane.feed.watch(wanted), room, past, lambda: is_still_known(plane, request))
                async with aclosing(there) as parts:
                    async for part in parts:
                        yield part

        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)

    return told(answer)


async def _lines(
    watch: AsyncGenerator[Glimpse, None],
    room: ApiRoom,
    past: Callable[[], tuple[set[int], bytes]],
    is_known: Callable[[], bool],
) -> AsyncGenerator[bytes, None]:
    first = asyncio.ensure_future(anext(watch))  # it watches before the past is read: nothing falls in between
    try:
        await asyncio.sleep(0)
        told_of, before = await room.run(past)
        yield before or b"\n"
        glimpse, asked_s = await first, time.monotonic()
        while True:
            lost = json.dumps({"lost": glimpse.lost}).encode() + b"\n" if glimpse.lost else b""
            yield lost + _text(one for one in glimpse.verdicts if one.id not in told_of) or b"\n"
            if time.monotonic() - asked_s > _ASK_AGAIN_S:
                asked_s = time.monotonic()
                if not await room.run(is_known):
                    return
            glimpse = await anext(watch)
    finally:
        if not first.done():
            first.cancel()
            await asyncio.wait([first])
        await watch.aclose()


def _text(stored: Iterable[Stored]) -> bytes:
    return b"".join(json.dumps(verdict_json(one), separators=(",", ":")).encode() + b"\n" for one in stored)


def _past(tx: Tx, wanted: Wanted) -> Iterable[Stored]:
    """Newest first."""
    before_id, left = None, _PAST_MAX
    while left > 0:
        page = verdicts(tx, wanted, before_id, min(left, _PAGE_MAX))
        yield from page.verdicts
        before_id, left = page.before_id, left - len(page.verdicts)
        if before_id is None:
            return


def _list(tx: Tx, asked: Asked) -> Any:
    wanted = _wanted(asked, _RECENT)
    before_id = asked.query.number_or_none("before", 1, 2**63 - 1)
    page = verdicts(tx, wanted, before_id, asked.query.number("limit", 100, 1, _PAGE_MAX))
    return {"verdicts": [verdict_json(one) for one in page.verdicts], "before": page.before_id}


def _denials(tx: Tx, asked: Asked) -> Any:
    wanted = _wanted(asked, _DAY)
    found = denials(tx, wanted, asked.query.number("limit", 500, 1, _DENIALS_MAX))
    return {"denials": [denial_json(one) for one in found]}


def _wanted(asked: Asked, default: timedelta) -> Wanted:
    query = asked.query
    try:
        to = parse_to(query.text("to", ""))
    except ValueError as error:
        raise Refused(StatusWord.INVALID, f"`to` of the query: {error}") from error
    words = [word.upper() for word in query.texts("verdict")]
    unknown = [word for word in words if word not in Verdict.__members__]
    if unknown:
        raise Refused(StatusWord.INVALID, f"`verdict` of the query: there are {', '.join(Verdict.__members__)}")
    return Wanted(
        Filter(frozenset(Verdict[word] for word in words), query.text("workload", "", 4096), to),
        node=query.text("node", ""),
        policy=query.text("policy", ""),
        since_ns=max(query.moment("since", asked.now_ns, default), 0),
    )


CALLS = {
    ("GET", "/verdicts"): Call(Role.VIEWER, _list),
    ("GET", "/denials"): Call(Role.VIEWER, _denials),
}
