"""Rules that nobody needs, and rules that end soon. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from exeat.model.verdicts import Verdict
from exeat.plane.report.facts import InForce, Tally

WINDOWS_DAYS = (14, 30)


@dataclass(frozen=True, slots=True)
class UnusedRule:
    """A rule that is in force, was so when the span began, and allowed nothing in it."""

    policy: str
    rule: str
    owner: str  # the policy's


@dataclass(frozen=True, slots=True)
class EndingRule:
    """A policy, or a rule of it, that ends within so many days."""

    policy: str
    rule: str | None  # None: the policy as a whole
    expires: datetime
    within_days: int  # one of WINDOWS_DAYS: the smallest that holds
    owner: str


def unused_rules(policies: Iterable[InForce], tallies: Iterable[Tally]) -> tuple[UnusedRule, ...]:
    """What was added within the span had less time to be used, and is left out."""
    held = tuple(policies)
    names = {one.policy.name: frozenset(rule.name for rule in one.policy.rules) for one in held}
    used = {pair for tally in tallies if tally.verdict is Verdict.FORWARDED for pair in _used(tally, names)}
    return tuple(
        UnusedRule(one.policy.name, rule.name, one.policy.owner)
        for one in held
        for rule in one.policy.rules
        if rule.name in one.rules_before and (one.policy.name, rule.name) not in used
    )


def ending_rules(policies: Iterable[InForce], now: datetime) -> tuple[EndingRule, ...]:
    """The soonest first; `now` is aware. A rule that ends with its policy is not told beside it."""
    found = []
    for policy in (one.policy for one in policies):
        ends: list[tuple[str | None, datetime]] = [(None, policy.expires)] if policy.expires else []
        for rule in policy.rules:
            if rule.expires and not (policy.expires and policy.expires <= rule.expires):
                ends.append((rule.name, rule.expires))
        for rule_name, expires in ends:
            if days := _within(expires, now):
                found.append(EndingRule(policy.name, rule_name, expires, days, policy.owner))
    return tuple(sorted(found, key=lambda one: (one.expires, one.policy, one.rule or "")))


def _used(tally: Tally, names: dict[str, frozenset[str]]) -> Iterable[tuple[str, str]]:
    """Which rule of which policy it was: core/union.py says how several policies name their rules."""
    parts = tally.policy.split("+")
    policy, slash, rule = tally.rule.partition("/")
    if len(parts) > 1 and slash and policy in parts:
        return [(policy, rule)]
    return [(part, tally.rule) for part in parts if tally.rule in names.get(part, ())]


def _within(expires: datetime, now: datetime) -> int | None:
    if expires <= now:
        return None
    return next((days for days in WINDOWS_DAYS if expires - now <= timedelta(days=days)), None)
