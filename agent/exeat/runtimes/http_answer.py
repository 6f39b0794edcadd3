"""One answer of HTTP/1.1 that ended with its connection, read whole. Pure."""

from dataclasses import dataclass

_HEADER_END = b"\r\n\r\n"


class BadAnswer(ValueError):
    """It is none, or not all of it; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is of interest."""

    status: int
    body: bytes


def read_answer(raw: bytes) -> Answer:
    """Raises BadAnswer."""
    head, found, rest = raw.partition(_HEADER_END)
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ", 2)
    if not found or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not _is_number(words[1]):
        raise BadAnswer("it is no answer of HTTP")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if b"transfer-encoding" in headers:
        if headers[b"transfer-encoding"].lower() != b"chunked":
            raise BadAnswer("its encoding is unknown")
        rest = _joined(rest)
    elif (length := headers.get(b"content-length")) and (not _is_number(length) or int(length) != len(rest)):
        raise BadAnswer("it has another length than it says")
    return Answer(int(words[1]), rest)


def _joined(rest: bytes) -> bytes:
    """Of chunks: a length in hexadecimal digits, maybe with words behind it, and so many bytes; one of none is last."""
    chunks: list[bytes] = []
    at = 0
    while True:
        end = rest.find(b"\r\n", at)
        size = rest[at:end].partition(b";")[0].strip() if end >= 0 else b""
        if not size or len(size) > 8 or size.strip(b"0123456789abcdefABCDEF"):
            raise BadAnswer("it breaks off")
        if not (length := int(size, 16)):
            return b"".join(chunks)
        at = end + 2 + length + 2
        if rest[at - 2 : at] != b"\r\n":
            raise BadAnswer("it breaks off")
        chunks.append(rest[end + 2 : at - 2])


def _is_number(digits: bytes) -> bool:
    return digits.isdigit() and len(digits) <= 9
