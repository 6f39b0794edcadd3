"""What a change of policy opens and closes, in words. Two policies that allow the same differ in nothing, however they
are written: rules may be renamed, split, joined and put into another order.

Reach is compared at one moment, and then again at each moment at which something ends: what only one of the two lets be
reached from then on was extended, or shortened.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from exeat.core.diff_patterns import is_inside
from exeat.core.diff_reach import Kind, Stretch, beyond, ends, in_force, kinds_of, ports_of
from exeat.core.diff_settings import differing_settings
from exeat.core.diff_spans import Spans, addresses_of, common, minus
from exeat.core.diff_words import Written, listed_text, target, time_text
from exeat.model.names import HostPattern
from exeat.model.policy import Policy, Rule

_IMPLIED_BY = {Kind.TLS: (Kind.TCP,), Kind.ECH: (Kind.TCP, Kind.TLS)}


class What(StrEnum):
    """What a change does."""

    OPENS = "opens"
    CLOSES = "closes"
    EXTENDS = "extends"
    SHORTENS = "shortens"
    SETS = "sets"  # something that decides what is reachable, beside the rules
    KEEPS = "keeps"  # it went from the text, and is allowed all the same
    WORDS = "words"  # only what people read


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is different."""

    what: What
    sentence: str
    target: str | None = None
    rules: tuple[str, ...] = ()

    @property
    def is_reach(self) -> bool:
        """Whether a workload may feel it."""
        return self.what not in (What.KEEPS, What.WORDS)


def differences(old: Policy, new: Policy, now: datetime) -> tuple[Change, ...]:
    """Everything that a change from one policy to another does. `now` is aware."""
    written = Written((*old.rules, *new.rules))
    before, after = _Side(old, now), _Side(new, now)
    opened, closed = beyond(new, old, now), beyond(old, new, now)
    settings = [
        Change(What.SETS if is_reach else What.WORDS, words) for words, is_reach in differing_settings(old, new)
    ]
    return (
        *(change for change in settings if change.is_reach),
        *_moved(What.OPENS, opened, after, written),
        *_moved(What.CLOSES, closed, before, written),
        *_kept(before, after, closed),
        *_lasting(What.EXTENDS, after, old, opened, written),
        *_lasting(What.SHORTENS, before, new, closed, written),
        *(change for change in settings if not change.is_reach),
    )


class _Side:
    """A policy, and which of its rules it was."""

    def __init__(self, policy: Policy, now: datetime) -> None:
        self.policy = policy
        self.now = now
        self.rules = in_force(policy, now)
        self._addresses: dict[str, Spans] = {}
        self._named: defaultdict[HostPattern | None, list[Rule]] = defaultdict(list)
        for rule in self.rules:
            for host in rule.hosts or (None,):
                self._named[host].append(rule)

    def responsible(self, stretch: Stretch) -> tuple[Rule, ...]:
        """The rules that allow it."""
        return tuple(rule for rule in self._named[stretch.names] if self._allows(rule, stretch))

    def _allows(self, rule: Rule, stretch: Stretch) -> bool:
        if stretch.kind is Kind.NAME:
            return True
        if stretch.kind not in kinds_of(rule) or not common(ports_of(rule), stretch.ports):
            return False
        if stretch.addresses is None:
            return not rule.cidrs
        if rule.name not in self._addresses:
            self._addresses[rule.name] = addresses_of(rule)
        return bool(common(self._addresses[rule.name], stretch.addresses))


def _moved(what: What, stretches: tuple[Stretch, ...], side: _Side, written: Written) -> Iterator[Change]:
    remark = "which was open before" if what is What.OPENS else "which stays open"
    for stretch, excepts in _told(stretches):
        aim = _aim(stretch, written)
        rules = side.responsible(stretch)
        words = f"{what} {aim} by {_by(rules)}"
        if excepts:
            words += f", except {listed_text(excepts)}, {remark}"
        end = _end(side.policy, rules)
        if what is What.OPENS and end is not None:
            words += f", until {time_text(end)}"
        yield Change(what, words, aim, tuple(rule.name for rule in rules))


def _told(stretches: tuple[Stretch, ...]) -> Iterator[tuple[Stretch, tuple[str, ...]]]:
    """Those that another does not say already, each with what it leaves out."""
    together: defaultdict[tuple[Spans | None, HostPattern | None], list[Stretch]] = defaultdict(list)
    for stretch in stretches:
        together[stretch.addresses, stretch.names].append(stretch)
    for stretch in stretches:
        same = together[stretch.addresses, stretch.names]
        if stretch.kind is Kind.NAME:
            if len(same) > 1:
                continue
        elif any(one.kind in _IMPLIED_BY.get(stretch.kind, ()) and not minus(stretch.ports, one.ports) for one in same):
            continue
        yield stretch, _left_out(stretch, same)


def _left_out(stretch: Stretch, same: list[Stretch]) -> tuple[str, ...]:
    """What the other side allows inside a stretch; where that reads hellos only, hellos to some hosts, or all."""
    hellos = [one for one in same if one.kind is Kind.TLS and common(one.ports, stretch.ports)]
    if stretch.kind is not Kind.TCP:
        hellos = []
    elif not hellos:
        return ("tls",)
    return tuple(dict.fromkeys(str(host) for one in (stretch, *hellos) for host in one.excepts))


def _kept(before: _Side, after: _Side, closed: tuple[Stretch, ...]) -> Iterator[Change]:
    """Hosts that went from the text, and which wider pattern still allows them."""
    gone = {stretch.names for stretch in closed}
    hosts = {host: None for rule in after.rules for host in rule.hosts}
    for host in dict.fromkeys(host for rule in before.rules for host in rule.hosts):
        if host in hosts or host in gone:
            continue
        covering = [wider for wider in hosts if is_inside(host, wider)]
        if covering:
            yield Change(What.KEEPS, f"keeps {host}: still allowed by {listed_text(covering)}", str(host))


def _lasting(
    what: What, mine: _Side, other: Policy, already: tuple[Stretch, ...], written: Written
) -> Iterator[Change]:
    """What one side still allows when it has ended on the other."""
    moments = sorted({end for one in (mine.policy, other) for end in _ends(one) if end > mine.now})
    known = {stretch for stretch, _ in _told(already)}
    since: dict[Stretch, datetime] = {}
    for moment in moments:
        found = {stretch: None for stretch, _ in _told(beyond(mine.policy, other, moment)) if stretch not in known}
        for stretch in [stretch for stretch in since if stretch not in found]:
            yield _lasted(what, stretch, mine, written, since.pop(stretch), moment)
        for stretch in found:
            since.setdefault(stretch, moment)
    for stretch, start in since.items():
        yield _lasted(what, stretch, mine, written, start, None)


def _lasted(
    what: What, stretch: Stretch, mine: _Side, written: Written, start: datetime, end: datetime | None
) -> Change:
    aim = _aim(stretch, written)
    rules = mine.responsible(stretch)
    new, old = (end, start) if what is What.EXTENDS else (start, end)
    words = f"{what} {aim} by {_by(rules)}: {_until(new)}, was {_until(old)}"
    return Change(what, words, aim, tuple(rule.name for rule in rules))


def _until(end: datetime | None) -> str:
    return time_text(end) if end is None else f"until {time_text(end)}"


def _ends(policy: Policy) -> set[datetime]:
    return {end for rule in policy.rules if (end := ends(policy, rule)) is not None}


def _end(policy: Policy, rules: tuple[Rule, ...]) -> datetime | None:
    found = [ends(policy, rule) for rule in rules]
    known = [end for end in found if end is not None]
    return max(known) if known and len(known) == len(found) else None


def _aim(stretch: Stretch, written: Written) -> str:
    return target(stretch, () if stretch.addresses is None else written.networks(stretch.addresses))


def _by(rules: tuple[Rule, ...]) -> str:
    names = listed_text(rule.name for rule in rules)
    return f"rule {names}" if len(rules) == 1 else f"rules {names}"
