"""The least of HTTP/2: to know a client by, and to tell a stranger, as a gRPC status, why nobody talks to them.

It reads frame headers and nothing else: what a stranger sends never reaches gRPC.
"""

import asyncio
import struct
from urllib.parse import quote

from exeat.errors import StatusWord

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct("!BHBBI")  # length in 3 bytes, type, flags, stream: RFC 9113, 4.1
_DATA_LIMIT = 16_384  # the largest frame that a client may send before it was told otherwise
_FRAMES_MAX = 32
_PATIENCE_S = 2.0
GREETING_S = 2.0
_HEADERS, _SETTINGS, _GOAWAY = 1, 4, 7
_END_STREAM_END_HEADERS = 0x05
_STATUS_200 = b"\x88"  # of HPACK's static table: RFC 7541, appendix A
_NUMBERS = {StatusWord.PERMISSION: 7, StatusWord.UNAVAILABLE: 14}


async def has_greeted(reader: asyncio.StreamReader) -> bool:
    """Whether it begins as every HTTP/2 client does, soon. Who only looks whether somebody listens says nothing."""
    try:
        async with asyncio.timeout(GREETING_S):
            return await reader.readexactly(len(PREFACE)) == PREFACE
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return False


async def turn_away(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, word: StatusWord, sentence: str
) -> None:
    """Answers the first request after the greeting; who sends none within two seconds is told nothing."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            writer.write(_frame(_SETTINGS, 0, 0, b""))
            stream = await _first_request(reader)
            if stream is None:
                return
            writer.write(_frame(_HEADERS, _END_STREAM_END_HEADERS, stream, _trailers(word, sentence)))
            writer.write(_frame(_GOAWAY, 0, 0, struct.pack("!II", stream, 0)))
            await writer.drain()
            await reader.read(_DATA_LIMIT)  # until it has read that, or hangs up
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return  # it is slow, or has gone: it is owed nothing


async def _first_request(reader: asyncio.StreamReader) -> int | None:
    for _ in range(_FRAMES_MAX):
        high, low, kind, _flags, stream = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        length = high << 16 | low
        if length > _DATA_LIMIT:
            return None
        await reader.readexactly(length)
        if kind == _HEADERS:
            return int(stream)
    return None


def _trailers(word: StatusWord, sentence: str) -> bytes:
    fields = {
        "content-type": "application/grpc",
        "grpc-status": str(_NUMBERS[word]),
        "grpc-message": quote(sentence, safe=" ,.:;()'`/-"),
    }
    return _STATUS_200 + b"".join(_literal(name, value) for name, value in fields.items())


def _literal(name: str, value: str) -> bytes:
    """A header field that is not to be indexed, with a new name: RFC 7541, 6.2.2. Lengths below 127 are one byte."""
    assert max(len(name), len(value)) < 127
    return b"\x00" + bytes([len(name)]) + name.encode("ascii") + bytes([len(value)]) + value.encode("ascii")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload
