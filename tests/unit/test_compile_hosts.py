"""Hosts without networks in examples: what the gate may resolve, what it opens, and the hosts no wildcard covers."""

from datetime import timedelta

import pytest

from exeat.model.policy import Protocol
from exeat.model.tables import NEVER, HostEntry, HostSlot, PortEntry, TableSet
from unit.rule_words import ICMP, NOON, NOON_NS, TCP, UDP, judge, rule, tables
from unit.table_walk import slot_of


def opened_by(table_set: TableSet, name: str) -> list[PortEntry]:
    """The ports that a name opens once it was resolved."""
    ports_id = slot_of(table_set, 0, name).ports_id
    return [entry for entry in table_set.ports if entry.ports_id == ports_id]


def closed(table_set: TableSet, names_id: int = 0) -> set[bytes]:
    """The keys under which a set of names closes what a wildcard covers."""
    return {entry.reversed_name for entry in table_set.hosts if entry.names_id == names_id and entry.is_doh}


# What was resolved


def test_a_host_opens_no_address_by_itself() -> None:
    """Only what the gate resolved it to; and the name is asked for there."""
    table_set = tables(rule("", hosts="a.com"))
    assert table_set.has_hosts
    assert judge(table_set, "1.1.1.1", name="a.com") == 0
    assert judge(table_set, "1.1.1.1", name="a.com", granted={"a.com": "1.1.1.1"}) == 1
    assert judge(table_set, "1.1.1.2", name="a.com", granted={"a.com": "1.1.1.1"}) == 0
    assert judge(table_set, "1.1.1.1", 444, name="a.com", granted={"a.com": "1.1.1.1"}) == 0


def test_the_name_must_be_one_that_was_resolved_to_this_address() -> None:
    """Two allowed names at two addresses do not stand in for each other."""
    table_set = tables(rule("", hosts="a.com b.com"))
    granted = {"a.com": "1.1.1.1", "b.com": "2.2.2.2"}
    assert [judge(table_set, "1.1.1.1", name=name, granted=granted) for name in ("a.com", "b.com")] == [1, 0]
    assert [judge(table_set, "2.2.2.2", name=name, granted=granted) for name in ("a.com", "b.com")] == [0, 1]


def test_a_name_that_no_rule_covers_opens_nothing_though_granted() -> None:
    """As after a change of policy."""
    table_set = tables(rule("", hosts="a.com"))
    assert judge(table_set, "1.1.1.1", name="b.com", granted={"b.com": "1.1.1.1"}) == 0
    assert judge(table_set, "1.1.1.1", name="a.com", granted={"a.com": "1.1.1.1"}) == 1


@pytest.mark.parametrize(("protocol", "number", "other"), [(Protocol.TCP, TCP, UDP), (Protocol.UDP, UDP, TCP)])
def test_hosts_of_a_tcp_or_udp_rule_are_asked_for_no_name(protocol: Protocol, number: int, other: int) -> None:
    """Nothing in these protocols names a host: the grant is all there is."""
    table_set = tables(rule("", "22", hosts="git.a.com", protocol=protocol))
    granted = {"git.a.com": "1.1.1.1"}
    assert judge(table_set, "1.1.1.1", 22, protocol=number, granted=granted) == 1
    assert judge(table_set, "1.1.1.1", 22, protocol=other, granted=granted) == 0
    assert judge(table_set, "1.1.1.2", 22, protocol=number, granted=granted) == 0
    assert judge(table_set, "1.1.1.1", 22, protocol=ICMP, granted=granted) == 0


def test_a_names_ports_are_those_of_every_rule_that_covers_it() -> None:
    """One set of ports: open ones by the tcp rule, named ones by the tls rule, both where both speak."""
    table_set = tables(
        rule("", "443", hosts="*.a.com"), rule("", "443 22", hosts="x.a.com", protocol=Protocol.TCP, expires=NOON)
    )
    ssh, https = sorted(opened_by(table_set, "x.a.com"), key=lambda entry: entry.port)
    assert (ssh.port, ssh.open_until, ssh.open_rule, ssh.named_until) == (22, NOON_NS, 2, 0)
    assert (https.port, https.open_until, https.open_rule) == (443, NOON_NS, 2)
    assert (https.named_until, https.named_rule, https.names_id) == (NEVER, 1, 0)
    assert [entry.port for entry in opened_by(table_set, "y.a.com")] == [443]


def test_names_that_open_the_same_share_their_ports() -> None:
    """Ten thousand hosts of a rule need one set of ports."""
    table_set = tables(rule("", hosts="a.com b.com *.c.com"), rule("", "80", hosts="d.com", protocol=Protocol.TCP))
    assert len({slot_of(table_set, 0, name).ports_id for name in ("a.com", "b.com", "x.c.com")}) == 1
    assert len(table_set.ports) == 2


def test_a_network_that_opens_what_a_name_opens_shares_its_ports() -> None:
    """Open ports are open, whatever led there."""
    shared = tables(rule("", "80", hosts="a.com", protocol=Protocol.TCP), rule("", "80", hosts="b.com"))
    assert shared.ids == 3
    assert {entry.ports_id for entry in shared.ports} == {1, 2}


def test_hosts_with_networks_may_be_resolved_and_want_no_grant() -> None:
    """A program finds its addresses by the gate too; what they may be used for, the networks say."""
    table_set = tables(rule("1.0.0.0/8", hosts="a.com"))
    assert not table_set.has_hosts
    assert slot_of(table_set, 0, "a.com") == HostSlot(until=NEVER, rule=1, ports_id=0)
    assert judge(table_set, "1.1.1.1", name="a.com") == 1
    assert judge(table_set, "2.2.2.2", name="a.com", granted={"a.com": "2.2.2.2"}) == 0


def test_networks_alone_give_the_gate_nothing_to_resolve() -> None:
    """No rule names a host."""
    assert not tables(rule("1.0.0.0/8")).has_hosts


def test_what_may_be_resolved_is_never_a_networks_set_of_names() -> None:
    """Even where both hold the same names: in set 0 a name of a gated rule needs no network."""
    table_set = tables(rule("1.0.0.0/8", hosts="a.com"))
    assert [(entry.names_id, entry.reversed_name) for entry in table_set.hosts] == [(0, b"moc.a\0"), (1, b"moc.a\0")]
    assert [entry.names_id for entry in table_set.ports] == [1]


def test_a_granted_name_passes_beside_the_names_of_the_network() -> None:
    """The network's rule asks for its own name, the gated rule for what was resolved; either will do."""
    table_set = tables(rule("1.0.0.0/8", hosts="a.com"), rule("", hosts="b.com"))
    granted = {"b.com": "1.1.1.1"}
    assert [judge(table_set, "1.1.1.1", name=name, granted=granted) for name in ("a.com", "b.com")] == [1, 2]
    assert [judge(table_set, "1.1.1.1", name=name) for name in ("a.com", "b.com")] == [1, 0]


def test_a_rule_ends_under_its_grant() -> None:
    """The gate may have granted a day; the rule's end is in the ports."""
    table_set = tables(rule("", hosts="a.com", expires=NOON))
    granted = {"a.com": "1.1.1.1"}
    assert judge(table_set, "1.1.1.1", name="a.com", now_ns=NOON_NS - 1, granted=granted) == 1
    assert judge(table_set, "1.1.1.1", name="a.com", now_ns=NOON_NS, granted=granted) == 0


def test_a_name_may_be_resolved_as_long_as_any_of_its_rules_lasts() -> None:
    """And that rule is the one to name, also where only its networks are meant."""
    table_set = tables(rule("", hosts="a.com", expires=NOON), rule("1.0.0.0/8", hosts="**.com a.com", allows_ech=True))
    slot = slot_of(table_set, 0, "a.com")
    assert (slot.until, slot.rule, slot.ech_until) == (NEVER, 2, NEVER)
    assert [entry.named_until for entry in opened_by(table_set, "a.com")] == [NOON_NS]


def test_ech_of_a_granted_name_is_the_ports_affair() -> None:
    """A longer rule for the same name without `ech: allow` does not prolong it, nor does one for another port."""
    table_set = tables(
        rule("", hosts="a.com", expires=NOON, allows_ech=True),
        rule("", hosts="a.com", expires=NOON + timedelta(1)),
        rule("", "444", hosts="a.com", allows_ech=True),
    )
    granted = {"a.com": "1.1.1.1"}

    def passes(port: int, now_ns: int, has_ech: bool) -> int:
        return judge(table_set, "1.1.1.1", port, name="a.com", has_ech=has_ech, now_ns=now_ns, granted=granted)

    assert passes(443, NOON_NS - 1, has_ech=True)
    assert not passes(443, NOON_NS, has_ech=True)
    assert passes(443, NOON_NS, has_ech=False) == 2
    assert passes(444, NOON_NS, has_ech=True) == 3


def test_ech_of_a_networks_name_is_the_names_affair() -> None:
    """Its port says nothing about it, so that a grant for the same port is not taken to allow it."""
    (port,) = tables(rule("1.0.0.0/8", hosts="a.com", allows_ech=True)).ports
    assert (port.named_until, port.named_ech_until, port.names_id) == (NEVER, 0, 1)


@pytest.mark.parametrize("port", [53, 137, 853, 5353, 5355])
def test_no_rule_opens_a_port_of_dns(port: int) -> None:
    """The kernel keeps them for the gate before it asks any table; their neighbours are as the rules say."""
    table_set = tables(rule("1.0.0.0/8", "1-65535"), rule("1.0.0.0/8", "1-65535", protocol=Protocol.UDP))
    for protocol, number in ((TCP, 1), (UDP, 2)):
        assert judge(table_set, "1.1.1.1", port, protocol=protocol) == 0
        assert judge(table_set, "1.1.1.1", port + 1, protocol=protocol) == number


# Hosts that resolve names over HTTPS


@pytest.mark.parametrize(
    ("pattern", "denied", "allowed"),
    [
        ("*.google", ["dns.google", "8888.google"], ["www.google", "xdns.google"]),
        ("**.google", ["dns.google", "dns64.dns.google"], ["x.dns.google", "a.b.google"]),
        ("*.dns.google", ["dns64.dns.google"], ["x.dns.google"]),
        ("**.nextdns.io", ["dns.nextdns.io", "abc.dns.nextdns.io", "d.c.dns.nextdns.io"], ["www.nextdns.io"]),
        ("*.nextdns.io", ["dns.nextdns.io"], ["www.nextdns.io"]),
        ("**.apple.com", ["doh.dns.apple.com"], ["dns.apple.com", "apple.apple.com"]),
    ],
)
def test_a_wildcard_covers_no_doh_host(pattern: str, denied: list[str], allowed: list[str]) -> None:
    """With and without networks; everything else below it passes."""
    networks, gated = tables(rule("1.0.0.0/8", hosts=pattern)), tables(rule("", hosts=pattern))
    for name in [*denied, *allowed]:
        number = 1 if name in allowed else 0
        assert judge(networks, "1.1.1.1", name=name) == number, name
        assert judge(gated, "1.1.1.1", name=name, granted={name: "1.1.1.1"}) == number, name


@pytest.mark.parametrize("pattern", ["*.dns.nextdns.io", "**.dns.nextdns.io", "*.c.dns.nextdns.io"])
def test_a_wildcard_below_a_closed_domain_opens_nothing(pattern: str) -> None:
    """Each customer has a name there; the name of one's own can be written out."""
    table_set = tables(rule("", hosts=f"{pattern} me.dns.nextdns.io"))
    names = ("c.dns.nextdns.io", "d.c.dns.nextdns.io", "me.dns.nextdns.io")
    assert [judge(table_set, "1.1.1.1", name=name, granted={name: "1.1.1.1"}) for name in names] == [0, 0, 1]
    assert closed(table_set) == {b"oi.sndtxen.snd."}


def test_a_doh_host_that_a_rule_names_exactly_is_like_any_other() -> None:
    """Its neighbours stay closed."""
    table_set = tables(rule("", hosts="**.google dns.google"))
    assert judge(table_set, "1.1.1.1", name="dns.google", granted={"dns.google": "1.1.1.1"}) == 1
    assert closed(table_set) == {b"elgoog.8888\0", b"elgoog.snd.46snd\0"}


def test_a_wildcard_adds_nothing_to_a_doh_host_named_exactly() -> None:
    """Neither its ports nor its end: only who wrote the name meant it."""
    table_set = tables(rule("", hosts="dns.google", expires=NOON), rule("", "443-444", hosts="*.google"))
    granted = {"dns.google": "1.1.1.1", "www.google": "1.1.1.1"}
    assert judge(table_set, "1.1.1.1", 443, name="dns.google", now_ns=NOON_NS - 1, granted=granted) == 1
    assert judge(table_set, "1.1.1.1", 444, name="dns.google", now_ns=NOON_NS - 1, granted=granted) == 0
    assert judge(table_set, "1.1.1.1", 443, name="dns.google", now_ns=NOON_NS, granted=granted) == 0
    assert judge(table_set, "1.1.1.1", 444, name="www.google", now_ns=NOON_NS, granted=granted) == 2


def test_a_doh_host_is_open_only_where_the_rule_that_names_it_speaks() -> None:
    """Each network's set of names is closed by itself."""
    table_set = tables(rule("1.0.0.0/8", hosts="dns.google"), rule("2.0.0.0/8", hosts="**.google"))
    assert [judge(table_set, address, name="dns.google") for address in ("1.1.1.1", "2.2.2.2")] == [1, 0]
    assert judge(table_set, "2.2.2.2", name="www.google") == 2


def test_a_closed_name_has_a_key_that_allows_nothing() -> None:
    """So that the kernel's longest match denies it with its own reason."""
    table_set = tables(rule("", hosts="*.quad9.net"))
    entry = next(entry for entry in table_set.hosts if entry.reversed_name == b"ten.9dauq.snd\0")
    assert entry == HostEntry(0, b"ten.9dauq.snd\0", True, 2, HostSlot(), HostSlot(), is_doh=True)


def test_only_what_a_wildcard_covers_is_closed() -> None:
    """A set without wildcards, or with others, carries nothing of the list."""
    assert closed(tables(rule("1.0.0.0/8", hosts="a.com dns.google **.b.com *.dns.google"))) == {b"elgoog.snd.46snd\0"}
    assert closed(tables(rule("1.0.0.0/8", hosts="*.google"))) == {b"elgoog.8888\0", b"elgoog.snd\0"}
    assert closed(tables(rule("1.0.0.0/8", hosts="a.com dns.google"))) == set()
