"""protobuf's wire format, as far as tests speak CRI: fields by number, so that no schema of another project is needed.

encode({1: {1: "coder", 3: "ml"}, 6: pairs({"app": "coder"})})    # a message in field 1, a map in field 6
decode(raw)[1][0]                                               # bytes, or a number
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}


def encode(fields: Mapping[int, Any]) -> bytes:
    """A list is a repeated field; nothing empty is sent."""
    made = b""
    for number, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                made += _varint(number << 3 | _VARINT) + _varint(int(one))
                continue
            one = encode(one) if isinstance(one, Mapping) else one.encode() if isinstance(one, str) else one
            made += _varint(number << 3 | _LENGTH) + _varint(len(one)) + one
    return made


def pairs(of: Mapping[str, str]) -> list[dict[int, str]]:
    """A map."""
    return [{1: key, 2: value} for key, value in of.items()]


def decode(raw: bytes) -> dict[int, list[Any]]:
    """Fields by number, in their order."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _read_varint(raw, at)
        else:
            size, at = _read_varint(raw, at) if kind == _LENGTH else (_FIXED[kind], at)
            value, at = raw[at : at + size], at + size
        found.setdefault(number, []).append(value)
    return found


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (raw[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not raw[at - 1] & 0x80:
            return number, at
