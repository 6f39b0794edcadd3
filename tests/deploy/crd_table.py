"""What is written wrongly in an EgressPolicy, and who says so: each a specification, as YAML, over one that is good.

`says`: words of the definition's refusal. `reader`: words of the reader's, or None where it takes what the definition
refuses, because a cluster has rules of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml


@dataclass(frozen=True)
class Bad:
    """One that must be refused."""

    name: str
    spec: str
    says: str
    reader: str | None
    kinds: tuple[str, ...] = ("EgressPolicy", "ClusterEgressPolicy")


def _rule(fields: str) -> str:
    return f"egress: [{{name: r, {fields}}}]"


def _subject(fields: str) -> str:
    return f"subject: {fields}"


NAMESPACED, CLUSTER = ("EgressPolicy",), ("ClusterEgressPolicy",)
_TCP = 'protocol: tcp, cidrs: ["203.0.113.0/24"]'

TABLE = (
    Bad("a rule for nowhere", _rule("ports: [443]"), "names no destination", "names no destination"),
    Bad(
        "a tls rule with networks alone",
        _rule('cidrs: ["203.0.113.0/24"]'),
        "names nobody whom a ClientHello could ask for",
        "names nobody whom a ClientHello could ask for",
    ),
    Bad(
        "icmp with a name",
        _rule("protocol: icmp, hosts: [a.example]"),
        "icmp carries no names",
        "icmp carries no names",
    ),
    Bad(
        "icmp with ports",
        _rule('protocol: icmp, cidrs: ["203.0.113.1"], ports: [1]'),
        "icmp has no ports",
        "icmp has no",
    ),
    Bad("tcp without ports", _rule(_TCP), "has no `ports`", "has no `ports`"),
    Bad(
        "udp with names and networks",
        _rule('protocol: udp, hosts: [a.example], cidrs: ["203.0.113.1"], ports: [1]'),
        "could mean either or both",
        "could mean either or both",
    ),
    Bad("ech for tcp", _rule(f"{_TCP}, ports: [1], ech: allow"), "`ech` speaks of tls", "`ech` speaks of tls"),
    Bad("a protocol that is none", _rule("hosts: [a.example], protocol: quic"), "is not one of", "write one of"),
    Bad(
        "an exception from nothing",
        _rule('hosts: [a.example], except: ["203.0.113.1"]'),
        "there are none",
        "there are none",
    ),
    Bad(
        "an exception outside",
        _rule(f'{_TCP}, ports: [1], except: ["203.0.114.0/28"]'),
        "takes nothing away",
        "nothing away",
    ),
    Bad(
        "an exception of all",
        _rule(f'{_TCP}, ports: [1], except: ["203.0.113.0/24"]'),
        "takes nothing away",
        "nothing away",
    ),
    Bad(
        "an exception of the other family",
        _rule(f'{_TCP}, ports: [1], except: ["2001:db8::/64"]'),
        "takes nothing away",
        "nothing away",
    ),
    Bad(
        "an exception twice",
        _rule(f'{_TCP}, ports: [1], except: ["203.0.113.1", "203.0.113.1"]'),
        "Duplicate value",
        "written twice",
    ),
    Bad(
        "a name for a network", _rule("protocol: tcp, cidrs: [a.example], ports: [1]"), "is no network", "is no network"
    ),
    Bad("a length beyond all", _rule('protocol: icmp, cidrs: ["203.0.113.0/33"]'), "is no network", "no prefix length"),
    Bad("a leading zero", _rule('protocol: icmp, cidrs: ["010.0.0.0/8"]'), "is no network", "is no network"),
    Bad(
        "a network's interface", _rule('protocol: icmp, cidrs: ["fe80::1%eth0"]'), "is no network", "names an interface"
    ),
    Bad("IPv4 as IPv6", _rule('protocol: icmp, cidrs: ["::ffff:203.0.113.1"]'), "is no network", "in IPv6's clothes"),
    Bad(
        "bits beyond the length",
        _rule('protocol: icmp, cidrs: ["203.0.113.1/24"]'),
        "bits set beyond",
        "bits set beyond",
    ),
    Bad(
        "an address for a name",
        _rule('hosts: ["203.0.113.1"]'),
        "is an address and no name",
        "is an address and no name",
    ),
    Bad("an IPv6 address for a name", _rule('hosts: ["2001:db8::1"]'), "is an address", "is an address and no name"),
    Bad("a URL", _rule('hosts: ["https://a.example/x"]'), "more than a name", "more than a name"),
    Bad("a port in a name", _rule('hosts: ["a.example:8443"]'), "more than a name", "more than a name"),
    Bad("every name", _rule('hosts: ["*"]'), "would allow every name", "would allow every name"),
    Bad(
        "a wildcard in the middle", _rule('hosts: ["api.*.example"]'), "a wildcard where none", "a wildcard where none"
    ),
    Bad("a wildcard in a label", _rule('hosts: ["api-*.a.example"]'), "a wildcard where none", "a wildcard where none"),
    Bad("two wildcards", _rule('hosts: ["*.*.a.example"]'), "a wildcard where none", "a wildcard where none"),
    Bad("three stars", _rule('hosts: ["***.a.example"]'), "a wildcard where none", "a wildcard where none"),
    Bad("a wildcard over everybody", _rule('hosts: ["*.com"]'), "covers everybody's hosts", "covers everybody's hosts"),
    Bad(
        "many labels over everybody", _rule('hosts: ["**.com"]'), "covers everybody's hosts", "covers everybody's hosts"
    ),
    Bad("a blank in a name", _rule('hosts: ["a b.example"]'), "blanks or underscores", "has blanks"),
    Bad("an underscore in a name", _rule("hosts: [a_b.example]"), "blanks or underscores", "has an underscore"),
    Bad("no host", _rule("hosts: []"), "should be non-empty", "is an empty list"),
    Bad("port 0", _rule(f"{_TCP}, ports: [0]"), "less than the minimum", "from 1 to 65535"),
    Bad("a port beyond", _rule(f"{_TCP}, ports: [65536]"), "greater than the maximum", "from 1 to 65535"),
    Bad("a port as text", _rule(f'{_TCP}, ports: ["443"]'), "does not match", "without quotes"),
    Bad("an open range", _rule(f'{_TCP}, ports: ["1000-"]'), "does not match", "is no port"),
    Bad("a port twice", _rule(f"{_TCP}, ports: [443, 443]"), "Duplicate value", "overlap"),
    Bad("a port for names", _rule(f"{_TCP}, ports: [853]"), "carries names around", "always denied"),
    Bad(
        "mDNS",
        _rule('protocol: udp, cidrs: ["203.0.113.0/24"], ports: [5353]'),
        "carries names around",
        "always denied",
    ),
    Bad("a rule without a name", "egress: [{hosts: [a.example]}]", "'name' is a required property", "has no `name`"),
    Bad("an empty name", 'egress: [{name: "", hosts: [a.example]}]', "should be non-empty", "is empty"),
    Bad(
        "two rules of a name",
        "egress: [{name: r, hosts: [a.example]}, {name: r, hosts: [b.example]}]",
        "Duplicate value",
        "is named `r` too",
    ),
    Bad("an unknown field", _rule("hosts: [a.example], port: [443]"), 'unknown field "port"', "did you mean `ports`"),
    Bad("no rules", "egress:", "is not of type 'array'", "is empty"),
    Bad("a mode that is none", "mode: off", "is not of type 'string'", "write one of"),
    Bad("a rollout beyond", "rollout: {percent: 101}", "greater than the maximum", "from 0 to 100"),
    Bad("a rollout of nothing", "rollout: {}", "'percent' is a required property", "has no `percent`"),
    Bad("a time without a zone", 'expires: "2027-03-31T00:00:00"', "is not a 'date-time'", "has no time zone"),
    Bad(
        "a rule that outlives its policy",
        'expires: "2027-01-01T00:00:00Z"\negress: [{name: r, hosts: [a.test], expires: "2027-01-01T00:00:00-01:00"}]',
        "would outlive its policy",
        "would outlive its policy",
    ),
    Bad("limits of nothing", "limits: {}", "non-empty", "limits nothing"),
    Bad("a limit without a span", "limits: {connections: {max: 5}}", "'per' is a required property", "has no `per`"),
    Bad("a limit of 0 bytes", 'limits: {bytes: {max: "0K", per: 1h}}', "does not match", "would deny everything"),
    Bad("too many destinations", "limits: {destinations: {max: 65537, per: 1h}}", "greater than", "from 1 to 65536"),
    Bad("a span that is none", "limits: {connections: {max: 5, per: 1 hour}}", "does not match", "is no span of time"),
    Bad(
        "an action that is none",
        "limits: {connections: {max: 5, per: 1h, then: drop}}",
        "is not one of",
        "write one of",
    ),
    Bad("a type that is answered", "dns: {types: [AAAA]}", "answered for every allowed name", "answered for every"),
    Bad("a type with keys", "dns: {types: [HTTPS]}", "never answered", "never answered"),
    Bad("a type with keys by its number", "dns: {types: [TYPE65]}", "never answered", "never answered"),
    Bad("a tunnel that is none", "dns: {tunnel: deny}", "is not one of", "write one of"),
    Bad("too few grants", "dns: {max_grants: 15}", "less than the minimum", "from 16 to 65536"),
    Bad("an entropy beyond", "dns: {tunnel_limits: {entropy: 9.5}}", "greater than the maximum", "from 1 to 8"),
    Bad("an undeclared that is none", "onUndeclared: report", "is not one of", "write one of"),
    Bad("a subject of nothing", _subject("{}"), "could mean nobody or everybody", "could mean nobody or everybody"),
    Bad("pods of nothing", _subject("{pods: {}}"), "could mean all pods or none", "could mean all pods or none"),
    Bad("no labels", _subject("{pods: {matchLabels: {}}}"), "non-empty", "is empty"),
    Bad("no image", _subject("{images: []}"), "non-empty", "is an empty list"),
    Bad(
        "an image with two stars", _subject('{images: ["ghcr.io/**"]}'), "`**` means nothing here", "`**` means nothing"
    ),
    Bad("half a digest", _subject('{images: ["a@sha256:abc"]}'), "a digest is", "a digest is"),
    Bad("a session of nothing", _subject("{session: {}}"), "non-empty", "is empty"),
    Bad("a session with more", _subject("{session: {role: admin}}"), 'unknown field "role"', "is no field"),
    Bad("labels beside a typo", _subject("{labels: {a: b}, image: [a]}"), 'unknown field "image"', "did you mean"),
    # What a namespace may not, and the reader may.
    Bad("the host's cgroups", _subject('{cgroups: ["/system.slice/*"]}'), "are the whole cluster's", None, NAMESPACED),
    Bad("the host's interfaces", _subject('{interfaces: ["tap-*"]}'), "are the whole cluster's", None, NAMESPACED),
    Bad("nodes", _subject("{labels: {a: b}, nodes: {role: x}}"), "are the whole cluster's", None, NAMESPACED),
    Bad(
        "another's pods",
        _subject("{pods: {namespace: kube-system, matchLabels: {a: b}}}"),
        "pods of its own namespace",
        None,
        NAMESPACED,
    ),
    Bad("resolvers of its own", "dns: {upstreams: [127.0.0.1]}", "asked by the nodes themselves", None, NAMESPACED),
    Bad("a cgroup without a slash", _subject("{cgroups: [system.slice]}"), "is no cgroup", "is no cgroup", CLUSTER),
    Bad(
        "too many rules",
        "egress: [" + "".join(f"{{name: r{n}, hosts: [a.example]}}," for n in range(129)) + "]",
        "is too long",
        None,
    ),
)


def spec_of(kind: str, text: str = "") -> dict[str, object]:
    """A good specification, with what the text says in place of its own."""
    good = "egress: [{name: r, hosts: [api.example.com]}]"
    if kind == "ClusterEgressPolicy":
        good += "\nsubject: {pods: {namespace: ml}}"
    spec: dict[str, object] = {**yaml.safe_load(good), **(yaml.safe_load(text) if text else {})}
    return spec
