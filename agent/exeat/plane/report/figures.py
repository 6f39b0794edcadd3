"""What came of the policies in a span of time: numbers for those who answer for them. Pure: facts in, report out.

The span is whole hours, because verdicts are counted by the hour for much longer than they are kept one by one.

**Denials per 1,000 connections.** What counts as a connection that was attempted, tried.py says. A denial is DROPPED,
AUDIT (it would have been denied) or ERROR.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import mean, median

from exeat.model.verdicts import Reason, Verdict
from exeat.plane.policies.tried import is_try
from exeat.plane.report.facts import Facts, Period, Tally
from exeat.plane.report.rules import EndingRule, UnusedRule, ending_rules, unused_rules

_TOP = 20
_LISTED = 100


@dataclass(frozen=True, slots=True)
class Rate:
    """Attempts, and how many of them were denied."""

    attempts: int
    denied: int

    @property
    def per_mille(self) -> float:
        """Denials per 1,000 connections."""
        return round(1000 * self.denied / self.attempts, 1) if self.attempts else 0.0


@dataclass(frozen=True, slots=True)
class NewDestination:
    """A name or address that was in no verdict before the span."""

    target: str
    first_ns: int
    allowed: int
    denied: int
    workloads: int


@dataclass(frozen=True, slots=True)
class Denial:
    """What was denied to whom."""

    target: str
    port: int
    protocol: int
    hook: str
    workload: str
    policy: str
    reason: Reason
    nodes: int
    count: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Share:
    """A node's or a workload's part."""

    name: str
    rate: Rate


@dataclass(frozen=True, slots=True)
class Waits:
    """How long it took from the first denial to its approval."""

    approvals: int
    mean_s: float | None
    median_s: float | None
    longest_s: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. Of lists that could be endless only the first stand here; the counts are of all."""

    period: Period
    records_since_ns: int  # 0: there is none
    rate: Rate
    new_destinations: tuple[NewDestination, ...]
    new_count: int
    top_denials: tuple[Denial, ...]
    denial_count: int
    reasons: tuple[tuple[Reason, int], ...]
    waits: Waits
    unused_rules: tuple[UnusedRule, ...]
    ending_rules: tuple[EndingRule, ...]
    nodes: tuple[Share, ...]
    workloads: tuple[Share, ...]
    workload_count: int


def report_of(facts: Facts) -> Report:
    """Computes it."""
    denials = _denials(facts.tallies)
    new = _new_destinations(facts)
    workloads = _shares((tally.workload, tally) for tally in facts.tallies)
    now = datetime.fromtimestamp(facts.now_ns / 1e9, UTC)
    return Report(
        period=facts.period,
        records_since_ns=facts.records_since_ns,
        rate=_rate(facts.tallies),
        new_destinations=new[:_LISTED],
        new_count=len(new),
        top_denials=denials[:_TOP],
        denial_count=len(denials),
        reasons=_reasons(facts.tallies),
        waits=_waits([approval.at_ns - approval.denied_ns for approval in facts.approvals if approval.denied_ns]),
        unused_rules=unused_rules(facts.policies, facts.tallies),
        ending_rules=ending_rules(facts.policies, now),
        nodes=_shares((tally.node, tally) for tally in facts.tallies)[:_LISTED],
        workloads=workloads[:_LISTED],
        workload_count=len(workloads),
    )


def _rate(tallies: Iterable[Tally]) -> Rate:
    attempts = denied = 0
    for tally in tallies:
        is_denial = _is_denial(tally)
        attempts += tally.count if is_try(tally.hook, is_denial) else 0
        denied += tally.count if is_denial else 0
    return Rate(attempts, denied)


def _shares(named: Iterable[tuple[str, Tally]]) -> tuple[Share, ...]:
    """Who was denied most comes first."""
    by_name: defaultdict[str, list[Tally]] = defaultdict(list)
    for name, tally in named:
        by_name[name].append(tally)
    shares = [Share(name, _rate(tallies)) for name, tallies in by_name.items()]
    return tuple(sorted(shares, key=lambda share: (-share.rate.denied, -share.rate.attempts, share.name)))


def _denials(tallies: Iterable[Tally]) -> tuple[Denial, ...]:
    alike: defaultdict[tuple[object, ...], list[Tally]] = defaultdict(list)
    for tally in tallies:
        if _is_denial(tally):
            alike[_sameness(tally)].append(tally)
    found = [
        Denial(
            target=some[0].target,
            port=some[0].port,
            protocol=some[0].protocol,
            hook=some[0].hook,
            workload=some[0].workload,
            policy=some[0].policy,
            reason=some[0].reason,
            nodes=len({one.node for one in some}),
            count=sum(one.count for one in some),
            first_ns=min(one.first_ns for one in some),
            last_ns=max(one.last_ns for one in some),
        )
        for some in alike.values()
    ]
    return tuple(sorted(found, key=lambda one: (-one.count, one.target, one.workload, one.port)))


def _sameness(tally: Tally) -> tuple[object, ...]:
    return tally.target, tally.port, tally.protocol, tally.hook, tally.workload, tally.policy, tally.reason


def _new_destinations(facts: Facts) -> tuple[NewDestination, ...]:
    by_target: defaultdict[str, list[Tally]] = defaultdict(list)
    for tally in facts.tallies:
        if tally.target in facts.new_targets:
            by_target[tally.target].append(tally)
    found = [
        NewDestination(
            target=target,
            first_ns=min(one.first_ns for one in some),
            allowed=sum(one.count for one in some if not _is_denial(one)),
            denied=sum(one.count for one in some if _is_denial(one)),
            workloads=len({(one.node, one.workload) for one in some}),
        )
        for target, some in by_target.items()
    ]
    return tuple(sorted(found, key=lambda one: (one.first_ns, one.target)))


def _reasons(tallies: Iterable[Tally]) -> tuple[tuple[Reason, int], ...]:
    counted: Counter[Reason] = Counter()
    for tally in tallies:
        if _is_denial(tally):
            counted[tally.reason] += tally.count
    return tuple(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def _waits(spans_ns: list[int]) -> Waits:
    if not spans_ns:
        return Waits(0, None, None, None)
    spans = [max(span, 0) / 1e9 for span in spans_ns]
    return Waits(len(spans), mean(spans), median(spans), max(spans))


def _is_denial(tally: Tally) -> bool:
    return tally.verdict is not Verdict.FORWARDED
