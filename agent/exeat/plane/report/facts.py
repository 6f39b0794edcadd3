"""What a report is made of, read from the store in one transaction."""

from dataclasses import dataclass
from typing import ClassVar

from exeat.core.policy_file import read_policy
from exeat.errors import PolicyError
from exeat.model.policy import Policy
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.store.database import Row, Tx


@dataclass(frozen=True, slots=True)
class Period:
    """Whole hours, from the first to before the last; nanoseconds since 1970."""

    since_ns: int
    until_ns: int
    HOUR_NS: ClassVar[int] = 3600 * 1_000_000_000

    @classmethod
    def around(cls, since_ns: int, until_ns: int) -> "Period":
        """The hours that a span of time touches."""
        hour = cls.HOUR_NS
        return cls(since_ns // hour * hour, max(-(-until_ns // hour), since_ns // hour + 1) * hour)


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something was judged in the span."""

    node: str
    workload: str
    policy: str  # one, or several that hold together: `a+b`
    rule: str
    target: str  # the name, or else the address
    port: int
    protocol: int
    hook: str
    verdict: Verdict
    reason: Reason
    count: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Approved:
    """A denial that somebody turned into a rule."""

    policy: str
    rule: str
    destination: str
    by_whom: str
    at_ns: int
    denied_ns: int  # the first denial; 0: not known


@dataclass(frozen=True, slots=True)
class InForce:
    """A policy that holds now, and the names of the rules that it had when the span began."""

    policy: Policy
    rules_before: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it."""

    period: Period
    tallies: tuple[Tally, ...]
    new_targets: frozenset[str]  # that no verdict was about before the span
    approvals: tuple[Approved, ...]  # of the span
    policies: tuple[InForce, ...]
    now_ns: int  # what ends soon is seen from here
    records_since_ns: int = 0  # the first verdict of all; 0: there is none


_ALIKE = "node, workload, policy, rule, target, port, protocol, hook, verdict, reason"
_VERDICTS = frozenset(Verdict)
_REASONS = frozenset(Reason)


def facts_of(tx: Tx, period: Period, now_ns: int) -> Facts:
    """Reads them."""
    span = (period.since_ns, period.until_ns)
    tallies = tx.all(
        f"SELECT {_ALIKE}, SUM(count), MIN(first_ns), MAX(last_ns) FROM tallies "
        f"WHERE hour_ns >= ? AND hour_ns < ? GROUP BY {_ALIKE}",
        *span,
    )
    new = tx.all(
        "SELECT target FROM tallies WHERE target <> '' AND hour_ns < ? GROUP BY target HAVING MIN(hour_ns) >= ?",
        period.until_ns,
        period.since_ns,
    )
    approvals = tx.all(
        "SELECT policy, rule, destination, by_whom, at_ns, denied_ns FROM approvals "
        "WHERE at_ns >= ? AND at_ns < ? ORDER BY at_ns",
        *span,
    )
    first = tx.one("SELECT MIN(first_ns) FROM tallies")
    return Facts(
        period=period,
        tallies=tuple(_tally(row) for row in tallies if row[8] in _VERDICTS and row[9] in _REASONS),
        new_targets=frozenset(row[0] for row in new),
        approvals=tuple(Approved(*row) for row in approvals),
        policies=_policies(tx, period.since_ns),
        now_ns=now_ns,
        records_since_ns=int(first[0]) if first and first[0] is not None else 0,
    )


def _tally(row: Row) -> Tally:
    node, workload, policy, rule, target, port, protocol, hook, verdict, reason = row[:10]
    return Tally(
        node=node,
        workload=workload,
        policy=policy,
        rule=rule,
        target=target,
        port=port,
        protocol=protocol,
        hook=hook,
        verdict=Verdict(verdict),
        reason=Reason(reason),
        count=int(row[10]),  # PostgreSQL sums to a Decimal
        first_ns=row[11],
        last_ns=row[12],
    )


def _policies(tx: Tx, since_ns: int) -> tuple[InForce, ...]:
    before: dict[str, str] = dict(
        tx.all(
            "SELECT h.name, d.text FROM history h JOIN documents d ON d.revision = h.revision "
            "WHERE h.id IN (SELECT MAX(id) FROM history WHERE at_ns < ? GROUP BY name)",
            since_ns,
        )
    )
    found = []
    now = tx.all("SELECT p.name, d.text FROM policies p JOIN documents d ON d.revision = p.revision ORDER BY p.name")
    for name, text in now:
        policy = _read(text)
        if policy is None:
            continue
        old = policy if before.get(name) == text else _read(before.get(name, ""))
        found.append(InForce(policy, frozenset(rule.name for rule in old.rules) if old else frozenset()))
    return tuple(found)


def _read(text: str) -> Policy | None:
    """None for one that another version of exeat took, and this one cannot read: it says nothing of its rules."""
    try:
        return read_policy(text, "").policy
    except PolicyError:
        return None
