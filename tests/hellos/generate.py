"""Makes hellos without end from a seed: sound ones whose judgement is known, and mutated ones for the oracle."""

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass

from exeat.model.verdicts import Reason
from hellos.build import (
    GREASE_FIRST,
    X25519,
    X25519MLKEM768,
    Ext,
    Hello,
    RecordType,
    cut,
    ech,
    extension,
    name_entry,
    record,
    server_name,
    u16,
    vec16,
)
from hellos.oracle import Reading, judge_hello
from hellos.table import rows

LDH = string.ascii_letters + string.digits + "-"
ODD_NAMES = LDH + "..--" * 4 + "_:*\0 @/é"
KINDS = [0x7000 + i for i in range(80)]


@dataclass(frozen=True)
class Case:
    """A stream and its judgement; `is_made_sound`: it was built without any mutation, and every server must take it."""

    label: str
    stream: bytes
    reading: Reading
    is_made_sound: bool = False


def table_cases() -> Iterator[Case]:
    """Give the table's rows as cases, with the judgement that is written there."""
    for row in rows():
        reading = judge_hello(row.stream)
        expected = Reading(row.reasons, row.name, reading.has_ech, reading.has_early_data, row.incomplete)
        yield Case(row.label, row.stream, expected)


def cases(seed: int, count: int) -> Iterator[Case]:
    """Give so many random cases; the same seed gives the same ones."""
    rng = random.Random(seed)
    for i in range(count):
        yield sound_case(rng, f"{seed}/{i}") if rng.random() < 0.3 else mutated_case(rng, f"{seed}/{i}")


def sound_case(rng: random.Random, label: str) -> Case:
    """Make a hello that is right; what it must be judged to be is known from its making."""
    hello = random_hello(rng, random_name(rng))
    has_ech = hello.ech is not None
    reasons = frozenset({Reason.ECH} if has_ech else ())
    reading = Reading(reasons, str(hello.sni).lower(), has_ech, hello.early_data)
    return Case(f"{label} sound", random_records(rng, hello.message()), reading, is_made_sound=True)


def mutated_case(rng: random.Random, label: str) -> Case:
    """Make a hello, spoil it in one to three ways, and ask the oracle."""
    mutation = rng.choice(MUTATIONS)
    stream = mutation(rng)
    label = f"{label} {mutation.__name__}"
    while rng.random() < 0.15 and stream:
        stream = flip_bits(rng, stream)
        label += " flip_bits"
    return Case(label, stream, judge_hello(stream))


def random_name(rng: random.Random) -> str:
    """Make a right name, of any length and case."""
    labels = [random_label(rng, 63 if rng.random() < 0.2 else 12) for _ in range(rng.choice((1, 2, 3, 3, 4, 9)))]
    labels[-1] = rng.choice(("test", "Com", "internal", "0xz", "x0", "xn--p1ai"))
    while len(".".join(labels)) > 251:
        labels.pop(0)
    return ".".join(labels)


def random_label(rng: random.Random, longest: int) -> str:
    """Make a right label: letters, digits and inner hyphens."""
    label = "".join(rng.choices(LDH, k=rng.randint(1, longest)))
    return "".join(rng.choice(string.ascii_letters) if i in (0, len(label) - 1) else c for i, c in enumerate(label))


def random_hello(rng: random.Random, name: str | bytes | None) -> Hello:
    """Make a hello out of what clients do: GREASE, post-quantum shares, tickets, padding, ECH, permutation."""
    kinds = rng.sample(KINDS, rng.choice((0, 0, 1, 3, 20)))
    strangers = [(kind, rng.randbytes(rng.choice((0, 1, 40, 300)))) for kind in kinds]
    psk = rng.randbytes(rng.choice((32, 192))) if rng.random() < 0.2 else None
    split = rng.randint(0, len(strangers))
    return Hello(
        sni=name,
        session_id=rng.randbytes(rng.choice((0, 32, rng.randint(0, 32)))),
        key_shares=rng.choice(((X25519,), (X25519MLKEM768, X25519), ())),
        versions=(0x0304, 0x0303) if psk or rng.random() < 0.8 else (),
        grease=rng.random() < 0.5,
        ticket=rng.randbytes(100) if rng.random() < 0.2 else None,
        psk=psk,
        early_data=psk is not None and rng.random() < 0.5,
        ech=ech(rng.choice((144, 208))) if rng.random() < 0.1 else None,
        before=strangers[:split],
        after=strangers[split:],
        padding=rng.choice((None, None, 0, 200, rng.randint(0, 7000))),
        order=rng.choice((None, rng.randint(0, 1 << 30))),
    )


def random_records(rng: random.Random, message: bytes) -> bytes:
    """Put a message into one, few or many records; more than a right hello may have, never."""
    points = rng.sample(range(1, len(message)), min(rng.choice((0, 0, 1, 2, 9, 63)), len(message) - 1))
    if rng.random() < 0.2:  # many tiny ones, where the headers are
        points = sorted({*points[:20], *range(1, 40)})
    version = rng.choice((0x0301, 0x0301, 0x0303, 0x0300, 0x0304))
    return b"".join(record(piece, version=version) for piece in cut(message, points))


def flip_bits(rng: random.Random, stream: bytes | None = None) -> bytes:
    """Flip a bit or change a byte, mostly near the front where the lengths are."""
    data = bytearray(stream or random_records(rng, random_hello(rng, random_name(rng)).message()))
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(min(len(data), rng.choice((6, 60, 160, len(data)))))
        data[at] = data[at] ^ 1 << rng.randrange(8) if rng.random() < 0.7 else rng.choice((0, 1, 22, 42, 128, 255))
    return bytes(data)


def lie_about_a_length(rng: random.Random) -> bytes:
    """Change one of the lengths in a hello, whichever."""
    data = bytearray(random_hello(rng, random_name(rng)).message())
    at, width = rng.choice(length_fields(bytes(data)))
    true = int.from_bytes(data[at : at + width], "big")
    told = rng.choice((0, true - 1, true + 1, true + 2, true + 4, 255, 65535, rng.randrange(1 << 8 * width)))
    data[at : at + width] = (told % (1 << 8 * width)).to_bytes(width, "big")
    return random_records(rng, bytes(data))


def length_fields(message: bytes) -> list[tuple[int, int]]:
    """Find the lengths in a right hello: where, and how wide; those in server_name thrice, for they matter most."""
    fields, at = [(1, 3)], 38
    for width in (1, 2, 1):
        fields.append((at, width))
        at += width + int.from_bytes(message[at : at + width], "big")
    fields.append((at, 2))
    at += 2
    while at < len(message):
        kind, length = int.from_bytes(message[at : at + 2], "big"), int.from_bytes(message[at + 2 : at + 4], "big")
        fields.append((at + 2, 2))
        if kind == Ext.SERVER_NAME and length:
            fields += [(at + 2, 2), (at + 4, 2), (at + 7, 2)] * 3
        at += 4 + length
    return fields


def truncate(rng: random.Random) -> bytes:
    """Cut a stream off anywhere."""
    stream = random_records(rng, random_hello(rng, random_name(rng)).message())
    return stream[: rng.randrange(len(stream))]


def truncate_the_body(rng: random.Random) -> bytes:
    """Cut a hello's body off anywhere, with a handshake length that admits it."""
    body = random_hello(rng, random_name(rng)).body()
    body = body[: rng.randrange(len(body))]
    return random_records(rng, b"\x01" + len(body).to_bytes(3, "big") + body)


def insert_a_record(rng: random.Random) -> bytes:
    """Put an alert, a CCS, an empty record or anything else between the records."""
    message = random_hello(rng, random_name(rng)).message()
    pieces = [record(piece) for piece in cut(message, rng.sample(range(1, len(message)), rng.choice((1, 3, 63, 64))))]
    payload = rng.choice((b"", b"\x01", b"\x01\x5a", rng.randbytes(20)))
    kind = rng.choice((*RecordType, 24, 0, 128))
    version = rng.choice((0x0301, 0x0303, 0x0304, 0x03FF, 0x0200))
    pieces.insert(rng.randint(0, len(pieces)), record(payload, kind, version))
    return b"".join(pieces)


def trail(rng: random.Random) -> bytes:
    """Put bytes behind the message: in its last record, or in one that is still on its way."""
    message = random_hello(rng, random_name(rng)).message()
    tail = rng.choice((b"\0", b"\x01", message, rng.randbytes(9)))
    if rng.random() < 0.3:
        return record(message, length=len(message) + len(tail)) + tail[: rng.randrange(len(tail))]
    at = rng.randrange(len(message))
    return (record(message[:at]) if at else b"") + record(message[at:] + tail)


def spoil_the_extensions(rng: random.Random) -> bytes:
    """Repeat, drop, add and shuffle extensions, up to too many of them."""
    hello = random_hello(rng, random_name(rng))
    items = [*hello.extension_list()]
    for _ in range(rng.choice((1, 1, 2))):
        kind = rng.choice((Ext.SERVER_NAME, Ext.ALPN, Ext.ECH, Ext.ESNI, GREASE_FIRST, rng.choice(items)[0]))
        items.insert(rng.randint(0, len(items)), (kind, rng.choice((b"", rng.choice(items)[1], rng.randbytes(9)))))
    if rng.random() < 0.3:
        items += [(0x7100 + i, b"") for i in range(rng.randint(62, 67) - len(items))]
    if rng.random() < 0.3:
        items = [item for item in items if item[0] != Ext.SERVER_NAME]
    if rng.random() < 0.3:
        rng.shuffle(items)
    tail = rng.choice((b"", b"", b"", b"\0", extension(0, b"", 9), u16(0)))
    block = vec16(b"".join(extension(*item) for item in items) + tail)
    return random_records(rng, Hello(block=block).message())


def spoil_the_name_list(rng: random.Random) -> bytes:
    """Write a server_name list of several entries, other types and lying lengths."""
    entries = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        kind = rng.choice((0, 0, 0, 1, 255))
        entries.append(name_entry(random_name(rng), kind, rng.choice((None, None, None, 0, 1, 300))))
    entries.append(rng.choice((b"", b"", b"\0", b"\0\0", b"\0\0\0", rng.randbytes(4))))
    item = server_name(*entries, length=rng.choice((None, None, None, 0, 1, 20)))
    hello = random_hello(rng, None)
    return random_records(rng, Hello(extensions=[item, *hello.extension_list()]).message())


def spoil_the_name(rng: random.Random) -> bytes:
    """Write a name of odd characters, odd labels, odd length, or an address."""
    odd = "".join(rng.choices(ODD_NAMES, k=rng.randint(1, 30)))
    name, long = random_name(rng), ".".join(["a" * rng.randint(1, 64)] * 20)[: rng.randint(245, 300)]
    at = rng.randint(0, len(name))
    addresses = ("10.0.0.1", "1", "0x7f.1", "0x", "a.0xG", "1.2.3.4.", "::1", "a.1-", f"{name}.{rng.random()}")
    spoilt = rng.choice((odd, long, name[:at] + odd[:1] + name[at:], rng.choice(addresses)))
    return random_records(rng, random_hello(rng, spoilt).message())


MUTATIONS = (
    flip_bits,
    lie_about_a_length,
    truncate,
    truncate_the_body,
    insert_a_record,
    trail,
    spoil_the_extensions,
    spoil_the_name_list,
    spoil_the_name,
)
