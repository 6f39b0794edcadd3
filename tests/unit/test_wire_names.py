"""Names between bytes and text: nothing that looks like another name is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.dns.names import (
    CompressedNames,
    address_of_reverse,
    labels_at,
    name_at,
    text_of,
    wire_of,
    wire_of_labels,
)

LABEL = st.binary(min_size=1, max_size=63)
NAMES = [
    ([], ""),
    ([b"example", b"com"], "example.com"),
    ([b"ExAmPLE", b"COM"], "example.com"),
    ([b"_tcp", b"xn--bcher-kva", b"0"], "_tcp.xn--bcher-kva.0"),
    ([b"a.b"], "a\\046b"),
    ([b"."], "\\046"),
    ([b"evil\\", b"com"], "evil\\092.com"),
    ([b"good\0", b"com"], "good\\000.com"),
    ([b"b\xc3\xbccher", b"A B"], "b\\195\\188cher.a\\032b"),
    ([b"x" * 63] * 3 + [b"x" * 61], ".".join(["x" * 63] * 3 + ["x" * 61])),
]


@pytest.mark.parametrize(("labels", "name"), NAMES)
def test_a_name_has_one_text(labels: list[bytes], name: str) -> None:
    """Letters are lower-case, odd bytes escaped, and the way back ends where it began."""
    assert text_of(labels) == name
    assert wire_of(name) == wire_of_labels(labels).lower()


@given(st.lists(LABEL, max_size=6).filter(lambda labels: sum(map(len, labels)) + len(labels) < 255))
def test_text_and_wire_say_the_same(labels: list[bytes]) -> None:
    """Two names have the same text only if they are the same name but for the case of ASCII letters."""
    wire = wire_of(text_of(labels))
    assert wire == wire_of_labels([label.lower() for label in labels])
    assert labels_at(wire, 0) == ([label.lower() for label in labels], len(wire))
    assert name_at(b"1234" + wire_of_labels(labels), 4) == text_of(labels)


@given(st.text(max_size=30) | st.text(alphabet="ab.\\0469-_A", max_size=12))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    """No second text of a name is taken."""
    try:
        wire = wire_of(text)
    except ValueError:
        return
    assert text_of(labels_at(wire, 0)[0]) == text


@pytest.mark.parametrize(
    "text",
    [
        *("example.com.", ".", "a..b", ".a", "Example.com", "a b", "bücher.de", "a\0b", "*.a"),
        *("\\046.com\\", "\\04", "\\4a6", "\\256", "\\999", "\\097", "\\065", "\\-46"),
        *("x" * 64, ".".join(["x" * 63] * 4), ".".join(["x" * 63] * 3 + ["x" * 62]), "\\046" * 64),
    ],
)
def test_what_is_no_name_cannot_be_written(text: str) -> None:
    """The caller hears of it; nothing half right goes on the wire."""
    with pytest.raises(ValueError, match=r"label|name|escape|byte|ascii"):
        wire_of(text)


@pytest.mark.parametrize("wire", [b"", b"\1", b"\1a", b"\5abc\0", b"\x40a\0", b"\x80a\0", b"\xc0\0", b"\1a\xc0\0"])
def test_a_broken_name_is_not_read(wire: bytes) -> None:
    """Cut off, of a label type that does not exist, or with a pointer where none may be; G7."""
    for before in (b"", b"\1b\0"):
        with pytest.raises((ValueError, IndexError)):
            labels_at(before + wire, len(before))
    assert labels_at(b"\1b\0", 0) == ([b"b"], 3)


def test_names_end_at_255_bytes() -> None:
    """One byte more is refused, plain or by a pointer."""
    longest = wire_of_labels([b"x" * 63] * 3 + [b"x" * 61])
    assert len(longest) == 255
    assert labels_at(longest, 0)[1] == 255
    assert CompressedNames(longest).labels_at(0, 255)[1] == 255
    longer = wire_of_labels([b"x" * 63] * 3 + [b"x" * 62])
    with pytest.raises(ValueError, match="255"):
        labels_at(longer, 0)
    with pytest.raises(ValueError, match="255"):
        CompressedNames(longer).labels_at(0, 256)
    for size, is_read in ((59, True), (60, False)):
        message = wire_of_labels([b"x" * 63] * 3 + [b"x" * size]) + b"\1y\xc0\0"
        reading = CompressedNames(message)
        if is_read:
            assert len(reading.labels_at(len(message) - 4, len(message))[0]) == 5
        else:
            with pytest.raises(ValueError, match="255"):
                reading.labels_at(len(message) - 4, len(message))


@pytest.mark.parametrize(
    ("message", "at", "labels"),
    [
        (b"\1a\0\1b\xc0\0", 3, [b"b", b"a"]),
        (b"\1a\0\xc0\0\xc0\3", 5, [b"a"]),
        (b"\xc0\0", 0, None),  # to itself
        (b"\1a\xc0\0", 0, None),  # to its own beginning
        (b"\xc0\2\1a\0", 0, None),  # forwards
        (b"\1a\xc0\4\1b\xc0\0", 4, None),  # around a loop of two
        (b"\3abc\0\xc0\0", 5, [b"abc"]),
        (b"\4abc\xc0\0", 4, None),  # to a label that runs into the pointer, and ends in its second byte
        (b"\1a\0\xc0", 3, None),  # half a pointer
        (b"\1a\0\xff\xff", 3, None),  # beyond the end
        (b"\1a\0\x40\0", 3, None),
        (b"\1a\0\x80\0", 3, None),
        (b"\1a\0\xbf\xff\0", 3, None),  # would be the last byte, if it counted as a pointer
    ],
)
def test_pointers_lead_to_what_stands_wholly_before(message: bytes, at: int, labels: list[bytes] | None) -> None:
    """Anything else could go round for ever, or read one byte as two things; G7."""
    if labels is None:
        with pytest.raises((ValueError, IndexError)):
            CompressedNames(message).labels_at(at, len(message))
    else:
        assert CompressedNames(message).labels_at(at, len(message))[0] == labels


def test_a_name_ends_where_its_data_ends() -> None:
    """What follows belongs to the next record: not a label, nor the root, nor the second byte of a pointer."""
    for name in (b"\1b\0", b"\2bc\0", b"\xc0\0", b"\1b\xc0\0"):
        message = b"\1a\0" + name
        assert CompressedNames(message).labels_at(3, len(message))[1] == len(message)
        for end in range(3, len(message)):
            with pytest.raises(ValueError, match="end|half"):
                CompressedNames(message).labels_at(3, end)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("4.3.2.1.in-addr.arpa", "00000000000000000000ffff01020304"),
        ("255.0.0.10.in-addr.arpa", "00000000000000000000ffff0a0000ff"),
        ("1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa", "20010db8000000000000000000000001"),
        ("3.2.1.in-addr.arpa", None),
        ("5.4.3.2.1.in-addr.arpa", None),
        ("256.3.2.1.in-addr.arpa", None),
        ("04.3.2.1.in-addr.arpa", None),
        (".3.2.1.in-addr.arpa", None),
        ("-4.3.2.1.in-addr.arpa", None),
        ("a.3.2.1.in-addr.arpa", None),
        ("\\052.3.2.1.in-addr.arpa", None),
        ("4.3.2.1.in-addr.arpa.example", None),
        ("4.3.2.1.xin-addr.arpa", None),
        ("0." * 31 + "ip6.arpa", None),
        ("0." * 33 + "ip6.arpa", None),
        ("g." + "0." * 31 + "ip6.arpa", None),
        ("00.." + "0." * 30 + "ip6.arpa", None),
        ("10.." + "0." * 30 + "ip6.arpa", None),
        ("_." + "0." * 31 + "ip6.arpa", None),
        ("in-addr.arpa", None),
        ("", None),
    ],
)
def test_only_a_whole_reverse_name_is_an_address(name: str, address: str | None) -> None:
    """A part of one is a network, and a second spelling is another name."""
    assert address_of_reverse(name) == (bytes.fromhex(address) if address else None)
