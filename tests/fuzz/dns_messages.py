"""Random DNS messages: queries and replies as they should be, and what a hostile hand makes of them."""

from __future__ import annotations

import random
from typing import NamedTuple

PLAIN_LABELS = [b"a", b"api", b"example", b"com", b"net", b"xn--bcher-kva", b"_tcp", b"WWW", b"x" * 63]
ODD_LABELS = [b"a.b", b"\0", b"evil\\.com", b"\xff\xfe", b" ", b"Y" * 62 + b".", b"@"]
# Types that hold names, the forms of their data as bytes before, names, bytes after; then some that do not.
WITH_NAMES = {
    **dict.fromkeys((2, 3, 4, 5, 7, 8, 9, 12, 39), (0, 1, 0)),
    **dict.fromkeys((15, 18, 21, 36), (2, 1, 0)),
    **dict.fromkeys((14, 17), (0, 2, 0)),
    6: (0, 2, 20),
    26: (2, 2, 0),
    33: (6, 1, 0),
    35: (-1, 1, 0),  # NAPTR: three strings stand before the name
}
OPAQUE = {1: 4, 28: 16, 10: 5, 16: 8, 43: 9, 46: 30, 65: 12, 250: 20, 257: 9, 65280: 3}
INTERESTING = b"\x00\x01\x0c\x0d\x29\x3f\x40\x41\x7f\x80\xbf\xc0\xc1\xff"


class Asked(NamedTuple):
    """The question that a reply is made for."""

    ident: int
    labels: list[bytes]
    kind: int


class Writer:
    """Writes one message, and remembers where names stand, so that later names can point there."""

    def __init__(self, dice: random.Random, points: bool) -> None:
        self.dice = dice
        self.points = points
        self.bytes = bytearray()
        self.places: list[int] = []

    def name(self, labels: list[bytes]) -> None:
        """Write a name, perhaps ending in a pointer: mostly to a place where a label of an earlier name begins."""
        dice, earlier = self.dice, len(self.places)
        for label in labels:
            self.places.append(len(self.bytes))
            self.bytes += bytes((len(label),)) + label
        if self.points and earlier and dice.random() < 0.6:
            sane = self.places[dice.randrange(earlier)]
            near = len(self.bytes) - dice.randrange(12)
            target = sane if dice.random() < 0.97 else dice.choice((near, self.places[-1], dice.getrandbits(14)))
            self.bytes += (0xC000 | target & 0x3FFF).to_bytes(2)
        else:
            self.bytes += b"\0"

    def record(self, labels: list[bytes], kind: int, klass: int = 1) -> None:
        """Write one record with data of its type's form, of another now and then."""
        dice = self.dice
        self.name(labels)
        ttl = dice.choice((0, 60, 86400, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
        self.bytes += kind.to_bytes(2) + klass.to_bytes(2) + ttl.to_bytes(4) + b"\0\0"
        start = len(self.bytes)
        if kind in WITH_NAMES:
            before, names, after = WITH_NAMES[kind]
            if before < 0:
                strings = [dice.randbytes(dice.randrange(4)) for _ in range(3)]
                self.bytes += dice.randbytes(4) + b"".join(bytes((len(each),)) + each for each in strings)
            else:
                self.bytes += dice.randbytes(before)
            for _ in range(names):
                self.name(some_labels(dice, 3))
            self.bytes += dice.randbytes(after)
        else:
            self.bytes += dice.randbytes(OPAQUE.get(kind, 4))
        if dice.random() < 0.02:
            self.bytes += dice.randbytes(1)
        self.bytes[start - 2 : start] = (len(self.bytes) - start).to_bytes(2)

    def opt(self) -> None:
        """Write an OPT record, with options."""
        dice = self.dice
        options = b""
        for _ in range(dice.choice((0, 0, 1, 3))):
            body = dice.randbytes(dice.randrange(12))
            options += dice.choice((3, 8, 10, 11, 12, 15, 65001)).to_bytes(2) + len(body).to_bytes(2) + body
        version = dice.choice((0, 0, 0, 0, 0, 1))
        bits = bytes((dice.choice((0, 0, 1)), version)) + dice.choice((0, 0x8000, 0xFFFF)).to_bytes(2)
        size = dice.choice((0, 511, 512, 1232, 4096, 65535))
        self.name([]) if dice.random() < 0.03 else self.bytes.append(0)
        self.bytes += b"\0\x29" + size.to_bytes(2) + bits + len(options).to_bytes(2) + options


def some_labels(dice: random.Random, most: int) -> list[bytes]:
    """A few labels, seldom odd ones."""
    return [dice.choice(PLAIN_LABELS if dice.random() < 0.95 else ODD_LABELS) for _ in range(dice.randint(0, most))]


def query(dice: random.Random) -> bytes:
    """A query, perhaps hurt."""
    if dice.random() < 0.05:
        return noise(dice)
    writer = Writer(dice, points=dice.random() < 0.05)
    extra = dice.choice((0, 0, 1, 1, 1, 2, 3))
    flags = dice.choice((0x0100, 0x0120, 0x0130, 0x0000, 0x0300, 0x2800, 0x8100)) if dice.random() < 0.2 else 0x0100
    counts = [1, 0, 0, extra] if dice.random() < 0.97 else [dice.choice((0, 1, 2)) for _ in range(4)]
    writer.bytes += b"".join(number.to_bytes(2) for number in (dice.getrandbits(16), flags, *counts))
    writer.name(some_labels(dice, 6))
    klass = dice.choice((0, 3, 4, 254, 255, 0x8001)) if dice.random() < 0.05 else 1
    writer.bytes += dice.choice((1, 28, 5, 16, 41, 65, 255, 0)).to_bytes(2) + klass.to_bytes(2)
    for number in range(extra):
        if number == 0 or dice.random() < 0.1:
            writer.opt()
        else:
            writer.record(some_labels(dice, 2), dice.choice(sorted(OPAQUE)), dice.choice((1, 255)))
    return hurt(dice, bytes(writer.bytes))


def reply(dice: random.Random) -> tuple[bytes, Asked]:
    """A reply and the question that it answers, unless it has been hurt."""
    asked = Asked(dice.getrandbits(16), some_labels(dice, 5), dice.choice((1, 28, 5, 33)))
    if dice.random() < 0.03:
        return asked.ident.to_bytes(2) + noise(dice)[2:], asked
    writer = Writer(dice, points=False)
    flags = dice.choice((0x8180, 0x8183, 0x8580, 0x8182, 0x8380, 0x0100, 0xA000)) if dice.random() < 0.3 else 0x8180
    answers, authorities = dice.randrange(5), dice.choice((0, 0, 1, 2))
    additionals, has_opt = dice.choice((0, 0, 1, 2)), dice.random() < 0.7
    numbers = (asked.ident, flags, 1, answers, authorities, additionals + has_opt)
    writer.bytes += b"".join(number.to_bytes(2) for number in numbers)
    spelled = [label.swapcase() if dice.random() < 0.2 else label for label in asked.labels]
    writer.name(spelled)
    writer.bytes += asked.kind.to_bytes(2) + b"\0\1"
    writer.points = dice.random() < 0.9
    kinds = [*WITH_NAMES, *OPAQUE]
    for number in range(answers + authorities + additionals):
        kind = 6 if answers <= number < answers + authorities and dice.random() < 0.6 else dice.choice(kinds)
        writer.record(some_labels(dice, 2), kind, 1 if dice.random() < 0.99 else 3)
    if has_opt:
        writer.opt()
    return hurt(dice, bytes(writer.bytes)), asked


def hurt(dice: random.Random, message: bytes) -> bytes:
    """The message as it was, or with a few bytes changed, cut, put in or taken out."""
    if dice.random() < 0.55:
        return message
    wound = bytearray(message)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        at = dice.randrange(len(wound) + 1)
        match dice.randrange(7):
            case 0:
                del wound[at:]
            case 1:
                wound[at:at] = dice.randbytes(dice.choice((1, 2, 8)))
            case 2:
                del wound[at : at + dice.choice((1, 2, 8))]
            case 3:
                wound[at : at + 1] = bytes((dice.choice(INTERESTING),))
            case 4:
                wound[at : at + 2] = (0xC000 | dice.randrange(len(wound) + 2) & 0x3FFF).to_bytes(2)
            case 5:
                wound[at : at + 1] = dice.randbytes(1)
            case _:
                at = dice.choice((5, 7, 9, 11))
                wound[at : at + 1] = bytes((dice.choice((0, 1, 2, 3)),))
    return bytes(wound)


def noise(dice: random.Random) -> bytes:
    """Any bytes at all, sometimes behind the header of a question."""
    header = dice.randbytes(2) + b"\x01\0\0\1\0\0\0\0\0\0" if dice.random() < 0.5 else b""
    return header + dice.randbytes(dice.choice((0, 5, 12, 20, 60, 300)))
