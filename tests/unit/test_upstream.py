"""Upstream against real servers on loopback that lie, stall, cut short and fall silent."""

from __future__ import annotations

import asyncio

import pytest
from loopback_hosts import ADDRESSES, free_port
from upstream_stage import FIRST, LIE, MANY, SECOND, THIRD, Stage, addresses, answer_of, ask, play

from bed.services import Lie, Manner, TcpManner
from exeat.dns.exchange import BAD_REPLIES_MAX
from exeat.dns.race import OPEN_MAX
from exeat.dns.records import Kind, Rcode, Reply
from exeat.dns.upstream import Upstream
from exeat.model.policy import Server, Upstreams

SILENT = Manner(is_silent=True)
WRONG_ID: tuple[Lie, ...] = ("id",)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_question_is_answered_over_both_families(stage: Stage, address: str) -> None:
    """The first server's answer, and only it was asked."""
    upstream = stage.upstream(stage.hosts.server(stage.first, address), stage.server(stage.second))
    reply, _ = ask(upstream)
    assert addresses(reply) == [FIRST]
    assert stage.asked(stage.first) == ["udp shop.test A"]
    assert stage.asked(stage.second) == []
    assert (upstream.counts.questions, upstream.counts.exchanges, upstream.counts.failures) == (1, 1, 0)


def test_chains_and_refusals_come_as_they_are(stage: Stage) -> None:
    """An alias with its target; a circle; no such name; no such data."""
    upstream = stage.upstream(stage.first)

    async def scene() -> list[Reply | None]:
        questions = (("www.shop.test", Kind.A), ("loop.test", Kind.A), ("no.test", Kind.A), ("shop.test", Kind.TXT))
        return [await answer_of(upstream, *question) for question in questions]

    chain, circle, no_name, no_data = play(upstream, scene)
    assert chain
    assert [(r.name, r.kind, r.ttl) for r in chain.records] == [
        ("www.shop.test", Kind.CNAME, 5),
        ("shop.test", Kind.A, 60),
    ]
    assert circle
    assert [record.kind for record in circle.records] == [Kind.CNAME]
    assert no_name
    assert (no_name.rcode, no_name.records, no_name.negative_ttl) == (Rcode.NXDOMAIN, (), 60)
    assert no_data
    assert (no_data.rcode, no_data.records, no_data.negative_ttl) == (Rcode.NOERROR, (), 60)


def test_nothing_but_name_and_kind_travels(stage: Stage) -> None:
    """Each question is the same bytes behind its id: recursion wished, one question, an OPT record, no option."""
    upstream = stage.upstream(stage.first)
    ask(upstream)
    (asked,) = stage.first.questions()
    header = b"\x01\x00" + b"\x00\x01\x00\x00\x00\x00\x00\x01"
    assert asked.raw[2:] == header + b"\x04shop\x04test\x00\x00\x01\x00\x01" + b"\x00\x00\x29\x04\xd0" + bytes(6)


def test_ids_and_ports_cannot_be_foretold(stage: Stage) -> None:
    """Of 300 questions nearly all have an id and a port of their own, and neither is counted up."""
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        for number in range(300):
            await answer_of(upstream, f"{number}.wild.test", Kind.A)

    play(upstream, scene)
    asked = stage.first.questions()
    for values in ([int.from_bytes(one.raw[:2], "big") for one in asked], [one.source_port for one in asked]):
        assert len(set(values)) > 280
        steps = {after - before for before, after in zip(values, values[1:], strict=False)}
        assert len(steps) > 250
        assert max(values) - min(values) > 10_000


@pytest.mark.parametrize("lie", ["id", "question", "kind", "class", "query", "opcode", "garbage", "short", "empty"])
def test_a_lie_is_passed_over_and_the_truth_believed(stage: Stage, lie: Lie) -> None:
    """It came first, and is counted."""
    stage.first.behave(Manner(lies=(lie, lie), lie_address=LIE))
    upstream = stage.upstream(stage.first)
    reply, seconds = ask(upstream)
    assert addresses(reply) == [FIRST]
    assert seconds < 0.35
    assert upstream.counts.bad_replies == 2


def test_what_comes_from_another_port_is_not_even_read(stage: Stage) -> None:
    """The kernel drops it, for the socket is connected."""
    stage.first.behave(Manner(lies=("port", "port", "port"), lie_address=LIE))
    upstream = stage.upstream(stage.first)
    assert addresses(ask(upstream)[0]) == [FIRST]
    assert upstream.counts.bad_replies == 0


@pytest.mark.parametrize("lie", ["id", "question", "port", "garbage"])
def test_a_lie_alone_is_as_good_as_silence(stage: Stage, lie: Lie) -> None:
    """The second server's answer counts, after the first one's time."""
    stage.first.behave(Manner(lies=(lie,), lie_address=LIE, is_silent=True))
    reply, seconds = ask(stage.upstream(stage.first, stage.second))
    assert addresses(reply) == [SECOND]
    assert 0.35 < seconds < 0.8


def test_too_many_lies_end_the_exchange(stage: Stage) -> None:
    """The next server is asked at once; one lie fewer, and the truth behind them would have been heard."""
    stage.first.behave(Manner(lies=WRONG_ID * (BAD_REPLIES_MAX + 1), lie_address=LIE))
    upstream = stage.upstream(stage.first, stage.second)
    reply, seconds = ask(upstream)
    assert addresses(reply) == [SECOND]
    assert seconds < 0.35
    assert (upstream.counts.bad_replies, upstream.counts.failures) == (BAD_REPLIES_MAX + 1, 1)
    stage.first.behave(Manner(lies=WRONG_ID * BAD_REPLIES_MAX, lie_address=LIE))
    assert addresses(ask(stage.upstream(stage.first, stage.second))[0]) == [FIRST]


def test_records_beside_the_answer_are_no_part_of_it(stage: Stage) -> None:
    """What stands in other sections is not handed out."""
    poison = (f"shop.test. 300 IN A {LIE}", f"evil.test. 300 IN A {LIE}")
    stage.first.behave(Manner(authorities=poison, additionals=poison))
    assert addresses(ask(stage.upstream(stage.first))[0]) == [FIRST]


def test_what_does_not_fit_is_asked_again_over_tcp(stage: Stage) -> None:
    """All 250 addresses; and 65 kB of text."""
    upstream = stage.upstream(stage.first)

    async def scene() -> tuple[Reply | None, Reply | None]:
        return await answer_of(upstream, "many.test", Kind.A), await answer_of(upstream, "large.test", Kind.TXT)

    many, large = play(upstream, scene)
    assert len(addresses(many)) == MANY
    assert large
    assert sum(len(record.data) for record in large.records) == 244 * 256
    assert stage.asked(stage.first) == [
        "udp many.test A", "tcp many.test A", "udp large.test TXT", "tcp large.test TXT",
    ]  # fmt: skip
    udp, tcp, *_ = stage.first.questions()
    assert udp.raw[2:] == tcp.raw[2:]
    assert udp.raw[:2] != tcp.raw[:2] or upstream.counts.streams == 2  # the id may be the same by chance


@pytest.mark.parametrize(
    ("manner", "who"),
    [
        ("plain", FIRST),
        ("trickles", FIRST),
        ("length 0", FIRST),
        ("closes", SECOND),
        ("half", SECOND),
        ("length too long", SECOND),
        ("length too short", SECOND),
        ("silent", SECOND),
    ],
)
def test_tcp_servers_of_every_manner(stage: Stage, manner: TcpManner, who: str) -> None:
    """Slow and odd ones are understood; from those that cut short or lie the question goes on to the next."""
    stage.first.behave(Manner(truncates=True, tcp=manner))
    reply, seconds = ask(stage.upstream(stage.first, stage.second))
    assert addresses(reply) == [who]
    assert seconds < 0.8
    assert stage.asked(stage.first)[:2] == ["udp shop.test A", "tcp shop.test A"]


def test_what_is_cut_short_over_tcp_too_is_no_answer(stage: Stage) -> None:
    """There is no third way to ask this server."""
    stage.first.behave(Manner(raw=b"\x83\x80\x00\x01" + bytes(6) + b"\x04shop\x04test\x00\x00\x01\x00\x01"))
    assert addresses(ask(stage.upstream(stage.first, stage.second))[0]) == [SECOND]
    assert stage.asked(stage.first) == ["udp shop.test A", "tcp shop.test A"]


@pytest.mark.parametrize("lie", ["id", "question", "kind", "query"])
def test_a_lie_over_tcp_is_passed_over(stage: Stage, lie: Lie) -> None:
    """Over UDP it is told once, over TCP once."""
    stage.first.behave(Manner(truncates=True, lies=(lie,), lie_address=LIE))
    upstream = stage.upstream(stage.first)
    assert addresses(ask(upstream)[0]) == [FIRST]
    assert upstream.counts.bad_replies == 2


def test_an_endless_stream_of_lies_ends(stage: Stage) -> None:
    """As over UDP."""
    stage.first.behave(Manner(truncates=True, lies=WRONG_ID * 25, lie_address=LIE))
    upstream = stage.upstream(stage.first, stage.second)
    assert addresses(ask(upstream)[0]) == [SECOND]
    assert upstream.counts.bad_replies == BAD_REPLIES_MAX + 1


@pytest.mark.parametrize("rcode", ["FORMERR", "SERVFAIL", "NOTIMP", "REFUSED"])
def test_who_has_no_answer_sends_on_to_the_next(stage: Stage, rcode: str) -> None:
    """At once; and if nobody has one, the first refusal is what was said."""
    stage.first.behave(Manner(rcode=rcode))
    reply, seconds = ask(stage.upstream(stage.first, stage.second))
    assert addresses(reply) == [SECOND]
    assert seconds < 0.35
    stage.second.behave(Manner(rcode="SERVFAIL"))
    reply, seconds = ask(stage.upstream(stage.first, stage.second))
    assert reply
    assert reply.rcode == Rcode[rcode]
    assert seconds < 0.35
    assert len(stage.second.questions()) == 2  # a refusal is not asked for twice


def test_no_such_name_is_an_answer(stage: Stage) -> None:
    """No other server is asked for a better one."""
    stage.first.behave(Manner(rcode="NXDOMAIN"))
    reply, _ = ask(stage.upstream(stage.first, stage.second))
    assert reply
    assert reply.rcode == Rcode.NXDOMAIN
    assert stage.asked(stage.second) == []


def test_a_port_where_nobody_listens_is_noticed_at_once(stage: Stage) -> None:
    """By the ICMP error; and if no server listens anywhere, nobody waits."""
    dead = Server(stage.server(stage.first).address, free_port())
    reply, seconds = ask(stage.upstream(dead, stage.first))
    assert addresses(reply) == [FIRST]
    assert seconds < 0.35
    upstream = stage.upstream(dead)
    reply, seconds = ask(upstream)
    assert reply is None
    assert seconds < 0.35
    assert upstream.counts.unanswered == 1


def test_a_silent_server_is_given_its_time_and_then_another_is_asked_too(stage: Stage) -> None:
    """The third is not needed."""
    stage.first.behave(SILENT)
    reply, seconds = ask(stage.upstream(stage.first, stage.second, stage.third))
    assert addresses(reply) == [SECOND]
    assert 0.39 < seconds < 0.7
    assert [len(host.questions()) for host in stage.all] == [1, 1, 0]


def test_a_slow_server_may_still_win(stage: Stage) -> None:
    """It is not given up when the second is asked; the first answer is the answer."""
    stage.first.behave(Manner(delay_s=0.6))
    stage.second.behave(Manner(delay_s=1.5))
    reply, seconds = ask(stage.upstream(stage.first, stage.second))
    assert addresses(reply) == [FIRST]
    assert 0.55 < seconds < 1.0
    assert len(stage.second.questions()) == 1


def test_a_server_known_to_be_quick_is_given_less_time(stage: Stage) -> None:
    """Fifty milliseconds, when it answers in less than one."""
    upstream = stage.upstream(stage.first, stage.second)

    async def scene() -> float:
        await answer_of(upstream, "shop.test", Kind.A)
        stage.first.behave(SILENT)
        began = asyncio.get_running_loop().time()
        assert addresses(await answer_of(upstream, "shop.test", Kind.A)) == [SECOND]
        return asyncio.get_running_loop().time() - began

    assert 0.04 < play(upstream, scene) < 0.3


def test_a_quick_server_that_takes_its_time_is_not_asked_twice(stage: Stage) -> None:
    """What it does not know at once it must ask for itself; only another server is asked so soon."""
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        await answer_of(upstream, "shop.test", Kind.A)
        stage.first.behave(Manner(delay_s=0.25))
        assert addresses(await answer_of(upstream, "shop.test", Kind.A)) == [FIRST]

    play(upstream, scene)
    assert len(stage.first.questions()) == 2
    assert upstream.counts.failures == 0


def test_who_answers_the_second_time_is_not_blamed_for_the_first(stage: Stage) -> None:
    """A lost datagram is the network's fault."""
    stage.first.behave(SILENT)
    upstream = stage.upstream(stage.first)

    async def scene() -> None:
        question = asyncio.ensure_future(answer_of(upstream, "shop.test", Kind.A))
        await asyncio.sleep(0.1)
        stage.first.behave(None)
        assert addresses(await question) == [FIRST]

    play(upstream, scene)
    assert upstream.counts.failures == 0


def test_who_was_silent_three_times_is_asked_last(stage: Stage) -> None:
    """The fourth question does not reach it, and is answered without a wait; the third still did."""
    stage.first.behave(SILENT)
    upstream = stage.upstream(stage.first, stage.second)

    async def scene() -> list[float]:
        times = []
        for number in range(4):
            began = asyncio.get_running_loop().time()
            assert addresses(await answer_of(upstream, f"{number}.wild.test", Kind.A)) == [SECOND]
            times.append(asyncio.get_running_loop().time() - began)
        return times

    times = play(upstream, scene)
    assert min(times[:3]) > 0.35
    assert times[3] < 0.35
    assert stage.asked(stage.first) == [f"udp {number}.wild.test A" for number in range(3)]


def test_when_all_are_silent_the_wait_is_bounded(stage: Stage) -> None:
    """Two seconds in all, however many servers; each is asked twice at most, for a datagram may have been lost."""
    for host in stage.all:
        host.behave(SILENT)
    for hosts, exchanges in ((stage.all, OPEN_MAX), ((stage.first,), 2)):
        stage.first.reset()
        upstream = stage.upstream(*hosts)
        reply, seconds = ask(upstream)
        assert reply is None
        assert 1.9 < seconds < 2.4
        assert len(stage.first.questions()) == 2
        assert upstream.counts.exchanges == exchanges


def test_a_lost_datagram_is_sent_again(stage: Stage) -> None:
    """Also where there is but one server."""
    stage.first.behave(SILENT)
    upstream = stage.upstream(stage.first)

    async def scene() -> Reply | None:
        question = asyncio.ensure_future(answer_of(upstream, "shop.test", Kind.A))
        await asyncio.sleep(0.1)
        assert len(stage.first.questions()) == 1
        stage.first.behave(None)
        return await asyncio.wait_for(question, 0.7)

    assert addresses(play(upstream, scene)) == [FIRST]


def test_each_domain_has_its_own_servers(stage: Stage) -> None:
    """The longest that covers the name, by whole labels; what none covers goes to the fallback."""
    servers = [stage.server(host) for host in stage.all]
    corporate = (Upstreams((servers[1],), "wild.test"), Upstreams((servers[2],), "deep.wild.test"))
    upstream = Upstream(corporate, (servers[0],))

    async def scene() -> dict[str, list[str]]:
        names = ("a.wild.test", "a.deep.wild.test", "deep.wild.test", "adeep.wild.test", "shop.test")
        return {name: addresses(await answer_of(upstream, name, Kind.A)) for name in names}

    assert play(upstream, scene) == {
        "a.wild.test": [SECOND],
        "a.deep.wild.test": [THIRD],
        "deep.wild.test": [THIRD],
        "adeep.wild.test": [SECOND],
        "shop.test": [FIRST],
    }


def test_a_name_of_a_domain_never_goes_elsewhere(stage: Stage) -> None:
    """Not even if its own servers are dead: an inner name is nobody else's business."""
    dead = Server(stage.server(stage.first).address, free_port())
    upstream = Upstream((Upstreams((dead,), "shop.test"),), (stage.server(stage.second),))
    assert ask(upstream)[0] is None
    assert stage.asked(stage.second) == []


def test_an_entry_for_every_name_takes_the_place_of_the_fallback(stage: Stage) -> None:
    """And entries for the same domain add up."""
    servers = [stage.server(host) for host in stage.all]
    stage.first.behave(Manner(rcode="REFUSED"))
    stage.second.behave(Manner(rcode="REFUSED"))
    upstream = Upstream((Upstreams((servers[0],)), Upstreams((servers[1],))), (servers[2],))
    reply, _ = ask(upstream)
    assert reply
    assert reply.rcode == Rcode.REFUSED
    assert [len(host.questions()) for host in stage.all] == [1, 1, 0]


def test_without_servers_nobody_answers() -> None:
    """At once."""
    reply, seconds = ask(Upstream((), ()))
    assert reply is None
    assert seconds < 0.1
