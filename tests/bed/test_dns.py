"""The bed's DNS server: says what its zone says, tells what it was asked, and misbehaves as it is told."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest

from bed import Bed, Dns, Host, Manner, call_in
from bed.services import Lie, Zone

ZONE: Zone = {
    "shop.test": {"A": ["203.0.113.201", "203.0.113.202"], "AAAA": ["2001:db8::201"], "ttl": 7},
    "plain.test": ("203.0.113.203", "2001:db8::203"),
    "www.shop.test": {"CNAME": ["alias.shop.test."]},
    "alias.shop.test": {"CNAME": ["shop.test."]},
    "one.loop.test": {"CNAME": ["two.loop.test."]},
    "two.loop.test": {"CNAME": ["one.loop.test."]},
    "*.wild.test": {"A": ["203.0.113.204"]},
    "all.test": {
        "SRV": ["1 2 389 shop.test."],
        "TXT": ['"a text"'],
        "MX": ["10 shop.test."],
        "HTTPS": ['1 . alpn="h2" ech="AAj+DQAEYWJjZA=="'],
        "NS": ["ns.test."],
    },
    "201.113.0.203.in-addr.arpa": {"PTR": ["shop.test."]},
    "many.test": {"A": [f"203.0.113.{last}" for last in range(1, 251)]},
}


@pytest.fixture(scope="module")
def resolver(bed: Bed) -> Host:
    """One server for all these tests."""
    return bed.add("resolver", Dns(ZONE), also=("8.8.8.8", "2001:4860:4860::8888"))


@pytest.fixture(autouse=True)
def _plain_again(resolver: Host) -> Iterator[None]:
    """No test sees another's manners or questions."""
    resolver.reset()
    yield
    resolver.behave(None)
    resolver.set_zone(ZONE)


Ask = Callable[..., list[str]]


@pytest.fixture
def ask(bed: Bed, resolver: Host) -> Ask:
    """Ask from the client's side: the code, the flags that matter here, and the answer's records, as text."""

    def ask(name: str, kind: str = "A", *, at: str = resolver.address4, over: str = "udp", s: float = 2.0) -> list[str]:
        def exchange() -> list[str]:
            query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
            reply = getattr(dns.query, over)(query, at, timeout=s)
            flags = ["TC"] if reply.flags & dns.flags.TC else []
            lines = [line for records in reply.answer for line in records.to_text().splitlines()]
            return [dns.rcode.to_text(reply.rcode()), *flags, *lines]

        return call_in(bed, exchange)

    return ask


def test_addresses_are_answered_with_their_ttl_over_both_transports_and_families(resolver: Host, ask: Ask) -> None:
    """Also at a famous address; and each question is told with where it came from."""
    expected = ["NOERROR", "shop.test. 7 IN A 203.0.113.201", "shop.test. 7 IN A 203.0.113.202"]
    for at in resolver.addresses:
        assert ask("shop.test", at=at) == expected
        assert ask("shop.test", at=at, over="tcp") == expected
    asked = resolver.questions()
    assert [(one.name, one.kind) for one in asked] == [("shop.test", "A")] * 8
    assert [one.transport for one in asked] == ["udp", "tcp"] * 4
    assert {one.source for one in asked} == {"198.51.100.1", "2001:db8:1::1"}
    assert resolver.datagrams() == [one.raw for one in asked if one.transport == "udp"]
    assert resolver.count().connections == 4


def test_a_zone_may_hold_only_addresses(ask: Ask) -> None:
    """The short form sorts them by family."""
    assert ask("plain.test") == ["NOERROR", "plain.test. 300 IN A 203.0.113.203"]
    assert ask("plain.test", "AAAA") == ["NOERROR", "plain.test. 300 IN AAAA 2001:db8::203"]


def test_a_name_is_told_as_it_was_written(resolver: Host, ask: Ask) -> None:
    """So that a test can show that no case and no option of a client has travelled."""
    ask("ShOp.TEST")
    (asked,) = resolver.questions()
    assert asked.name == "ShOp.TEST"
    assert b"\x04ShOp\x04TEST\x00" in asked.raw
    resolver.reset()
    assert resolver.questions() == []


def test_a_chain_of_aliases_is_followed_and_a_circle_ends(ask: Ask) -> None:
    """As a recursive resolver would hand them out."""
    assert ask("www.shop.test")[1:3] == [
        "www.shop.test. 300 IN CNAME alias.shop.test.",
        "alias.shop.test. 300 IN CNAME shop.test.",
    ]
    assert ask("one.loop.test") == [
        "NOERROR",
        "one.loop.test. 300 IN CNAME two.loop.test.",
        "two.loop.test. 300 IN CNAME one.loop.test.",
    ]


@pytest.mark.parametrize("kind", ["SRV", "TXT", "MX", "HTTPS", "NS"])
def test_other_kinds_are_answered(ask: Ask, kind: str) -> None:
    """Each by itself."""
    code, line = ask("all.test", kind)
    assert (code, line.split()[3]) == ("NOERROR", kind)


def test_pointers_and_wildcards_are_answered(ask: Ask) -> None:
    """A wildcard's records bear the name asked for."""
    assert ask("201.113.0.203.in-addr.arpa", "PTR")[1].endswith("IN PTR shop.test.")
    assert ask("a.b.wild.test") == ["NOERROR", "a.b.wild.test. 300 IN A 203.0.113.204"]


def test_what_is_not_in_the_zone_does_not_exist(ask: Ask) -> None:
    """And what has no such records has no data."""
    assert ask("nowhere.test") == ["NXDOMAIN"]
    assert ask("plain.test", "TXT") == ["NOERROR"]


def test_what_is_too_long_is_truncated_over_udp_only(ask: Ask) -> None:
    """250 addresses are 4 KiB."""
    assert ask("many.test") == ["NOERROR", "TC"]
    assert len(ask("many.test", over="tcp")) == 251


def test_a_zone_changes_at_once(resolver: Host, ask: Ask) -> None:
    """As for a name that is rebound."""
    resolver.set_zone({"shop.test": {"A": ["127.0.0.1"], "ttl": 0}})
    assert ask("shop.test") == ["NOERROR", "shop.test. 0 IN A 127.0.0.1"]
    with pytest.raises(ValueError, match=r"."):
        resolver.set_zone({"shop.test": {"A": ["no address"]}})
    assert ask("shop.test") == ["NOERROR", "shop.test. 0 IN A 127.0.0.1"]


def test_manners_are_for_one_name_or_for_all(resolver: Host, ask: Ask) -> None:
    """One name's own manner goes before that of all."""
    resolver.behave(Manner(rcode="SERVFAIL"))
    resolver.behave(Manner(), "plain.test")
    assert ask("shop.test") == ["SERVFAIL"]
    assert ask("plain.test")[0] == "NOERROR"
    resolver.behave(None, "plain.test")
    assert ask("plain.test") == ["SERVFAIL"]
    resolver.behave(Manner(rcode="REFUSED"), "shop.test")
    assert [ask("shop.test"), ask("plain.test")] == [["REFUSED"], ["SERVFAIL"]]
    resolver.behave(None)
    assert [ask("shop.test")[0], ask("plain.test")[0]] == ["NOERROR", "NOERROR"]


def test_a_server_can_be_silent_slow_and_truncating(resolver: Host, ask: Ask) -> None:
    """The question is told in each case."""
    resolver.behave(Manner(is_silent=True))
    with pytest.raises(dns.exception.Timeout):
        ask("shop.test", s=0.2)
    resolver.behave(Manner(delay_s=0.3))
    with pytest.raises(dns.exception.Timeout):
        ask("shop.test", s=0.2)
    assert len(ask("shop.test", s=1.0)) == 3
    resolver.behave(Manner(truncates=True))
    assert ask("shop.test") == ["NOERROR", "TC"]
    assert len(ask("shop.test", over="tcp")) == 3
    assert len(resolver.questions()) == 5


def test_records_can_be_put_in_and_turned_round(resolver: Host, ask: Ask) -> None:
    """Poison beside the right answer."""
    resolver.behave(Manner(answers=("evil.test. 9 IN A 203.0.113.66",), reverses=True))
    assert ask("www.shop.test")[1:] == [
        "evil.test. 9 IN A 203.0.113.66",
        "shop.test. 7 IN A 203.0.113.201",
        "shop.test. 7 IN A 203.0.113.202",
        "alias.shop.test. 300 IN CNAME shop.test.",
        "www.shop.test. 300 IN CNAME alias.shop.test.",
    ]


def raw_answers(bed: Bed, resolver: Host, count: int) -> list[tuple[bytes, int]]:
    """Ask for shop.test with id 0x1234 and read what comes, each with the port it came from."""
    query = dns.message.make_query("shop.test", "A", id=0x1234).to_wire()

    def exchange() -> list[tuple[bytes, int]]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)
            sock.sendto(query, (resolver.address4, 53))
            return [(data, sender[1]) for data, sender in (sock.recvfrom(4096) for _ in range(count))]

    return call_in(bed, exchange)


def test_lies_come_before_the_truth(bed: Bed, resolver: Host) -> None:
    """Each lie is wrong in what it is named for."""
    lies: tuple[Lie, ...] = ("id", "question", "kind", "class", "query", "opcode", "port", "garbage", "short", "empty")
    resolver.behave(Manner(lies=lies))
    answers = raw_answers(bed, resolver, len(lies) + 1)
    told = dict(zip((*lies, "truth"), answers, strict=True))
    read = {key: dns.message.from_wire(told[key][0]) for key in (*lies[:7], "truth")}
    assert told["id"][0][:2] == b"\x47\x61"
    assert read["question"].question[0].name.to_text() == "other.test."
    assert read["kind"].question[0].rdtype == dns.rdatatype.TXT
    assert read["class"].question[0].rdclass == dns.rdataclass.CH
    assert not read["query"].flags & dns.flags.QR
    assert read["opcode"].opcode() == 2
    assert told["port"][1] != 53
    assert [len(told[key][0]) for key in ("garbage", "short", "empty")] == [64, 7, 0]
    assert "203.0.113.201" in read["truth"].to_text()
    for key in lies[:7]:
        assert "203.0.113.66" in read[key].to_text()


def test_a_raw_reply_has_the_right_id(bed: Bed, resolver: Host) -> None:
    """Whatever a test makes up can be answered."""
    resolver.behave(Manner(raw=b"anything"))
    assert raw_answers(bed, resolver, 1)[0][0] == b"\x12\x34anything"


@pytest.mark.parametrize(
    ("manner", "expected"),
    [
        ("closes", lambda data, whole: data == b""),
        ("half", lambda data, whole: data == whole[: len(whole) // 2]),
        ("trickles", lambda data, whole: data == whole),
        ("length too long", lambda data, whole: data == b"\xff\xff" + whole[2:]),
        ("length too short", lambda data, whole: data == b"\x00\x10" + whole[2:]),
        ("length 0", lambda data, whole: data == b"\x00\x00" + whole),
        ("silent", lambda data, whole: data == b"(nothing)"),
    ],
)
def test_tcp_manners(bed: Bed, resolver: Host, manner: str, expected: Callable[[bytes, bytes], bool]) -> None:
    """What the client reads, against what a plain server says."""
    query = dns.message.make_query("shop.test", "A", id=7).to_wire()

    def exchange() -> bytes:
        with socket.create_connection((resolver.address4, 53), timeout=0.3) as sock:
            sock.sendall(len(query).to_bytes(2, "big") + query)
            read = b""
            with contextlib.suppress(TimeoutError):
                while data := sock.recv(4096):
                    read += data
                return read
            return read or b"(nothing)"

    whole = call_in(bed, exchange)
    resolver.behave(Manner(tcp=manner))  # type: ignore[arg-type]
    assert expected(call_in(bed, exchange), whole)


def test_a_delayed_answer_over_tcp_comes_later(resolver: Host, ask: Ask) -> None:
    """And not before."""
    resolver.behave(Manner(delay_s=0.3))
    with pytest.raises(dns.exception.Timeout):
        ask("shop.test", over="tcp", s=0.2)
    assert len(ask("shop.test", over="tcp", s=1.0)) == 3
