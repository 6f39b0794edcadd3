"""Hellos in every cut: in order, out of order, in large frames, of every size, of real clients.

An allowed one arrives byte for byte. Of a denied one the server has at most a begin that names nobody.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import pytest

from e2e.guard import Told
from e2e.hello_client import naming
from exeat.model.verdicts import Reason, Verdict
from guest.packets import Offload, RawClient, Segment, spread
from guest.stage import GuestWorkload, Heard, Recorder, Stage
from guest.test_desync import ALLOWED, has_name
from guest.tricks import EVIL, EVIL_HELLO, GOOD, GOOD_HELLO, NAME
from hellos.build import Ext, Hello, every, record, records
from hellos.corpus import Flight, flights
from hellos.oracle import MAX_MESSAGE, judge_hello

SEED = 20261121
MORE = b"\x17\x03\x03\x00\x20" + bytes(32)
NAMED = [flight for flight in flights() if flight.sni is not None]
EVERY_NAME = [flight.sni.lower() for flight in NAMED if flight.sni]
OFFLOADS = pytest.mark.parametrize("offload", Offload, ids=lambda one: one.name.lower())


@pytest.fixture(scope="module")
def server(stage: Stage) -> Recorder:
    """Who is greeted."""
    return stage.recorder(443)


@pytest.fixture(scope="module")
def _judged(judging: Stage, server: Recorder) -> Iterator[GuestWorkload]:
    with judging.judged(naming(GOOD)) as workload:
        yield workload


@pytest.fixture
def judged(_judged: GuestWorkload, server: Recorder) -> GuestWorkload:
    """Guest 0, which may say one name; nothing was told of it yet."""
    server.forget()
    _judged.begin_anew()
    return _judged


def say(stage: Stage, server: Recorder, segments: Iterable[Segment], offload: Offload) -> tuple[RawClient, Heard]:
    """A connection in which these segments are sent, once each and in this order."""
    client = stage.raw(server, offload=offload)
    assert client.connect()
    client.send(*segments)
    heard = server.of(client)
    assert heard
    return client, heard


def assert_denied(client: RawClient, heard: Heard, stream: bytes) -> None:
    """Both ends are told, and the server has no whole hello."""
    assert client.wait_reset()
    assert heard.ended == "ConnectionResetError"
    assert stream.startswith(heard.data)
    assert judge_hello(heard.data).incomplete or not heard.data


@OFFLOADS
def test_a_hello_cut_anywhere_is_judged_as_a_whole(
    stage: Stage, judged: GuestWorkload, server: Recorder, offload: Offload
) -> None:
    """In two segments, at every byte; and its twin with the denied name."""
    for cut in range(1, len(GOOD_HELLO)):
        client, heard = say(stage, server, spread(GOOD_HELLO, [cut]), offload)
        assert heard.data == GOOD_HELLO, cut
        assert judged.reasons() == [ALLOWED], cut
        client, heard = say(stage, server, spread(EVIL_HELLO, [cut]), offload)
        assert_denied(client, heard, EVIL_HELLO)
        assert judged.reasons() == [(Verdict.DROPPED, Reason.NAME_NOT_ALLOWED)], cut


@OFFLOADS
def test_a_hello_in_many_segments_is_judged_as_a_whole(
    stage: Stage, judged: GuestWorkload, server: Recorder, offload: Offload
) -> None:
    """Of every size, and at random."""
    rng = random.Random(SEED)
    cuts: list[Iterable[int]] = [range(size, len(GOOD_HELLO), size) for size in (1, 2, 3, 5, 7, 16, 43, 100)]
    cuts += [rng.sample(range(len(GOOD_HELLO)), rng.randint(2, 12)) for _ in range(30)]
    for points in cuts:
        _client, heard = say(stage, server, spread(GOOD_HELLO, points), offload)
        assert heard.data == GOOD_HELLO
        client, heard = say(stage, server, spread(EVIL_HELLO, points), offload)
        assert_denied(client, heard, EVIL_HELLO)
    assert {reason for _, reason in judged.reasons()} == {Reason.NAME_ALLOWED, Reason.NAME_NOT_ALLOWED}


@pytest.mark.parametrize("piece", [1, 8, 63, 150])
def test_a_hello_in_one_large_frame_is_judged_as_one(
    stage: Stage, judged: GuestWorkload, server: Recorder, piece: int
) -> None:
    """Whatever the card would cut it into."""
    for hello in (GOOD_HELLO + MORE, EVIL_HELLO + MORE):
        client, heard = say(stage, server, [Segment(hello, offload=Offload.SEGMENTS, piece=piece)], Offload.SEGMENTS)
        if hello.startswith(GOOD_HELLO):
            assert heard.data == hello
            assert judged.reasons() == [ALLOWED]
        else:
            assert client.wait_reset()
            assert heard.data == b""
            assert judged.reasons() == [(Verdict.DROPPED, Reason.NAME_NOT_ALLOWED)]


@OFFLOADS
def test_what_comes_out_of_order_is_held_back_and_sent_again(
    stage: Stage, judged: GuestWorkload, server: Recorder, offload: Offload
) -> None:
    """Dropped, not kept: the same segments pass when they are due."""
    rng = random.Random(SEED)
    for _ in range(30):
        points = rng.sample(range(1, len(GOOD_HELLO)), 3)
        segments = spread(GOOD_HELLO, points)
        rng.shuffle(segments)
        client, heard = say(stage, server, segments, offload)
        assert client.push(GOOD_HELLO)
        server.look()
        assert heard.data == GOOD_HELLO
        evil = [Segment(EVIL_HELLO[one.at : one.at + len(one.data)], one.at) for one in segments]
        client, heard = say(stage, server, evil, offload)
        client.push(EVIL_HELLO)
        server.look()
        assert_denied(client, heard, EVIL_HELLO)


def padded(name: str, size: int) -> bytes:
    """The message of a hello of exactly this size."""
    bare = len(Hello(name, padding=0).message())
    return Hello(name, padding=size - bare).message()


@OFFLOADS
@pytest.mark.parametrize("size", [1400, 1461, 4000, 9000, MAX_MESSAGE - 400])
def test_a_long_hello_is_read_to_its_end(
    stage: Stage, judged: GuestWorkload, server: Recorder, size: int, offload: Offload
) -> None:
    """The name stands behind the padding."""
    for name in (GOOD, EVIL):
        padding = (Ext.PADDING, bytes(size - 400))
        stream = b"".join(records(Hello(name, before=(padding,)).message(), ()))
        client = stage.raw(server, offload=offload)
        assert client.connect()
        client.push(stream)
        heard = server.of(client)
        assert heard
        if name == GOOD:
            assert heard.data == stream
            assert judged.reasons() == [ALLOWED]
        else:
            assert_denied(client, heard, stream)
            assert judged.reasons() == [(Verdict.DROPPED, Reason.NAME_NOT_ALLOWED)]


@OFFLOADS
@pytest.mark.parametrize(("count", "is_allowed"), [(2, True), (30, True), (64, True), (65, False)])
def test_a_hello_in_many_records_is_joined(
    stage: Stage, judged: GuestWorkload, server: Recorder, count: int, is_allowed: bool, offload: Offload
) -> None:
    """Up to 64; a record in each segment, and all in one."""
    for name in (GOOD, EVIL):
        parts = records(Hello(name).message(), range(1, count))
        stream = b"".join(parts)
        edges = [sum(map(len, parts[:i])) for i in range(1, len(parts))]
        for segments in ([Segment(stream)], spread(stream, edges)):
            client, heard = say(stage, server, segments, offload)
            if is_allowed and name == GOOD:
                assert heard.data == stream
                assert judged.reasons() == [ALLOWED]
            else:
                assert_denied(client, heard, stream)
                reason = Reason.NAME_NOT_ALLOWED if is_allowed else Reason.HELLO_TOO_MANY_RECORDS
                assert judged.reasons() == [(Verdict.DROPPED, reason)]


@OFFLOADS
def test_a_hello_beyond_all_bounds_is_denied(
    stage: Stage, judged: GuestWorkload, server: Recorder, offload: Offload
) -> None:
    """Nobody is asked to keep more; the server never has the end."""
    stream = b"".join(records(padded(GOOD, 3 * MAX_MESSAGE), every(bytes(3 * MAX_MESSAGE), MAX_MESSAGE)))
    client = stage.raw(server, offload=offload)
    assert client.connect()
    for at in range(0, len(stream), 14_000):
        client.send(
            *[Segment(one.data, one.at + at) for one in spread(stream[at : at + 14_000], range(0, 14_000, 1400))]
        )
    heard = server.of(client)
    assert heard
    assert_denied(client, heard, stream)
    assert judged.reasons()[0] == (Verdict.DROPPED, Reason.HELLO_TOO_LONG)


@OFFLOADS
@pytest.mark.parametrize(
    "stream",
    [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", MORE, b"\x16\x03\x01\x00\x02\x02\x00", b"\x16\x03", b"\x16"],
    ids=["HTTP", "SSH", "data", "a server's hello", "two bytes", "one byte"],
)  # fmt: skip
def test_only_the_begin_of_a_hello_passes(
    stage: Stage, judged: GuestWorkload, server: Recorder, stream: bytes, offload: Offload
) -> None:
    """Byte by byte and at once; what goes on otherwise ends there."""
    for segments in ([Segment(stream)], spread(stream, range(len(stream)))):
        client, heard = say(stage, server, segments, offload)
        assert judge_hello(heard.data).incomplete or heard.data == b""
        client.send(Segment(b"\xff" * 40, len(stream)))
        assert client.wait_reset()
        server.look()
        assert judge_hello(heard.data).incomplete or heard.data == b""
        assert {verdict for verdict, _ in judged.reasons()} == {Verdict.DROPPED}


def test_a_second_hello_in_the_same_flight_is_denied_if_it_names_another(
    stage: Stage, judged: GuestWorkload, server: Recorder
) -> None:
    """Also behind data that belong to no hello, as long as a server could still read it."""
    for between in (b"", record(b"\x01", 20, 0x0303)):
        client, heard = say(stage, server, [Segment(GOOD_HELLO), Segment(between + EVIL_HELLO, len(GOOD_HELLO))],
                            Offload.NONE)  # fmt: skip
        client.push(GOOD_HELLO + between + EVIL_HELLO)
        server.look()
        assert not has_name(heard.data, EVIL)
        assert client.is_reset
        client, heard = say(stage, server, [Segment(GOOD_HELLO), Segment(between + GOOD_HELLO, len(GOOD_HELLO))],
                            Offload.NONE)  # fmt: skip
        client.push(GOOD_HELLO + between + GOOD_HELLO)
        server.look()
        assert heard.data == GOOD_HELLO + between + GOOD_HELLO


def test_a_second_hello_is_gathered_over_segments_too(stage: Stage, judged: GuestWorkload, server: Recorder) -> None:
    """Cut at every byte around its begin and its name."""
    ccs = record(b"\x01", 20, 0x0303)
    cuts = [*range(1, 24), *range(len(ccs) + NAME - 3, len(ccs) + NAME + 12)]
    for cut in cuts:
        for hello in (GOOD_HELLO, EVIL_HELLO):
            client, heard = say(stage, server, [Segment(GOOD_HELLO)], Offload.NONE)
            second = ccs + hello
            client.send(*spread(second, [cut], len(GOOD_HELLO)))
            client.push(GOOD_HELLO + second)
            server.look()
            if hello == GOOD_HELLO:
                assert heard.data == GOOD_HELLO + second, cut
            else:
                assert not has_name(heard.data, EVIL), cut
                assert client.is_reset, cut


def as_captured(flight: Flight) -> Sequence[Segment]:
    """The segments that the client really made."""
    edges = [sum(map(len, flight.segments[:i])) for i in range(1, len(flight.segments))]
    return spread(flight.stream, edges)


def in_the_name(flight: Flight) -> Sequence[Segment]:
    """Cut in the middle of the name, and where a frame would be full."""
    name = (flight.sni or "").encode()
    middle = flight.stream.find(name) + len(name) // 2
    return spread(flight.stream, [middle, *range(1400, len(flight.stream), 1400)])


@OFFLOADS
@pytest.mark.parametrize("cut", [as_captured, in_the_name])
def test_every_real_hello_is_allowed_where_its_name_is_and_denied_where_not(
    stage: Stage, guard: object, judged: GuestWorkload, server: Recorder, cut: object, offload: Offload
) -> None:
    """The captured flights of real clients."""

    def tell(flight: Flight) -> tuple[RawClient, Heard, list[Told]]:
        client, heard = say(stage, server, cut(flight), offload)  # type: ignore[operator]
        return client, heard, judged.told()

    try:
        judged.switch(naming(*EVERY_NAME, allows_ech=True))
        for flight in NAMED:
            _client, heard, told = tell(flight)
            assert heard.data == flight.stream, flight.client
            assert [(one.verdict, one.reason, one.name.lower()) for one in told] == [
                (*ALLOWED, (flight.sni or "").lower())
            ]
        judged.switch(naming("another.test", allows_ech=True))
        for flight in NAMED:
            client, heard, told = tell(flight)
            assert client.wait_reset()
            assert judge_hello(heard.data).incomplete or heard.data == b""
            assert [one.reason for one in told] == [Reason.NAME_NOT_ALLOWED]
    finally:
        judged.switch(naming(GOOD))
