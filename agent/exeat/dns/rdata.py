"""A record's data, made to stand by itself: names in it are spelled out, and its lengths are checked.

Only types whose names some sender may have compressed need reading: those of RFC 1035, those that RFC 3597 section 4
tells receivers to expect, and KX and DNAME, where old senders did. Everything else is opaque and travels as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from exeat.dns.names import CompressedNames, wire_of_labels
from exeat.dns.records import Kind


class _Shape(NamedTuple):
    """Bytes before the names, names, bytes after them."""

    before: int
    names: int
    after: int = 0


_SHAPES: dict[int, _Shape] = {
    Kind.A: _Shape(4, 0),
    Kind.AAAA: _Shape(16, 0),
    Kind.NS: _Shape(0, 1),
    Kind.MD: _Shape(0, 1),
    Kind.MF: _Shape(0, 1),
    Kind.CNAME: _Shape(0, 1),
    Kind.SOA: _Shape(0, 2, 20),
    Kind.MB: _Shape(0, 1),
    Kind.MG: _Shape(0, 1),
    Kind.MR: _Shape(0, 1),
    Kind.PTR: _Shape(0, 1),
    Kind.MINFO: _Shape(0, 2),
    Kind.MX: _Shape(2, 1),
    Kind.RP: _Shape(0, 2),
    Kind.AFSDB: _Shape(2, 1),
    Kind.RT: _Shape(2, 1),
    Kind.PX: _Shape(2, 2),
    Kind.SRV: _Shape(6, 1),
    Kind.NAPTR: _Shape(0, 1),  # what stands before its name is of no fixed length: _naptr_head
    Kind.KX: _Shape(2, 1),
    Kind.DNAME: _Shape(0, 1),
}


def data_at(message: bytes, names: CompressedNames, kind: int, at: int, end: int) -> bytes:
    """The data of a record of class IN between these offsets. ValueError or IndexError: its type says otherwise."""
    shape = _SHAPES.get(kind)
    if shape is None:
        return message[at:end]
    before, count, after = shape
    if kind == Kind.NAPTR:
        before = _naptr_head(message, at)
    read = message[at : at + before]
    at += before
    for _ in range(count):
        labels, at = names.labels_at(at, end)
        read += wire_of_labels(labels)
    if end - at != after:
        raise ValueError("data of another length than its type has")
    return read + message[at:end]


def _naptr_head(message: bytes, at: int) -> int:
    """How long order, preference and the three strings of a NAPTR record are (RFC 3403 section 4.1)."""
    start, at = at, at + 4
    for _ in range(3):
        at += 1 + message[at]
    return at - start
