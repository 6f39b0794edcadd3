"""The report in the console's frame: the same numbers and the same words as `exeat plane report`."""

from starlette.responses import Response

from exeat.core.duration_text import parse_duration
from exeat.errors import Refused, StatusWord
from exeat.plane.api.report import read_report
from exeat.plane.report.view import report_words
from exeat.plane.web.visit import Visit

_SPANS = ("24h", "7d", "30d", "90d")
_S = 1_000_000_000


async def report(visit: Visit) -> Response:
    """GET /report."""
    span = visit.asked("since", "7d")
    try:
        seconds = parse_duration(span)
    except ValueError as error:
        raise Refused(StatusWord.INVALID, str(error)) from error
    now_ns = visit.now_ns
    found = await visit.reading(read_report, max(0, now_ns - seconds * _S), now_ns, now_ns)
    return visit.page("report.html", since=span, spans=_SPANS, **report_words(found))
