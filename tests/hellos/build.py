"""Makes ClientHellos as bytes, true and lying ones, and cuts them into TLS records and writes.

Every length can be made to lie and every part replaced; what is left alone looks like a TLS 1.3 client's hello.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

Extension = tuple[int, bytes]


class RecordType(IntEnum):
    """TLS record types (RFC 8446, 5.1)."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


class Ext(IntEnum):
    """Extension types (the IANA registry); ESNI is the number of ECH's forerunner."""

    SERVER_NAME = 0
    SUPPORTED_GROUPS = 10
    EC_POINT_FORMATS = 11
    SIGNATURE_ALGORITHMS = 13
    ALPN = 16
    PADDING = 21
    EXTENDED_MASTER_SECRET = 23
    SESSION_TICKET = 35
    PRE_SHARED_KEY = 41
    EARLY_DATA = 42
    SUPPORTED_VERSIONS = 43
    PSK_MODES = 45
    KEY_SHARE = 51
    ECH = 0xFE0D
    RENEGOTIATION_INFO = 0xFF01
    ESNI = 0xFFCE


X25519 = 0x001D
X25519MLKEM768 = 0x11EC
SHARE_BYTES = {X25519: 32, X25519MLKEM768: 1216}
GREASE_FIRST, GREASE_LAST = 0x1A1A, 0x5A5A  # RFC 8701: two different ones, or they would be duplicates
GROUPS = (X25519, 0x0017, 0x0018)
CIPHERS = (0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0x009C, 0x002F)
SIGNATURES = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)
NOISE = random.Random(8446).randbytes(1216)  # stands for every random and every key: no test depends on its value


def u8(number: int) -> bytes:
    """Write one byte."""
    return number.to_bytes(1, "big")


def u16(number: int) -> bytes:
    """Write two bytes."""
    return number.to_bytes(2, "big")


def u24(number: int) -> bytes:
    """Write three bytes."""
    return number.to_bytes(3, "big")


def u16s(numbers: Iterable[int]) -> bytes:
    """Write two bytes each."""
    return b"".join(map(u16, numbers))


def vec8(data: bytes, length: int | None = None) -> bytes:
    """Put a one-byte length before the data; `length` lies about it."""
    return u8(len(data) if length is None else length) + data


def vec16(data: bytes, length: int | None = None) -> bytes:
    """Put a two-byte length before the data; `length` lies about it."""
    return u16(len(data) if length is None else length) + data


def name_entry(name: bytes | str, kind: int = 0, length: int | None = None) -> bytes:
    """Write one entry of a server_name list: type, length, name."""
    return u8(kind) + vec16(name.encode() if isinstance(name, str) else name, length)


def server_name(*entries: bytes, length: int | None = None) -> Extension:
    """Write a server_name extension out of entries (see `name_entry`); `length` lies about the list's."""
    return (Ext.SERVER_NAME, vec16(b"".join(entries), length))


def extension(kind: int, data: bytes, length: int | None = None) -> bytes:
    """Write an extension as it stands in a hello; `length` lies about it."""
    return u16(kind) + vec16(data, length)


def ech(payload: int = 208, inner: bool = False) -> bytes:
    """Write the data of an encrypted_client_hello extension; GREASE and the real thing look just like it."""
    return b"\x01" if inner else b"\0" + u16(1) + u16(1) + u8(7) + vec16(NOISE[:32]) + vec16(NOISE[:payload])


def pre_shared_key(identity: bytes) -> Extension:
    """Write a pre_shared_key extension that offers one identity."""
    return (Ext.PRE_SHARED_KEY, vec16(vec16(identity) + bytes(4)) + vec16(vec8(NOISE[:32])))


def message(body: bytes, kind: int = 1, length: int | None = None) -> bytes:
    """Make a handshake message of a body; `length` lies about it."""
    return u8(kind) + u24(len(body) if length is None else length) + body


@dataclass(frozen=True)
class Hello:
    """One ClientHello: each field is a part of it, and None or False leaves the part out."""

    sni: str | bytes | None = "api.allowed.test"
    legacy_version: int = 0x0303
    session_id: bytes = NOISE[:32]
    ciphers: Sequence[int] = CIPHERS
    compressions: bytes = b"\0"
    versions: Sequence[int] = (0x0304, 0x0303)  # empty: a TLS 1.2 hello without the extension
    key_shares: Sequence[int] = (X25519,)
    alpn: Sequence[str] = ("h2", "http/1.1")
    grease: bool = False
    ticket: bytes | None = None
    psk: bytes | None = None
    early_data: bool = False
    ech: bytes | None = None
    before: Sequence[Extension] = ()  # stand in front of server_name
    after: Sequence[Extension] = ()  # stand behind the usual ones
    padding: int | None = None
    order: int | None = None  # a seed: permutes the extensions as Chrome does
    extensions: Sequence[Extension] | None = None  # instead of all the above
    block: bytes | None = None  # instead of all extensions and their length; b"": no block at all

    def extension_list(self) -> tuple[Extension, ...]:
        """Give the extensions in the order of their bytes."""
        if self.extensions is not None:
            return tuple(self.extensions)
        middle = [*self.before]
        if self.sni is not None:
            middle.append(server_name(name_entry(self.sni)))
        middle += [*self._usual(), *self.after]
        if self.order is not None:
            random.Random(self.order).shuffle(middle)
        if self.grease:
            middle = [(GREASE_FIRST, b""), *middle, (GREASE_LAST, b"\0")]
        if self.padding is not None:
            middle.append((Ext.PADDING, bytes(self.padding)))
        if self.psk is not None:  # must be the last one (RFC 8446, 4.2.11)
            middle.append(pre_shared_key(self.psk))
        return tuple(middle)

    def _usual(self) -> list[Extension]:
        grease = (GREASE_FIRST,) if self.grease else ()
        extra = X25519MLKEM768 if X25519MLKEM768 in self.key_shares else None
        groups = (*grease, *([extra] if extra else []), *GROUPS)
        usual: list[Extension] = [
            (Ext.EXTENDED_MASTER_SECRET, b""),
            (Ext.RENEGOTIATION_INFO, b"\0"),
            (Ext.SUPPORTED_GROUPS, vec16(u16s(groups))),
            (Ext.EC_POINT_FORMATS, vec8(b"\0")),
            (Ext.SIGNATURE_ALGORITHMS, vec16(u16s(SIGNATURES))),
        ]
        if self.alpn:
            usual.append((Ext.ALPN, vec16(b"".join(vec8(name.encode()) for name in self.alpn))))
        if self.ticket is not None:
            usual.append((Ext.SESSION_TICKET, self.ticket))
        if self.versions:
            shares = b"".join(u16(group) + vec16(NOISE[: SHARE_BYTES[group]]) for group in self.key_shares)
            greased = u16(GREASE_FIRST) + vec16(b"\0") if self.grease else b""
            usual.append((Ext.SUPPORTED_VERSIONS, vec8(u16s((*grease, *self.versions)))))
            usual.append((Ext.KEY_SHARE, vec16(greased + shares)))
            usual.append((Ext.PSK_MODES, vec8(b"\x01")))
        if self.early_data:
            usual.append((Ext.EARLY_DATA, b""))
        if self.ech is not None:
            usual.append((Ext.ECH, self.ech))
        return usual

    def body(self) -> bytes:
        """Give the handshake message without its four bytes of header."""
        block = self.block
        if block is None:
            block = vec16(b"".join(extension(kind, data) for kind, data in self.extension_list()))
        ciphers = (*((GREASE_FIRST,) if self.grease else ()), *self.ciphers)
        start = u16(self.legacy_version) + NOISE[32:64] + vec8(self.session_id)
        return start + vec16(u16s(ciphers)) + vec8(self.compressions) + block

    def message(self) -> bytes:
        """Give the whole handshake message."""
        return message(self.body())

    def stream(self, cuts: Iterable[int] = ()) -> bytes:
        """Give what the client sends: the message in records, cut at these points of the message."""
        return b"".join(records(self.message(), cuts))


def cut(data: bytes, points: Iterable[int]) -> list[bytes]:
    """Cut bytes at these points; empty pieces are kept, for an empty record is something."""
    edges = [0, *sorted(min(max(point, 0), len(data)) for point in points), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def writes(stream: bytes, points: Iterable[int]) -> list[bytes]:
    """Cut a stream into what the client hands over in one write each: never nothing."""
    return [piece for piece in cut(stream, points) if piece]


def every(data: bytes, size: int) -> range:
    """Give the points that cut data into pieces of this size."""
    return range(size, len(data), size)


def record(payload: bytes, kind: int = RecordType.HANDSHAKE, version: int = 0x0301, length: int | None = None) -> bytes:
    """Write one TLS record; `length` lies about it."""
    return u8(kind) + u16(version) + vec16(payload, length)


def records(data: bytes, cuts: Iterable[int] = (), versions: Sequence[int] = (0x0301,)) -> list[bytes]:
    """Put a handshake message into records, cut at these points; record versions take turns."""
    return [record(piece, version=versions[i % len(versions)]) for i, piece in enumerate(cut(data, cuts))]
