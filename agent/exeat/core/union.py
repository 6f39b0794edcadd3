"""Several policies for one workload, united to one that is compiled and put into the kernel.

The policies are taken in the order of their names. What any of them allows is allowed, while that policy lasts:

- Rules: all of them. A rule ends when it says so, or with its own policy. The union ends with the last of the policies.
- A rule's name stays as it is where no other has it, and becomes `policy/rule` otherwise.

Where policies restrict, the strictest holds:

- Mode: quarantine, else enforce, else monitor, else open. A policy in `enforce` whose `rollout` leaves this workload
  out counts as monitor.
- Limits: of each kind the one with the lowest rate, with the sternest consequence that any of them names. It may allow
  more at once than another one did, never more in the long run. One policy that quarantines what was not declared is
  enough.
- Tunnels in DNS: block, else report, else off; the thresholds are the lowest of the policies that say that word, so
  that nobody's questions are blocked by what was only meant to be reported.

The rest of `dns`: upstreams are the first policy's that has some for a domain; the types are everybody's; of
`min_grant` and `max_grants` the greatest holds, because a program that works under one policy must go on when another
one is added.

What no union can keep apart: rules of one policy count for the others where a single policy's count for each other. A
network that one policy opens is one to which names of another one may be resolved.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction

from exeat.core.rollout import is_chosen
from exeat.model.policy import (
    DnsSettings,
    Limit,
    Limits,
    Mode,
    OnUndeclared,
    Policy,
    Rule,
    Then,
    Tunnel,
    TunnelLimits,
    Upstreams,
)

_STRICTEST_FIRST = (Mode.QUARANTINE, Mode.ENFORCE, Mode.MONITOR, Mode.OPEN)
_STERNEST_LAST = (Then.REPORT, Then.DENY, Then.QUARANTINE)
_TUNNELS_STRICTEST_FIRST = (Tunnel.BLOCK, Tunnel.REPORT, Tunnel.OFF)


@dataclass(frozen=True, slots=True)
class United:
    """One policy to compile, and the name of the policy from which its rule i+1 came as `origins[i]`."""

    policy: Policy
    origins: tuple[str, ...]


def effective_mode(policy: Policy, workload: str) -> Mode:
    """A policy's mode for one workload: not all of them are chosen by its rollout yet."""
    if policy.mode is Mode.ENFORCE and not is_chosen(workload, policy.name, policy.rollout_percent):
        return Mode.MONITOR
    return policy.mode


def unite(policies: Sequence[Policy], workload: str) -> United:
    """Unite policies of different names for a workload, named by its cgroup or as it was registered."""
    ordered = sorted(policies, key=lambda policy: policy.name)
    if not ordered:
        raise ValueError(f"no policy is for {workload}: there is nothing to unite")
    twice = [name for name, times in Counter(policy.name for policy in ordered).items() if times > 1]
    if twice:
        raise ValueError(f"several policies are named {', '.join(twice)}: give each its own name")
    modes = {effective_mode(policy, workload) for policy in ordered}
    first = ordered[0]
    united = replace(
        first,
        name="+".join(policy.name for policy in ordered),
        rules=tuple(_rules(ordered)),
        mode=next(mode for mode in _STRICTEST_FIRST if mode in modes),
        owner=_joined(policy.owner for policy in ordered),
        reason=_joined(policy.reason for policy in ordered),
        expires=_latest([policy.expires for policy in ordered]),
        labels=tuple(_first_of_each(policy.labels for policy in ordered).items()),
        rollout_percent=100,
        dns=_dns([policy.dns for policy in ordered]),
        limits=_limits([policy.limits for policy in ordered]),
        on_undeclared=_on_undeclared(ordered),
    )
    return United(united, tuple(policy.name for policy in ordered for _ in policy.rules))


def _rules(policies: Sequence[Policy]) -> Iterable[Rule]:
    times = Counter(rule.name for policy in policies for rule in policy.rules)
    for policy in policies:
        for rule in policy.rules:
            # A name with a slash could be what another one becomes.
            is_clear = len(policies) == 1 or (times[rule.name] == 1 and "/" not in rule.name)
            name = rule.name if is_clear else f"{policy.name}/{rule.name}"
            yield replace(rule, name=name, expires=_earlier(rule.expires, policy.expires))


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((end for end in (one, other) if end), default=None)


def _latest(ends: Sequence[datetime | None]) -> datetime | None:
    known = [end for end in ends if end]
    return max(known) if len(known) == len(ends) else None


def _joined(texts: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(text for text in texts if text))


def _first_of_each(labels: Iterable[tuple[tuple[str, str], ...]]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for some in labels:
        for name, value in some:
            found.setdefault(name, value)
    return found


def _dns(settings: Sequence[DnsSettings]) -> DnsSettings:
    tunnel = next(word for word in _TUNNELS_STRICTEST_FIRST if any(one.tunnel is word for one in settings))
    limits = [one.tunnel_limits for one in settings if one.tunnel is tunnel]
    return DnsSettings(
        upstreams=_upstreams(settings),
        min_grant_s=max(one.min_grant_s for one in settings),
        max_grants=max(one.max_grants for one in settings),
        types=tuple(dict.fromkeys(kind for one in settings for kind in one.types)),
        tunnel=tunnel,
        tunnel_limits=TunnelLimits(
            names_per_minute=min(one.names_per_minute for one in limits),
            label_length=min(one.label_length for one in limits),
            entropy=min(one.entropy for one in limits),
        ),
    )


def _upstreams(settings: Sequence[DnsSettings]) -> tuple[Upstreams, ...]:
    by_domain: dict[str, Upstreams] = {}
    for one in settings:
        for upstreams in one.upstreams:
            by_domain.setdefault(upstreams.domain, upstreams)
    return tuple(by_domain.values())


def _limits(limits: Sequence[Limits]) -> Limits:
    return Limits(
        bytes=_lowest(one.bytes for one in limits),
        connections=_lowest(one.connections for one in limits),
        destinations=_lowest(one.destinations for one in limits),
    )


def _lowest(limits: Iterable[Limit | None]) -> Limit | None:
    given = [limit for limit in limits if limit]
    if not given:
        return None
    lowest = min(given, key=lambda limit: (Fraction(limit.max, limit.per_s), limit.max))
    return replace(lowest, then=max((limit.then for limit in given), key=_STERNEST_LAST.index))


def _on_undeclared(policies: Iterable[Policy]) -> OnUndeclared:
    is_quarantine = any(policy.on_undeclared is OnUndeclared.QUARANTINE for policy in policies)
    return OnUndeclared.QUARANTINE if is_quarantine else OnUndeclared.DENY
