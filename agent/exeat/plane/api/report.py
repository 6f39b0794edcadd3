"""The API's report, as JSON or as a page."""

from datetime import timedelta
from typing import Any

from starlette.responses import HTMLResponse

from exeat.errors import Refused, StatusWord
from exeat.plane.api.calls import Asked, Call
from exeat.plane.people import Role
from exeat.plane.report.facts import Period, facts_of
from exeat.plane.report.figures import Report, report_of
from exeat.plane.report.view import report_json, report_page
from exeat.plane.store.database import Tx

_DEFAULT = timedelta(days=7)
_LONGEST_NS = 400 * 86_400 * 10**9
# The page's own style and nothing else: names in it come from workloads.
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox",
}


def read_report(tx: Tx, since_ns: int, until_ns: int, now_ns: int) -> Report:
    """Of this span of time. Raises Refused for one that makes no sense."""
    if not 0 <= since_ns < until_ns:
        raise Refused(StatusWord.INVALID, "the report would end before it begins: give a `since` before its `until`")
    if until_ns - since_ns > _LONGEST_NS:
        raise Refused(StatusWord.INVALID, "a report is about 400 days at most: give a later `since`")
    return report_of(facts_of(tx, Period.around(since_ns, until_ns), now_ns))


def _report(tx: Tx, asked: Asked) -> Any:
    query = asked.query
    since_ns = query.moment("since", asked.now_ns, _DEFAULT)
    until_ns = query.moment("until", asked.now_ns, timedelta())
    form = query.text("format", "json")
    if form not in ("json", "html"):
        raise Refused(StatusWord.INVALID, "`format` of the query is neither json nor html")
    report = read_report(tx, since_ns, until_ns, asked.now_ns)
    return HTMLResponse(report_page(report), headers=_PAGE_HEADERS) if form == "html" else report_json(report)


CALLS = {("GET", "/report"): Call(Role.VIEWER, _report)}
