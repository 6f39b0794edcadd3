"""What a workload may ask, what it is told when it asks in any other way, and what its answers look like."""

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.dns.names import wire_of
from exeat.dns.records import Kind, Query, Question, Rcode, Record
from exeat.dns.wire import Malformed, parse_query, refusal, write_answer

NAME = b"\3wWw\7example\3Com\0"
ASKED = NAME + b"\0\1\0\1"
OPT = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"
TSIG = b"\3key\0\0\xfa\0\xff\0\0\0\0\0\4sign"


def message(body: bytes = ASKED, flags: int = 0x0100, counts: tuple[int, ...] = (1, 0, 0, 0)) -> bytes:
    """A message with ident 0x1234."""
    return b"\x12\x34" + flags.to_bytes(2) + b"".join(count.to_bytes(2) for count in counts) + body


def opt(size: int = 1232, bits: int = 0, options: bytes = b"") -> bytes:
    """An OPT record."""
    return b"\0\0\x29" + size.to_bytes(2) + bits.to_bytes(4) + len(options).to_bytes(2) + options


WELL_FORMED = [
    (message(), (False, 512, False)),
    (message(flags=0x0000), (False, 512, False)),
    (message(flags=0x01B0), (False, 512, False)),
    (message(ASKED + OPT, counts=(1, 0, 0, 1)), (True, 1232, True)),
    (message(ASKED + opt(0), counts=(1, 0, 0, 1)), (True, 512, False)),
    (message(ASKED + opt(65535), counts=(1, 0, 0, 1)), (True, 65535, False)),
    (message(ASKED + opt(bits=0xFF000000), counts=(1, 0, 0, 1)), (True, 1232, False)),
    (message(ASKED + opt(options=b"\0\x0a\0\x08COOKIES!\xfd\xe9\0\0"), counts=(1, 0, 0, 1)), (True, 1232, False)),
    (message(ASKED + OPT + TSIG, counts=(1, 0, 0, 2)), (True, 1232, True)),
    (message(ASKED + TSIG, counts=(1, 0, 0, 1)), (False, 512, False)),
]


@pytest.mark.parametrize(("asked", "edns"), WELL_FORMED)
def test_a_well_formed_question_is_read(asked: bytes, edns: tuple[bool, int, bool]) -> None:
    """The name is lower-case, its echo is not; EDNS options, cookies and signatures change nothing; G3."""
    flags = int.from_bytes(asked[2:4])
    assert parse_query(asked) == Query(0x1234, flags, Question("www.example.com", Kind.A, ASKED), *edns)


MALFORMED = [
    ("empty", b"", None),
    ("shorter than a header", message()[:11], None),
    ("a response sent as a question", message(flags=0x8180), None),
    ("a response that is broken too", message(b"", 0xFD00), None),
    ("opcode IQUERY", message(flags=0x0900), Rcode.NOTIMP),
    ("opcode STATUS", message(flags=0x1100), Rcode.NOTIMP),
    ("opcode NOTIFY", message(flags=0x2100), Rcode.NOTIMP),
    ("opcode UPDATE, broken besides", message(b"", 0x2900), Rcode.NOTIMP),
    ("no question", message(b"", counts=(0, 0, 0, 0)), Rcode.FORMERR),
    ("two questions", message(ASKED + ASKED, counts=(2, 0, 0, 0)), Rcode.FORMERR),
    ("one question of two said", message(counts=(2, 0, 0, 0)), Rcode.FORMERR),
    ("65,535 questions", message(counts=(65535, 0, 0, 0)), Rcode.FORMERR),
    ("an answer", message(ASKED + TSIG, counts=(1, 1, 0, 0)), Rcode.FORMERR),
    ("an authority", message(ASKED + TSIG, counts=(1, 0, 1, 0)), Rcode.FORMERR),
    ("one byte left over", message(ASKED + b"\0"), Rcode.FORMERR),
    ("a second message behind", message() + message(), Rcode.FORMERR),
    ("an additional record that is not there", message(counts=(1, 0, 0, 1)), Rcode.FORMERR),
    ("65,535 additional records", message(ASKED + OPT, counts=(1, 0, 0, 65535)), Rcode.FORMERR),
    ("an additional record that is not said", message(ASKED + OPT), Rcode.FORMERR),
    ("data over the end", message(ASKED + TSIG[:-1], counts=(1, 0, 0, 1)), Rcode.FORMERR),
    ("two OPT records", message(ASKED + OPT + OPT, counts=(1, 0, 0, 2)), Rcode.FORMERR),
    ("an OPT record with a name", message(ASKED + b"\1a" + OPT, counts=(1, 0, 0, 1)), Rcode.FORMERR),
    ("half an option", message(ASKED + opt(options=b"\0\x0a\0"), counts=(1, 0, 0, 1)), Rcode.FORMERR),
    ("an option over its end", message(ASKED + opt(options=b"\0\x0a\0\1"), counts=(1, 0, 0, 1)), Rcode.FORMERR),
    (
        "an option over its end into the next record",
        message(ASKED + opt(options=b"\0\x0a\0\4") + TSIG, counts=(1, 0, 0, 2)),
        Rcode.FORMERR,
    ),
    ("EDNS version 1", message(ASKED + opt(bits=0x10000), counts=(1, 0, 0, 1)), Rcode.BADVERS),
    ("EDNS version 255", message(ASKED + opt(bits=0xFF0000), counts=(1, 0, 0, 1)), Rcode.BADVERS),
    ("class CH", message(NAME + b"\0\1\0\3"), Rcode.REFUSED),
    ("class ANY", message(NAME + b"\0\1\0\xff"), Rcode.REFUSED),
    ("class IN with the mDNS bit", message(NAME + b"\0\1\x80\1"), Rcode.REFUSED),
    ("no type", message(NAME), Rcode.FORMERR),
    ("half a class", message(ASKED[:-1]), Rcode.FORMERR),
    ("a name over the end", message(b"\x3fabc"), Rcode.FORMERR),
    ("a pointer to itself", message(b"\xc0\x0c\0\1\0\1"), Rcode.FORMERR),
    ("a pointer to the header", message(b"\xc0\0\0\1\0\1"), Rcode.FORMERR),
    ("a pointer in an additional name", message(ASKED + b"\xc0\x0c" + TSIG[5:], counts=(1, 0, 0, 1)), Rcode.FORMERR),
    ("label type 0x40", message(b"\x41" + b"a" * 65 + b"\0\0\1\0\1"), Rcode.FORMERR),
    ("label type 0x80", message(b"\x80\0\1\0\1"), Rcode.FORMERR),
    ("a name of 256 bytes", message(b"\x3e" + b"x" * 62 + (b"\x3f" + b"x" * 63) * 3 + b"\0\0\1\0\1"), Rcode.FORMERR),
    ("a name of 65,000 bytes", message(b"\1x" * 32500 + b"\0\0\1\0\1"), Rcode.FORMERR),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "rcode"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_any_other_message_is_refused_with_its_own_rcode(asked: bytes, rcode: Rcode | None) -> None:
    """An answer is due to whatever has the header of a question, and it is a bare header; G3, G7."""
    with pytest.raises(Malformed) as caught:
        parse_query(asked)
    assert caught.value.rcode == rcode
    answer = refusal(caught.value)
    if rcode is None:
        assert answer is None
        return
    assert answer is not None
    read = dns.message.from_wire(answer)
    assert (read.id, read.rcode(), read.flags & 0xF900) == (0x1234, rcode, 0x8000 | int.from_bytes(asked[2:4]) & 0x7900)
    assert not read.question
    assert read.edns == (0 if rcode == Rcode.BADVERS else -1)
    assert len(answer) == (23 if rcode == Rcode.BADVERS else 12)


def test_every_cut_of_a_question_is_malformed() -> None:
    """Wherever it is cut, it is not read as less."""
    whole = message(ASKED + OPT + TSIG, counts=(1, 0, 0, 2))
    assert parse_query(whole).has_edns
    for cut in range(len(whole)):
        with pytest.raises(Malformed):
            parse_query(whole[:cut])


@given(st.binary(max_size=80) | st.binary(max_size=40).map(message))
def test_any_bytes_are_a_query_or_malformed(noise: bytes) -> None:
    """Nothing else is ever raised, and nothing that is read is out of bounds."""
    try:
        read = parse_query(noise)
    except Malformed as error:
        refusal(error)
        return
    assert noise[12:].startswith(read.question.wire)
    assert wire_of(read.question.name) == read.question.wire[:-4].lower()


@pytest.mark.parametrize(
    "label",
    [b"evil.com", b"evil\\.com", b"evil\0", b"\xff", b"evil com"],
    ids=["dot", "escape", "nul", "high", "space"],
)
def test_odd_bytes_in_a_label_cannot_make_an_allowed_name(label: bytes) -> None:
    """G7: a label that holds a dot is one label, and shows it."""
    asked = message(bytes((len(label),)) + label + b"\7example\0\0\1\0\1")
    first, *others = parse_query(asked).question.name.split(".")
    assert others == ["example"]
    assert "\\" in first
    assert first.isascii()


def query(asked: bytes = message(ASKED + OPT, counts=(1, 0, 0, 1))) -> Query:
    """A question to answer."""
    return parse_query(asked)


ADDRESS = Record("www.example.com", Kind.A, 60, b"\xc6\x33\x64\x01")
ALIAS = Record("www.example.com", Kind.CNAME, 300, wire_of("a\\046b.example.net"))
TARGET = Record("a\\046b.example.net", Kind.AAAA, 60, bytes.fromhex("20010db8000000000000000000000001"))


@pytest.mark.parametrize("asked", [case[0] for case in WELL_FORMED])
def test_an_answer_says_what_it_was_given(asked: bytes) -> None:
    """The question comes back as it was written; EDNS only if the client speaks it."""
    given_query = query(asked)
    read = dns.message.from_wire(write_answer(given_query, Rcode.NOERROR, [ALIAS, TARGET], limit=512))
    assert read.id == 0x1234
    assert read.flags == 0x8080 | given_query.flags & dns.flags.RD
    assert read.question[0].name.to_wire() == NAME
    assert [rrset.to_text() for rrset in read.answer] == [
        "wWw.example.Com. 300 IN CNAME a\\.b.example.net.",
        "a\\.b.example.net. 60 IN AAAA 2001:db8::1",
    ]
    assert read.edns == (0 if given_query.has_edns else -1)
    assert bool(read.ednsflags & dns.flags.DO) == given_query.dnssec_ok
    assert not read.options


def test_what_does_not_fit_is_marked_and_left_out() -> None:
    """Half a set of addresses would be taken for the whole. One byte decides."""
    records = [ADDRESS] * 30
    whole = write_answer(query(), 0, records, limit=4096)
    assert len(whole) == 12 + len(ASKED) + 30 * 16 + len(OPT) > 512
    assert write_answer(query(), 0, records, limit=len(whole)) == whole
    cut = write_answer(query(), 0, records, limit=len(whole) - 1)
    read = dns.message.from_wire(cut)
    assert read.flags & dns.flags.TC
    assert not read.answer
    assert read.question
    assert read.edns == 0
    assert write_answer(query(), 0, [Record("", 65280, 0, bytes(70000))], limit=1 << 20) == cut, (
        "no message is longer than 65,535"
    )
    assert len(write_answer(query(), 0, [ADDRESS] * 28, limit=0)) <= 512
    assert not write_answer(query(), 0, [ADDRESS] * 28, limit=0)[2] & 0x02, "less than 512 counts as 512"


def test_a_denial_is_explained_to_clients_that_speak_edns() -> None:
    """Extended DNS Error 15, Blocked, with its text; without EDNS there is no place for it."""
    answer = write_answer(query(), Rcode.NXDOMAIN, [], limit=512, explanation="policy a: no rule für this name")
    read = dns.message.from_wire(answer)
    assert read.rcode() == Rcode.NXDOMAIN
    (option,) = read.options
    assert isinstance(option, dns.edns.EDEOption)
    assert (option.code, option.text) == (15, "policy a: no rule für this name")
    bare = write_answer(query(message()), Rcode.NXDOMAIN, [], limit=512, explanation="unheard")
    assert bare == message(flags=0x8183)


@given(st.text(max_size=600), st.integers(0, 28))
def test_an_explanation_takes_the_room_there_is(text: str, count: int) -> None:
    """It is cut between characters, never pushes a record out, and never makes the answer too long."""
    records = [ADDRESS] * count
    answer = write_answer(query(), Rcode.NOERROR, records, limit=512, explanation=text)
    plain = write_answer(query(), Rcode.NOERROR, records, limit=512)
    assert len(answer) <= 512
    assert len(dns.message.from_wire(answer, one_rr_per_rrset=True).answer) == count == answer[7]
    if len(plain) + 6 > 512:
        assert answer == plain
        return
    said = answer[len(plain) + 6 :].decode()  # an option's head is 4 bytes, the info-code 2
    assert text.startswith(said)
    rest = text.removeprefix(said)
    assert not rest or len(answer) + len(rest[0].encode()) > 512, "there was room for another character"


@pytest.mark.parametrize("letter", ["x", "ü", "€"])
def test_a_long_explanation_fills_the_message(letter: str) -> None:
    """To the byte, but for what another character would need, however much room the records take."""
    for count in range(29):
        answer = write_answer(query(), Rcode.NOERROR, [ADDRESS] * count, limit=512, explanation=letter * 1000)
        room = 512 - len(write_answer(query(), Rcode.NOERROR, [ADDRESS] * count, limit=512)) - 6
        assert len(answer) == 512 - room % len(letter.encode())


def test_a_large_rcode_needs_edns() -> None:
    """Its upper bits stand in the OPT record; to a client without one it is a failure."""
    assert dns.message.from_wire(write_answer(query(), Rcode.BADVERS, [], limit=512)).rcode() == 16
    assert dns.message.from_wire(write_answer(query(message()), Rcode.BADVERS, [], limit=512)).rcode() == 2


@pytest.mark.parametrize("name", ["A.example", "a..b", "x" * 64])
def test_an_answer_with_an_impossible_name_is_not_written(name: str) -> None:
    """The caller hears of it."""
    with pytest.raises(ValueError, match="label|byte"):
        write_answer(query(), 0, [Record(name, Kind.A, 60, bytes(4))], limit=512)
