"""Upstream when much is asked at a time, given up, or when the process has no means left."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest
from upstream_stage import FIRST, SECOND, Stage, addresses, answer_of, ask, play

from bed.services import Manner
from exeat.dns.health import PATIENCE_MIN_S, PATIENCE_S, SICK_AFTER, SICK_S, Peer
from exeat.dns.records import Kind
from exeat.dns.upstream import IN_FLIGHT_MAX, Flood, Upstream
from exeat.model.policy import Upstreams

SLOW = Manner(delay_s=0.2)
SILENT = Manner(is_silent=True)


def test_a_herd_asks_once(stage: Stage) -> None:
    """Fifty who ask the same get the same answer; another kind is another question."""
    stage.first.behave(SLOW)
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        herd = [answer_of(upstream, "shop.test", Kind.A) for _ in range(50)]
        *replies, other = await asyncio.gather(*herd, answer_of(upstream, "shop.test", Kind.AAAA))
        assert addresses(replies[0]) == [FIRST]
        assert all(reply is replies[0] for reply in replies)
        assert other is not replies[0]

    play(upstream, scene)
    assert sorted(stage.asked(stage.first)) == ["udp shop.test A", "udp shop.test AAAA"]
    assert (upstream.counts.questions, upstream.counts.joined) == (2, 49)


def test_a_question_is_asked_anew_once_it_was_answered(stage: Stage) -> None:
    """To remember is the cache's work."""
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        for _ in range(3):
            await answer_of(upstream, "shop.test", Kind.A)

    play(upstream, scene)
    assert stage.asked(stage.first) == ["udp shop.test A"] * 3


def test_who_gives_up_takes_nobody_along(stage: Stage) -> None:
    """Not even the one who asked first."""
    stage.first.behave(SLOW)
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        askers = [asyncio.ensure_future(answer_of(upstream, "shop.test", Kind.A)) for _ in range(3)]
        await asyncio.sleep(0.05)
        askers[0].cancel()
        askers[1].cancel()
        assert addresses(await askers[2]) == [FIRST]
        assert askers[0].cancelled()
        assert askers[1].cancelled()

    play(upstream, scene)
    assert stage.asked(stage.first) == ["udp shop.test A"]


@pytest.mark.parametrize("manner", [SLOW, SILENT, Manner(truncates=True, tcp="silent")])
def test_when_all_have_given_up_nothing_stays(stage: Stage, manner: Manner) -> None:
    """play() sees to it that neither socket nor task is left, also in the midst of TCP."""
    stage.first.behave(manner)
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        asker = asyncio.ensure_future(answer_of(upstream, "shop.test", Kind.A))
        await asyncio.sleep(0.1)
        asker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asker

    play(upstream, scene)


@pytest.mark.parametrize("manner", [SILENT, Manner(truncates=True, tcp="silent")])
def test_close_ends_every_wait(stage: Stage, manner: Manner) -> None:
    """With no answer, at once, and as often as it is called; a question asked afterwards begins anew."""
    stage.first.behave(manner)
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        asker = asyncio.ensure_future(answer_of(upstream, "shop.test", Kind.A))
        await asyncio.sleep(0.1)
        upstream.close()
        upstream.close()
        assert await asyncio.wait_for(asker, 0.1) is None
        stage.first.behave(None)
        assert addresses(await answer_of(upstream, "shop.test", Kind.A)) == [FIRST]

    play(upstream, scene)


def test_beyond_so_many_in_flight_none_is_taken(stage: Stage) -> None:
    """The last that fits is sent; what joins takes no place; and a place that is free again is given."""
    stage.first.behave(SILENT)
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        askers = [
            asyncio.ensure_future(answer_of(upstream, f"{number}.wild.test", Kind.A))
            for number in range(IN_FLIGHT_MAX - 1)
        ]
        last = asyncio.ensure_future(answer_of(upstream, "last.wild.test", Kind.A))
        await asyncio.sleep(0)
        with pytest.raises(Flood):
            await answer_of(upstream, "shop.test", Kind.A)
        joined = asyncio.ensure_future(answer_of(upstream, "0.wild.test", Kind.A))
        await asyncio.sleep(0)
        upstream.close()
        assert await asyncio.gather(*askers, last, joined) == [None] * (IN_FLIGHT_MAX + 1)
        stage.first.behave(None)
        assert addresses(await answer_of(upstream, "shop.test", Kind.A)) == [FIRST]

    play(upstream, scene)
    assert stage.asked(stage.first).count("udp shop.test A") == 1
    assert upstream.counts.questions == upstream.counts.exchanges == IN_FLIGHT_MAX + 1
    assert (upstream.counts.floods, upstream.counts.joined) == (1, 1)


def test_without_descriptors_a_question_stays_unanswered(stage: Stage) -> None:
    """And no server is blamed: when there are some again, the first is asked as before."""
    has_none = True

    def make(family: int, kind: int) -> socket.socket:
        if has_none:
            raise OSError(errno.EMFILE, "Too many open files")
        return socket.socket(family, kind)

    both = (stage.server(stage.first), stage.server(stage.second))
    upstream = Upstream((Upstreams(both),), (), make_socket=make)

    async def scene() -> None:
        nonlocal has_none
        for _ in range(SICK_AFTER):
            assert await answer_of(upstream, "shop.test", Kind.A) is None
        has_none = False
        assert addresses(await answer_of(upstream, "shop.test", Kind.A)) == [FIRST]

    play(upstream, scene)
    assert (upstream.counts.failures, upstream.counts.unanswered) == (0, SICK_AFTER)


@pytest.mark.parametrize("refused", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_server_that_cannot_be_reached_is_passed_over(stage: Stage, refused: int) -> None:
    """No route, or TCP closed: an error of the socket's, not of ours."""
    stage.first.behave(Manner(truncates=True))
    first = stage.server(stage.first)

    class Unreachable(socket.socket):
        def connect(self, address: object) -> None:
            if self.type == refused and address == (str(first.address), first.port):
                raise OSError(errno.ENETUNREACH, "Network is unreachable")
            super().connect(address)  # type: ignore[arg-type]

    upstream = Upstream((Upstreams((first, stage.server(stage.second))),), (), make_socket=Unreachable)
    reply, seconds = ask(upstream)
    assert addresses(reply) == [SECOND]
    assert seconds < 0.3
    assert upstream.counts.failures == 1


def test_a_name_that_cannot_be_written_is_the_callers_error(stage: Stage) -> None:
    """Nothing is sent, and no place is taken."""
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        with pytest.raises(ValueError, match="."):
            await answer_of(upstream, "a" * 64 + ".test", Kind.A)

    play(upstream, scene)
    assert stage.asked(stage.first) == []
    assert upstream.counts.questions == 0


def test_a_thousand_questions_are_all_answered(stage: Stage) -> None:
    """Each with its own answer, two hundred at a time."""
    upstream = stage.upstream(stage.first, stage.second)

    async def some(first: int) -> None:
        for number in range(first, first + 5):
            name = f"{number}.wild.test"
            reply = await answer_of(upstream, name, Kind.A)
            assert reply
            assert [record.name for record in reply.records] == [name]

    async def scene() -> None:
        await asyncio.gather(*(some(first) for first in range(0, 1000, 5)))

    play(upstream, scene)
    assert upstream.counts.questions == 1000
    assert upstream.counts.unanswered == 0


def peer(stage: Stage) -> Peer:
    """A server of which nothing is known."""
    return Peer(stage.server(stage.first))


def test_patience_follows_the_time_that_answers_take(stage: Stage) -> None:
    """Three times the smoothed time, within bounds."""
    one = peer(stage)
    assert one.patience_s == PATIENCE_S
    one.answered(0.1)
    assert one.patience_s == pytest.approx(0.3)
    one.answered(0.02)
    assert one.patience_s == pytest.approx(0.27)
    for _ in range(100):
        one.answered(0.0001)
    assert one.patience_s == PATIENCE_MIN_S
    for _ in range(100):
        one.answered(1.0)
    assert one.patience_s == PATIENCE_S


def test_three_failures_in_a_row_make_a_server_sick_for_a_while(stage: Stage) -> None:
    """Then one more is enough, until it has answered."""
    one = peer(stage)
    for _ in range(SICK_AFTER - 1):
        one.failed(100.0)
    one.answered(0.1)
    for _ in range(SICK_AFTER - 1):
        one.failed(100.0)
        assert not one.is_sick(100.0)
    one.failed(101.0)
    assert one.is_sick(101.0 + SICK_S - 0.001)
    assert not one.is_sick(101.0 + SICK_S)
    one.failed(120.0)
    assert one.is_sick(120.0)
    one.answered(0.1)
    assert not one.is_sick(120.0)
