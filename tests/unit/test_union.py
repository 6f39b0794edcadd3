"""Several policies for one workload: what any allows is allowed, and where they restrict, the strictest holds."""

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.compile import compile_policy
from exeat.core.rollout import is_chosen
from exeat.core.union import effective_mode, unite
from exeat.model.policy import (
    DnsSettings,
    Limit,
    Limits,
    Mode,
    OnUndeclared,
    Policy,
    PortRange,
    Protocol,
    Rule,
    Server,
    Subject,
    Then,
    Tunnel,
    TunnelLimits,
    Upstreams,
)
from unit.naive_judge import may
from unit.rule_words import NOON, host
from unit.test_compile_properties import ADDRESSES, GRANTABLE, MOMENTS, NAMES, POLICIES, PORT_EDGES

WORKLOAD = "/agents.slice/coder-1.scope"
LATER = NOON + timedelta(days=7)
GRANTED = {"a.com": GRANTABLE[:2], "x.a.com": GRANTABLE[1:3], "b.com": GRANTABLE[3:]}


def a_rule(name: str, hosts: str = "a.com") -> Rule:
    """A tls rule."""
    return Rule(name, hosts=tuple(map(host, hosts.split())), ports=(PortRange(443, 443),))


def united(*policies: Policy) -> Policy:
    """What becomes of policies, in whatever order they come."""
    results = {unite(some, WORKLOAD) for some in permutations(policies)}
    assert len(results) == 1
    return results.pop().policy


# Rules


@given(
    st.lists(POLICIES, min_size=1, max_size=3),
    st.sampled_from([6, 17, 1]),
    st.sampled_from([*ADDRESSES, *GRANTABLE]),
    st.sampled_from(PORT_EDGES),
    st.sampled_from(NAMES),
    st.booleans(),
    st.sampled_from(MOMENTS),
)
def test_the_union_allows_what_any_policy_allows(policies, protocol, address, port, name, has_ech, now_ns) -> None:  # type: ignore[no-untyped-def]
    """And nothing else, at every moment, also around the ends of rules and policies."""
    policies = [replace(policy, name=f"p{number}") for number, policy in enumerate(policies)]
    asked = (protocol, address, port, name, has_ech, now_ns, GRANTED)
    each = [may(policy, *asked).is_allowed for policy in policies]
    assert may(unite(policies, WORKLOAD).policy, *asked).is_allowed == any(each)


def test_rules_come_in_the_order_of_the_policies_names_with_their_origins() -> None:
    """So that `exeat workloads NAME` says which rule came from where."""
    one = Policy("b", rules=(a_rule("x"), a_rule("y")))
    other = Policy("a", rules=(a_rule("z"),))
    both = unite([one, other], WORKLOAD)
    assert [rule.name for rule in both.policy.rules] == ["z", "x", "y"]
    assert both.origins == ("a", "b", "b")


def test_a_name_that_several_rules_have_gets_its_policys_in_front() -> None:
    """A verdict names one rule; a name with a slash could be what another one becomes."""
    one = Policy("a", rules=(a_rule("api"), a_rule("only-a"), a_rule("b/api")))
    other = Policy("b", rules=(a_rule("api"), a_rule("only-b")))
    names = [rule.name for rule in united(one, other).rules]
    assert names == ["a/api", "only-a", "a/b/api", "b/api", "only-b"]
    assert len(compile_policy(united(one, other)).rule_names) == 5


def test_a_single_policy_keeps_its_names() -> None:
    """Slashes too; only what the agent has decided about it changes."""
    policy = Policy(
        "a", rules=(a_rule("x/y"),), owner="o", reason="r", labels=(("k", "v"),), subject=Subject(("/a",)),
        dns=DnsSettings(types=(16,), min_grant_s=60, max_grants=16), limits=Limits(bytes=Limit(5, 6, Then.QUARANTINE)),
    )  # fmt: skip
    assert united(policy) == policy


def test_a_rule_ends_with_its_policy_and_the_union_with_the_last() -> None:
    """The longer-lived policy does not carry the other one's rules on."""
    short = Policy("short", rules=(a_rule("s"), replace(a_rule("t"), expires=NOON - timedelta(days=1))), expires=NOON)
    long = Policy("long", rules=(a_rule("l"),), expires=LATER)
    both = united(short, long)
    assert {rule.name: rule.expires for rule in both.rules} == {"s": NOON, "t": NOON - timedelta(days=1), "l": LATER}
    assert both.expires == LATER


def test_a_policy_without_an_end_gives_the_union_none() -> None:
    """But the other one's rules keep theirs."""
    both = united(Policy("a", rules=(a_rule("x"),), expires=NOON), Policy("b", rules=(a_rule("y"),)))
    assert both.expires is None
    assert [rule.expires for rule in both.rules] == [NOON, None]


# Modes


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ("enforce", "enforce"),
        ("open monitor", "monitor"),
        ("monitor enforce", "enforce"),
        ("open enforce", "enforce"),
        ("open open", "open"),
        ("open monitor enforce quarantine", "quarantine"),
    ],
)
def test_the_strictest_mode_holds(modes: str, expected: str) -> None:
    """A policy on trial loosens no other."""
    policies = [Policy(f"p{number}", mode=Mode(mode)) for number, mode in enumerate(modes.split())]
    assert united(*policies).mode is Mode(expected)


def test_whom_the_rollout_leaves_out_is_only_monitored() -> None:
    """The twin is a workload that it chooses; and a policy that enforces for all is not loosened by it."""
    some = Policy("some", mode=Mode.ENFORCE, rollout_percent=50)
    workloads = [f"/a/{number}" for number in range(20)]
    modes = {workload: unite([some], workload).policy.mode for workload in workloads}
    assert {workload for workload, mode in modes.items() if mode is Mode.ENFORCE} == {
        workload for workload in workloads if is_chosen(workload, "some", 50)
    }
    assert set(modes.values()) == {Mode.ENFORCE, Mode.MONITOR}
    assert {unite([some, Policy("all")], workload).policy.mode for workload in workloads} == {Mode.ENFORCE}


@pytest.mark.parametrize("mode", [Mode.QUARANTINE, Mode.OPEN, Mode.MONITOR])
def test_a_rollout_is_about_enforcing_only(mode: Mode) -> None:
    """A quarantine that spares nine of ten would surprise."""
    assert effective_mode(Policy("p", mode=mode, rollout_percent=0), WORKLOAD) is mode


# Limits


def test_of_each_limit_the_lowest_rate_holds_with_the_sternest_consequence() -> None:
    """60 a minute are fewer than 3,601 an hour, and more than 3,599."""
    fast, slow = Limit(60, 60, Then.REPORT), Limit(3601, 3600, Then.DENY)
    one = Policy("a", limits=Limits(connections=fast, bytes=Limit(10**9, 3600, Then.QUARANTINE)))
    other = Policy("b", limits=Limits(connections=slow, bytes=Limit(10**6, 60, Then.REPORT)))
    assert united(one, other).limits == Limits(
        connections=Limit(60, 60, Then.DENY), bytes=Limit(10**6, 60, Then.QUARANTINE)
    )
    slower = Policy("b", limits=Limits(connections=Limit(3599, 3600, Then.REPORT)))
    assert united(one, slower).limits.connections == Limit(3599, 3600, Then.REPORT)


def test_of_equal_rates_the_shorter_window_holds() -> None:
    """It lets less pass at once."""
    long, short = Limit(3600, 3600), Limit(60, 60)
    both = united(Policy("a", limits=Limits(destinations=long)), Policy("b", limits=Limits(destinations=short)))
    assert both.limits == Limits(destinations=short)


def test_a_policy_without_limits_lifts_no_others() -> None:
    """And sets none of its own."""
    limited = Policy("a", limits=Limits(bytes=Limit(1000, 1)))
    assert united(limited, Policy("b")).limits == limited.limits
    assert united(Policy("b"), Policy("c")).limits == Limits()


def test_one_policy_that_quarantines_the_undeclared_is_enough() -> None:
    """The twin has none."""
    strict = Policy("a", on_undeclared=OnUndeclared.QUARANTINE)
    assert united(strict, Policy("b")).on_undeclared is OnUndeclared.QUARANTINE
    assert united(Policy("b"), Policy("c")).on_undeclared is OnUndeclared.DENY


# DNS


def test_upstreams_are_the_first_policys_for_each_domain() -> None:
    """Two policies that split different domains do not get in each other's way."""

    def asks(domain: str, address: str) -> Upstreams:
        return Upstreams((Server(ip_address(address)),), domain)

    one = Policy("a", dns=DnsSettings(upstreams=(asks("", "203.0.113.1"), asks("corp.example", "10.0.0.1"))))
    other = Policy("b", dns=DnsSettings(upstreams=(asks("corp.example", "10.0.0.2"), asks("lab.example", "10.0.0.3"))))
    assert united(one, other).dns.upstreams == (
        asks("", "203.0.113.1"),
        asks("corp.example", "10.0.0.1"),
        asks("lab.example", "10.0.0.3"),
    )


def test_grants_and_types_are_as_wide_as_the_widest() -> None:
    """What works under one policy works when another is added."""
    both = united(
        Policy("a", dns=DnsSettings(min_grant_s=60, max_grants=4096, types=(16, 15))),
        Policy("b", dns=DnsSettings(min_grant_s=3600, max_grants=100, types=(15, 33))),
    )
    assert (both.dns.min_grant_s, both.dns.max_grants, both.dns.types) == (3600, 4096, (16, 15, 33))


def test_the_thresholds_belong_to_the_word_that_holds() -> None:
    """A policy that reports at 10 names does not make another one's 500 block at 10."""
    blocks = Policy("a", dns=DnsSettings(tunnel=Tunnel.BLOCK, tunnel_limits=TunnelLimits(500, 50, 4.5)))
    blocks_too = Policy("b", dns=DnsSettings(tunnel=Tunnel.BLOCK, tunnel_limits=TunnelLimits(400, 60, 4.6)))
    reports = Policy("c", dns=DnsSettings(tunnel=Tunnel.REPORT, tunnel_limits=TunnelLimits(10, 10, 2.0)))
    off = Policy("d", dns=DnsSettings(tunnel=Tunnel.OFF, tunnel_limits=TunnelLimits(1, 1, 1.0)))
    dns = united(blocks, blocks_too, reports, off).dns
    assert (dns.tunnel, dns.tunnel_limits) == (Tunnel.BLOCK, TunnelLimits(400, 50, 4.5))
    assert united(off, reports).dns.tunnel_limits == reports.dns.tunnel_limits
    assert united(off).dns == off.dns


# The rest


def test_names_owners_and_reasons_are_joined() -> None:
    """Once each; whoever asks reads all of them."""
    both = united(
        Policy("b", owner="x@example.com", reason="packages", labels=(("team", "b"), ("k", "v"))),
        Policy("a", owner="x@example.com", reason="model", labels=(("team", "a"),)),
        Policy("c"),
    )
    assert (both.name, both.owner, both.reason) == ("a+b+c", "x@example.com", "model + packages")
    assert dict(both.labels) == {"team": "a", "k": "v"}
    assert both.rollout_percent == 100


def test_policies_of_one_name_are_refused() -> None:
    """Nobody could say from which of them a rule came. No policy at all is a mistake of the caller's."""
    with pytest.raises(ValueError, match="several policies are named a: give each its own name"):
        unite([Policy("a"), Policy("a", mode=Mode.OPEN)], WORKLOAD)
    with pytest.raises(ValueError, match="nothing to unite"):
        unite([], WORKLOAD)


def test_a_united_policy_compiles() -> None:
    """Every kind of rule beside every other."""
    networks = (ip_network("10.0.0.0/8"),)
    ports = (PortRange(22, 22),)
    policies = [
        Policy("a", rules=(a_rule("r"), Rule("n", Protocol.TCP, cidrs=networks, ports=ports))),
        Policy("b", rules=(Rule("r", Protocol.ICMP, cidrs=networks), a_rule("h", "*.b.com")), expires=LATER),
    ]
    table_set = compile_policy(united(*policies))
    assert table_set.rule_names == ("a/r", "n", "b/r", "h")
    assert table_set.policy_name == "a+b"
