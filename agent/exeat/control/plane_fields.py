"""How many parts a message has, told from its bytes before it is parsed.

A parsed message of millions of empty parts is fifty times as large as its bytes: 32 MiB would take a gigabyte. Only the
first two levels count, where the protocol repeats messages; what a reader does not know stays bytes, and is harmless.
"""

FIELDS_MAX = 20_000  # twice as many as a push has documents, or news have workloads
_VARINT, _EIGHT, _LENGTH, _BEGIN, _END, _FOUR = range(6)  # wire types
_FIXED = {_EIGHT: 8, _FOUR: 4}
_LEVELS = 2
_VARINT_MAX = 10  # bytes


def has_too_many_fields(raw: bytes, most: int = FIELDS_MAX) -> bool:
    """Where the bytes are no message the parser says so: what cannot be read is not counted."""
    return _count(raw, 0, len(raw), _LEVELS, most) > most


def _count(raw: bytes, at: int, end: int, levels: int, most: int) -> int:
    """Fields in a stretch; counting ends once there are more than `most`."""
    count = 0
    while at < end and count <= most:
        tag, at = _varint(raw, at, end)
        count += 1
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(raw, at, end)
        elif wire == _LENGTH:
            size, at = _varint(raw, at, end)
            if levels > 1:
                count += _count(raw, at, min(at + size, end), levels - 1, most - count)
            at += size
        elif wire in _FIXED:
            at += _FIXED[wire]
        elif wire not in (_BEGIN, _END):
            break
    return count


def _varint(raw: bytes, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends. One that does not end takes all that is left."""
    number = 0
    for shift in range(0, 7 * _VARINT_MAX, 7):
        if at >= end:
            break
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    return 0, end
