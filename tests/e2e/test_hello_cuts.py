"""However a hello is cut into writes, segments and records, it gets its name's verdict; beyond the limits, a denial."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from bed import Host, Tcp, call_in
from e2e.guard import Guard, Workload
from e2e.hello_client import (
    NODELAY,
    HelloClient,
    Option,
    Talk,
    assert_allowed,
    assert_denied,
    client,
    hello_guard,
    naming,
)
from exeat.model.verdicts import Reason, Verdict
from hellos.build import X25519, X25519MLKEM768, Hello, every, writes

__all__ = ["client", "hello_guard"]

SEED = 17
ALLOWED, DENIED = "one.test", "two.test"
HELLOS = {name: Hello(sni=name) for name in (ALLOWED, DENIED)}
POST_QUANTUM = {name: Hello(sni=name, grease=True, key_shares=(X25519MLKEM768, X25519)) for name in HELLOS}
both = pytest.mark.parametrize("name", [ALLOWED, DENIED])
F_SETPIPE_SZ = 1031
MSG_MORE = 0x8000


@pytest.fixture(scope="module")
def workload(hello_guard: Guard) -> Iterator[Workload]:
    """A workload that may say one of the two names."""
    with hello_guard.workload(naming(ALLOWED)) as workload:
        yield workload


def hear(client: HelloClient, workload: Workload, name: str, talks: Sequence[Talk]) -> None:
    """The same verdict for all: that of the name."""
    for talk, outcome in zip(talks, client.say(workload, talks), strict=True):
        if name == ALLOWED:
            assert_allowed(outcome, talk, ALLOWED)
        else:
            assert_denied(outcome, Reason.NAME_NOT_ALLOWED)


@both
def test_a_hello_in_two_writes_cut_at_every_byte(client: HelloClient, workload: Workload, name: str) -> None:
    """In the record's header, the message's, each field and the name."""
    stream = HELLOS[name].stream()
    hear(client, workload, name, [Talk(writes(stream, [at]), (NODELAY,)) for at in range(1, len(stream))])


@both
def test_a_hello_in_three_writes_cut_at_random(client: HelloClient, workload: Workload, name: str) -> None:
    """300 pairs of points, from a seed."""
    stream, rng = HELLOS[name].stream(), random.Random(SEED)
    hear(client, workload, name, [Talk(writes(stream, rng.sample(range(len(stream)), 2))) for _ in range(300)])


@both
def test_a_hello_byte_by_byte(client: HelloClient, workload: Workload, name: str) -> None:
    """Each byte a write of its own, in one record and in five."""
    for stream in (HELLOS[name].stream(), HELLOS[name].stream(every(HELLOS[name].message(), 50))):
        hear(client, workload, name, [Talk(writes(stream, range(len(stream))), (NODELAY,))])


@both
def test_a_hello_with_pauses(client: HelloClient, workload: Workload, name: str) -> None:
    """Held for as long as it takes."""
    stream = HELLOS[name].stream([90])
    for cuts in ([3], [7, 100], [1, 2, 97, len(stream) - 1]):
        parts: list[bytes | float] = []
        for piece in writes(stream, cuts):
            parts += [piece, 0.03]
        hear(client, workload, name, [Talk(parts, (NODELAY,))])


@both
def test_a_hello_in_every_number_of_records_up_to_64(client: HelloClient, workload: Workload, name: str) -> None:
    """Cut from the front, from the end, and at random; in one write and in a write per record."""
    message, rng, talks = HELLOS[name].message(), random.Random(SEED), []
    for count in range(1, 65):
        front, back = range(1, count), range(len(message) - count + 1, len(message))
        for points in (front, back, rng.sample(range(1, len(message)), count - 1)):
            talks.append(Talk([HELLOS[name].stream(points)]))
        talks.append(Talk(writes(talks[-1].stream, every(talks[-1].stream, 9)), (NODELAY,)))
    hear(client, workload, name, talks)


@both
def test_a_hello_in_65_records_is_denied_for_their_number(client: HelloClient, workload: Workload, name: str) -> None:
    """Whatever its name; the twin with 64 is above."""
    stream = HELLOS[name].stream(range(1, 65))
    for talk in (Talk([stream]), Talk(writes(stream, range(len(stream))), (NODELAY,))):
        (outcome,) = client.say(workload, [talk])
        assert_denied(outcome, Reason.HELLO_TOO_MANY_RECORDS)


@both
def test_a_record_boundary_anywhere_in_the_name(client: HelloClient, workload: Workload, name: str) -> None:
    """With the write cut at the same place, before it, and behind the record's header."""
    message = HELLOS[name].message()
    talks = []
    for at in range(message.index(name.encode()) - 1, message.index(name.encode()) + len(name) + 1):
        stream = HELLOS[name].stream([at])
        talks += [Talk([stream]), *(Talk(writes(stream, [at + 5 + by]), (NODELAY,)) for by in (-1, 0, 1, 5, 6))]
    hear(client, workload, name, talks)


@both
def test_a_large_post_quantum_hello(client: HelloClient, workload: Workload, name: str) -> None:
    """Larger than a segment, in any writes and records."""
    hello = POST_QUANTUM[name]
    stream = hello.stream()
    assert len(stream) > 1400
    hear(client, workload, name, [Talk(writes(stream, every(stream, size))) for size in (100, 536, 1000, 1460, 9999)])
    hear(client, workload, name, [Talk([hello.stream(every(hello.message(), size))]) for size in (32, 100, 512)])


@both
def test_a_hello_of_16_kib_is_judged_and_a_byte_more_is_denied(
    client: HelloClient, workload: Workload, name: str
) -> None:
    """The limit that the promise names, in one and in several records, and in many writes."""

    def of_size(size: int) -> Hello:
        return replace(HELLOS[name], padding=size - len(HELLOS[name].message()) - 4)

    just = of_size(16384)
    assert len(just.message()) == 16384
    streams = [just.stream(), just.stream([5000]), just.stream(every(just.message(), 256))]
    hear(client, workload, name, [Talk([stream]) for stream in streams])
    hear(client, workload, name, [Talk(writes(stream, every(stream, 1000))) for stream in streams])
    over = of_size(16385)
    for points in ([16384], [8000], every(over.message(), 300)):
        for talk in (Talk([over.stream(points)]), Talk(writes(over.stream(points), every(over.message(), 1000)))):
            (outcome,) = client.say(workload, [talk])
            assert_denied(outcome, Reason.HELLO_TOO_LONG)


@both
@pytest.mark.parametrize(
    "options",
    [
        ((socket.SOL_SOCKET, socket.SO_SNDBUF, 1),),
        ((socket.IPPROTO_TCP, socket.TCP_MAXSEG, 88),),
        ((socket.SOL_SOCKET, socket.SO_SNDBUF, 1), (socket.IPPROTO_TCP, socket.TCP_MAXSEG, 88)),
        ((socket.IPPROTO_TCP, 3, 1),),
    ],
    ids=["sndbuf", "maxseg", "sndbuf and maxseg", "TCP_CORK"],
)
def test_a_hello_through_a_narrow_socket(
    client: HelloClient, workload: Workload, name: str, options: tuple[Option, ...]
) -> None:
    """The smallest send buffer, 88-byte segments, a corked socket."""
    streams = [HELLOS[name].stream(), POST_QUANTUM[name].stream(), replace(HELLOS[name], padding=9000).stream([4000])]
    for stream in streams:
        hear(client, workload, name, [Talk([stream], options), Talk(writes(stream, every(stream, 200)), options)])


@both
def test_a_hello_written_with_msg_more(client: HelloClient, workload: Workload, name: str) -> None:
    """The kernel may wait for more; the end of the stream lets it go."""
    stream = HELLOS[name].stream()
    hear(client, workload, name, [Talk(writes(stream, [at]), flags=MSG_MORE) for at in (0, 1, 5, 9, 100)])


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: one.test\r\n\r\n", Reason.NOT_TLS),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Reason.NOT_TLS),
        (b"\0", Reason.NOT_TLS),
        (b"\n", Reason.NOT_TLS),
        (b"CONNECT one.test:443 HTTP/1.1\r\n\r\n", Reason.NOT_TLS),
        (b"PROXY TCP4 198.51.100.1 203.0.113.10 1 443\r\n", Reason.NOT_TLS),
        (b"\x15\x03\x01\0\x02\x01\x5a", Reason.NOT_TLS),
        (b"\x14\x03\x01\0\x01\x01", Reason.NOT_TLS),
        (b"\x17\x03\x03\0\x02ab", Reason.NOT_TLS),
        (b"\x16\x02\0", Reason.TLS_VERSION),
        (b"\x80\x2e\x01\3\1", Reason.SSLV2_HELLO),
        (b"\x16\x03\x01\0\0", Reason.HELLO_EMPTY_RECORD),
        (b"\x16\x03\x01\x40\x01", Reason.HELLO_TOO_LONG),
        (b"\x16\x03\x01\0\x05\x02", Reason.NOT_TLS),
    ],
    ids=lambda value: value[:8].decode("latin-1").encode("unicode_escape").decode() if isinstance(value, bytes) else "",
)
def test_what_cannot_begin_a_hello_is_denied_at_once(
    client: HelloClient, workload: Workload, begin: bytes, reason: Reason
) -> None:
    """With and without an allowed hello behind it, in one write and in two."""
    hello = HELLOS[ALLOWED].stream()
    late = Talk(writes(begin + hello, [1]), (NODELAY,))  # one byte alone may be held
    for talk in (Talk([begin]), Talk([begin + hello]), Talk([begin, hello]), late):
        (outcome,) = client.say(workload, [talk])
        assert_denied(outcome, reason)
    (twin,) = client.say(workload, [Talk([hello])])
    assert_allowed(twin, Talk([hello]))


def test_half_a_hello_then_the_end_leaves_nothing_at_the_server(client: HelloClient, workload: Workload) -> None:
    """Any prefix, even of an allowed hello: what was held goes nowhere, and nobody is told of a verdict."""
    stream = HELLOS[ALLOWED].stream([100])
    prefixes = [stream[:size] for size in range(len(stream))]
    for talk in [Talk([prefix] if prefix else []) for prefix in prefixes] + [Talk(writes(stream[:-1], [3, 50, 120]))]:
        (outcome,) = client.say(workload, [talk])
        assert (outcome.got, outcome.error, outcome.told, outcome.is_stuck) == (b"", 0, (), False)


@pytest.fixture(scope="module")
def recording(client: HelloClient) -> Host:
    """A host that reads, for ways to write that the fast client has not."""
    return client.bed.add("recording.test", Tcp(443, "record"))


def through_sendfile(sock: socket.socket, stream: bytes) -> int:
    """From a file's pages."""
    with tempfile.TemporaryFile() as file:
        file.write(stream)
        file.flush()
        return os.sendfile(sock.fileno(), file.fileno(), 0, len(stream))


def through_splice(sock: socket.socket, stream: bytes) -> int:
    """From a pipe's pages."""
    reader, writer = os.pipe()
    os.write(writer, stream)
    return os.splice(reader, sock.fileno(), len(stream))


class Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def through_vmsplice(sock: socket.socket, stream: bytes) -> int:
    """From a byte on each of many pages: a message holds 17 fragments."""
    libc = ctypes.CDLL(None, use_errno=True)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096 * (len(stream) + 1))
    pages = mmap.mmap(-1, 4096 * len(stream))
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    for i, byte in enumerate(stream):
        pages[4096 * i] = byte
    vector = (Piece * len(stream))(*(Piece(start + 4096 * i, 1) for i in range(len(stream))))
    put = libc.vmsplice(writer, vector, len(stream), 0)
    assert put == len(stream), os.strerror(ctypes.get_errno())
    sent = 0
    while sent < len(stream):
        sent += os.splice(reader, sock.fileno(), len(stream) - sent)
    return sent


def through_many_fragments(sock: socket.socket, stream: bytes) -> int:
    """As above, with MSG_ZEROCOPY pages written one by one."""
    sock.setsockopt(socket.SOL_SOCKET, 60, 1)
    return sum(sock.send(stream[i : i + 1], 0x4000000 | MSG_MORE) for i in range(len(stream)))


@both
@pytest.mark.parametrize("way", [through_sendfile, through_splice, through_vmsplice, through_many_fragments])
def test_a_hello_written_by_another_way_than_send(
    client: HelloClient, workload: Workload, recording: Host, name: str, way: Callable[[socket.socket, bytes], int]
) -> None:
    """Allowed or denied as a whole: too many fragments may be an error, but never a leak."""
    recording.reset()
    stream = HELLOS[name].stream()

    def run() -> int:
        with socket.create_connection((recording.address4, 443)) as sock:
            try:
                return 0 if way(sock, stream) == len(stream) else -1
            except OSError as failure:
                return failure.errno or -1

    error = call_in(client.bed, run, cgroup=workload.cgroup)
    counts, told = recording.count(), workload.told()
    assert counts.connections == 1
    if name == ALLOWED and error == 0:
        assert recording.received() == stream
        assert [(item.verdict, item.reason) for item in told] == [(Verdict.FORWARDED, Reason.NAME_ALLOWED)]
    else:
        assert error == errno.EACCES
        assert counts.bytes == 0
        assert [item.verdict for item in told] == [Verdict.DROPPED] or (name == ALLOWED and not told)


def test_hellos_that_one_thread_writes_byte_by_byte_in_turns(
    client: HelloClient, workload: Workload, recording: Host
) -> None:
    """Their bytes come from pages in between each other's and do not join: a message has room for 17 fragments, and no
    more can be held. An error then, even for an allowed name, but never a byte at the server."""
    recording.reset()

    def run() -> set[int]:
        streams, errors = [HELLOS[name].stream() for name in (ALLOWED, DENIED)], set()
        target = (recording.address4, 443)
        with socket.create_connection(target) as a, socket.create_connection(target) as b:
            for pair in zip(*streams, strict=True):
                for sock, byte in zip((a, b), pair, strict=True):
                    try:
                        sock.send(bytes([byte]))
                    except OSError as failure:
                        errors.add(failure.errno or -1)
        return errors

    assert call_in(client.bed, run, cgroup=workload.cgroup) <= {errno.EACCES, errno.ENOSPC}
    assert recording.count().connections == 2
    assert recording.received(0) in (b"", HELLOS[ALLOWED].stream())
    assert recording.received(1) == b""
    workload.told()
