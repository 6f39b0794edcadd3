"""DNS messages to and from bytes: questions that workloads ask, replies that upstreams give (RFC 1035, 6891, 8914).

Both sides are taken to be hostile. A query is one question of class IN and nothing else that matters; a reply counts
only if it answers the very question that was asked. From one side to the other nothing goes but record data.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from exeat.dns.names import CompressedNames, address_of_reverse, labels_at, text_of, wire_of
from exeat.dns.rdata import data_at
from exeat.dns.records import Kind, Query, Question, Rcode, Record, Reply

__all__ = [
    "MIN_PAYLOAD",
    "Malformed",
    "Reply",
    "address_of_reverse",
    "parse_query",
    "parse_reply",
    "refusal",
    "write_answer",
    "write_query",
]

MIN_PAYLOAD = 512  # what every DNS client takes over UDP; a smaller size counts as this (RFC 6891 section 6.2.3)
MAX_MESSAGE = 65535  # the length prefix of TCP has 16 bits
_OUR_PAYLOAD = 1232  # what our own sockets are said to take: fits any path unfragmented (DNS flag day 2020)
_IN = 1
_QR, _OPCODE, _TC, _RD, _RA, _RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080, 0x000F
_DO = 0x8000  # the first of the lower sixteen flags of an OPT record
_TTL_SIGN = 1 << 31  # a TTL with this bit counts as 0 (RFC 2181 section 8)
_BLOCKED = 15  # Extended DNS Error info-code (RFC 8914 section 4.16)
_EDE = 15  # the EDNS option that carries it, by chance the same number
_HEADER = struct.Struct(">6H")  # ident, flags, and the counts of questions, answers, authorities, additionals
_ADDITIONAL_ONLY = frozenset((int(Kind.OPT), int(Kind.TSIG)))  # they speak of the message, and are no data
_KIND_AND_CLASS = struct.Struct(">2H")
_FIXED = struct.Struct(">HHIH")  # kind, class, ttl and data length of a record
_OPTION = struct.Struct(">HH")  # code and length of an EDNS option
_U32 = struct.Struct(">I")
_TO_QUESTION = b"\xc0\x0c"  # the pointer to the question's name, which stands right behind the header
_BROKEN = (ValueError, IndexError, struct.error)  # what reading over an end or of nonsense raises, here and in names


class Malformed(Exception):
    """A message that is no question. `rcode` says what answer is due; None: none, lest two gates echo each other."""

    def __init__(self, rcode: Rcode | None, what: str, ident: int = 0, flags: int = 0) -> None:
        super().__init__(what)
        self.rcode = rcode
        self.ident = ident
        self.opcode = (flags & _OPCODE) >> 11
        self.is_recursion_desired = bool(flags & _RD)


def parse_query(message: bytes) -> Query:
    """The question that this message asks.

    Malformed with NOTIMP: another opcode than QUERY. FORMERR: not exactly one question, records where none belong,
    bytes left over, or broken. BADVERS: an EDNS version that does not exist. REFUSED: another class than IN.
    """
    if len(message) < _HEADER.size:
        raise Malformed(None, "shorter than a header")
    ident, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(message)
    if flags & _QR:
        raise Malformed(None, "a response", ident, flags)
    if flags & _OPCODE:
        raise Malformed(Rcode.NOTIMP, "an opcode other than QUERY", ident, flags)
    if questions != 1 or answers or authorities:
        raise Malformed(Rcode.FORMERR, "not exactly one question", ident, flags)
    try:
        labels, at = labels_at(message, _HEADER.size)
        kind, klass = _KIND_AND_CLASS.unpack_from(message, at)
        at += _KIND_AND_CLASS.size
        question = Question(text_of(labels), kind, message[_HEADER.size : at])
        edns = _edns_behind(message, at, additionals)
    except _BROKEN as error:
        raise Malformed(Rcode.FORMERR, str(error), ident, flags) from error
    if edns is not None and edns[1] >> 16 & 0xFF:
        raise Malformed(Rcode.BADVERS, "an EDNS version other than 0", ident, flags)
    if klass != _IN:
        raise Malformed(Rcode.REFUSED, "a class other than IN", ident, flags)
    if edns is None:
        return Query(ident, flags, question, False, MIN_PAYLOAD, False)
    payload, bits = edns
    return Query(ident, flags, question, True, max(payload, MIN_PAYLOAD), bool(bits & _DO))


def refusal(error: Malformed) -> bytes | None:
    """The answer that is due to a malformed query, or None. A bare header: what was asked is not certain."""
    if error.rcode is None:
        return None
    flags = _QR | error.opcode << 11 | (_RD if error.is_recursion_desired else 0) | _RA | error.rcode & _RCODE
    opt = _opt(error.rcode, is_dnssec_ok=False) if error.rcode > _RCODE else b""
    return _HEADER.pack(error.ident, flags, 0, 0, 0, 1 if opt else 0) + opt


def write_query(ident: int, name: str, kind: int, payload_size: int) -> bytes:
    """The question as an upstream is asked it, over EDNS. ValueError: the name cannot be written."""
    question = wire_of(name) + _KIND_AND_CLASS.pack(kind, _IN)
    opt = b"\0" + _FIXED.pack(Kind.OPT, payload_size, 0, 0)
    return _HEADER.pack(ident, _RD, 1, 0, 0, 1) + question + opt


def parse_reply(message: bytes, ident: int, name: str, kind: int) -> Reply | None:
    """What this message replies to the question with this ident; None if it is malformed or replies to another."""
    try:
        return _reply(message, ident, name, kind)
    except _BROKEN:
        return None


def write_answer(
    query: Query, rcode: int, records: Sequence[Record], *, limit: int, explanation: str | None = None
) -> bytes:
    """The answer to this query in at most `limit` bytes: with all of the records, or with none and marked as truncated.

    The explanation travels as an Extended DNS Error (Blocked) if the client speaks EDNS, as far as there is room.
    ValueError: a record's name cannot be written.
    """
    room = min(max(limit, MIN_PAYLOAD), MAX_MESSAGE) - _HEADER.size - len(query.question.wire)
    opt = b""
    if query.has_edns:
        opt = _opt(rcode, is_dnssec_ok=query.dnssec_ok)
        room -= len(opt)
    elif rcode > _RCODE:
        rcode = Rcode.SERVFAIL  # a client without EDNS has no place for the upper bits
    written = _written(query.question.name, records, room)
    flags = _QR | query.flags & _RD | _RA | rcode & _RCODE
    answers = len(records)
    if written is None:
        flags |= _TC
        answers, written = 0, b""
    if opt and explanation is not None:
        opt = _explained(opt, explanation, room - len(written))
    header = _HEADER.pack(query.ident, flags, 1, answers, 0, 1 if opt else 0)
    return header + query.question.wire + written + opt


def _edns_behind(message: bytes, at: int, count: int) -> tuple[int, int] | None:
    """Class and TTL of the OPT record among a query's additional records; the others are walked over."""
    edns = None
    for _ in range(count):
        _, fixed = labels_at(message, at)
        kind, payload, bits, length = _FIXED.unpack_from(message, fixed)
        data = fixed + _FIXED.size
        end = data + length
        if kind == Kind.OPT:
            if edns is not None or fixed != at + 1:
                raise ValueError("a second OPT record, or one that has a name")
            _walk_options(message, data, end)
            edns = payload, bits
        at = end
    if at != len(message):
        raise ValueError("bytes left over, or a record that runs over the end")
    return edns


def _walk_options(message: bytes, at: int, end: int) -> None:
    """Check that EDNS options fill the data of their record. What they say stays unread."""
    while at < end:
        at += _OPTION.size + _OPTION.unpack_from(message, at)[1]
    if at != end:
        raise ValueError("an EDNS option that runs over its record")


def _reply(message: bytes, ident: int, name: str, kind: int) -> Reply | None:
    """parse_reply, raising what is _BROKEN."""
    asked = wire_of(name)
    replied, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(message)
    behind = _HEADER.size + len(asked)
    at = behind + _KIND_AND_CLASS.size
    is_ours = (
        replied == ident
        and flags & (_QR | _OPCODE) == _QR
        and questions == 1
        # Lower-casing spares no length byte: one that it changes is above 63, and none such is in `asked`.
        and message[_HEADER.size : behind].lower() == asked
        and message[behind:at] == _KIND_AND_CLASS.pack(kind, _IN)
    )
    if not is_ours:
        return None
    rcode = flags & _RCODE
    if flags & _TC:
        return Reply(rcode, True, (), None)
    sections = _Sections(message, at, name)
    records = tuple([sections.record() for _ in range(answers)])
    negative_ttl = None
    for _ in range(authorities):
        record = sections.record()
        if record.kind == Kind.SOA:
            ttl = min(record.ttl, _ttl(_U32.unpack(record.data[-4:])[0]))
            negative_ttl = ttl if negative_ttl is None else min(ttl, negative_ttl)
    upper_bits = sections.additional(additionals)
    return Reply(rcode | upper_bits << 4, False, records, negative_ttl)


class _Sections:
    """Reads the records of a reply, one after the other."""

    __slots__ = ("_at", "_message", "_names", "_owners")

    def __init__(self, message: bytes, at: int, question: str) -> None:
        self._message = message
        self._at = at
        self._names = CompressedNames(message)
        self._owners = {_TO_QUESTION: question}

    def record(self) -> Record:
        """The next record of the answer or authority section."""
        name, fixed = self._owner()
        message = self._message
        kind, klass, ttl, length = _FIXED.unpack_from(message, fixed)
        data = fixed + _FIXED.size
        self._at = end = data + length
        if klass != _IN or kind in _ADDITIONAL_ONLY:
            raise ValueError("a record of another class than IN, or out of place")
        return Record(name, kind, _ttl(ttl), data_at(message, self._names, kind, data, end))

    def additional(self, count: int) -> int:
        """Walk over the additional records to the message's end; the upper bits of the rcode that OPT holds, or 0."""
        message, upper_bits, has_opt = self._message, 0, False
        for _ in range(count):
            name, fixed = self._owner()
            kind, klass, ttl, length = _FIXED.unpack_from(message, fixed)
            data = fixed + _FIXED.size
            self._at = end = data + length
            if kind == Kind.OPT:
                if has_opt or name:
                    raise ValueError("a second OPT record, or one that has a name")
                _walk_options(message, data, end)
                has_opt, upper_bits = True, ttl >> 24
            elif klass == _IN:
                data_at(message, self._names, kind, data, end)
        if self._at != len(message):
            raise ValueError("bytes left over, or a record that runs over the end")
        return upper_bits

    def _owner(self) -> tuple[str, int]:
        """The name that the next record begins with, and the offset behind it. Most are pointers seen before."""
        at, message = self._at, self._message
        pointer = message[at : at + 2]
        name = self._owners.get(pointer)
        if name is not None:
            return name, at + 2
        labels, behind = self._names.labels_at(at, len(message))
        name = text_of(labels)
        if behind == at + 2:  # only a pointer is two bytes long
            self._owners[pointer] = name
        return name, behind


def _ttl(ttl: int) -> int:
    """The TTL as it counts."""
    return ttl if ttl < _TTL_SIGN else 0


def _opt(rcode: int, *, is_dnssec_ok: bool) -> bytes:
    """An OPT record of ours without options."""
    return b"\0" + _FIXED.pack(Kind.OPT, _OUR_PAYLOAD, rcode >> 4 << 24 | (_DO if is_dnssec_ok else 0), 0)


def _explained(opt: bytes, explanation: str, room: int) -> bytes:
    """The OPT record with an Extended DNS Error, its text cut to what there is room for."""
    room -= _OPTION.size + 2
    if room < 0:
        return opt
    text = explanation.encode(errors="replace")[:room].decode(errors="ignore").encode()
    option = _OPTION.pack(_EDE, 2 + len(text)) + _BLOCKED.to_bytes(2) + text
    return opt[:-2] + len(option).to_bytes(2) + option


def _written(question: str, records: Sequence[Record], room: int) -> bytes | None:
    """The records on the wire, or None if there is no room for all."""
    written = bytearray()
    for record in records:
        if len(record.data) > room:
            return None
        written += _TO_QUESTION if record.name == question else wire_of(record.name)
        written += _FIXED.pack(record.kind, _IN, record.ttl, len(record.data))
        written += record.data
        if len(written) > room:
            return None
    return bytes(written)
