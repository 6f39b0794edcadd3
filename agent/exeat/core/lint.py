"""Doubts about a well-formed policy: what is expired, superfluous, unowned or very wide. Time is an argument."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from exeat.core.diff_patterns import wider_patterns
from exeat.core.diff_reach import beyond, ends, kinds_of, ports_of
from exeat.core.diff_spans import minus
from exeat.core.diff_words import time_text
from exeat.core.globs import is_match
from exeat.core.problems import Problems, shown
from exeat.core.yaml_nodes import Mapping, Node, Sequence, compose
from exeat.model.names import HostPattern, PatternKind
from exeat.model.networks import Network
from exeat.model.policy import Policy, Rule, Subject

_HOSTS_OWN = ("lo", "eth0", "ens3", "enp1s0", "eno1", "wlan0", "bond0", "br0", "docker0")
_SOON = timedelta(days=30)
_WIDE = {4: 8, 6: 16}  # prefixes shorter than any registry gives to one organisation


@dataclass(frozen=True, slots=True)
class Lines:
    """Where things stand in a policy's text; a policy itself does not know."""

    name: int
    spec: int
    expires: int
    rules: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> "Lines":
        """Of a text that was read without a problem."""
        root = compose(text, Problems("policy"))
        spec = _field(root, "spec")
        egress = _field(spec, "egress")
        items = egress.items if isinstance(egress, Sequence) else []
        return cls(
            name=_line(_field(root, "metadata"), "name"),
            spec=_line(root, "spec"),
            expires=_line(spec, "expires"),
            rules=tuple(item.line for item in items),
        )


def lint(policy: Policy, lines: Lines, filename: str, now: datetime) -> tuple[str, ...]:
    """Warnings as `file:line: sentence`, in the order of lines. `now` is aware."""
    problems = Problems(filename)
    for line, sentence in (*_about_policy(policy, lines, now), *_about_rules(policy, lines, now)):
        problems.warn(line, sentence)
    return problems.warnings()


def _about_policy(policy: Policy, lines: Lines, now: datetime) -> Iterator[tuple[int, str]]:
    if not policy.owner:
        yield lines.spec, "there is no `owner`: write who answers for this policy"
    if not policy.reason:
        yield lines.spec, "there is no `reason`: write what this policy is for"
    if policy.subject == Subject():
        yield (
            lines.spec,
            "there is no `subject`: no workload is under this policy but those that are put there by its name",
        )
    for pattern in policy.subject.interfaces:
        if own := next((name for name in _HOSTS_OWN if is_match(pattern, name)), None):
            text = "name those of guests, as in `tap-*`"
            yield lines.spec, f"the interfaces {shown(pattern)} may be the host's own, such as {own}: {text}"
    if policy.expires is not None and (doubt := _ending(policy.expires, now)):
        yield lines.expires, f"the policy {doubt}"


def _about_rules(policy: Policy, lines: Lines, now: datetime) -> Iterator[tuple[int, str]]:
    covers = _Covers(policy, now)
    for index, rule in enumerate(policy.rules):
        line = lines.rules[index]
        if rule.expires is not None and (doubt := _ending(rule.expires, now)):
            yield line, f"rule {shown(rule.name)} {doubt}"
        for network in rule.cidrs:
            if network.prefixlen < _WIDE[network.version]:
                yield line, f"rule {shown(rule.name)} opens {network}, a large part of the internet: name less"
        by = covers.covering(index)
        if by is not None:
            other = f"rule {shown(policy.rules[by].name)} (line {lines.rules[by]})"
            yield line, f"rule {shown(rule.name)} opens nothing that {other} does not open: remove one of the two"


def _ending(end: datetime, now: datetime) -> str | None:
    if end <= now:
        return f"expired at {time_text(end)}: renew `expires`, or remove it"
    if end <= now + _SOON:
        days = (end - now).days
        when = "in less than a day" if days == 0 else "in 1 day" if days == 1 else f"in {days} days"
        return f"expires {when}, at {time_text(end)}: renew `expires` if it is still meant"
    return None


class _Covers:
    """Finds a rule that makes another superfluous. Few are compared: those that share a host or a network with it."""

    def __init__(self, policy: Policy, now: datetime) -> None:
        self._policy = policy
        self._now = now
        self._by_host: defaultdict[HostPattern, list[int]] = defaultdict(list)
        self._by_network: defaultdict[Network, list[int]] = defaultdict(list)
        self._ports = [ports_of(rule) for rule in policy.rules]
        for index, rule in enumerate(policy.rules):
            for host in () if rule.cidrs else rule.hosts:
                self._by_host[host].append(index)
            for network in rule.cidrs:
                self._by_network[network].append(index)

    def covering(self, index: int) -> int | None:
        """The first rule that allows all that this one does, as long at least."""
        rule = self._policy.rules[index]
        end = ends(self._policy, rule)
        if end is not None and end <= self._now:
            return None
        for other in sorted(set(self._candidates(rule)) - {index}):
            if self._covers(other, index) and not (other > index and self._covers(index, other)):
                return other
        return None

    def _candidates(self, rule: Rule) -> Iterator[int]:
        if not rule.cidrs:
            for wider in wider_patterns(rule.hosts[0]):
                yield from self._by_host.get(wider, ())
            return
        network = rule.cidrs[0]
        for length in range(network.prefixlen + 1):
            yield from self._by_network.get(network.supernet(new_prefix=length), ())

    def _covers(self, wide: int, narrow: int) -> bool:
        one, other = self._policy.rules[wide], self._policy.rules[narrow]
        if minus(self._ports[narrow], self._ports[wide]) or not set(kinds_of(other)) <= set(kinds_of(one)):
            return False  # most differ in these, and this is quickly seen
        its_end, end = ends(self._policy, one), ends(self._policy, other)
        if its_end is not None and (end is None or its_end < end):
            return False
        exact = {host for host in other.hosts if host.kind is PatternKind.EXACT}
        if self._policy.dns.types and exact - set(one.hosts):
            return False  # only of these may other types of question be asked
        alone = replace(self._policy, rules=(other,)), replace(self._policy, rules=(one,))
        return not beyond(*alone, self._now)


def _field(node: Node | None, name: str) -> Node | None:
    return node.fields[name].node if isinstance(node, Mapping) and name in node.fields else None


def _line(node: Node | None, name: str) -> int:
    return node.fields[name].line if isinstance(node, Mapping) and name in node.fields else 1
