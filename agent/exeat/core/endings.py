"""What of policies and rules ends soon: told 14, 3 and 1 days before, each once, also over restarts of the agent.

The state is a plain dict that its keeper writes to disk as JSON: how many days were told of what. A key holds the time
of the ending, so that what was prolonged is told anew.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from exeat.model.policy import Policy

THRESHOLDS_DAYS = (1, 3, 14)
_KEPT = timedelta(days=30)  # beyond the end: a clock that was ahead and goes back makes nobody hear it again


@dataclass(frozen=True, slots=True)
class Ending:
    """A policy, or one rule of it, that is in force and ends within so many days."""

    policy: str
    rule: str | None  # None: the policy as a whole
    expires: datetime
    days: int  # one of THRESHOLDS_DAYS: the smallest that holds

    @property
    def key(self) -> str:
        """Under which the state remembers it."""
        return " ".join((self.expires.isoformat(), self.policy, *([self.rule] if self.rule is not None else [])))


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be told now, and the state to keep once it was told."""

    notices: tuple[Ending, ...]
    told: dict[str, int]


def upcoming(policies: Iterable[Policy], now: datetime) -> tuple[Ending, ...]:
    """What ends within 14 days, the soonest first. A rule that ends with its policy is not told beside it."""
    found = [ending for policy in policies for ending in _of_policy(policy, now)]
    return tuple(sorted(found, key=lambda ending: (ending.expires, ending.policy, ending.rule or "")))


def due(endings: Iterable[Ending], told: Mapping[str, int], now: datetime) -> Due:
    """Which endings are to be told, given what was told before; garbage in the state is forgotten.

    What is first seen within 3 days of its end is told once and not thrice.
    """
    kept = {key: days for key, days in told.items() if _is_kept(key, now)}
    notices = []
    for ending in endings:
        if ending.days < kept.get(ending.key, THRESHOLDS_DAYS[-1] + 1):
            notices.append(ending)
            kept[ending.key] = ending.days
    return Due(tuple(notices), kept)


def count_within(endings: Iterable[Ending]) -> dict[int, int]:
    """How many end within each number of days; who ends within 1 ends within 3 as well."""
    days = [ending.days for ending in endings]
    return {threshold: sum(one <= threshold for one in days) for threshold in THRESHOLDS_DAYS}


def _of_policy(policy: Policy, now: datetime) -> Iterator[Ending]:
    if policy.expires and policy.expires <= now:
        return
    if policy.expires and (days := _days_to(policy.expires, now)):
        yield Ending(policy.name, None, policy.expires, days)
    for rule in policy.rules:
        if rule.expires and not (policy.expires and policy.expires <= rule.expires):
            days = _days_to(rule.expires, now)
            if days:
                yield Ending(policy.name, rule.name, rule.expires, days)


def _days_to(expires: datetime, now: datetime) -> int | None:
    if expires <= now:
        return None
    return next((days for days in THRESHOLDS_DAYS if expires - now <= timedelta(days=days)), None)


def _is_kept(key: str, now: datetime) -> bool:
    try:
        return datetime.fromisoformat(key.partition(" ")[0]) + _KEPT > now
    except (ValueError, OverflowError, TypeError):  # no time, none that can be added to, or one without a zone
        return False
