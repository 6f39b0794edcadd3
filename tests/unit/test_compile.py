"""A compiled policy in examples: networks, expiry, names, and the rules that are refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from exeat.model.policy import Protocol, Rule
from exeat.model.tables import NEVER, HostSlot
from unit.rule_words import NOON, NOON_NS, host, judge, rule, tables
from unit.table_walk import slot_of

# Networks


def test_an_empty_policy_has_no_tables_and_uses_one_id() -> None:
    """The policy's own id is 0; with nothing allowed there is nothing to look up."""
    table_set = tables()
    assert (table_set.networks, table_set.ports, table_set.hosts, table_set.ids) == ((), (), (), 1)
    assert (table_set.until, table_set.allows_icmp) == (NEVER, False)


def test_nested_networks_unite_their_ports() -> None:
    """The longer prefix hides the shorter one from the kernel, so it carries both rules' ports."""
    table_set = tables(rule("1.0.0.0/8", "80"), rule("1.2.0.0/16", "443"))
    assert judge(table_set, "1.2.0.1", 80) == 1
    assert judge(table_set, "1.2.0.1", 443) == 2
    assert judge(table_set, "1.3.0.1", 80) == 1
    assert judge(table_set, "1.3.0.1", 443) == 0


def test_an_exception_closes_its_own_rule_alone() -> None:
    """Another rule goes on covering what this one leaves out."""
    table_set = tables(rule("1.0.0.0/8", "80", excepts="1.2.0.0/16"), rule("1.2.3.0/24", "443"))
    assert judge(table_set, "1.1.0.1", 80) == 1
    assert judge(table_set, "1.2.3.1", 80) == 0
    assert judge(table_set, "1.2.3.1", 443) == 2
    assert judge(table_set, "1.2.4.1", 443) == 0


def test_an_exception_leaves_other_rules_for_the_same_port_alone() -> None:
    """Even where both cover the same addresses."""
    table_set = tables(rule("1.0.0.0/8", excepts="1.2.0.0/16"), rule("1.0.0.0/8"), rule("0.0.0.0/0"))
    assert [judge(table_set, address) for address in ("1.1.0.1", "1.2.0.1", "2.0.0.1")] == [1, 2, 3]


def test_a_network_inside_an_exception_of_the_same_rule_stays_closed() -> None:
    """No exception may hold the address: a longer network does not win over it."""
    table_set = tables(rule("1.0.0.0/8 1.2.3.0/24", excepts="1.2.0.0/16"))
    assert judge(table_set, "1.2.3.1") == 0
    assert judge(table_set, "1.3.0.1") == 1


@pytest.mark.parametrize(
    "private",
    [
        "10.1.2.3",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "168.63.129.16",
        "224.0.0.1",
    ],
)
def test_the_whole_internet_holds_no_special_address(private: str) -> None:
    """`0.0.0.0/0` and `::/0` are the public internet, not the neighbours, the host or its credentials."""
    table_set = tables(rule("0.0.0.0/0 ::/0"))
    assert judge(table_set, "93.184.216.34") == 1
    assert judge(table_set, private) == 0


@pytest.mark.parametrize("special", ["::1", "::", "fe80::1", "fd00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::101:101"])
def test_all_of_ipv6_holds_no_special_address(special: str) -> None:
    """NAT64 and 6to4 are IPv4 in disguise, so they are special too."""
    table_set = tables(rule("::/0"))
    assert judge(table_set, "2606:2800::1") == 1
    assert judge(table_set, special) == 0


def test_all_of_ipv6_holds_no_ipv4_address() -> None:
    """IPv4 lies inside ::/0 in the tables' address space only."""
    table_set = tables(rule("::/0"))
    assert judge(table_set, "93.184.216.34") == 0
    assert judge(table_set, "::ffff:93.184.216.34") == 0


def test_a_private_network_opens_itself_under_the_internet() -> None:
    """A network inside the special range covers it; the internet rule still does not."""
    table_set = tables(rule("0.0.0.0/0", "80"), rule("10.1.0.0/16", "443"))
    assert judge(table_set, "10.1.0.1", 443) == 2
    assert judge(table_set, "10.1.0.1", 80) == 0
    assert judge(table_set, "10.2.0.1", 443) == 0


def test_the_metadata_address_is_opened_by_its_own_network_alone() -> None:
    """Credentials lie behind it: the link-local network around it is not enough."""
    assert judge(tables(rule("169.254.0.0/16")), "169.254.0.1") == 1
    assert judge(tables(rule("169.254.0.0/16")), "169.254.169.254") == 0
    assert judge(tables(rule("169.254.169.254/32")), "169.254.169.254") == 1


def test_an_exact_special_range_is_covered_by_itself() -> None:
    """A network lies inside itself."""
    assert judge(tables(rule("10.0.0.0/8")), "10.1.2.3") == 1


def test_a_network_that_says_nothing_new_has_no_entry() -> None:
    """What encloses it already gives the same answer."""
    table_set = tables(rule("10.0.0.0/8 10.1.0.0/16 10.1.2.3/32", excepts="11.0.0.0/8"))
    assert [entry.prefix_len for entry in table_set.networks] == [96 + 8]


def test_equal_sets_have_one_id() -> None:
    """Ten thousand networks of one rule need one set of ports and one of names."""
    table_set = tables(rule("1.0.0.0/8 2.0.0.0/8 2001:db8::/32", hosts="a.com"), rule("3.0.0.0/8", "80", hosts="b.com"))
    assert {entry.ports_id for entry in table_set.networks} == {2, 4}
    assert table_set.ids == 5
    assert [entry.names_id for entry in table_set.hosts] == [0, 0, 1, 3]


# Expiry


def test_a_rule_ends_to_the_nanosecond() -> None:
    """In force before its end, not at it."""
    table_set = tables(rule("1.0.0.0/8", expires=NOON))
    assert judge(table_set, "1.1.1.1", now_ns=NOON_NS - 1) == 1
    assert judge(table_set, "1.1.1.1", now_ns=NOON_NS) == 0


def test_a_rule_ends_with_its_policy_at_the_latest() -> None:
    """The rule's own later end does not count."""
    table_set = tables(rule("1.0.0.0/8", expires=NOON + timedelta(1)), expires=NOON)
    assert table_set.until == NOON_NS
    assert [entry.open_until for entry in table_set.ports] == [NOON_NS]


def test_after_the_shorter_rule_the_longer_one_goes_on() -> None:
    """The union lasts as long as its longest rule, which is the one it names."""
    table_set = tables(rule("1.0.0.0/8", expires=NOON), rule("1.0.0.0/8", expires=NOON + timedelta(1)))
    assert judge(table_set, "1.1.1.1", now_ns=NOON_NS - 1) == 2
    assert judge(table_set, "1.1.1.1", now_ns=NOON_NS) == 2
    assert judge(table_set, "1.1.1.1", now_ns=NOON_NS + 86400 * 10**9) == 0


def test_of_rules_that_last_equally_long_the_first_is_named() -> None:
    """So that the same policy always gives the same verdict."""
    table_set = tables(rule("1.0.0.0/8"), rule("1.1.0.0/16"), rule("0.0.0.0/0"))
    assert judge(table_set, "1.1.1.1") == 1


@pytest.mark.parametrize("year", [2554, 9999])
def test_an_end_beyond_64_bits_is_never(year: int) -> None:
    """`expires: 9999-12-31` is what people write who mean never; it must not wrap around to the past."""
    table_set = tables(rule("1.0.0.0/8", expires=datetime(year, 12, 31, tzinfo=UTC)))
    assert [entry.open_until for entry in table_set.ports] == [NEVER]


def test_an_end_before_1970_is_the_past() -> None:
    """Nothing negative reaches the kernel, where it would be the far future."""
    table_set = tables(rule("1.0.0.0/8", expires=datetime(1969, 12, 31, tzinfo=UTC)))
    assert judge(table_set, "1.1.1.1", now_ns=0) == 0


# Names


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("a.com", ["a.com"]),
        ("*.a.com", ["x.a.com"]),
        ("**.a.com", ["x.a.com", "y.x.a.com"]),
        ("a.com *.a.com", ["a.com", "x.a.com"]),
        ("*.a.com **.x.a.com", ["x.a.com", "y.x.a.com"]),
        ("y.x.a.com", ["y.x.a.com"]),
        ("*.com", ["a.com", "xa.com"]),
    ],
)
def test_a_pattern_allows_its_names_and_no_others(pattern: str, allowed: list[str]) -> None:
    """Neither wildcard covers the apex, and none a name that only ends in the same letters."""
    table_set = tables(rule("1.0.0.0/8", hosts=pattern))
    names = ["a.com", "x.a.com", "y.x.a.com", "xa.com", "com", "a.com.evil", "x.a.co"]
    assert [name for name in names if judge(table_set, "1.1.1.1", name=name)] == allowed


def test_a_longer_suffix_carries_what_wider_ones_allow() -> None:
    """Only the longest key is found, so `*.x.a.com` must not hide `**.a.com`."""
    table_set = tables(rule("1.0.0.0/8", hosts="**.a.com"), rule("1.0.0.0/8", hosts="*.x.a.com q.z.x.a.com"))
    names = ("y.x.a.com", "z.y.x.a.com", "q.z.x.a.com", "x.a.com")
    assert [judge(table_set, "1.1.1.1", name=name) for name in names] == [1, 1, 1, 1]


def test_an_exact_name_outlives_the_rule_that_names_it_under_a_wildcard() -> None:
    """The exact key holds the wildcard rule's later end."""
    table_set = tables(rule("1.0.0.0/8", hosts="x.a.com", expires=NOON), rule("1.0.0.0/8", hosts="*.a.com"))
    assert judge(table_set, "1.1.1.1", name="x.a.com", now_ns=NOON_NS) == 2


def test_a_name_opens_only_the_networks_of_its_own_rule() -> None:
    """Where two rules overlap both names pass, elsewhere each rule's own."""
    table_set = tables(rule("1.0.0.0/8", hosts="a.com"), rule("1.1.0.0/16", hosts="b.com"))
    assert [judge(table_set, "1.1.1.1", name=name) for name in ("a.com", "b.com")] == [1, 2]
    assert [judge(table_set, "1.2.1.1", name=name) for name in ("a.com", "b.com")] == [1, 0]


def test_names_unite_where_the_ports_of_their_rules_overlap() -> None:
    """Either rule alone asks for its own name only."""
    table_set = tables(rule("1.0.0.0/8", "443", hosts="a.com"), rule("1.0.0.0/8", "443-444", hosts="b.com"))
    assert [judge(table_set, "1.1.1.1", 443, name) for name in ("a.com", "b.com")] == [1, 2]
    assert [judge(table_set, "1.1.1.1", 444, name) for name in ("a.com", "b.com")] == [0, 2]


def test_ech_passes_only_while_a_rule_that_allows_it_does() -> None:
    """A longer rule for the same name without `ech: allow` does not prolong it."""
    table_set = tables(
        rule("1.0.0.0/8", hosts="a.com", expires=NOON, allows_ech=True), rule("1.0.0.0/8", hosts="a.com")
    )
    assert judge(table_set, "1.1.1.1", name="a.com", has_ech=True, now_ns=NOON_NS - 1)
    assert not judge(table_set, "1.1.1.1", name="a.com", has_ech=True, now_ns=NOON_NS)
    assert judge(table_set, "1.1.1.1", name="a.com", now_ns=NOON_NS)
    resolvable, entry = table_set.hosts
    assert resolvable.one == entry.one == HostSlot(until=NEVER, ech_until=NOON_NS, rule=2)


def test_host_keys_are_reversed_names() -> None:
    """An exact name ends in a NUL, a suffix in its dot; the dots tell one label from more."""
    table_set = tables(rule("1.0.0.0/8", hosts="api.a.com *.a.com"))
    hosts = [entry for entry in table_set.hosts if entry.names_id]
    keys = [(entry.reversed_name, entry.is_exact, entry.dots) for entry in hosts]
    assert keys == [(b"moc.a.ipa\0", True, 2), (b"moc.a.", False, 2)]
    suffix = hosts[1]
    assert suffix.one.rule == 1
    assert suffix.many == HostSlot()
    assert slot_of(table_set, suffix.names_id, "y.x.a.com") == HostSlot()


# Rules that no table can hold


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (rule(""), "neither hosts nor networks"),
        (replace(rule("", hosts="a.com"), protocol=Protocol.ICMP), "icmp has none"),
        (rule("", hosts="a.com", excepts="1.0.0.0/8"), "no networks to except"),
        (replace(rule("1.0.0.0/8"), protocol=Protocol.TLS), "without hosts"),
        (replace(rule("1.0.0.0/8"), hosts=(host("a.com"),)), "networks would be open"),
        (replace(rule("1.0.0.0/8"), ports=()), "has no ports"),
        (rule("1.0.0.0/8", hosts="a." * 125 + "co"), "252 bytes"),
    ],
)
def test_a_rule_that_the_tables_cannot_hold_is_refused(refused: Rule, sentence: str) -> None:
    """With its number and a sentence, rather than compiled to something wider or to nothing."""
    with pytest.raises(ValueError, match=f"^rule 2 .*{sentence}"):
        tables(rule("1.0.0.0/8"), refused)
