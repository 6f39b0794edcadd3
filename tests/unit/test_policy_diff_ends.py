"""Expiries in a difference: each moment is judged as the naive judge judges it, and `policy check`'s doubts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings

from exeat.core.cases_clock import stopped_at
from exeat.core.compile import compile_policy
from exeat.core.diff import What, differences
from exeat.core.lint import Lines, lint
from exeat.core.policy_file import read_policy
from exeat.model.policy import Policy
from unit.policy_words import HEAD, RULES_HEAD
from unit.rule_words import NOON
from unit.table_walk import judge_by_tables
from unit.test_compile_properties import GRANTED_ATTEMPTS, MOMENTS, POLICIES, GrantedAttempts

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OWNED = "  owner: a@x\n  reason: because\n  subject: {cgroups: [/a]}\n"


@settings(deadline=None)
@given(POLICIES)
def test_a_later_end_extends_and_an_earlier_one_shortens(policy: Policy) -> None:
    """And nothing opens or closes by it, because all of it is open on either side."""
    ended = replace(policy, expires=None, rules=tuple(replace(rule, expires=None) for rule in policy.rules))
    later = replace(ended, expires=NOON + timedelta(days=2))
    earlier = replace(ended, expires=NOON + timedelta(days=1))
    there, back = differences(earlier, later, NOON), differences(later, earlier, NOON)
    assert {change.what for change in there} <= {What.EXTENDS, What.WORDS}
    assert {change.what for change in back} <= {What.SHORTENS, What.WORDS}
    assert sum(change.is_reach for change in there) == sum(change.is_reach for change in back)
    opened = differences(replace(ended, rules=()), ended, NOON)
    assert sum(change.is_reach for change in there) == sum(change.is_reach for change in opened)


@settings(deadline=None)
@given(GRANTED_ATTEMPTS)
def test_stopped_tables_judge_as_at_that_moment_and_at_every_later_one(attempts: GrantedAttempts) -> None:
    """The rule that is named stays the same, too."""
    (policy, questions), granted = attempts
    table_set = compile_policy(policy)
    for *question, moment in questions:
        expected = judge_by_tables(table_set, *question, moment, granted)
        stopped = stopped_at(table_set, moment)
        assert {judge_by_tables(stopped, *question, later, granted) for later in (*MOMENTS, 2)} == {expected}


def doubts(text: str) -> list[str]:
    """Warnings as `line: sentence`."""
    policy = read_policy(text, "p.yaml").policy
    return [doubt.removeprefix("p.yaml:") for doubt in lint(policy, Lines.of(text), "p.yaml", NOW)]


def test_a_policy_of_nobody_is_doubtful() -> None:
    """Owner, reason and subject; the twin has them."""
    assert [doubt.split("`")[1] for doubt in doubts(HEAD + "  egress: []\n")] == ["owner", "reason", "subject"]
    assert doubts(HEAD + OWNED + "  egress: []\n") == []


def test_what_ended_and_what_ends_soon_is_said_with_its_line() -> None:
    """Thirty days ahead; the policy's own end, too."""
    text = HEAD + OWNED + "  expires: '2026-06-20T00:00:00Z'\n  egress:\n"
    text += "  - {name: old, hosts: [x.test], expires: '2026-05-01T00:00:00Z'}\n"
    text += "  - {name: soon, hosts: [y.test], expires: '2026-06-02T12:00:00Z'}\n"
    assert doubts(text) == [
        "8: the policy expires in 19 days, at 2026-06-20T00:00:00Z: renew `expires` if it is still meant",
        "10: rule `old` expired at 2026-05-01T00:00:00Z: renew `expires`, or remove it",
        "11: rule `soon` expires in 1 day, at 2026-06-02T12:00:00Z: renew `expires` if it is still meant",
    ]


def superfluous(*rules: str, dns: str = "") -> list[str]:
    """The names of rules that another one covers."""
    text = RULES_HEAD.replace("  egress:", OWNED + dns + "  egress:") + "".join(f"  - {rule}\n" for rule in rules)
    return [doubt.split("`")[1] for doubt in doubts(text) if "opens nothing that" in doubt]


def test_a_rule_that_another_covers_is_superfluous() -> None:
    """By name, by network, and by a protocol that includes it; each twin opens something of its own."""
    wild = "{name: wild, hosts: ['*.x.test']}"
    assert superfluous(wild, "{name: one, hosts: [a.x.test]}") == ["one"]
    assert superfluous(wild, "{name: one, hosts: [a.x.test], ports: [443, 444]}") == []
    assert superfluous(wild, "{name: one, hosts: [a.x.test], ech: allow}") == []
    assert superfluous(wild, "{name: one, hosts: [x.test]}") == []
    assert superfluous(wild, "{name: one, hosts: [a.x.test]}", dns="  dns: {types: [TXT]}\n") == []
    assert superfluous(wild, wild.replace("wild,", "again,")) == ["again"]
    short = "{name: short, hosts: ['*.x.test'], expires: '2026-12-01T00:00:00Z'}"
    assert superfluous(short, "{name: one, hosts: [a.x.test]}") == []
    wide = "{name: wide, cidrs: [10.0.0.0/8], protocol: tcp, ports: ['1-1000']}"
    assert superfluous(wide, "{name: one, cidrs: [10.1.0.0/16], protocol: tcp, ports: [22]}") == ["one"]
    assert superfluous(wide, "{name: one, cidrs: [10.1.0.0/16], protocol: udp, ports: [22]}") == []
    assert superfluous(wide, "{name: one, cidrs: [10.1.0.0/16, 11.0.0.0/8], protocol: tcp, ports: [22]}") == []
    assert superfluous(wide, "{name: one, cidrs: [10.1.0.0/16], hosts: [x.test], ports: [443]}") == []  # it resolves


def test_a_network_of_half_the_world_is_doubtful() -> None:
    """One of a large organisation is not."""
    text = RULES_HEAD.replace("  egress:", OWNED + "  egress:")
    wide = "  - {name: w, cidrs: [0.0.0.0/0, '2000::/3', 203.0.113.0/24], protocol: tcp, ports: [22]}\n"
    assert [doubt.split(" opens ")[1].split(",")[0] for doubt in doubts(text + wide)] == ["0.0.0.0/0", "2000::/3"]


def test_a_pattern_that_covers_the_hosts_own_interfaces_is_doubtful() -> None:
    """Those of guests are not."""
    text = HEAD + OWNED.replace("cgroups: [/a]", "interfaces: ['*', 'eth?', 'tap-*', veth0]") + "  egress: []\n"
    assert [doubt.split("`")[1] + doubt.split(" as ")[1].split(":")[0] for doubt in doubts(text)] == ["*lo", "eth?eth0"]
