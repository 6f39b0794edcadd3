"""What the gate asks of a compiled policy: a name's slot, and whether an address may come out of an answer."""

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeat.core.compile import compile_policy
from exeat.core.resolvable import Found, Resolvable
from exeat.model.networks import SPECIAL_NETWORKS, mapped
from exeat.model.policy import Policy, Protocol
from exeat.model.tables import NEVER, HostSlot
from unit.naive_judge import covers_address, covers_name, is_doh, resolving_rules, wide, wide_address
from unit.rule_words import NOON, NOON_NS, rule, tables
from unit.table_walk import slot_of
from unit.test_compile_properties import ADDRESSES, NAMES, POLICIES


def found(hosts: str, name: str) -> Found | None:
    """What a policy of one rule says of a name."""
    return Resolvable(tables(rule("", hosts=hosts))).find(name)


# Names


def test_an_exact_name_is_found_with_its_slot() -> None:
    """The very slot of the kernel's table, with its end for the gate to look at."""
    table_set = tables(rule("", hosts="a.com", expires=NOON))
    answer = Resolvable(table_set).find("a.com")
    assert answer == Found(slot_of(table_set, 0, "a.com"), is_exact=True, is_doh=False)
    assert (answer.slot.until, answer.slot.rule) == (NOON_NS, 1)
    assert answer.slot.ports_id


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("a.com", ["a.com"]),
        ("*.a.com", ["x.a.com"]),
        ("**.a.com", ["x.a.com", "y.x.a.com", "z.y.x.a.com"]),
        ("**.a.com *.x.a.com", ["x.a.com", "y.x.a.com", "z.y.x.a.com"]),
    ],
)
def test_a_wildcard_finds_its_names_and_no_others(pattern: str, covered: list[str]) -> None:
    """None is named exactly by it."""
    names = ["a.com", "x.a.com", "y.x.a.com", "z.y.x.a.com", "xa.com", "com", "a.com.evil"]
    assert [name for name in names if found(pattern, name)] == covered
    assert all(answer.is_exact == (pattern == "a.com") for name in covered if (answer := found(pattern, name)))


def test_only_the_longest_key_counts() -> None:
    """As in the kernel's trie: `*.x.a.com` has nothing for two labels, and no `*.a.com` above it is asked."""
    assert found("*.a.com *.x.a.com", "z.y.x.a.com") is None
    assert found("*.a.com *.x.a.com", "y.x.a.com")


@pytest.mark.parametrize(
    "name",
    [
        *("_sip._tcp.a.com", "x_y.a.com", r"x\.y.a.com", r"\000.a.com", "x y.a.com", "*.a.com", "X.a.com", "é.a.com"),
        *(".a.com", "x..a.com", "x.a.com.", "x.a.com\n", "", ".", "x" * 250 + ".a.com"),
    ],
)
def test_what_no_host_is_called_is_never_found(name: str) -> None:
    """Whatever a question may hold: certificates and ClientHellos have no such names, so a rule means none."""
    assert found("**.a.com", name) is None
    assert found("**.a.com", "x.a.com")


def test_the_longest_name_that_the_tables_hold_is_found() -> None:
    """251 bytes, and not one more."""
    longest = ".".join(["x" * 49] * 4) + "." + "y" * 45 + ".a.com"
    assert len(longest) == 251
    assert found("**.a.com", longest)
    assert found("**.a.com", "y" + longest) is None


def test_a_doh_host_under_a_wildcard_is_found_as_such() -> None:
    """With nothing in its slot: the gate says why, and grants nothing."""
    closed = Found(HostSlot(), is_exact=False, is_doh=True)
    assert [found("**.nextdns.io", name) for name in ("dns.nextdns.io", "me.dns.nextdns.io")] == [closed, closed]
    named = found("**.nextdns.io me.dns.nextdns.io", "me.dns.nextdns.io")
    assert named is not None
    assert (named.is_exact, named.is_doh, named.slot.until) == (True, False, NEVER)
    assert found("*.a.com", "dns.google") is None


def test_a_rule_that_ended_before_1970_is_no_rule() -> None:
    """0 is how the tables write none."""
    past = datetime(1969, 12, 31, tzinfo=UTC)
    resolvable = Resolvable(tables(rule("", hosts="a.com *.a.com", expires=past)))
    assert [resolvable.find(name) for name in ("a.com", "x.a.com")] == [None, None]


def test_names_of_networks_alone_are_resolvable_only_by_a_rule_with_hosts() -> None:
    """A set of names that belongs to a network is not what the gate is asked about."""
    assert Resolvable(tables(rule("1.0.0.0/8"))).find("a.com") is None
    answer = Resolvable(tables(rule("1.0.0.0/8", hosts="a.com"))).find("a.com")
    assert answer is not None
    assert answer.slot.ports_id == 0


@settings(max_examples=300, deadline=None)
@given(POLICIES, st.lists(st.sampled_from([name for name in NAMES if name]), min_size=1, max_size=10))
def test_the_gate_finds_what_the_rules_cover(policy: Policy, names: list[str]) -> None:
    """The same as reading rule after rule, also for resolvers over HTTPS under wildcards."""
    resolvable = Resolvable(compile_policy(policy))
    for name in names:
        answer, numbers = resolvable.find(name), resolving_rules(policy, name)
        hosts = [host for rule in policy.rules for host in rule.hosts if host.matches(name)]
        if numbers:
            assert answer is not None
            assert (answer.slot.rule in numbers, answer.is_doh) == (True, False)
            assert answer.is_exact == (name in map(str, hosts))
            is_gated = any(covers_name(rule, name) for rule in policy.rules if not rule.cidrs)
            assert bool(answer.slot.ports_id) == is_gated
        elif hosts or answer:
            assert is_doh(name)
            assert answer == Found(HostSlot(), is_exact=False, is_doh=True)


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "172.31.255.255", "100.64.0.1", "0.0.0.0"),
        *("168.63.129.16", "224.0.0.1", "255.255.255.255", "198.18.0.1", "::ffff:10.0.0.1", "::ffff:127.0.0.1"),
        *("::", "::1", "::7f00:1", "fe80::1", "fd00:ec2::254", "fc00::1", "ff02::1", "64:ff9b::a00:1", "2002:a00:1::"),
    ],
)
def test_special_addresses_are_known(address: str) -> None:
    """A name that leads to one is how a stranger's server reaches the neighbours (rebinding)."""
    assert Resolvable.is_special(mapped(ip_address(address)))


@pytest.mark.parametrize(
    "address",
    [
        *("93.184.216.34", "198.51.100.7", "203.0.113.7", "192.0.2.7", "11.0.0.0", "9.255.255.255", "172.32.0.0"),
        *("2001:db8::1", "2606:2800::1", "::ffff:93.184.216.34", "2600::"),
    ],
)
def test_public_and_documentation_addresses_are_not_special(address: str) -> None:
    """Among them the first and last beside a private network, and IPv4 written as IPv6."""
    assert not Resolvable.is_special(mapped(ip_address(address)))


@given(st.sampled_from(ADDRESSES))
def test_an_address_is_special_as_the_list_of_networks_says(number: object) -> None:
    """At the edges of every network, the IPv4-mapped range taken as IPv4."""
    where = wide_address(ip_address(str(number)))
    version = 4 if where.ipv4_mapped else 6
    expected = any(where in wide(network) for _, network in SPECIAL_NETWORKS if network.version == version)
    assert Resolvable.is_special(mapped(where)) == expected


def test_a_network_rule_allows_its_special_addresses_and_no_others() -> None:
    """On whatever port; what it excepts is not covered, nor is a metadata address inside."""
    resolvable = Resolvable(tables(rule("10.0.0.0/8 169.254.0.0/16", "5432", excepts="10.1.0.0/16")))
    allowed = ("10.0.0.1", "10.2.0.1", "169.254.1.1")
    denied = ("10.1.0.1", "192.168.0.1", "169.254.169.254", "::1")
    assert all(resolvable.allows_special(mapped(ip_address(address))) for address in allowed)
    assert not any(resolvable.allows_special(mapped(ip_address(address))) for address in denied)


def test_the_whole_internet_and_hosts_allow_no_special_address() -> None:
    """`0.0.0.0/0` is public, and a gated rule has no networks at all."""
    resolvable = Resolvable(tables(rule("0.0.0.0/0 ::/0"), rule("", hosts="a.com", protocol=Protocol.TCP)))
    assert not resolvable.allows_special(mapped(ip_address("10.0.0.1")))
    assert resolvable.allows_special(mapped(ip_address("93.184.216.34")))


@settings(deadline=None)
@given(POLICIES, st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=10))
def test_an_address_is_allowed_as_the_rules_networks_say(policy: Policy, addresses: list[object]) -> None:
    """The same as reading rule after rule, of whatever protocol, expired or not."""
    resolvable = Resolvable(compile_policy(policy))
    for address in map(ip_address, map(str, addresses)):
        expected = any(covers_address(rule, address) for rule in policy.rules)
        assert resolvable.allows_special(mapped(address)) == expected
