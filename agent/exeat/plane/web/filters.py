"""Filters as they stand in an address: which verdicts, of whom, to where, since when."""

from collections.abc import Mapping

from exeat.core.duration_text import parse_duration
from exeat.core.filters import Filter, parse_to
from exeat.errors import Refused, StatusWord
from exeat.model.verdicts import Verdict
from exeat.plane.verdicts.wanted import Wanted

SPANS = ("1h", "24h", "7d", "30d")
OUTCOMES = {
    "": frozenset[Verdict](),
    "denied": frozenset((Verdict.DROPPED, Verdict.ERROR)),
    "would": frozenset((Verdict.AUDIT,)),
    "allowed": frozenset((Verdict.FORWARDED,)),
}
_S = 1_000_000_000


def wanted_of(query: Mapping[str, str], now_ns: int, since: str = "") -> Wanted:
    """What somebody asks for. `since`: where they do not say. Raises Refused."""
    outcome = query.get("verdict", "").strip()
    if outcome not in OUTCOMES:
        raise Refused(StatusWord.INVALID, "`verdict` of the address is none of denied, would and allowed")
    span = query.get("since", "").strip() or since
    try:
        to = parse_to(query.get("to", "").strip())
        since_ns = max(0, now_ns - parse_duration(span) * _S) if span else 0
    except ValueError as error:
        raise Refused(StatusWord.INVALID, str(error)) from error
    asked = Filter(OUTCOMES[outcome], query.get("workload", "").strip(), to)
    return Wanted(asked, query.get("node", "").strip(), query.get("policy", "").strip(), since_ns)
