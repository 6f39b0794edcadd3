"""The Report stream at a plane, over real TLS and with a real store: who may report, in which order answers come."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exeat.control.plane_channel import PlaneAway, PlaneChannel, Stream
from exeat.control.plane_files import read_credentials
from exeat.plane.nodes import nodes
from exeat.v1 import plane_pb2 as pb
from exeat.v1 import verdict_pb2
from plane.certificates import authority
from plane.serving import Serving, serving
from plane.stores import KINDS, url_of

NODE = "node-1.test"
_Report = Stream[pb.ReportRequest, pb.ReportResponse]


def run(tmp_path: Path, talk: Callable[[Serving], Awaitable[None]], kind: str = "sqlite") -> None:
    """With a plane of its own, which knows the node."""

    async def act() -> None:
        async with serving(authority(tmp_path / "papers"), url_of(kind, tmp_path)) as plane:
            await plane.writing(nodes.add, NODE)
            await talk(plane)

    asyncio.run(act())


@asynccontextmanager
async def reporting(plane: Serving, node: str = NODE) -> AsyncIterator[_Report]:
    """A stream on a connection of its own."""
    access = plane.access(node)
    async with PlaneChannel(access.endpoints[0], access, read_credentials(access)) as channel:
        yield channel.report()


async def greet(stream: _Report, log: str = "7f3a", after: int = 0, node: str = NODE) -> pb.ReportWelcome:
    """Says hello; the welcome."""
    await stream.say(pb.ReportRequest(hello=pb.ReportHello(node=node, log=log, after=after)))
    return (await stream.hear(5)).welcome


def batch(first: int, through: int) -> pb.ReportRequest:
    """A verdict a line."""
    record = verdict_pb2.VerdictRecord(verdict=2, workload="/w", policy="p", hook="connect", name="evil.test")  # type: ignore[arg-type]
    record.time.FromNanoseconds(time.time_ns())
    numbered = [pb.NumberedVerdict(number=number, verdict=record) for number in range(first, through + 1)]
    return pb.ReportRequest(batch=pb.VerdictBatch(first=first, through=through, verdicts=numbered))


async def stored(plane: Serving) -> list[int]:
    """Numbers in the store."""
    rows: list[tuple[int]] = await plane.reading(lambda tx: tx.all("SELECT number FROM verdicts ORDER BY number"))
    return [number for (number,) in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_acknowledged_in_order_and_stored_once(tmp_path: Path, kind: str) -> None:
    """A whole window at once; after a break it goes on behind what is safe, and what comes again is passed over."""

    async def talk(plane: Serving) -> None:
        async with reporting(plane) as stream:
            welcome = await greet(stream)
            assert (welcome.through, welcome.batch_max, welcome.window) == (0, 500, 8)
            for number in range(8):
                await stream.say(batch(number * 10 + 1, number * 10 + 10))
            acks = [(await stream.hear(10)).ack.through for _ in range(8)]
            assert (acks[-1], acks) == (80, sorted(acks))
        async with reporting(plane) as stream:
            assert (await greet(stream)).through == 80
            await stream.say(batch(71, 90))
            assert (await stream.hear(5)).ack.through == 90
        async with reporting(plane) as stream:
            assert (await greet(stream, log="other", after=1200)).through == 1200
        assert await stored(plane) == list(range(1, 91))

    run(tmp_path, talk, kind)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (batch(1, 2), "begins with a hello"),
        (pb.ReportRequest(hello=pb.ReportHello(node="node-2.test", log="a")), "and not for node-2.test"),
        (pb.ReportRequest(hello=pb.ReportHello(node=NODE)), "names no log"),
        (pb.ReportRequest(hello=pb.ReportHello(node=NODE, log="a\0b")), "names no log"),
    ],
)
def test_a_hello_that_makes_no_sense_is_refused(tmp_path: Path, said: pb.ReportRequest, sentence: str) -> None:
    """Before anything is stored."""

    async def talk(plane: Serving) -> None:
        async with reporting(plane) as stream:
            await stream.say(said)
            with pytest.raises(PlaneAway, match=re.escape(sentence)):
                await stream.hear(5)
        assert await stored(plane) == []

    run(tmp_path, talk)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (batch(5, 9), "begins at 5, and 4 is to come next"),
        (batch(4, 504), "send at most 500"),
        (pb.ReportRequest(hello=pb.ReportHello(node=NODE, log="b")), "a hello is said once"),
    ],
)
def test_a_batch_that_makes_no_sense_ends_the_stream(tmp_path: Path, said: pb.ReportRequest, sentence: str) -> None:
    """What came before it is safe and acknowledged."""

    async def talk(plane: Serving) -> None:
        async with reporting(plane) as stream:
            await greet(stream)
            await stream.say(batch(1, 3))
            assert (await stream.hear(5)).ack.through == 3
            await stream.say(said)
            with pytest.raises(PlaneAway, match=re.escape(sentence)):
                await stream.hear(5)
        assert await stored(plane) == [1, 2, 3]

    run(tmp_path, talk)


def test_only_nodes_of_the_fleet_may_report(tmp_path: Path) -> None:
    """Not one that never came, nor one that is retired; active again, it may."""

    async def talk(plane: Serving) -> None:
        async with reporting(plane, "node-9.test") as stream:
            with pytest.raises(PlaneAway, match="is not known: open Sync first"):
                await greet(stream, node="node-9.test")
        await plane.writing(nodes.retire, NODE)
        async with reporting(plane) as stream:
            with pytest.raises(PlaneAway, match="is retired"):
                await greet(stream)
        await plane.writing(nodes.activate, NODE)
        async with reporting(plane) as stream:
            assert (await greet(stream)).window == 8

    run(tmp_path, talk)


def test_many_agents_report_at_the_same_time(tmp_path: Path) -> None:
    """Each gets its own answers."""

    async def talk(plane: Serving) -> None:
        names = [f"node-{number}.test" for number in range(2, 12)]

        async def one(name: str) -> list[int]:
            await plane.writing(nodes.add, name)
            async with reporting(plane, name) as stream:
                await greet(stream, log=name, node=name)
                acks = []
                for number in range(20):
                    await stream.say(batch(number * 5 + 1, number * 5 + 5))
                    if number >= 8:
                        acks.append((await stream.hear(10)).ack.through)
                return acks + [(await stream.hear(10)).ack.through for _ in range(8)]

        for acks in await asyncio.gather(*(one(name) for name in names)):
            assert (len(acks), acks[-1], acks) == (20, 100, sorted(acks))
        assert len(await stored(plane)) == 100 * len(names)
        counted: Any = plane.plane.collected
        assert (counted.stored, counted.waiting) == (100 * len(names), 0)

    run(tmp_path, talk)


def test_what_was_not_acknowledged_when_the_plane_ends_may_come_again(tmp_path: Path) -> None:
    """The end is orderly: everything that was acknowledged is there, and nothing twice."""
    papers, url = authority(tmp_path / "papers"), url_of("sqlite", tmp_path)

    async def first() -> int:
        async with serving(papers, url) as plane:
            await plane.writing(nodes.add, NODE)
            async with reporting(plane) as stream:
                await greet(stream)
                for number in range(8):
                    await stream.say(batch(number * 500 + 1, number * 500 + 500))
                return (await stream.hear(10)).ack.through

    async def second(acknowledged: int) -> None:
        async with serving(papers, url) as plane, reporting(plane) as stream:
            through = (await greet(stream)).through
            assert through >= acknowledged > 0
            for first in range(through + 1, 4001, 500):
                await stream.say(batch(first, min(first + 499, 4000)))
                await stream.hear(10)
            assert await stored(plane) == list(range(1, 4001))

    asyncio.run(second(asyncio.run(first())))
