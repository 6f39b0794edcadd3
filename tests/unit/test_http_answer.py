"""HTTP answers as daemons send them, and as none should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.runtimes.http_answer import Answer, BadAnswer, read_answer

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (OK + b"Content-Length: 2\r\n\r\n{}", Answer(200, b"{}")),
        (OK + b"\r\n{}", Answer(200, b"{}")),
        (b"HTTP/1.0 404 Not Found\r\nX: y\r\n\r\n", Answer(404, b"")),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", Answer(200, b"{}")),
        (CHUNKED + b"1;a=b\r\n{\r\n00A\r\n0123456789\r\n1\r\n}\r\n0\r\n\r\n", Answer(200, b"{0123456789}")),
        (OK.replace(b"\r\n", b"\r\ntransfer-ENCODING :  Chunked\r\n") + b"\r\n0\r\n\r\n", Answer(200, b"")),
    ],
)
def test_an_answer_is_read_whole(raw: bytes, expected: Answer) -> None:
    """In one piece or in chunks."""
    assert read_answer(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"garbage", b"\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 2x0 OK\r\n\r\n", b"HTTP/2 200\r\n\r\n", OK,
        OK + b"Content-Length: 3\r\n\r\n{}", OK + b"Content-Length: 1\r\n\r\n{}", OK + b"Content-Length: -2\r\n\r\n{}",
        OK + b"Content-Length: 99999999999999999999\r\n\r\n{}", OK + b"Transfer-Encoding: gzip\r\n\r\n{}",
        CHUNKED, CHUNKED + b"2\r\n{}", CHUNKED + b"2\r\n{}\r\n", CHUNKED + b"5\r\n{}\r\n0\r\n\r\n", CHUNKED + b"\r\n",
        CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n", CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n", CHUNKED + b"f" * 20 + b"\r\n{}",
        CHUNKED + b"2\r\n{}XX0\r\n\r\n", CHUNKED + b"1_0\r\n{}",
    ],
)  # fmt: skip
def test_what_is_none_or_not_all_is_refused(raw: bytes) -> None:
    """With a sentence."""
    with pytest.raises(BadAnswer, match=r"^(it|its) "):
        read_answer(raw)


@given(st.binary(max_size=200), st.sampled_from([b"", OK, CHUNKED, OK + b"\r\n"]))
def test_whatever_comes_is_read_or_refused(rest: bytes, before: bytes) -> None:
    """Nothing else."""
    try:
        answer = read_answer(before + rest)
    except BadAnswer:
        return
    assert len(answer.body) <= len(rest)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
def test_chunks_come_together_as_they_were_cut(pieces: list[bytes]) -> None:
    """However they were cut."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    assert read_answer(CHUNKED + chunks + b"0\r\n\r\n").body == b"".join(pieces)
