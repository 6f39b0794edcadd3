"""A change of policy in words: what people read before they agree to it."""

from datetime import UTC, datetime

import pytest

from exeat.core.diff import What, differences
from exeat.model.policy import Policy
from unit.policy_words import HEAD, RULES_HEAD, read
from unit.rule_words import rule

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def policy(text: str) -> Policy:
    """A policy of these rules, or of this whole `spec` if it begins with one of its fields."""
    return read((RULES_HEAD + "  " if text.startswith("- ") else HEAD) + text).policy


def told(old: str, new: str) -> list[str]:
    """Every sentence."""
    return [change.sentence for change in differences(policy(old), policy(new), NOW)]


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        ("- {name: a, hosts: [x.test]}", "- {name: b, hosts: [x.test]}", []),
        (
            "- {name: a, hosts: [x.test, y.test]}\n  - {name: b, hosts: [z.test]}",
            "- {name: b, hosts: [z.test, y.test]}\n  - {name: a, hosts: [x.test]}",
            [],
        ),
        (
            "- {name: a, hosts: [x.test]}",
            "- {name: a, hosts: [x.test]}\n  - {name: b, hosts: [y.test], ports: [443, 8443]}",
            ["opens y.test:443,8443 (tls) by rule b"],
        ),
        (
            "- {name: a, hosts: [x.test, '*.x.test', api.x.test]}",
            "- {name: a, hosts: [x.test, '*.x.test']}",
            ["keeps api.x.test: still allowed by *.x.test"],
        ),
        (
            "- {name: a, hosts: ['**.x.test']}",
            "- {name: a, hosts: ['*.x.test']}",
            ["closes **.x.test:443 (tls) by rule a, except *.x.test, which stays open"],
        ),
        (
            "- {name: a, hosts: [x.test], protocol: tcp, ports: [22]}",
            "- {name: a, hosts: [x.test], ports: [22]}",
            ["closes x.test:22/tcp by rule a, except tls, which stays open"],
        ),
        (
            "- {name: a, hosts: [x.test]}",
            "- {name: a, hosts: [x.test], ech: allow}",
            ["opens x.test:443 (tls that hides its name, ech) by rule a"],
        ),
        (
            "- {name: a, cidrs: [10.0.0.0/8], protocol: tcp, ports: [5432]}",
            "- {name: a, cidrs: [10.0.0.0/9], protocol: tcp, ports: [5432]}",
            ["closes 10.128.0.0/9:5432/tcp by rule a"],
        ),
        (
            "- {name: a, cidrs: [10.0.0.0/8], except: [10.0.0.0/24], protocol: tcp, ports: [5432]}",
            "- {name: a, cidrs: [10.0.0.0/8], protocol: udp, ports: ['5432-5434']}",
            [
                "opens 10.0.0.0/8:5432-5434/udp by rule a",
                "closes 10.0.0.0/8 (except 10.0.0.0/24):5432/tcp by rule a",
            ],
        ),
        (
            "- {name: a, cidrs: [0.0.0.0/0], protocol: tcp, ports: ['1-65535']}",
            "- {name: a, cidrs: ['2001:db8::/32'], protocol: icmp}",
            ["opens 2001:db8::/32 (icmp) by rule a", "closes 0.0.0.0/0:1-65535/tcp by rule a"],
        ),
        (
            "- {name: a, cidrs: ['2001:db8::/32'], hosts: [x.test]}",
            "- {name: a, cidrs: ['2001:db8::/32'], hosts: [x.test, y.test]}",
            [
                "opens resolving y.test by rule a",
                "opens y.test at [2001:db8::/32]:443 (tls) by rule a",
            ],
        ),
        (
            "- {name: a, hosts: [x.test], expires: '2026-07-01T00:00:00Z'}",
            "- {name: a, hosts: [x.test], expires: '2026-08-01T00:00:00Z'}",
            ["extends x.test:443 (tls) by rule a: until 2026-08-01T00:00:00Z, was until 2026-07-01T00:00:00Z"],
        ),
        (
            "- {name: a, hosts: [x.test]}",
            "- {name: a, hosts: [x.test], expires: '2026-08-01T00:00:00Z'}",
            ["shortens x.test:443 (tls) by rule a: until 2026-08-01T00:00:00Z, was without end"],
        ),
        (
            "- {name: a, hosts: [x.test], expires: '2026-05-01T00:00:00Z'}",
            "- {name: a, hosts: [x.test], expires: '2026-08-01T00:00:00Z'}",
            ["opens x.test:443 (tls) by rule a, until 2026-08-01T00:00:00Z"],
        ),
    ],
)
def test_rules_are_compared_by_what_they_allow(old: str, new: str, sentences: list[str]) -> None:
    """Not by where they stand and what they are called."""
    assert told(old, new) == sentences


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("mode: enforce", "mode: monitor", "now monitors instead of enforcing: nothing is denied any more"),
        ("mode: monitor", "mode: enforce", "now enforces: what no rule names is denied"),
        ("mode: quarantine", "mode: monitor", "leaves quarantine and now monitors: nothing is denied any more"),
        ("mode: monitor", "mode: open", "now is in mode open instead of monitor: nothing is denied in either"),
        ("subject: {cgroups: [/a, /b]}", "subject: {cgroups: [/a]}", "is for cgroups /b no longer"),
        ("subject: {labels: {a: b}}", "subject: {labels: {a: c}}", "is for labels a=c from now on"),
        ("mode: enforce", "rollout: {percent: 10}", "rolls out to 10 % of its workloads, was 100 %"),
        ("dns: {types: [TXT]}", "dns: {types: [MX]}", "opens questions of type MX"),
        (
            "dns: {upstreams: [203.0.113.53]}",
            "mode: enforce",
            "asks the host's own resolvers about every name, was 203",
        ),
        ("dns: {min_grant: 1h}", "dns: {min_grant: 2h}", "sets dns.min_grant_s to 7200, was 3600"),
        (
            "limits: {bytes: {max: 500M, per: 1h}}",
            "limits: {bytes: {max: 1Gi, per: 60, then: report}}",
            "limits the bytes of a workload: 1Gi in 1m, then report, was 500M in 1h, then deny",
        ),
        ("mode: enforce", "onUndeclared: quarantine", "sets onUndeclared to quarantine, was deny"),
        ("dns: {tunnel: block}", "dns: {tunnel: off}", "sets dns.tunnel to off, was block"),
    ],
)
def test_settings_that_a_workload_feels_are_told(old: str, new: str, sentence: str) -> None:
    """With what they mean."""
    found = differences(*(policy(f"  {text}\n  egress: []") for text in (old, new)), NOW)
    assert any(change.sentence.startswith(sentence) for change in found), found
    assert all(change.is_reach for change in found)


def test_what_only_people_read_is_told_and_felt_by_nobody() -> None:
    """A new owner opens nothing."""
    (change,) = differences(*(policy(f"  owner: {owner}\n  egress: []") for owner in ("a@x", "b@x")), NOW)
    assert change.sentence == "the policy's owner is b@x, was a@x"
    assert (change.what, change.is_reach) == (What.WORDS, False)


def test_no_field_of_a_policy_is_passed_over() -> None:
    """Whatever is added to policies later is compared too."""
    changed = policy(
        "  owner: x\n  reason: because\n  expires: '2027-01-01T00:00:00Z'\n  subject: {cgroups: [/a]}\n  mode: open\n"
        "  rollout: {percent: 1}\n  dns: {max_grants: 99}\n  onUndeclared: quarantine\n"
        "  limits: {connections: {max: 9, per: 1m}}\n  egress: [{name: a, hosts: [x.test]}]"
    )
    sentences = [change.sentence for change in differences(policy("  egress: []"), changed, NOW)]
    assert len(sentences) == 10, sentences


def test_ten_thousand_hosts_are_compared_in_seconds() -> None:
    """One host more among ten thousand is one sentence."""
    hosts = ", ".join(f"h{number}.x{number % 100}.test" for number in range(10_000))
    old, new = (f"- {{name: a, hosts: [{hosts}{more}]}}" for more in ("", ", one.more.test"))
    assert told(old, new) == ["opens one.more.test:443 (tls) by rule a"]


def test_no_wildcard_opens_a_resolver_over_https() -> None:
    """So naming one exactly opens it, beside the wildcard that does not; its twin is a name like any other."""
    wild = Policy("a", (rule("", hosts="**.google"),))
    for name, opened in (("dns.google", ["opens dns.google:443 (tls) by rule  443 dns.google"]), ("www.google", [])):
        named = Policy("a", (*wild.rules, rule("", hosts=name)))
        assert [change.sentence for change in differences(wild, named, NOW)] == opened
        assert [change.sentence for change in differences(wild, Policy("a", named.rules[1:]), NOW)][0].startswith(
            opened[0] if opened else "closes **.google:443 (tls) by rule  443 **.google, except www.google"
        )
