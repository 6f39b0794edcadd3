"""A policy as people read it, and as a document that the policy reader reads back: the same policy, in full."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from exeat.core.diff_reach import ends
from exeat.core.diff_words import listed_text
from exeat.core.query_types import query_type_word
from exeat.model.policy import (
    DnsSettings,
    Limit,
    Limits,
    Mode,
    OnUndeclared,
    Pods,
    Policy,
    PortRange,
    Protocol,
    Rule,
    Subject,
    TunnelLimits,
    Upstreams,
)

_DEFAULT = DnsSettings()
_LIMITS = ("bytes", "connections", "destinations")
_SIZES = {"Gi": 2**30, "G": 10**9, "Mi": 2**20, "M": 10**6, "Ki": 2**10, "K": 10**3}
_SPANS = {"d": 86_400, "h": 3600, "m": 60}


def policy_document(policy: Policy) -> dict[str, Any]:
    """The policy as JSON values. A policy file may be written in JSON, which is YAML: it can be read back."""
    metadata: dict[str, Any] = {"name": policy.name}
    if policy.labels:
        metadata["labels"] = dict(policy.labels)
    return {"apiVersion": "exeat.dev/v1", "kind": "EgressPolicy", "metadata": metadata, "spec": _spec(policy)}


def policy_head(policy: Policy, now: datetime) -> list[tuple[str, str]]:
    """What the policy is, beside its rules: names and values for a terminal. `now` is aware."""
    return [(name, text) for name, text in _head(policy, now) if text]


def policy_rows(policy: Policy, now: datetime) -> list[tuple[str, ...]]:
    """The rules, a row for each host and network: rule, protocol, destination, ports, until."""
    return [row for rule in policy.rules for row in _rows(rule, ends(policy, rule), now)]


def pods_text(pods: Pods | None) -> str:
    """`app=coder in namespace ml`."""
    if pods is None:
        return ""
    where = f"in namespace {pods.namespace}" if pods.namespace else "in every namespace"
    return f"{_pairs(pods.labels) or 'all'} {where}"


def limit_text(name: str, limit: Limit | None) -> str:
    """`500M in 1h, then deny`."""
    if limit is None:
        return "without limit"
    most = _size(limit.max) if name == "bytes" else str(limit.max)
    return f"{most} in {_span(limit.per_s)}, then {limit.then}"


def _spec(policy: Policy) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if policy.owner:
        spec["owner"] = policy.owner
    if policy.reason:
        spec["reason"] = policy.reason
    if policy.expires:
        spec["expires"] = _time(policy.expires)
    if policy.subject != Subject():
        spec["subject"] = _subject(policy.subject)
    spec["mode"] = policy.mode.value
    if policy.rollout_percent != 100:
        spec["rollout"] = {"percent": policy.rollout_percent}
    if dns := _dns(policy.dns):
        spec["dns"] = dns
    if limits := _limits(policy.limits):
        spec["limits"] = limits
    if policy.on_undeclared is not OnUndeclared.DENY:
        spec["onUndeclared"] = policy.on_undeclared.value
    spec["egress"] = [_rule(rule) for rule in policy.rules]
    return spec


def _subject(subject: Subject) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if subject.cgroups:
        found["cgroups"] = list(subject.cgroups)
    if subject.interfaces:
        found["interfaces"] = list(subject.interfaces)
    if subject.labels:
        found["labels"] = dict(subject.labels)
    if subject.images:
        found["images"] = list(subject.images)
    if subject.pods:
        found["pods"] = _pods(subject.pods)
    if subject.session:
        found["session"] = dict(subject.session)
    if subject.nodes:
        found["nodes"] = dict(subject.nodes)
    return found


def _pods(pods: Pods) -> dict[str, Any]:
    found: dict[str, Any] = {"namespace": pods.namespace} if pods.namespace else {}
    return found | ({"matchLabels": dict(pods.labels)} if pods.labels else {})


def _rule(rule: Rule) -> dict[str, Any]:
    found: dict[str, Any] = {"name": rule.name, "protocol": rule.protocol.value}
    if rule.hosts:
        found["hosts"] = list(map(str, rule.hosts))
    if rule.cidrs:
        found["cidrs"] = list(map(str, rule.cidrs))
    if rule.excepts:
        found["except"] = list(map(str, rule.excepts))
    if rule.protocol is not Protocol.ICMP:
        found["ports"] = [_ports(ports) for ports in rule.ports]
    if rule.allows_ech:
        found["ech"] = "allow"
    if rule.expires:
        found["expires"] = _time(rule.expires)
    return found


def _ports(ports: PortRange) -> int | str:
    return ports.first if ports.first == ports.last else str(ports)


def _limits(limits: Limits) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _LIMITS:
        limit: Limit | None = getattr(limits, name)
        if limit is not None:
            most = _size(limit.max) if name == "bytes" else limit.max
            found[name] = {"max": most, "per": _span(limit.per_s), "then": limit.then.value}
    return found


def _size(count: int) -> str:
    unit, factor = next(((unit, factor) for unit, factor in _SIZES.items() if count % factor == 0), ("", 1))
    return f"{count // factor}{unit}"


def _span(seconds: int) -> str:
    unit, factor = next(((unit, factor) for unit, factor in _SPANS.items() if seconds % factor == 0), ("s", 1))
    return f"{seconds // factor}{unit}"


def _dns(dns: DnsSettings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if dns.upstreams:
        found["upstreams"] = [entry for one in dns.upstreams for entry in _upstream(one)]
    if dns.min_grant_s != _DEFAULT.min_grant_s:
        found["min_grant"] = _span(dns.min_grant_s)
    if dns.max_grants != _DEFAULT.max_grants:
        found["max_grants"] = dns.max_grants
    if dns.types:
        found["types"] = [query_type_word(kind) for kind in dns.types]
    if dns.tunnel is not _DEFAULT.tunnel:
        found["tunnel"] = dns.tunnel.value
    if dns.tunnel_limits != _DEFAULT.tunnel_limits:
        found["tunnel_limits"] = _tunnel_limits(dns.tunnel_limits)
    return found


def _upstream(upstreams: Upstreams) -> list[Any]:
    servers = list(map(str, upstreams.servers))
    return [{"domain": upstreams.domain, "servers": servers}] if upstreams.domain else servers


def _tunnel_limits(limits: TunnelLimits) -> dict[str, Any]:
    return {
        "names_per_minute": limits.names_per_minute,
        "label_length": limits.label_length,
        "entropy": limits.entropy,
    }


def _head(policy: Policy, now: datetime) -> Iterator[tuple[str, str]]:
    yield "policy", policy.name
    yield "labels", _pairs(policy.labels)
    yield "owner", policy.owner or "nobody"
    yield "reason", policy.reason or "not given"
    yield "mode", policy.mode.value + _MODES[policy.mode]
    yield "expires", _until(policy.expires, now)
    yield "for cgroups", listed_text(policy.subject.cgroups)
    yield "for interfaces", listed_text(policy.subject.interfaces)
    yield "for images", listed_text(policy.subject.images)
    yield "for pods", pods_text(policy.subject.pods)
    yield "for labels", _pairs(policy.subject.labels)
    yield "for sessions", _pairs(policy.subject.session)
    yield "on nodes with", _pairs(policy.subject.nodes)
    if policy.subject == Subject():
        yield "for", "whom it is given by name"
    if policy.rollout_percent != 100:
        yield "rollout", f"{policy.rollout_percent} % of its workloads; the others are monitored"
    for name in _LIMITS:
        limit: Limit | None = getattr(policy.limits, name)
        yield f"limit of {name}", limit_text(name, limit) if limit else ""
    if policy.on_undeclared is OnUndeclared.QUARANTINE:
        yield "undeclared", "a destination that is denied puts its workload into quarantine"
    for name, value in _dns(policy.dns).items():
        yield f"dns {name.replace('_', ' ')}", _plain(value)


_MODES = {
    Mode.ENFORCE: "",
    Mode.MONITOR: ": nothing is denied, only reported",
    Mode.OPEN: ": nothing is denied, only recorded",
    Mode.QUARANTINE: ": everything is denied",
}


def _rows(rule: Rule, end: datetime | None, now: datetime) -> Iterator[tuple[str, ...]]:
    """One row a host or network; what they share stands in the first."""
    wheres = [*map(str, rule.hosts), *(f"{'at ' if rule.hosts else ''}{cidr}" for cidr in rule.cidrs)]
    wheres += [f"except {network}" for network in rule.excepts]
    ports = ",".join(map(str, rule.ports)) or "-"
    protocol = rule.protocol.value + (" (ech)" if rule.allows_ech else "")
    yield rule.name, protocol, wheres[0], ports, _until(end, now)
    yield from (("", "", where, "", "") for where in wheres[1:])


def _until(end: datetime | None, now: datetime) -> str:
    if end is None:
        return "never"
    return _time(end) + (" (expired)" if end <= now else "")


def _time(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    fraction = f".{utc.microsecond:06d}" if utc.microsecond else ""
    return f"{utc.year:04d}-{utc:%m-%dT%H:%M:%S}{fraction}Z"


def _pairs(labels: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)
