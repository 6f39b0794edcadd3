"""Policy files: what each text means, and at which line each misreadable field is refused."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from exeat.core.compile import compile_policy
from exeat.core.policy_file import PolicyReading
from exeat.model.policy import (
    DnsSettings,
    Mode,
    Policy,
    PortRange,
    Protocol,
    Rule,
    Server,
    Subject,
    Tunnel,
    TunnelLimits,
    Upstreams,
)
from unit.policy_words import HEAD, RULES_HEAD, problems_of, read, read_rules, the_problem_of
from unit.rule_words import host

_ROOT = Path(__file__).parents[2]


# What a policy means


def test_the_policy_of_the_design_reads_as_it_is_meant() -> None:
    """Every field once."""
    text = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {name: coding-agent, labels: {team: ml-platform}}
spec:
  owner: ml-platform@example.com
  reason: "Coding agent: model API, packages, feature database"
  expires: "2027-03-31T00:00:00Z"      # then: deny
  subject:
    cgroups: ["/agents.slice/coder-*.scope"]
    interfaces: ["tap-*"]
    nodes: {role: sandbox}
    labels: {agent: coder}
  mode: monitor
  rollout: {percent: 10}
  dns:
    upstreams:
    - 203.0.113.53
    - {domain: corp.example, servers: [10.0.0.53, "10.0.0.54:5353"]}
    - "[2001:db8::53]:5353"
    min_grant: 1h
    max_grants: 100
    types: [TXT, TYPE65280]
    tunnel: block
    tunnel_limits: {names_per_minute: 200, label_length: 50, entropy: 4.5}
  egress:
  - name: model-api
    hosts: [api.openai.com, "*.anthropic.com"]
    ports: [443]
    protocol: tls
    ech: allow
    expires: "2026-12-31T01:00:00+01:00"
  - name: feature-db
    cidrs: ["10.0.0.0/8", "2001:db8::1"]
    except: ["10.0.0.0/24"]
    ports: [5432, "8000-8010", 9000-9001]
    protocol: tcp
"""
    assert read(text) == PolicyReading(
        Policy(
            name="coding-agent",
            rules=(
                Rule(
                    name="model-api",
                    protocol=Protocol.TLS,
                    hosts=(host("api.openai.com"), host("*.anthropic.com")),
                    ports=(PortRange(443, 443),),
                    expires=datetime(2026, 12, 31, tzinfo=UTC),
                    allows_ech=True,
                ),
                Rule(
                    name="feature-db",
                    protocol=Protocol.TCP,
                    cidrs=(ip_network("10.0.0.0/8"), ip_network("2001:db8::1/128")),
                    excepts=(ip_network("10.0.0.0/24"),),
                    ports=(PortRange(5432, 5432), PortRange(8000, 8010), PortRange(9000, 9001)),
                ),
            ),
            mode=Mode.MONITOR,
            owner="ml-platform@example.com",
            reason="Coding agent: model API, packages, feature database",
            expires=datetime(2027, 3, 31, tzinfo=UTC),
            labels=(("team", "ml-platform"),),
            subject=Subject(
                ("/agents.slice/coder-*.scope",), ("tap-*",), (("agent", "coder"),), (("role", "sandbox"),)
            ),
            rollout_percent=10,
            dns=DnsSettings(
                upstreams=(
                    Upstreams((Server(ip_address("203.0.113.53")), Server(ip_address("2001:db8::53"), 5353))),
                    Upstreams(
                        (Server(ip_address("10.0.0.53")), Server(ip_address("10.0.0.54"), 5353)), domain="corp.example"
                    ),
                ),
                min_grant_s=3600,
                max_grants=100,
                types=(16, 65280),
                tunnel=Tunnel.BLOCK,
                tunnel_limits=TunnelLimits(names_per_minute=200, label_length=50, entropy=4.5),
            ),
        ),
        warnings=(),
    )


def test_what_is_left_out_has_its_default() -> None:
    """The shortest policy denies everything, everywhere, for ever."""
    assert read(HEAD + "  egress: []\n") == PolicyReading(Policy("test"), ())


def test_a_tls_rule_is_for_port_443_and_denies_ech() -> None:
    """Unless it says otherwise."""
    (rule,) = read_rules("  - {name: a, hosts: [a.com]}")
    assert (rule.protocol, rule.ports, rule.allows_ech) == (Protocol.TLS, (PortRange(443, 443),), False)


def test_an_icmp_rule_has_no_ports() -> None:
    """It would be the only kind of rule with an empty tuple."""
    assert read_rules("  - {name: a, cidrs: [10.0.0.0/8], protocol: icmp}")[0].ports == ()


def test_an_alias_repeats_what_its_anchor_names() -> None:
    """YAML's own way to say a list once."""
    first, second = read_rules("  - {name: a, hosts: &h [a.com, b.com]}\n  - {name: b, hosts: *h, ports: [8443]}")
    assert first.hosts == second.hosts == (host("a.com"), host("b.com"))


def test_a_repeated_host_or_network_counts_once() -> None:
    """Lists grow by pasting; a repetition changes nothing."""
    (rule,) = read_rules("  - {name: a, hosts: [a.com, A.com.], cidrs: [10.0.0.1, 10.0.0.1/32]}")
    assert (rule.hosts, rule.cidrs) == ((host("a.com"),), (ip_network("10.0.0.1/32"),))


def test_a_past_expiry_is_no_error() -> None:
    """A policy that has ended denies; the reader has no clock."""
    text = HEAD + "  expires: 2001-01-01T00:00:00Z\n  egress: []\n"
    assert read(text).policy.expires == datetime(2001, 1, 1, tzinfo=UTC)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing() -> None:
    """Editors add them."""
    text = RULES_HEAD + "  - {name: a, hosts: [a.com]}\n"
    assert read("\ufeff" + text.replace("\n", "\r\n")) == read(text)


def test_the_example_policy_reads_cleanly() -> None:
    """It is the first file that a user copies; and the kernel's tables can hold it."""
    reading = read((_ROOT / "packaging" / "example-policy.yaml").read_text(encoding="utf-8"))
    assert reading.warnings == ()
    assert {rule.protocol for rule in reading.policy.rules} == set(Protocol)
    assert any(rule.hosts and not rule.cidrs for rule in reading.policy.rules)
    assert reading.policy.dns != DnsSettings()
    assert len(compile_policy(reading.policy).rule_names) == len(reading.policy.rules)


def test_a_wide_wildcard_is_a_warning_with_its_line() -> None:
    """It is allowed, but seldom meant."""
    reading = read(RULES_HEAD + '  - name: a\n    hosts:\n    - a.com\n    - "**.b.com"\n')
    assert len(reading.warnings) == 1
    assert reading.warnings[0].startswith("p.yaml:9: `**.b.com` is wide")


# The document


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["kind: EgressPolicy", "metadata: {name: a}", "spec: {egress: []}"], "1: the policy has no `apiVersion`"),
        (["apiVersion: v1", "kind: EgressPolicy", "metadata: {name: a}", "spec: {egress: []}"], "1: `apiVersion` is"),
        (["apiVersion: exeat.dev/v1", "kind: Pod", "metadata: {name: a}", "spec: {egress: []}"], "2: `kind` is `Pod`"),
        (["apiVersion: exeat.dev/v1", "kind: EgressPolicy", "spec: {egress: []}"], "1: the policy has no `metadata`"),
        (["apiVersion: exeat.dev/v1", "kind: EgressPolicy", "metadata: {name: a}"], "1: the policy has no `spec`"),
        (
            ["apiVersion: exeat.dev/v1", "kind: EgressPolicy", "metadata: {name: a}", "spec:"],
            "4: `spec` is empty",
        ),
        (
            ["apiVersion: exeat.dev/v1", "kind: EgressPolicy", "metadata: {labels: {}}", "spec: {egress: []}"],
            "3: `metadata` has no `name`",
        ),
        (
            ["apiVersion: exeat.dev/v1", "kind: EgressPolicy", "metadata: {name: A_b}", "spec: {egress: []}"],
            "3: the policy's `name` is `A_b`: write at most 63 small letters",
        ),
        (
            ["apiVersion: exeat.dev/v1", "kind: EgressPolicy", "metadata: {name: a}", "specs: {egress: []}"],
            "4: `specs` is no field of the policy; did you mean `spec`?",
        ),
        (
            ["apiVersion: exeat.dev/v1", "kind: EgressPolicy", "metadata: [name, a]", "spec: {egress: []}"],
            "3: `metadata` is a list: write fields",
        ),
        (
            ["apiVersion: exeat.dev/v1", "kind: EgressPolicy", "metadata: {name: no}", "spec: {egress: []}"],
            "3: the policy's `name` is a YAML boolean (`no`)",
        ),
    ],
)
def test_a_document_says_what_it_is(lines: list[str], expected: str) -> None:
    """Version, kind, name and rules are required; a misspelt field is one problem and not two."""
    assert the_problem_of("\n".join(lines)).startswith(expected)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("owner: 12", "`owner` is a number (`12`): if you mean text, write it in quotes"),
        ("owner: [a]", "`owner` is a list: write text"),
        ("owner:", "`owner` is empty"),
        ("owner: ''", "`owner` is empty"),
        ("owner: ' a'", "`owner` begins or ends with blanks"),
        ('owner: "a\\eb"', "`owner` has characters that cannot be seen (`a\\x1bb`)"),
        ("reason: yes", "`reason` is a YAML boolean (`yes`)"),
        ("reason: " + "x" * 1025, "`reason` has 1025 characters"),
        ("mode: enforced", "`mode` is `enforced`; did you mean `enforce`?"),
        ("mode: on", "`mode` is `on`; "),
        ("mode: [enforce]", "`mode` is a list: write one of enforce, monitor, open, quarantine"),
        ("expires: 2027-03-31", "`2027-03-31` has no time of day: write `2027-03-31T00:00:00Z`"),
        ("expires: 2027-03-31T00:00:00", "`2027-03-31T00:00:00` has no time zone: write `2027-03-31T00:00:00Z`"),
        ("expires: 2027-02-30T00:00:00Z", "`2027-02-30T00:00:00Z` is no time"),
        ("expires: 2027-03-31T00:00:60Z", "`2027-03-31T00:00:60Z` is no time"),
        ("expires: 0001-01-01T00:00:00+01:00", "`0001-01-01T00:00:00+01:00` is no time"),
        ("expires: tomorrow", "`tomorrow` is no time"),
        ("expires: 1798675200", "`1798675200` is no time"),
        ("expires: null", "`expires` is empty"),
        ("rollout: 10", "`rollout` is `10`: write fields"),
        ("rollout: {}", "`rollout` has no `percent`"),
        ("rollout: {percent: 101}", "`percent` is `101`: write a number from 0 to 100"),
        ("rollout: {percent: 10%}", "`percent` is `10%`: write a number from 0 to 100 in decimal digits"),
        ("rollout: {percent: 010}", "`percent` is `010`: write a number from 0 to 100 in decimal digits"),
        ("rollout: {percent: 0x10}", "`percent` is `0x10`: write a number"),
        ("rollout: {percent: true}", "`percent` is `true`: write a number"),
        ("rollout: {percent: '10'}", "`percent` is text: write 10 without quotes"),
        ("rollout: {percent: " + "9" * 5000 + "}", "`percent` is `999"),
        ("subject: {}", "`subject` could mean nobody or everybody"),
        ("subject: {cgroup: [/a]}", "`cgroup` is no field of `subject`; did you mean `cgroups`?"),
        ("subject: {cgroups: []}", "`cgroups` is an empty list"),
        ("subject: {cgroups: /a}", "`cgroups` is `/a`: write a list"),
        ("subject: {cgroups: [a.slice]}", "`a.slice` is no cgroup: write its path"),
        ("subject: {cgroups: [/a/../b]}", "`/a/../b` is no cgroup"),
        ("subject: {interfaces: [tap/0]}", "`tap/0` is no interface"),
        ("subject: {interfaces: [interface-of-sixteen]}", "`interface-of-sixteen` is no interface"),
        ("subject: {labels: [a]}", "`labels` is no mapping"),
        ("subject: {cgroups: [/a], nodes: [a]}", "`nodes` is no mapping: write `nodes: {label: value}`"),
        ("subject: {nodes: {role: sandbox}}", "`subject` could mean nobody or everybody of these nodes"),
        ("subject: {labels: {country: no}}", "the label `country` is a YAML boolean (`no`)"),
        ("subject: {labels: {no: country}}", "a label's name is a YAML boolean (`no`)"),
        ("subject: {labels: {version: 1.10}}", "the label `version` is a number (`1.10`)"),
        ("via: proxy", "`via` is no field of `spec`; there are: owner, reason"),
        ("egres: []", "`egres` is no field of `spec`; did you mean `egress`?"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_at_its_line(line: str, problem: str) -> None:
    """What YAML 1.1 and 1.2 read differently is refused rather than guessed."""
    assert the_problem_of(HEAD + f"  egress: []\n  {line}\n").startswith(f"6: {problem}")


def test_a_policy_without_rules_says_so_itself() -> None:
    """A forgotten list would deny everything; `[]` says that it is meant."""
    assert the_problem_of(HEAD + "  mode: enforce\n").startswith("5: `spec` has no `egress`: write a list of rules, or")
    assert the_problem_of(HEAD + "  egress:\n").startswith("5: `egress` is empty")


def test_all_problems_come_at_once_in_the_order_of_lines() -> None:
    """Nobody likes to be told the next one each time."""
    text = """\
apiVersion: exeat.dev/v2
kind: EgressPolicy
metadata:
  nme: a
spec:
  egress:
  - name: a
    hosts: [no, a.com]
    port: [443]
  - name: a
    protocol: tcp
    cidrs:
    - 10.0.0.1/8
    - 10.0.0.0/8
  mode: of
"""
    begins = [
        "1: `apiVersion` is `exeat.dev/v2`",
        "4: `nme` is no field of `metadata`; did you mean `name`?",
        "8: a host is a YAML boolean (`no`)",
        "9: `port` is no field of an egress rule; did you mean `ports`?",
        "10: a rule in line 7 is named `a` too",
        "10: a tcp rule has no `ports`",
        "13: `10.0.0.1/8` has bits set",
        "15: `mode` is `of`; ",
    ]
    found = problems_of(text)
    assert len(found) == len(begins)
    assert [problem[: len(begin)] for problem, begin in zip(sorted(found), sorted(begins), strict=True)] == sorted(
        begins
    )
    assert [int(problem.partition(":")[0]) for problem in found] == [1, 4, 8, 9, 10, 10, 13, 15]
