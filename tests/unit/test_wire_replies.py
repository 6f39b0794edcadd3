"""What an upstream may reply: the answer to the question that was asked, well-formed to its last byte, or nothing."""

import time
from collections import Counter

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.dns.names import name_at, text_of, wire_of
from exeat.dns.records import Kind, Rcode, Record, Reply
from exeat.dns.wire import parse_reply, write_query
from fuzz.fuzz_dns import disagreements

ASKED = "www.example.com"
QUESTION = wire_of(ASKED) + b"\0\1\0\1"
END = 12 + len(QUESTION)  # where the first record begins
ADDRESS = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc6\x33\x64\x01"
READ_ADDRESS = Record(ASKED, Kind.A, 60, b"\xc6\x33\x64\x01")


def reply(
    records: bytes = ADDRESS, counts: tuple[int, int, int] = (1, 0, 0), flags: int = 0x8180, question: bytes = QUESTION
) -> bytes:
    """A reply with ident 0x1234."""
    return (
        b"\x12\x34" + flags.to_bytes(2) + b"\0\1" + b"".join(count.to_bytes(2) for count in counts) + question + records
    )


def record(kind: int, data: bytes, ttl: int = 60, klass: int = 1, owner: bytes = b"\xc0\x0c") -> bytes:
    """One record."""
    return owner + kind.to_bytes(2) + klass.to_bytes(2) + ttl.to_bytes(4) + len(data).to_bytes(2) + data


def read(message: bytes) -> Reply | None:
    """What it says to the question for the address of www.example.com."""
    return parse_reply(message, 0x1234, ASKED, Kind.A)


@given(
    st.integers(0, 65535),
    st.lists(st.binary(min_size=1, max_size=20), max_size=8),
    st.integers(0, 65535),
    st.integers(512, 65535),
)
def test_a_question_is_built_from_name_and_type_alone(ident: int, labels: list[bytes], kind: int, size: int) -> None:
    """dnspython reads the same; RD and EDNS are there, and no other flag or option."""
    name = text_of(labels)
    asked = dns.message.from_wire(write_query(ident, name, kind, size))
    assert (asked.id, int(asked.flags), asked.question[0].rdtype, asked.payload) == (ident, 0x0100, kind, size)
    assert asked.question[0].name.to_wire() == wire_of(name)
    assert (asked.edns, asked.ednsflags, asked.options, len(asked.sections[0])) == (0, 0, (), 1)


def test_a_chain_is_read_with_its_names_spelled_out() -> None:
    """Upstreams compress; what is kept stands by itself. The question's case may differ: some servers change it."""
    answer = dns.message.make_response(dns.message.make_query("wWw.Example.Com", "A", id=0x1234))
    answer.answer = [
        dns.rrset.from_text("wWw.Example.Com.", 60, "IN", "CNAME", "cdn.example.com."),
        dns.rrset.from_text("cdn.Example.com.", 30, "IN", "A", "198.51.100.1"),
    ]
    chain = read(answer.to_wire())
    assert chain == Reply(
        Rcode.NOERROR,
        False,
        (
            Record(ASKED, Kind.CNAME, 60, wire_of("cdn.example.com").replace(b"example\3com", b"Example\3Com")),
            Record("cdn.example.com", Kind.A, 30, b"\xc6\x33\x64\x01"),
        ),
        None,
    )
    assert name_at(chain.records[0].data) == "cdn.example.com"


def test_the_question_alone_decides_whose_reply_it_is() -> None:
    """A reply to another question is none to this; its twin is."""
    assert read(reply()) == Reply(0, False, (READ_ADDRESS,), None)
    assert read(reply(question=QUESTION.replace(b"example", b"eXAmple"))) == read(reply())
    for other in (
        b"\x12\x35" + reply()[2:],
        reply(flags=0x0180),
        reply(flags=0x9180),
        reply(flags=0xA980),
        reply(question=wire_of("www.example.org") + b"\0\1\0\1"),
        reply(question=wire_of("www\\046example.com") + b"\0\1\0\1"),
        reply(question=wire_of("example.com") + b"\0\1\0\1"),
        reply(question=QUESTION[:-4] + b"\0\x1c\0\1"),
        reply(question=QUESTION[:-4] + b"\0\1\0\3"),
        reply()[:4] + b"\0\0" + reply()[6:],
        reply()[:4] + b"\0\2" + reply()[6:12] + QUESTION + reply()[12:],
        b"\x12\x34\x81\x81" + bytes(8),
    ):
        assert read(other) is None
    assert parse_reply(reply(), 0x1234, "a..b", Kind.A) is None, "nothing answers a question that cannot be asked"


def test_a_type_is_not_compared_without_case() -> None:
    """65 and 97 are one letter in two cases as bytes: HTTPS is not type 97."""
    question = QUESTION[:-4] + b"\0\x41\0\1"
    assert parse_reply(reply(b"", (0, 0, 0), question=question), 0x1234, ASKED, Kind.HTTPS) == Reply(0, False, (), None)
    assert parse_reply(reply(b"", (0, 0, 0), question=question), 0x1234, ASKED, 97) is None
    question = QUESTION[:-4] + b"\0\x61\0\1"
    assert parse_reply(reply(b"", (0, 0, 0), question=question), 0x1234, ASKED, Kind.HTTPS) is None


NAMES = b"\3cdn\xc0\x10"  # a name that ends in the question's example.com
SPELLED = wire_of("cdn.example.com")
SHAPES = [
    *((kind, NAMES, SPELLED) for kind in (Kind.NS, Kind.CNAME, Kind.PTR, Kind.DNAME, Kind.MB)),
    *((kind, b"\0\5" + NAMES, b"\0\5" + SPELLED) for kind in (Kind.MX, Kind.AFSDB, Kind.KX, Kind.RT)),
    *((kind, NAMES + NAMES, SPELLED + SPELLED) for kind in (Kind.MINFO, Kind.RP)),
    (Kind.SRV, b"\0\1\0\2\0\3" + NAMES, b"\0\1\0\2\0\3" + SPELLED),
    (Kind.SOA, NAMES + NAMES + bytes(20), SPELLED + SPELLED + bytes(20)),
    (Kind.PX, b"\0\5" + NAMES + NAMES, b"\0\5" + SPELLED + SPELLED),
    (Kind.NAPTR, b"\0\1\0\2\1s\3SIP\0" + NAMES, b"\0\1\0\2\1s\3SIP\0" + SPELLED),
]


@pytest.mark.parametrize(("kind", "data", "spelled"), SHAPES)
def test_names_in_data_are_spelled_out_and_lengths_must_be_true(kind: int, data: bytes, spelled: bytes) -> None:
    """Data one byte shorter or longer than its type says makes the whole reply nothing."""
    whole = read(reply(record(kind, data)))
    assert whole is not None
    assert whole.records[0].data == spelled
    assert read(reply(record(kind, data + b"\0"))) is None
    for cut in range(len(data)):
        assert read(reply(record(kind, data[:cut]))) is None
    pointer = data.rindex(b"\xc0\x10")
    looping = data[:pointer] + (0xC000 | END + 12 + pointer).to_bytes(2) + data[pointer + 2 :]
    assert read(reply(record(kind, looping))) is None


@pytest.mark.parametrize(("kind", "size"), [(Kind.A, 4), (Kind.AAAA, 16)])
def test_an_address_has_its_length(kind: int, size: int) -> None:
    """An address of another length is none."""
    assert read(reply(record(kind, bytes(size)))) == Reply(0, False, (Record(ASKED, kind, 60, bytes(size)),), None)
    for wrong in (0, size - 1, size + 1, 65):
        assert read(reply(record(kind, bytes(wrong)))) is None


@pytest.mark.parametrize("kind", [Kind.TXT, Kind.HTTPS, Kind.SVCB, Kind.NULL, 46, 257, 65280])
def test_other_data_is_opaque(kind: int) -> None:
    """It travels as it is, pointers or not."""
    for data in (b"", b"\xc0\x0c", bytes(range(200))):
        assert read(reply(record(kind, data))) == Reply(0, False, (Record(ASKED, kind, 60, data),), None)


def test_a_reply_that_lies_anywhere_is_nothing() -> None:
    """Not one of its addresses is believed."""
    opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
    assert read(reply(ADDRESS + opt, (1, 0, 1))) == read(reply())
    assert read(reply(ADDRESS + record(Kind.A, bytes(4)), (1, 0, 1))) == read(reply()), "other records are not taken in"
    for broken in (
        reply(ADDRESS + b"\0"),
        reply(ADDRESS, (2, 0, 0)),
        reply(ADDRESS, (65535, 65535, 65535)),
        reply(ADDRESS, (0, 0, 0)),
        reply(record(Kind.A, bytes(4), klass=3)),
        reply(record(Kind.A, bytes(4), owner=b"\xc0\xff")),
        reply(record(Kind.A, bytes(4), owner=(0xC000 | END).to_bytes(2))),
        reply(ADDRESS + record(Kind.NS, b"\xc0"), (1, 1, 0)),
        reply(ADDRESS + record(Kind.NS, b"\1a\0", klass=4), (1, 1, 0)),
        reply(ADDRESS + record(Kind.A, bytes(3)), (1, 0, 1)),
        reply(ADDRESS + opt + opt, (1, 0, 2)),
        reply(ADDRESS + b"\1a" + opt, (1, 0, 1)),
        reply(ADDRESS + opt[:-2] + b"\0\3\0\x0a\0", (1, 0, 1)),
        reply(ADDRESS + opt, (2, 0, 0)),
        reply(record(Kind.TSIG, b"")),
    ):
        assert read(broken) is None
    whole = reply(ADDRESS + record(Kind.SOA, SHAPES[-3][1]) + opt, (1, 1, 1))
    assert read(whole) is not None
    assert [cut for cut in range(len(whole)) if read(whole[:cut]) is not None] == []


def test_half_a_set_is_not_used() -> None:
    """A truncated reply says only that it is; some servers cut it in the middle of a record."""
    for cut in (ADDRESS, ADDRESS[:-1], b""):
        assert read(reply(cut, flags=0x8380)) == Reply(0, True, (), None)


def test_a_ttl_with_its_sign_bit_counts_as_nothing() -> None:
    """RFC 2181 section 8."""
    for ttl, counts in ((0, 0), (0x7FFFFFFF, 0x7FFFFFFF), (0x80000000, 0), (0xFFFFFFFF, 0)):
        answer = read(reply(record(Kind.A, bytes(4), ttl)))
        assert answer is not None
        assert answer.records[0].ttl == counts


@pytest.mark.parametrize(
    ("ttl", "minimum", "life"), [(300, 60, 60), (60, 300, 60), (0x80000000, 60, 0), (60, 0xFFFFFFFF, 0), (0, 5, 0)]
)
def test_the_soa_says_how_long_a_no_holds(ttl: int, minimum: int, life: int) -> None:
    """The smaller of its TTL and its minimum (RFC 2308), and only in the authority section."""
    soa = record(Kind.SOA, b"\0\0" + bytes(16) + minimum.to_bytes(4), ttl)
    assert read(reply(soa, (0, 1, 0), flags=0x8183)) == Reply(Rcode.NXDOMAIN, False, (), life)
    for counts in ((1, 0, 0), (0, 0, 1)):
        elsewhere = read(reply(soa, counts))
        assert elsewhere is not None
        assert elsewhere.negative_ttl is None


def test_a_large_rcode_is_put_together() -> None:
    """Its upper bits stand in the OPT record."""
    answer = read(reply(b"\0\0\x29\x04\xd0\1\0\0\0\0\0", (0, 0, 1)))
    assert answer == Reply(Rcode.BADVERS, False, (), None)


def dear_messages() -> dict[str, bytes]:
    """Messages of nearly 65,535 bytes that are well-formed, and cost a naive reader the most."""
    start = END + 12
    # A root, then 8,000 pointers: to the root, to the first pointer, to the second ...
    places = [start, *range(start + 1, start + 16000, 2)]
    chain = record(65280, b"\0" + b"".join((0xC000 | place).to_bytes(2) for place in places[:-1]))
    last = [(0xC000 | place).to_bytes(2) for place in places[-3400:]]
    labels = record(65280, b"\1x" * 126 + b"\0")
    longest = (0xC000 | start).to_bytes(2)
    return {
        "pointers to the end of a chain": reply(chain + record(Kind.NS, last[-1]) * 3400, (3401, 0, 0)),
        "owners all along a chain": reply(
            chain + b"".join(record(65280, b"", owner=each) for each in last), (3401, 0, 0)
        ),
        "the longest name, again and again": reply(labels + record(Kind.NS, longest) * 4600, (4601, 0, 0)),
        "65,535 bytes of pointers": reply(b"\xc0\x0c" * 32700, (5449, 0, 0)),
    }


@pytest.mark.parametrize("kind", dear_messages())
def test_a_dear_message_costs_little(kind: str) -> None:
    """A moment is all that it gets; a reader without bounds would spend seconds on some of them."""
    message = dear_messages()[kind]
    assert 40000 < len(message) <= 65535
    began = time.process_time()
    assert read(message) is None
    assert time.process_time() - began < 0.25


def test_an_honest_large_reply_is_read() -> None:
    """The bound on work is not in its way: 4,000 addresses, 2,000 service records."""
    many = read(reply(ADDRESS * 4000, (4000, 0, 0)))
    assert many is not None
    assert len(many.records) == 4000
    services = read(reply(record(Kind.SRV, bytes(6) + b"\7node-42" + b"\xc0\x0c") * 2300, (2300, 0, 0)))
    assert services is not None
    assert len({each.data for each in services.records}) == 1


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_are_a_reply_or_nothing(noise: bytes, has_question: bool) -> None:
    """Nothing is ever raised."""
    message = reply(noise[3:], (noise[0] & 3, noise[1] & 3, noise[2] & 3)) if has_question and noise[3:] else noise
    assert read(message) is None or message[:2] == b"\x12\x34"


def test_exeat_and_dnspython_agree() -> None:
    """On thousands of random, mutated and cut messages: what is accepted, and what is read. Longer: make fuzz."""
    seen: Counter[str] = Counter()
    assert disagreements(20, 2500, seen) == []
    for ending in (
        "query accepted",
        "query <Rcode.FORMERR: 1>",
        "query <Rcode.BADVERS: 16>",
        "query <Rcode.REFUSED: 5>",
    ):
        assert seen[ending] > 20, ending
    for ending in ("reply refused", "reply accepted, truncated: False", "reply accepted, truncated: True"):
        assert seen[ending] > 50, ending
