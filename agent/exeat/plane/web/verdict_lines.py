"""A verdict as a row of a table. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from exeat.control.convert import from_wire
from exeat.core.query_types import query_type_word
from exeat.core.verdict_text import endpoint, protocol_word, subject_of
from exeat.errors import ExeatError
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.approval.rule import can_rule
from exeat.plane.verdicts.denials import Stored
from exeat.plane.verdicts.verdict_rows import called
from exeat.plane.web.denial_groups import reason_story, reason_word

_OUTCOMES: dict[int, tuple[str, str]] = {
    Verdict.FORWARDED: ("allowed", "ok"),
    Verdict.DROPPED: ("denied", "bad"),
    Verdict.AUDIT: ("would be denied", "warn"),
    Verdict.ERROR: ("denied, exeat failed", "bad"),
}
_REASONS: frozenset[int] = frozenset(Reason)


@dataclass(frozen=True, slots=True)
class Line:
    """What people want to see of it."""

    id: int
    at_ns: int
    node: str
    outcome: str
    kind: str
    subject: str
    where: str  # the address behind a name, or how it was tried
    target: str  # a name or an address; empty: there is none
    workload: str
    process: str
    reason: str
    story: str
    policy: str
    rule: str
    count: int
    can_approve: bool

    @property
    def row_class(self) -> str:
        """For the row's colour."""
        return {"bad": "denied", "warn": "audit"}.get(self.kind, "")


def lines_of(stored: Iterable[Stored]) -> list[Line]:
    """In the same order."""
    return [_line(one) for one in stored]


def _line(stored: Stored) -> Line:
    record = stored.record
    outcome, kind = _OUTCOMES.get(record.verdict, ("of a newer agent", "hollow"))
    subject, where, target = protocol_word(record.protocol), "", record.name.lower().removesuffix(".")
    try:
        read = from_wire(record)
        target = target or str(read.address or "")
        subject, where = subject_of(read), protocol_word(read.protocol)
        if read.hook == "query":
            where = f"dns {query_type_word(read.detail)}" if read.detail else "dns"
            subject = read.name or subject
        elif read.address is not None and read.hook not in ("socket", "option", "agent"):
            there = endpoint(read.address, read.port)
            subject, where = (read.name, f"{where} {there}") if read.name else (there, where)
    except ExeatError:  # of a newer exeat: what can be read is shown
        subject = record.name or subject
    return Line(
        id=stored.id,
        at_ns=record.time.seconds * 1_000_000_000 + record.time.nanos,
        node=stored.node,
        outcome=outcome,
        kind=kind,
        subject=subject,
        where=where,
        target=target,
        workload=called(record),
        process=f"{record.process.comm}[{record.process.pid}]" if record.process.pid else "the kernel",
        reason=reason_word(record.reason),
        story=reason_story(record.reason),
        policy=record.policy,
        rule=record.rule,
        count=record.count,
        can_approve=kind in ("bad", "warn")
        and bool(target)
        and record.reason in _REASONS
        and can_rule(Reason(record.reason)),
    )
