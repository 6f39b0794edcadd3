"""Ports of a compiled policy in examples: overlaps, protocols, prefixes."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.compile_ports import port_prefixes
from exeat.model.policy import Protocol
from unit.rule_words import ICMP, NOON, NOON_NS, TCP, UDP, judge, rule, tables


def test_ports_are_cut_where_rules_overlap() -> None:
    """Inside the overlap the rule that lasts longest is named, outside each its own."""
    table_set = tables(rule("1.0.0.0/8", "100-200", expires=NOON + timedelta(1)), rule("1.0.0.0/8", "150-300"))
    assert [judge(table_set, "1.1.1.1", port) for port in (99, 100, 149, 150, 200, 201, 300, 301)] == [
        *(0, 1, 1, 2, 2, 2, 2, 0)
    ]


def test_overlapping_and_adjacent_ports_of_a_rule_are_one_range() -> None:
    """8000-8007 is one prefix, however it is written."""
    table_set = tables(rule("1.0.0.0/8", "8004-8007 8000 8000-8006 8001-8002"))
    assert [(entry.port, entry.prefix_len) for entry in table_set.ports] == [(8000, 13)]


def test_ports_between_two_ranges_stay_closed() -> None:
    """Though both say the same."""
    table_set = tables(rule("1.0.0.0/8", "80 82"))
    assert [judge(table_set, "1.1.1.1", port) for port in (79, 80, 81, 82, 83)] == [0, 1, 0, 1, 0]


def test_neighbouring_ports_that_say_the_same_are_joined() -> None:
    """Two rules for 8000-8003 and 8004-8007, hidden by a third that lasts longer, make one prefix."""
    soon = NOON + timedelta(hours=1)
    table_set = tables(
        rule("1.0.0.0/8", "8000-8003", expires=soon), rule("1.0.0.0/8", "8004-8007", expires=soon),
        rule("1.0.0.0/8", "8000-8007"),
    )  # fmt: skip
    assert [(entry.port, entry.prefix_len, entry.open_rule) for entry in table_set.ports] == [(8000, 13, 3)]


@pytest.mark.parametrize("ports", ["1-65535", "0-65535", "1-1000 1001-65535"])
def test_all_ports_are_one_prefix(ports: str) -> None:
    """Port 0 is nobody's, so leaving it out is not worth sixteen entries."""
    table_set = tables(rule("1.0.0.0/8", ports))
    assert [(entry.port, entry.prefix_len) for entry in table_set.ports] == [(0, 0)]


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_range_is_cut_into_prefixes_that_follow_each_other(one: int, other: int) -> None:
    """From its first port to its last, none twice, none left out, each where a prefix can begin."""
    first, last = sorted((one, other))
    at = first
    for port, prefix_len in port_prefixes(first, last):
        size = 1 << 16 - prefix_len
        assert port == at
        assert port % size == 0
        at += size
    assert at == last + 1


def test_udp_and_tcp_do_not_open_each_other() -> None:
    """QUIC needs a rule of its own."""
    table_set = tables(rule("1.0.0.0/8"), rule("2.0.0.0/8", protocol=Protocol.UDP))
    assert judge(table_set, "1.1.1.1", protocol=UDP) == 0
    assert judge(table_set, "2.1.1.1", protocol=UDP) == 2
    assert judge(table_set, "2.1.1.1", protocol=TCP) == 0


def test_icmp_is_asked_for_under_port_0() -> None:
    """It has no ports, so one entry of full length stands for it."""
    table_set = tables(rule("1.0.0.0/8", protocol=Protocol.ICMP))
    assert [(entry.protocol, entry.port, entry.prefix_len) for entry in table_set.ports] == [(ICMP, 0, 16)]
    assert table_set.allows_icmp
    assert judge(table_set, "1.1.1.1", 0, protocol=ICMP) == 1
    assert judge(table_set, "2.1.1.1", 0, protocol=ICMP) == 0


def test_an_open_rule_wins_over_a_named_one() -> None:
    """Who may talk freely is not asked for a name, until the open rule ends."""
    table_set = tables(rule("1.1.0.0/16", expires=NOON), rule("1.0.0.0/8", hosts="a.com"))
    assert judge(table_set, "1.1.1.1", now_ns=NOON_NS - 1) == 1
    assert judge(table_set, "1.1.1.1", now_ns=NOON_NS) == 0
    assert judge(table_set, "1.1.1.1", name="a.com", now_ns=NOON_NS) == 2
    assert judge(table_set, "1.2.1.1") == 0
