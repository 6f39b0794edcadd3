"""Cases of a policy test are read as strictly as policies are; and policies are written so that they read back."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.cases import Attempt, Case, Ruling, parse_target, read_cases
from exeat.core.policy_file import read_policy
from exeat.core.policy_text import policy_document, policy_head, policy_rows
from exeat.errors import PolicyError
from exeat.model.networks import Address
from exeat.model.policy import (
    Limit,
    Limits,
    Mode,
    OnUndeclared,
    Policy,
    Protocol,
    Server,
    Subject,
    Then,
    Tunnel,
    TunnelLimits,
    Upstreams,
)
from exeat.model.verdicts import Reason
from unit.policy_words import read
from unit.rule_words import NOON, rule

HEAD = "apiVersion: exeat.dev/v1\nkind: PolicyTest\npolicy: p.yaml\ncases:\n"  # cases begin in line 5


def cases(text: str) -> tuple[Case, ...]:
    """The cases of a text whose fifth line is this one's first."""
    return read_cases(HEAD + text, "c.yaml").cases


def problems(text: str, head: str = HEAD) -> list[str]:
    """What is wrong with it, each `line: sentence`."""
    with pytest.raises(PolicyError) as refusal:
        read_cases(head + text, "c.yaml")
    return [problem.removeprefix("c.yaml:") for problem in refusal.value.problems]


@pytest.mark.parametrize(
    ("text", "protocol", "port", "name", "address"),
    [
        ("api.x.test", Protocol.TLS, 443, "api.x.test", None),
        ("API.x.test:8443", Protocol.TLS, 8443, "api.x.test", None),
        ("db.x.test:5432/tcp", Protocol.TCP, 5432, "db.x.test", None),
        ("10.1.2.3:22", Protocol.TCP, 22, None, "10.1.2.3"),
        ("10.1.2.3:53/udp", Protocol.UDP, 53, None, "10.1.2.3"),
        ("10.1.2.3/icmp", Protocol.ICMP, 0, None, "10.1.2.3"),
        ("[2001:db8::7]:22/tcp", Protocol.TCP, 22, None, "2001:db8::7"),
        ("2001:db8::7/icmp", Protocol.ICMP, 0, None, "2001:db8::7"),
    ],
)
def test_a_destination_is_read(text: str, protocol: Protocol, port: int, name: str | None, address: str | None) -> None:
    """As on the command line; what is shown of it is read back."""
    where: Address | None = ip_address(address) if address else None
    attempt = parse_target(text)
    assert attempt == Attempt(protocol, port, name, where)
    assert parse_target(str(attempt)) == attempt


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("10.1.2.3", "has no port"),
        ("x.test/tcp", "has no port"),
        ("x.test:80-90/tcp", "is a range"),
        ("x.test:0/tcp", "is no port"),
        ("*.x.test", "is a pattern"),
        ("x.test:1/sctp", "is no protocol"),
        ("x.test/icmp", "icmp carries no names"),
        ("10.1.2.3:22/icmp", "has a port, and icmp has none"),
        ("10.1.2.3:443/tls", "a hello names a host"),
        ("2001:db8::7:22", "may end in a port"),
        ("1.2.3:22/tcp", "is no address"),
        (":22/tcp", "names nobody"),
        ("a/b/c", "is no destination"),
    ],
)
def test_what_is_no_destination_says_why(text: str, sentence: str) -> None:
    """And what to write."""
    with pytest.raises(ValueError, match=sentence):
        parse_target(text)


def test_a_case_has_its_line_and_all_that_it_says() -> None:
    """A name with an address, a reason, a rule, a moment."""
    text = "- expect: x.test:443 deny\n  address: 203.0.113.7\n  reason: rule_expired\n  rule: a b\n"
    assert cases("- expect: y.test allow\n" + text + "  at: '2027-01-01T00:00:00Z'\n") == (
        Case(5, Attempt(Protocol.TLS, 443, "y.test", None), is_allowed=True),
        Case(
            6,
            Attempt(Protocol.TLS, 443, "x.test", ip_address("203.0.113.7")),
            is_allowed=False,
            reason=Reason.RULE_EXPIRED,
            rule="a b",
            at=datetime(2027, 1, 1, tzinfo=UTC),
        ),
    )


def test_every_problem_is_told_with_its_line() -> None:
    """All at once."""
    text = "- expect: x.test permit\n- expcet: x.test allow\n- expect: x.test deny\n  reason: because\n  at: tomorrow\n"
    text += "- expect: 10.0.0.1:1/tcp deny\n  address: 10.0.0.1\n- x.test allow\n"
    beginnings = (
        "5: `x.test permit` is no expectation: write a destination and `allow` or `deny`",
        "6: `expcet` is no field of a case; did you mean `expect`?",
        "8: `because` is no reason: write a word of docs/reasons.md",
        "9: `tomorrow` is no time",
        "11: `address` says where a name leads: `expect` has none",
        "12: a case is no mapping",
    )
    found = problems(text)
    assert len(found) == len(beginnings), found
    for problem, beginning in zip(found, beginnings, strict=True):
        assert problem.startswith(beginning)


def test_another_document_is_told_from_cases() -> None:
    """A policy is the likely mistake."""
    assert problems("spec: {}\n", "kind: EgressPolicy\n") == [
        "1: this is a policy and no policy test: give the cases with --cases FILE"
    ]
    assert problems("[]", "")[0].startswith("1: this is no policy test")
    assert (
        "`kind` is `EgressPolicy`: write `kind: PolicyTest`"
        in problems("", HEAD.replace("PolicyTest", "EgressPolicy"))[0]
    )
    assert "`cases` is an empty list" in problems("  []\n")[0]


def test_what_is_not_as_expected_is_said() -> None:
    """Outcome, reason and rule, each only where the case speaks of it."""
    case = Case(1, parse_target("x.test"), is_allowed=True)
    allowed = Ruling(True, Reason.NAME_ALLOWED, "a")
    assert case.why_failed(allowed) is None
    assert case.why_failed(Ruling(False, Reason.NAME_NOT_ALLOWED, None)) == "expected allow, got deny"
    assert replace(case, rule="a", reason=Reason.NAME_ALLOWED).why_failed(allowed) is None
    assert replace(case, rule="b").why_failed(allowed) == "expected rule b, got a"
    assert replace(case, reason=Reason.GRANTED).why_failed(allowed) == "expected the reason granted, got name_allowed"


TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
SERVERS = st.sampled_from([Server(ip_address("203.0.113.53")), Server(ip_address("2001:db8::53"), 5353)]).map(
    lambda server: (server,)
)
RULES = st.sampled_from(
    [
        rule("", hosts="x.test *.y.test **.z.test"),
        rule("", "22 8000-8010", Protocol.TCP, hosts="db.x.test"),
        rule("10.0.0.0/8 2001:db8::/32", "5432", excepts="10.0.0.0/24"),
        rule("203.0.113.0/24", "443", hosts="a.x.test", allows_ech=True),
        rule("203.0.113.0/24", protocol=Protocol.ICMP),
        rule("", "53-60", Protocol.UDP, hosts="u.x.test", expires=NOON),
    ]
)
MAXIMA, SPANS = st.sampled_from([1, 50, 1000, 1024, 5000, 65536]), st.sampled_from([1, 90, 3600])
LIMITS = st.one_of(st.none(), st.builds(Limit, MAXIMA, SPANS, st.sampled_from(Then)))
WORDS = st.sampled_from(["", "ml@example.com", "Grüße: 'quoted' \"too\", 🦭 #1", "no", "1.5", "- x", "null", "a: b"])


@st.composite
def _documents(draw: st.DrawFn) -> Policy:
    labels = tuple(draw(st.dictionaries(st.sampled_from(["a", "team", "yes"]), WORDS.filter(bool))).items())
    rules = draw(st.lists(RULES, unique=True))
    base = read("apiVersion: exeat.dev/v1\nkind: EgressPolicy\nmetadata: {name: a}\nspec: {egress: []}\n").policy
    return replace(
        base,
        rules=tuple(replace(one, name=f"{at} {one.name}".strip()) for at, one in enumerate(rules)),
        mode=draw(st.sampled_from(Mode)),
        owner=draw(WORDS),
        reason=draw(WORDS),
        expires=draw(st.one_of(st.none(), TIMES)),
        labels=labels,
        subject=draw(st.sampled_from([Subject(), Subject(("/a", "/b-*"), ("tap-*",), (("c", "d"),))])),
        limits=draw(st.builds(Limits, LIMITS, LIMITS, LIMITS)),
        on_undeclared=draw(st.sampled_from(OnUndeclared)),
        rollout_percent=draw(st.sampled_from([0, 10, 100])),
        dns=replace(
            base.dns,
            upstreams=draw(
                st.one_of(
                    st.just(()),
                    st.tuples(SERVERS.map(Upstreams), SERVERS.map(lambda servers: Upstreams(servers, "corp.test"))),
                )
            ),
            types=draw(st.sampled_from([(), (16, 15, 999)])),
            tunnel=draw(st.sampled_from(Tunnel)),
            min_grant_s=draw(st.sampled_from([600, 31])),
            max_grants=draw(st.sampled_from([4096, 16])),
            tunnel_limits=draw(st.sampled_from([TunnelLimits(), TunnelLimits(1, 2, 3.5)])),
        ),
    )


@given(_documents())
def test_a_policy_written_as_json_is_read_back_as_the_same_policy(policy: Policy) -> None:
    """Every field, with every text; a rule cannot outlive its policy, so such are not drawn."""
    rules = tuple(
        replace(one, expires=min(one.expires, policy.expires or one.expires) if one.expires else None)
        for one in policy.rules
    )
    policy = replace(policy, rules=rules)
    text = json.dumps(policy_document(policy), indent=2, ensure_ascii=False)
    assert read_policy(text, "p.json").policy == policy


@pytest.mark.parametrize("size", ["1500", "999999999", "500M", "3Gi", "1234567Ki", "999999999G"])
def test_sizes_are_written_as_they_can_be_read(size: str) -> None:
    """At most nine digits, and a unit."""
    text = "apiVersion: exeat.dev/v1\nkind: EgressPolicy\nmetadata: {name: a}\nspec:\n  egress: []\n"
    text += f"  limits: {{bytes: {{max: {size}, per: 1h}}}}\n"
    policy = read(text).policy
    assert read(json.dumps(policy_document(policy))).policy == policy


@given(_documents())
def test_what_is_shown_names_everything(policy: Policy) -> None:
    """Each rule, host and network; who answers, or that nobody does."""
    shown = json.dumps([policy_head(policy, NOON), policy_rows(policy, NOON)], ensure_ascii=False)
    for one in policy.rules:
        assert all(f'"{word}"' in shown or f" {word}" in shown for word in (*one.hosts, *one.cidrs, *one.excepts))
        assert json.dumps(one.name, ensure_ascii=False) in shown
    assert json.dumps(policy.owner or "nobody", ensure_ascii=False) in shown
