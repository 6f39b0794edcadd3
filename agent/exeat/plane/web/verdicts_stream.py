"""Verdicts as they fall, as server-sent events: rows for the table, a summary for who listens, never more than one can
look at. What is left out is counted in a row of its own.

    event: rows      table rows, the newest first
    event: summary   a sentence on the last seconds
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from starlette.responses import Response, StreamingResponse

from exeat.errors import Refused, StatusWord
from exeat.plane.store.database import StoreError, Tx
from exeat.plane.verdicts.denials import Stored, newer
from exeat.plane.verdicts.live import Glimpse
from exeat.plane.verdicts.wanted import Wanted
from exeat.plane.web.filters import wanted_of
from exeat.plane.web.rendering import render
from exeat.plane.web.sign_in import who
from exeat.plane.web.verdict_lines import lines_of
from exeat.plane.web.visit import Visit
from exeat.plane.web.wording import count, several

_LOG = logging.getLogger("exeat.plane")
_ROWS_MAX = 50  # in an event
_PACE_S = 0.25  # between two events: four times a second is as much as anybody reads
_SUMMARY_S = 5.0
_LOOK_S = 2.0  # whether the session still holds
_CATCH_UP = 500
_SETTLE_S = 0.25  # until the watch has surely begun
_STREAMS_MAX = 100  # of one replica


async def verdict_stream(visit: Visit) -> Response:
    """GET /verdicts/stream?after=ID and the page's filter."""
    if visit.console.streams >= _STREAMS_MAX:
        raise Refused(StatusWord.UNAVAILABLE, f"{_STREAMS_MAX} pages follow the verdicts here already")
    wanted = wanted_of(visit.request.query_params, visit.now_ns)
    told = visit.request.headers.get("last-event-id") or visit.asked("after")
    after = int(told) if told.isascii() and told.isdecimal() and len(told) < 19 else 0
    headers = {"x-accel-buffering": "no"}  # nginx would hold events back
    return StreamingResponse(_events(visit, wanted, after), media_type="text/event-stream", headers=headers)


async def _events(visit: Visit, wanted: Wanted, after: int) -> AsyncIterator[str]:
    visit.console.streams += 1
    digest = _Digest(time.monotonic())
    looked_s = time.monotonic()
    try:
        yield "retry: 2000\n\n"
        async with contextlib.aclosing(_glimpses(visit, wanted, after)) as glimpses:
            async for glimpse in glimpses:
                if glimpse.verdicts or glimpse.lost:
                    digest.add(glimpse)
                    yield _rows(visit, glimpse)
                else:
                    yield ": nothing\n\n"  # so that no proxy takes the silence for the end
                if summary := digest.due(time.monotonic()):
                    yield _event("summary", summary)
                if time.monotonic() - looked_s >= _LOOK_S:
                    looked_s = time.monotonic()
                    if await who(visit.console, visit.request) is None:
                        return  # the session has ended: the browser comes back, and is sent to sign in
                await asyncio.sleep(_PACE_S)
    except StoreError as error:
        _LOG.warning("live verdicts: %s", error)  # the browser comes back in two seconds
    finally:
        visit.console.streams -= 1


async def _glimpses(visit: Visit, wanted: Wanted, after: int) -> AsyncGenerator[Glimpse, None]:
    """What came since the page was made, then what comes."""
    async with contextlib.aclosing(visit.console.plane.feed.watch(wanted, _SUMMARY_S)) as watch:
        first = asyncio.ensure_future(anext(watch))
        try:
            await asyncio.sleep(_SETTLE_S)
            missed = await visit.reading(_missed, wanted, after) if after else []
            if missed:
                yield Glimpse(tuple(missed))
            seen = {one.id for one in missed}
            while True:
                glimpse = await first
                yield Glimpse(tuple(one for one in glimpse.verdicts if one.id not in seen), glimpse.lost)
                first = asyncio.ensure_future(anext(watch))
        finally:
            first.cancel()
            await asyncio.wait((first,))


def _missed(tx: Tx, wanted: Wanted, after: int) -> list[Stored]:
    return [one for one in newer(tx, after, _CATCH_UP) if wanted.accepts(one.node, one.record)]


class _Digest:
    """What came lately, in a sentence for those who do not see the table."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._count = 0
        self._denied = 0

    def add(self, glimpse: Glimpse) -> None:
        self._count += len(glimpse.verdicts) + glimpse.lost
        self._denied += sum(1 for line in lines_of(glimpse.verdicts) if line.row_class)

    def due(self, now_s: float) -> str:
        """Empty: not yet, or nothing came."""
        if now_s - self._since_s < _SUMMARY_S:
            return ""
        words = f"{several(self._count, 'verdict')} in {round(now_s - self._since_s)} s, {count(self._denied)} denied"
        is_news = self._count > 0
        self._since_s, self._count, self._denied = now_s, 0, 0
        return words if is_news else ""


def _rows(visit: Visit, glimpse: Glimpse) -> str:
    newest: Sequence[Stored] = glimpse.verdicts[-_ROWS_MAX:]
    left_out = len(glimpse.verdicts) - len(newest) + glimpse.lost
    values = visit.values() | {"lines": lines_of(reversed(newest)), "left_out": left_out}
    number = newest[-1].id if newest else 0
    return _event("rows", render("verdict_rows.html", values), number)


def _event(name: str, text: str, number: int = 0) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines() if line.strip())
    return f"event: {name}\n" + (f"id: {number}\n" if number else "") + lines + "\n"
