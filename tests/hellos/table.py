"""Hellos written by hand, each with the judgement it must get: every word of the hello block.

Expectations are written down here and never asked of the oracle: this is what the oracle itself is tested with.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from exeat.model.verdicts import Reason as R
from hellos.build import (
    CIPHERS,
    NOISE,
    X25519,
    X25519MLKEM768,
    Ext,
    Hello,
    RecordType,
    ech,
    every,
    extension,
    message,
    name_entry,
    record,
    records,
    server_name,
    u8,
    u16,
    vec8,
    vec16,
)

NAME = "api.allowed.test"
H = Hello(sni=NAME)
MESSAGE = H.message()
AT_NAME = MESSAGE.index(NAME.encode())
WARNING = record(b"\x01\x5a", RecordType.ALERT)
CCS = record(b"\x01", RecordType.CHANGE_CIPHER_SPEC)
EARLY_DATA = record(NOISE[:99], RecordType.APPLICATION_DATA, 0x0303)
CLEAN: frozenset[R] = frozenset()


@dataclass(frozen=True)
class Row:
    """A stream, and the reasons of which it must be denied for one; no reasons: allowed, with this name."""

    label: str
    stream: bytes
    reasons: frozenset[R] = CLEAN
    name: str | None = NAME
    incomplete: bool = False


def rows() -> Iterator[Row]:
    """Give every row, the allowed ones first."""
    yield from _sound()
    for label, stream, *reasons in [*_framing(), *_bodies(), *_extensions(), *_names()]:
        yield Row(label, stream, frozenset(reasons), None)
    echs = [("ECH", Ext.ECH, ech()), ("ECH, inner", Ext.ECH, ech(inner=True)), ("ESNI", Ext.ESNI, NOISE[:300])]
    for label, kind, data in echs:
        yield Row(label, replace(H, after=[(kind, data)]).stream(), frozenset({R.ECH}))
    yield Row("ECH and no name", Hello(sni=None, ech=ech()).stream(), frozenset({R.SNI_MISSING, R.ECH}), None)
    yield from _unfinished()


def _sound() -> Iterator[Row]:
    hellos = {
        "TLS 1.3": H,
        "TLS 1.2": replace(H, versions=()),
        "TLS 1.0": replace(H, versions=(), legacy_version=0x0301),
        "legacy version 0304": replace(H, legacy_version=0x0304),
        "legacy version 03ff": replace(H, legacy_version=0x03FF),
        "no session id": replace(H, session_id=b""),
        "deflate, then no compression": replace(H, versions=(), compressions=b"\1\0"),
        "one cipher": replace(H, ciphers=CIPHERS[:1]),
        "GREASE": replace(H, grease=True),
        "GREASE, permuted, post-quantum": replace(H, grease=True, order=7, key_shares=(X25519MLKEM768, X25519)),
        "empty key shares, asking for a retry": replace(H, key_shares=()),
        "session ticket": replace(H, versions=(), ticket=NOISE[:192]),
        "resumption": replace(H, psk=NOISE[:192]),
        "padding": replace(H, padding=300),
        "3 kB before the name": replace(H, before=[(0x7777, bytes(3000))]),
        "15 kB before the name": replace(H, before=[(Ext.PADDING, bytes(15000))]),
        "exactly 16 KiB": _of_size(16384),
        "64 extensions": _of_extensions(64),
        "server_name last": replace(H, sni=None, after=[server_name(name_entry(NAME))]),
        "upper case": replace(H, sni=NAME.upper()),
    }
    for label, hello in hellos.items():
        yield Row(label, hello.stream())
    names = ["x", "localhost", "a-b.c--d.e", "xn--bcher-kva.test", "1.2.3.com", "0xg", "1a", "0.0.0.0x0a-b"]
    names += ["1.test", "l" * 63 + ".test", _name_of(251)]
    for name in names:
        yield Row(f"name {name[:20]}, {len(name)} bytes", Hello(sni=name).stream(), name=name)
    cuts = {
        "2 records": [200],
        "2 records, cut in the name": [AT_NAME + 3],
        "2 records, cut in the message header": [2],
        "64 records": range(1, 64),
        "64 records, cut from the end": range(len(MESSAGE) - 63, len(MESSAGE)),
        "records of 16 bytes": every(MESSAGE, 16),
    }
    for label, points in cuts.items():
        yield Row(label, H.stream(points))
    for version in range(0x0300, 0x0305):
        yield Row(f"record version {version:04x}", record(MESSAGE, version=version))
    yield Row("records of two versions", b"".join(records(MESSAGE, [99], (0x0301, 0x0303))))
    yield Row("early data behind it", replace(H, psk=NOISE[:99], early_data=True).stream() + CCS + EARLY_DATA)
    yield Row("a second hello in a record of its own", H.stream() + Hello(sni="evil.test").stream())


def _framing() -> Iterator[tuple]:
    two, split = records(MESSAGE, [100]), record(MESSAGE[:100])
    empty = record(b"")
    sslv2 = b"\x01\x03\x01" + u16(3) + u16(0) + u16(16) + b"\0\0\x2f" + NOISE[:16]
    yield "SSLv2 hello", u16(0x8000 | len(sslv2)) + sslv2, R.SSLV2_HELLO
    yield "SSLv2 shape, no hello", u16(0x8000 | len(sslv2)) + b"\x02" + sslv2[1:], R.NOT_TLS
    junk = {"junk byte": b"\0", "newline": b"\n", "PROXY": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 443\r\n"}
    junk |= {"CONNECT": b"CONNECT a:443 HTTP/1.1\r\n\r\n", "SSH": b"SSH-2.0-x\r\n", "alert": WARNING, "CCS": CCS}
    junk |= {"early data": EARLY_DATA, "SOCKS": b"\x05\x01\0", "empty alert": record(b"", RecordType.ALERT)}
    for label, before in junk.items():
        yield f"{label} before the hello", before + H.stream(), R.NOT_TLS
    yield "server hello", record(message(H.body(), kind=2)), R.NOT_TLS
    yield "hello request before the hello", record(message(b"", kind=0)) + H.stream(), R.NOT_TLS
    for version in (0x0200, 0x0400, 0x0305, 0x03FF, 0xFEFF, 0):
        yield f"record version {version:04x}", record(MESSAGE, version=version), R.TLS_VERSION
        yield f"then record version {version:04x}", split + record(MESSAGE[100:], version=version), R.TLS_VERSION
    yield "version and no more", b"\x16\x02\x00", R.TLS_VERSION
    yield "record of 16385 bytes", record(b"\x01", length=16385), R.HELLO_TOO_LONG
    yield "16 KiB and a byte", _of_size(16385).stream([16384]), R.HELLO_TOO_LONG
    yield "60 kB of padding", replace(H, padding=60000).stream(range(16384, 60000, 16384)), R.HELLO_TOO_LONG
    yield "16 MB announced", record(message(b"", length=0xFFFFFF)), R.HELLO_TOO_LONG
    yield "65 records", H.stream(range(1, 65)), R.HELLO_TOO_MANY_RECORDS
    yield "1-byte records", H.stream(range(1, len(MESSAGE))), R.HELLO_TOO_MANY_RECORDS
    between = {"alert": WARNING, "CCS": CCS, "application data": EARLY_DATA, "heartbeat": record(b"\x01\0\0", 24)}
    for label, middle in between.items():
        yield f"{label} between the records", two[0] + middle + two[1], R.HELLO_INTERLEAVED
    yield "empty record first", empty + H.stream(), R.HELLO_EMPTY_RECORD
    yield "empty record between", two[0] + empty + two[1], R.HELLO_EMPTY_RECORD
    yield "byte behind it in its record", record(MESSAGE + b"\0"), R.HELLO_TRAILING_BYTES
    yield "byte behind it in its last record", split + record(MESSAGE[100:] + b"\0"), R.HELLO_TRAILING_BYTES
    yield "two hellos in a record", record(MESSAGE + Hello(sni="evil.test").message()), R.HELLO_TRAILING_BYTES
    yield "length one too short", record(message(H.body()[:-1]) + b"\0"), R.HELLO_TRAILING_BYTES, R.HELLO_MALFORMED


def _bodies() -> Iterator[tuple]:
    body = H.body()
    for version in (0x0200, 0x0403, 0xFEFD):
        yield f"legacy version {version:04x}", replace(H, legacy_version=version).stream(), R.TLS_VERSION
    for size in (0, 1, 2, 20, 34, 35, 66, 67, 68, 70, 87, 88, 89, 90, 92, 100, len(body) - 1):
        if size != 89:  # there it ends behind the compressions: no extensions, see below
            yield f"body cut to {size} bytes", record(message(body[:size])), R.HELLO_MALFORMED
    yield "session id of 33", replace(H, session_id=bytes(33)).stream(), R.HELLO_MALFORMED
    start, block = body[:34], vec16(b"".join(extension(*item) for item in H.extension_list()))
    ciphers = {"no": b"", "odd": b"\x13", "three bytes of": b"\x13\x01\x13"}
    for label, data in ciphers.items():
        yield f"{label} ciphers", _raw(start + vec8(b"") + vec16(data) + b"\x01\0" + block), R.HELLO_MALFORMED
    for label, data in {"no compression": b"", "only deflate": b"\x01", "deflate last": b"\0\1"}.items():
        yield label, replace(H, compressions=data).stream(), R.HELLO_MALFORMED
    inner = block[2:]
    lies = {"too short": vec16(inner, len(inner) - 1), "too long": vec16(inner, len(inner) + 1), "half": b"\0"}
    lies |= {"zero": vec16(inner, 0), "bytes behind": block + b"\0\0"}
    for label, data in lies.items():
        yield f"extensions' length: {label}", replace(H, block=data).stream(), R.HELLO_MALFORMED
    yield "no extension block", replace(H, block=b"").stream(), R.SNI_MISSING
    yield "no extensions", replace(H, extensions=()).stream(), R.SNI_MISSING
    yield "no server_name", Hello(sni=None).stream(), R.SNI_MISSING


def _extensions() -> Iterator[tuple]:
    for label, tail in {"half a type": b"\x77", "no length": b"\0\x77\0", "long": extension(119, b"a", 2)}.items():
        inner = b"".join(extension(*item) for item in H.extension_list()) + tail
        yield f"last extension: {label}", replace(H, block=vec16(inner)).stream(), R.HELLO_MALFORMED
    yield "65 extensions", _of_extensions(65).stream(), R.EXTENSIONS_TOO_MANY
    for kind in (Ext.ALPN, Ext.KEY_SHARE, Ext.PADDING, Ext.ECH, 0x7777):
        twice = replace(H, alpn=(), key_shares=(), versions=(), after=[(kind, b""), (kind, b"")])
        yield f"extension {kind} twice", twice.stream(), R.EXTENSION_DUPLICATE
    name = server_name(name_entry(NAME))
    yield "two server_names", replace(H, after=[name]).stream(), R.SNI_SEVERAL
    yield "two server_names, far apart", replace(H, after=[(0x7777, bytes(3000)), name]).stream(), R.SNI_SEVERAL


def _names() -> Iterator[tuple]:
    good, evil = name_entry(NAME), name_entry("evil.test")
    yield "two names", _with(server_name(good, evil)), R.SNI_SEVERAL
    yield "one name twice", _with(server_name(good, good)), R.SNI_SEVERAL
    yield "a name, then another type", _with(server_name(good, name_entry("x", kind=1))), R.SNI_SEVERAL
    yield "a byte behind the name", _with(server_name(good, b"\0")), R.SNI_SEVERAL, R.SNI_MALFORMED
    yield "type 1 first", _with(server_name(name_entry(NAME, kind=1), evil)), R.SNI_NOT_HOST_NAME
    yield "only type 255", _with(server_name(name_entry(NAME, kind=255))), R.SNI_NOT_HOST_NAME
    lies = {"empty extension": (0, b""), "half a length": (0, b"\0"), "empty list": server_name()}
    lies |= {f"list length {by:+}": server_name(good, length=len(good) + by) for by in (-1, 1, -len(good))}
    lies |= {"name too long": server_name(name_entry(NAME, length=17)), "only a type": server_name(b"\0")}
    lies |= {"no length": server_name(b"\0\0"), "empty name": server_name(name_entry(""))}
    lies |= {"a byte behind the list": (0, vec16(good) + b"\0"), "two lists": (0, vec16(good) + vec16(evil))}
    lies |= {"no list length": (0, good), "name of 65535": server_name(name_entry(NAME, length=65535))}
    for label, item in lies.items():
        yield label, _with(item), R.SNI_MALFORMED
    yield "name too short", _with(server_name(name_entry(NAME, length=15))), R.SNI_SEVERAL, R.SNI_MALFORMED
    for byte in b"\0_:*@/ \n\r\t\\%,;[]{}|~\x7f\x80\xff":
        yield f"{bytes([byte])!r} in the name", Hello(sni=b"a" + u8(byte) + b"b.test").stream(), R.SNI_BAD_CHARACTER
    characters = ["api.allowed.test:443", "api.allowed.test\0", "api.allowed.test\0.evil.test", "[::1]", "2001:db8::1"]
    characters += ["bücher.test", "api。allowed.test", "*.allowed.test", "_dmarc.a.test"]
    for name in characters:
        yield f"name {name!r}", Hello(sni=name).stream(), R.SNI_BAD_CHARACTER
    yield "bad character and label", Hello(sni=".a_b.test").stream(), R.SNI_BAD_CHARACTER, R.SNI_BAD_LABEL
    yield "bad character in an address", Hello(sni="a_b.1").stream(), R.SNI_BAD_CHARACTER, R.SNI_ADDRESS
    labels = [".", "..", ".a.test", "a..test", "a.test.", "a.test..", "-a.test", "a-.test", "a.-test", "a.test-", "-"]
    labels += ["l" * 64 + ".test", "a." + "l" * 64, "10.0.0.1.", "9-.-"]
    for name in labels:
        yield f"name {name[:20]!r}", Hello(sni=name).stream(), R.SNI_BAD_LABEL
    for name in ("1.2.3.4", "16909060", "0x7f000001", "0X7F.1", "127.1", "a.test.0", "a.0x", "a.0xBad", "0"):
        yield f"name {name!r}", Hello(sni=name).stream(), R.SNI_ADDRESS
    for size in (252, 253, 255):
        yield f"name of {size}", Hello(sni=_name_of(size)).stream(), R.SNI_TOO_LONG
    for size in (256, 400, 1000, 15000):
        yield f"name of {size}, one label", Hello(sni="a" * size).stream(), R.SNI_TOO_LONG, R.SNI_BAD_LABEL


def _unfinished() -> Iterator[Row]:
    stream = H.stream()
    for size in (0, 1, 2, 4, 5, 6, 9, 100, len(stream) - 1):
        yield Row(f"the first {size} bytes", stream[:size], name=None, incomplete=True)
    yield Row("the first half of SSLv2", b"\x80\x2e", name=None, incomplete=True)
    yield Row("one of two records", H.stream([50])[:55], name=None, incomplete=True)
    late = record(MESSAGE, length=len(MESSAGE) + 1)
    yield Row("the byte behind it is on its way", late, frozenset({R.HELLO_TRAILING_BYTES}), None, True)


def _raw(body: bytes) -> bytes:
    return record(message(body))


def _with(server_name_extension: tuple[int, bytes]) -> bytes:
    return replace(H, sni=None, before=[server_name_extension]).stream()


def _of_size(size: int) -> Hello:
    return replace(H, padding=size - len(MESSAGE) - 4)


def _of_extensions(count: int) -> Hello:
    return replace(H, after=[(0x7000 + i, b"") for i in range(count - len(H.extension_list()))])


def _name_of(size: int) -> str:
    return ("a" * 49 + ".") * (size // 50) + "a" * (size % 50)
