"""Domain names: between labels on the wire and text.

In text, dots stand between the labels, none at the end; the root is the empty string. ASCII letters are lower-case, and
every byte but a-z 0-9 _ - is written \\DDD (three decimal digits): a label that holds a dot can never look like two
labels, nor one that holds a NUL byte like a shorter one. One name has exactly one text.
"""

from __future__ import annotations

from collections.abc import Sequence

from exeat.model.networks import mapped_bytes

MAX_NAME = 255  # on the wire, with the root's byte; RFC 1035 section 2.3.4
MAX_LABEL = 63  # the two upper bits of a length say what else it is; RFC 1035 section 4.1.4
_POINTER = 0xC0
_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789_-"
_ESCAPES = {byte: f"\\{byte:03}" for byte in range(256)} | {byte: chr(byte) for byte in _PLAIN}
_LENGTHS = [bytes((length,)) for length in range(MAX_LABEL + 1)]
# What all names of one message may cost together, in labels and pointers. An honest message of 65,535 bytes costs less
# than one a byte; one made of pointers to long names would cost millions.
_MAX_STEPS = 65536


def text_of(labels: Sequence[bytes]) -> str:
    """The text of a name."""
    joined = b".".join(labels).lower()
    # What is left without plain bytes must be the dots that were just put between.
    if len(joined.translate(None, _PLAIN)) == len(labels) - 1:
        return joined.decode("ascii")
    return ".".join("".join([_ESCAPES[byte] for byte in label.lower()]) for label in labels)


def wire_of(name: str) -> bytes:
    """The name on the wire, uncompressed. ValueError: no such name can be written, or it has another text."""
    if not name:
        return b"\0"
    written = name.encode("ascii")
    labels = written.split(b".")
    if len(written.translate(None, _PLAIN)) != len(labels) - 1:
        labels = [_unescaped(label) for label in labels]
    wire = bytearray()
    for label in labels:
        if not 0 < len(label) <= MAX_LABEL:
            raise ValueError(f"a label of {len(label)} bytes: {name!r}")
        wire += _LENGTHS[len(label)]
        wire += label
    wire += b"\0"
    if len(wire) > MAX_NAME:
        raise ValueError(f"a name of {len(wire)} bytes: {name!r}")
    return bytes(wire)


def wire_of_labels(labels: Sequence[bytes]) -> bytes:
    """The labels on the wire, as they are, upper-case letters too."""
    return b"".join([_LENGTHS[len(label)] + label for label in labels]) + b"\0"


def labels_at(message: bytes, at: int) -> tuple[list[bytes], int]:
    """The labels of the uncompressed name at this offset, and the offset behind it.

    ValueError or IndexError: no name stands there, or one with compression pointers or of more than 255 bytes.
    """
    labels = []
    start = at
    # A label that runs over the end shows itself at the next length, which is not there either.
    while length := message[at]:
        if length > MAX_LABEL:
            raise ValueError("a pointer, or a label of no known kind")
        at += 1
        labels.append(message[at : at + length])
        at += length
    at += 1
    if at - start > MAX_NAME:
        raise ValueError("a name longer than 255 bytes")
    return labels, at


def name_at(data: bytes, at: int = 0) -> str:
    """The text of the name that stands at this offset of a record's data: 0 in CNAME and PTR, 6 in SRV."""
    return text_of(labels_at(data, at)[0])


class CompressedNames:
    """Reads the names of one message, following pointers backwards only, and for no longer than a message deserves."""

    __slots__ = ("_message", "_steps")

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._steps = 0

    def labels_at(self, at: int, end: int) -> tuple[list[bytes], int]:
        """The labels of the name at this offset, and the offset behind it; nothing from `end` on is part of it.

        ValueError or IndexError: no name stands there, or one too long, or a pointer of it leads elsewhere than to what
        stands wholly before.
        """
        message, labels = self._message, []
        size, after, start = 1, 0, at
        steps = self._steps
        while True:
            steps += 1
            if at >= end or steps > _MAX_STEPS:
                raise ValueError("a name runs over its end, a pointer does not lead back, or names cost too much")
            length = message[at]
            at += 1
            if not length:
                break
            if length <= MAX_LABEL:
                labels.append(message[at : at + length])
                at += length
                size += length + 1
                if size > MAX_NAME:
                    raise ValueError("a name longer than 255 bytes")
                continue
            if length < _POINTER or at >= end:
                raise ValueError("a label of no known kind, or half a pointer")
            target = (length - _POINTER) << 8 | message[at]
            after = after or at + 1
            # What it leads to must end before these labels began: no way leads round, no byte is read as two things.
            end = start
            at = start = target
        self._steps = steps
        return labels, after or at


def address_of_reverse(name: str) -> bytes | None:
    """The address whose reverse name this is, as 16 bytes (IPv4 mapped); None for anything but a whole reverse name."""
    labels = name.split(".")
    labels.reverse()
    if len(labels) == 6 and name.endswith(".in-addr.arpa"):
        if all(_is_octet(label) for label in labels[2:]):
            return mapped_bytes(bytes(int(label) for label in labels[2:]))
    elif len(labels) == 34 and name.endswith(".ip6.arpa"):
        digits = "".join(labels[2:])
        if len(digits) == 32 and all(len(label) == 1 for label in labels[2:]) and not digits.strip("0123456789abcdef"):
            return bytes.fromhex(digits)
    return None


def _is_octet(label: str) -> bool:
    """Whether this is a number below 256 the one way it is written: 007 is another name than 7."""
    return label.isascii() and label.isdigit() and len(label) <= 3 and str(int(label)) == label and int(label) < 256


def _unescaped(label: bytes) -> bytes:
    """The bytes of a label's text. ValueError: an escape that text_of never writes, or a byte that it escapes."""
    read = bytearray()
    at = 0
    while at < len(label):
        byte = label[at]
        at += 1
        if byte == ord("\\"):
            digits = label[at : at + 3]
            if len(digits) != 3 or not digits.isdigit():
                raise ValueError(f"an escape without three digits: {label!r}")
            byte = int(digits)
            at += 3
            if byte > 255 or byte in _PLAIN or bytes((byte,)).isupper():
                raise ValueError(f"an escape of what needs none: {label!r}")
        elif byte not in _PLAIN:
            raise ValueError(f"a byte that must be escaped: {label!r}")
        read.append(byte)
    return bytes(read)
