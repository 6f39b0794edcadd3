"""From an upstream's reply to what is told: the asked name's own chain, without private addresses."""

from ipaddress import ip_address

import pytest

from exeat.core.compile import compile_policy
from exeat.core.resolvable import Resolvable
from exeat.dns.answers import ADDRESSES_MAX, CHAIN_MAX, Answer, make_answer
from exeat.dns.names import wire_of
from exeat.dns.records import Kind, Rcode, Record, Reply
from exeat.model.networks import mapped
from exeat.model.policy import Policy
from unit.rule_words import rule

WITH_PRIVATE = Resolvable(compile_policy(Policy("p", (rule("", hosts="a.com"), rule("10.1.0.0/16")))))
PUBLIC_ONLY = Resolvable(compile_policy(Policy("p", (rule("", hosts="a.com"), rule("0.0.0.0/0 ::/0")))))


def address(text: str, owner: str = "a.com", ttl: int = 60) -> Record:
    """An A or AAAA record."""
    one = ip_address(text)
    return Record(owner, Kind.A if one.version == 4 else Kind.AAAA, ttl, one.packed)


def alias(owner: str, target: str, ttl: int = 60) -> Record:
    """A CNAME record."""
    return Record(owner, Kind.CNAME, ttl, wire_of(target))


def answer(*records: Record, kind: int = Kind.A, resolvable: Resolvable = PUBLIC_ONLY, **how: object) -> Answer:
    """What is told of a reply to a question for a.com."""
    reply = Reply(Rcode.NOERROR, False, records, None)
    return make_answer(reply, "a.com", kind, resolvable, **{"withholds": True, **how})  # type: ignore[arg-type]


def told(found: Answer) -> list[str]:
    """Its addresses as text."""
    return [str(ip_address(one.data)) for one in found.records if one.kind in (Kind.A, Kind.AAAA)]


def test_addresses_are_told_and_granted() -> None:
    """In the upstream's order, each once."""
    found = answer(address("1.2.3.4"), address("1.2.3.5"), address("1.2.3.4"))
    assert told(found) == ["1.2.3.4", "1.2.3.5"]
    assert found.addresses == (mapped(ip_address("1.2.3.4")), mapped(ip_address("1.2.3.5")))
    assert found.ttl_s == 60


def test_a_chain_of_aliases_is_followed_from_the_name_asked() -> None:
    """Whatever the order of the records; the shortest life counts."""
    found = answer(address("1.2.3.4", "c.net"), alias("b.net", "c.net", ttl=5), alias("a.com", "b.net"))
    assert [record.kind for record in found.records] == [Kind.CNAME, Kind.CNAME, Kind.A]
    assert (told(found), found.ttl_s) == (["1.2.3.4"], 5)


def test_what_no_alias_leads_to_is_dropped() -> None:
    """Records of other names would be a way to have any address granted."""
    found = answer(address("1.2.3.4"), address("6.6.6.6", "evil.test"), alias("evil.test", "a.com"))
    assert told(found) == ["1.2.3.4"]
    assert len(found.records) == 1


def test_an_address_beside_an_alias_is_dropped() -> None:
    """A name with an alias has nothing else; RFC 1034 3.6.2."""
    assert told(answer(alias("a.com", "b.net"), address("6.6.6.6"), address("1.2.3.4", "b.net"))) == ["1.2.3.4"]


def test_a_circle_of_aliases_is_a_failure() -> None:
    """And so is an alias to itself: nothing is granted, and nobody runs round."""
    assert answer(alias("a.com", "b.net"), alias("b.net", "a.com")).rcode == Rcode.SERVFAIL
    assert answer(alias("a.com", "a.com")).rcode == Rcode.SERVFAIL


def test_a_chain_that_is_too_long_leads_nowhere() -> None:
    """Its end is not told."""
    names = ["a.com", *(f"n{number}.net" for number in range(CHAIN_MAX + 2))]
    links = [alias(one, other) for one, other in zip(names, names[1:], strict=False)]
    assert told(answer(*links, address("1.2.3.4", names[-1]))) == []
    short = [alias(one, other) for one, other in zip(names[:9], names[1:9], strict=False)]
    assert told(answer(*short, address("1.2.3.4", names[8]))) == ["1.2.3.4"]


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "169.254.0.1", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "168.63.129.16", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
        "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001::1", "fec0::1",
    ],
)  # fmt: skip
def test_private_addresses_are_withheld(text: str) -> None:
    """A name's owner may write any address into it: rebinding."""
    kind = Kind.AAAA if ":" in text else Kind.A
    other = "2600::1" if ":" in text else "1.2.3.4"
    found = answer(address(text), address(other), kind=kind)
    assert told(found) == [other]
    assert len(found.withheld) == 1
    assert len(found.addresses) == 1


def test_private_addresses_that_a_network_rule_covers_are_told() -> None:
    """Split horizon: the policy knows the network, and other private ones stay withheld."""
    found = answer(address("10.1.0.7"), address("10.2.0.7"), resolvable=WITH_PRIVATE)
    assert told(found) == ["10.1.0.7"]
    assert found.withheld == (mapped(ip_address("10.2.0.7")),)


def test_modes_that_deny_nothing_withhold_nothing() -> None:
    """What would be withheld shows when it is connected to."""
    assert told(answer(address("10.2.0.7"), withholds=False)) == ["10.2.0.7"]


def test_a_wall_of_addresses_is_cut() -> None:
    """An answer opens no more than fits into a message."""
    found = answer(*(address(f"1.2.{number // 250}.{number % 250}") for number in range(300)))
    assert len(found.addresses) == len(found.records) == ADDRESSES_MAX


def test_the_other_family_is_not_told() -> None:
    """It was not asked for."""
    assert told(answer(address("1.2.3.4"), address("2600::1"))) == ["1.2.3.4"]


def test_any_kind_brings_no_keys_that_hide_a_name() -> None:
    """HTTPS and SVCB records stay out also where everything was asked for."""
    hiding = Record("a.com", Kind.HTTPS, 60, b"\0\1\0")
    found = answer(address("1.2.3.4"), hiding, Record("a.com", Kind.TXT, 60, b"\1x"), kind=Kind.ANY)
    assert [record.kind for record in found.records] == [Kind.A, Kind.TXT]


def test_what_could_not_be_granted_is_left_out() -> None:
    """The rest of the answer stays."""
    found = answer(address("1.2.3.4"), address("1.2.3.5")).without([mapped(ip_address("1.2.3.4"))])
    assert told(found) == ["1.2.3.5"]
    assert found.addresses == (mapped(ip_address("1.2.3.5")),)


def test_no_such_name_is_passed_on_and_failures_are_one() -> None:
    """With the time for which it holds."""
    none = make_answer(Reply(Rcode.NXDOMAIN, False, (), 30), "a.com", Kind.A, PUBLIC_ONLY, withholds=True)
    assert (none.rcode, none.records, none.ttl_s) == (Rcode.NXDOMAIN, (), 30)
    failed = make_answer(Reply(Rcode.REFUSED, False, (), None), "a.com", Kind.A, PUBLIC_ONLY, withholds=True)
    assert failed.rcode == Rcode.SERVFAIL
