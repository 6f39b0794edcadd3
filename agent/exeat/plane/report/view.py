"""A report as JSON, which is documented, and as a page of its own, which needs nothing from elsewhere and prints well.

The page's body is a template by itself (`report_body.html`), so that the console shows the same one in its own frame.
"""

from dataclasses import asdict
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from exeat.core.stories import STORIES
from exeat.core.verdict_text import protocol_word, time_text
from exeat.model.verdicts import Reason
from exeat.plane.approval.aim import aim_text
from exeat.plane.report.figures import Denial, Rate, Report
from exeat.plane.visible import shown

_STEPS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def report_json(report: Report) -> dict[str, Any]:
    """docs/plane-api.md tells it field by field."""
    return {
        "since": time_text(report.period.since_ns),
        "until": time_text(report.period.until_ns),
        "records_since": _time_or_none(report.records_since_ns),
        **_rate(report.rate),
        "new_destinations": [
            {"target": one.target, "first": time_text(one.first_ns), "allowed": one.allowed, "denied": one.denied}
            | {"workloads": one.workloads}
            for one in report.new_destinations
        ],
        "new_destination_count": report.new_count,
        "top_denials": [_denial(one) for one in report.top_denials],
        "denied_destination_count": report.denial_count,
        "reasons": [{"reason": reason.word, "count": count} for reason, count in report.reasons],
        "approvals": asdict(report.waits),
        "unused_rules": [asdict(one) for one in report.unused_rules],
        "ending": [
            {"policy": one.policy, "rule": one.rule, "expires": _iso(one.expires), "within_days": one.within_days}
            | {"owner": one.owner}
            for one in report.ending_rules
        ],
        "nodes": [{"name": one.name, **_rate(one.rate)} for one in report.nodes],
        "workloads": [{"name": one.name, **_rate(one.rate)} for one in report.workloads],
        "workload_count": report.workload_count,
    }


def report_page(report: Report) -> str:
    """A whole HTML document."""
    return _templates().get_template("report_page.html").render(report_words(report))


def report_words(report: Report) -> dict[str, Any]:
    """What the templates `report_page.html` and `report_body.html` need."""
    return {
        "report": report,
        "most": max((count for _, count in report.reasons), default=1),
        "when": lambda ns: time_text(ns)[:16].replace("T", " "),
        "end": lambda moment: _iso(moment)[:16].replace("T", " "),
        "span": span_text,
        "story": lambda reason: STORIES[reason],
        "destination": destination_text,
        "is_all_new": report.records_since_ns >= report.period.since_ns,
    }


def destination_text(target: str, port: int, protocol: int, hook: str) -> str:
    """`api.example.com:443`, `203.0.113.7:5432/tcp`, `api.example.com (dns)`."""
    if not target:
        return f"a socket of protocol {protocol_word(protocol)}"
    return aim_text(target, port, protocol, hook) + (" (dns)" if hook == "query" else "")


def span_text(seconds: float | None) -> str:
    """`3d 4h`, `5m 10s`: the two largest parts; a dash for none."""
    if seconds is None:
        return "–"
    left, parts = round(seconds), []
    for length, unit in _STEPS:
        if left >= length:
            parts.append(f"{left // length}{unit}")
            left %= length
    return " ".join(parts[:2]) or "0s"


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("exeat.plane.report", "templates"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _rate(rate: Rate) -> dict[str, Any]:
    return {"attempts": rate.attempts, "denied": rate.denied, "denied_per_1000": rate.per_mille}


def _denial(one: Denial) -> dict[str, Any]:
    return {
        "destination": aim_text(one.target, one.port, one.protocol, one.hook),
        "target": one.target,
        "port": one.port,
        "protocol": protocol_word(one.protocol),
        "hook": one.hook,
        "workload": one.workload,
        "policy": one.policy,
        "reason": Reason(one.reason).word,
        "nodes": one.nodes,
        "count": one.count,
        "first": time_text(one.first_ns),
        "last": time_text(one.last_ns),
    }


def _time_or_none(ns: int) -> str | None:
    return time_text(ns) if ns else None


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
