"""Denials, grouped by workload and destination: the place from which rules are approved."""

from starlette.responses import Response

from exeat.plane.verdicts.denials import denials
from exeat.plane.web.denial_groups import Group, grouped
from exeat.plane.web.filters import SPANS, wanted_of
from exeat.plane.web.listing import listing
from exeat.plane.web.visit import Visit

_READ_MAX = 5_000
_KEYS = {
    "last": lambda group: group.last_ns,
    "first": lambda group: group.first_ns,
    "count": lambda group: group.count,
    "workload": lambda group: (group.workload, group.target),
    "to": lambda group: (group.target, group.workload),
    "policy": lambda group: (group.policy, group.target),
}


async def denied(visit: Visit) -> Response:
    """GET /denials."""
    since = visit.asked("since", "24h")
    wanted = wanted_of(visit.request.query_params, visit.now_ns, since)
    groups: list[Group] = grouped(await visit.reading(denials, wanted, _READ_MAX))
    found = listing(groups, visit.asked("sort"), _KEYS, "-last")
    return visit.page("denials.html", found=found, since=since, spans=SPANS)
