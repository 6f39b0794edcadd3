"""Verdicts: the newest of them, then those that come (verdicts_stream)."""

from starlette.responses import Response

from exeat.errors import Refused, StatusWord
from exeat.plane.store.database import Tx
from exeat.plane.verdicts.denials import Page, last_id, verdicts
from exeat.plane.verdicts.wanted import Wanted
from exeat.plane.web.filters import wanted_of
from exeat.plane.web.rendering import link
from exeat.plane.web.verdict_lines import lines_of
from exeat.plane.web.visit import Visit

_SHOWN = 50
_FILTERS = ("verdict", "workload", "to", "node", "policy")


async def verdict_list(visit: Visit) -> Response:
    """GET /verdicts. `before`: older than the one with this id."""
    wanted = wanted_of(visit.request.query_params, visit.now_ns)
    before = visit.asked("before")
    if before and not (before.isascii() and before.isdecimal() and len(before) < 19):
        raise Refused(StatusWord.INVALID, "`before` of the address is no number of a verdict")
    page, last = await visit.reading(_read, wanted, int(before) if before else None)
    asked = {name: visit.asked(name) for name in _FILTERS}
    return visit.page(
        "verdicts.html",
        lines=lines_of(page.verdicts),
        before_id=page.before_id,
        is_live=not before,
        stream=link("/verdicts/stream", after=str(last), **asked),
        asked=asked,
    )


def _read(tx: Tx, wanted: Wanted, before_id: int | None) -> tuple[Page, int]:
    # First the end, then the page: what comes between the two is in the page, and told again is better than not told.
    last = last_id(tx)
    return verdicts(tx, wanted, before_id, _SHOWN), last
