"""A node that has been taken over: what its Report stream can do to the store, and to those who read verdicts."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from exeat.control.plane_channel import PlaneAway
from exeat.plane.nodes import nodes
from exeat.plane.store.database import Database, open_database
from exeat.plane.verdicts.collection import Collection
from exeat.v1 import plane_pb2 as pb
from exeat.v1 import verdict_pb2
from plane import console_stage
from plane.console_visitor import visiting
from plane.plane_stage import Stage, open_stage
from plane.serving import Serving
from plane.stores import KINDS, open_store
from plane.test_plane_verdict_streams import NODE, batch, greet, reporting, run, stored

OTHER = "honest.test"


def denied(**said: Any) -> verdict_pb2.VerdictRecord:
    """A verdict; `seconds` and `nanos`: its time, which is now otherwise."""
    seconds, nanos = said.pop("seconds", int(time.time())), said.pop("nanos", 0)
    fields = {"verdict": 2, "reason": 84, "hook": "connect", "workload": "/w", "policy": "coder", "name": "evil.test"}
    record = verdict_pb2.VerdictRecord(**(fields | said))  # type: ignore[arg-type]
    record.time.seconds, record.time.nanos = seconds, nanos
    return record


def take(database: Database, *records: verdict_pb2.VerdictRecord, node: str = "bad") -> None:
    """As the plane does from a Report stream."""

    async def act() -> None:
        collection = Collection(database)
        await collection.begin(node, "log", 0)
        made = pb.VerdictBatch(first=1, through=len(records))
        for number, record in enumerate(records, 1):
            made.verdicts.add(number=number, verdict=record)
        assert await collection.take(node, "log", made) == len(records)
        await asyncio.to_thread(collection.close)

    asyncio.run(act())


ABSURD = [
    denied(seconds=2**62),
    denied(seconds=-(2**62)),
    denied(seconds=10**12),
    denied(seconds=-(10**11), reason=9999),
    denied(nanos=-(2**31)),
    denied(nanos=2**31 - 1, reason=9999),
    denied(reason=2**31 - 1, verdict=-(2**31), seconds=2**63 - 1),
]


def rows(stage: Stage, path: str = "/verdicts?since=1h") -> list[Any]:
    """What the API answers."""
    return list(stage.get(path)["verdicts"])


def test_one_verdict_hides_no_other(tmp_path: Path) -> None:
    """Times that no calendar has, words that nobody knows: the page of verdicts is there, with the honest one on it."""
    with open_stage(tmp_path) as stage:
        take(stage.database, *ABSURD)
        take(stage.database, denied(name="honest.example"), node="honest")
        found = rows(stage)
        assert len(found) == len(ABSURD) + 1
        assert [one["name"] for one in found if one["node"] == "honest"] == ["honest.example"]
        assert len(stage.get("/denials")["denials"]) >= 2
        assert stage.get("/report?since=1d")["denied"] >= 2


def test_one_verdict_hides_no_other_on_the_page_either(tmp_path: Path) -> None:
    """Where the verdict's own time is shown."""
    with console_stage.open_plane(tmp_path) as plane:
        tokens = console_stage.make_tokens(plane.database, time.time_ns())
        take(plane.database, *ABSURD)
        take(plane.database, denied(name="honest.example"), node="honest")
        with console_stage.serving(plane) as address, visiting(address, tokens.viewer) as vera:
            assert "honest.example" in vera.page("/verdicts?since=1h")


def test_what_is_told_of_forged_numbers_is_still_sums(tmp_path: Path) -> None:
    """The greatest counts, ports and protocols that fit into a message."""
    most = 2**32 - 1
    forged = [denied(count=most, protocol=most, bytes=most, detail=most, judged_ns=2**64 - 1) for _ in range(400)]
    for record in forged:
        record.destination.port, record.destination.address = most, b"\1\2\3"
    with open_stage(tmp_path) as stage:
        take(stage.database, *forged)
        take(stage.database, denied(name="honest.example", count=3), node="honest")
        counts = {one["target"]: one["count"] for one in stage.get("/denials")["denials"]}
        assert counts == {"evil.test": 400 * most, "honest.example": 3}
        assert stage.get("/report?since=1d")["denied"] == 400 * most + 3
        assert len(rows(stage, "/verdicts?since=1h&limit=1000")) == 401


@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_is_kept_no_larger_than_anybody_reads(tmp_path: Path, kind: str) -> None:
    """The largest that an honest agent can make has some kilobytes: a path of 4,096 bytes, and some names."""
    with open_store(kind, tmp_path) as database:
        take(database, denied(evidence="x" * (3 << 20)), denied(workload="w" * 4096))
        with database.reading() as tx:
            sizes = [row[0] for row in tx.all("SELECT length(body) FROM verdicts ORDER BY id")]
        assert (len(sizes), sizes[1] > 4096) == (2, True)
        assert max(sizes) < 64 << 10


def test_a_batch_is_taken_from_its_own_node_only(tmp_path: Path) -> None:
    """The node of a verdict is the stream's; a stream in another's name is none."""

    async def talk(plane: Serving) -> None:
        await plane.writing(nodes.add, OTHER)
        async with reporting(plane) as bad:
            with pytest.raises(PlaneAway, match="and not for honest.test"):
                await greet(bad, node=OTHER)
        async with reporting(plane) as bad:
            await greet(bad, log="of-honest")
            await bad.say(batch(1, 3))
            assert (await bad.hear(5)).ack.through == 3
        async with reporting(plane, OTHER) as good:
            assert (await greet(good, log="of-honest", node=OTHER)).through == 0
            await good.say(batch(1, 2))
            assert (await good.hear(5)).ack.through == 2
        told = await plane.reading(lambda tx: tx.all("SELECT node, number FROM verdicts ORDER BY id"))
        assert told == [(NODE, 1), (NODE, 2), (NODE, 3), (OTHER, 1), (OTHER, 2)]

    run(tmp_path, talk)


@pytest.mark.parametrize(
    "numbers",
    [
        {"first": 0, "through": 3},
        {"first": 5, "through": 4},
        {"first": 1, "through": 2**64 - 1},
        {"first": 2**63, "through": 2**63 + 2},
        {"first": 1, "through": 3, "lost": 2**64 - 1},
    ],
)
def test_numbers_of_no_log_end_the_stream_and_move_no_cursor(tmp_path: Path, numbers: dict[str, int]) -> None:
    """The same log goes on with numbers that can be."""

    async def talk(plane: Serving) -> None:
        async with reporting(plane) as bad:
            await greet(bad)
            await bad.say(pb.ReportRequest(batch=pb.VerdictBatch(**numbers)))
            with pytest.raises(PlaneAway):
                await bad.hear(5)
        async with reporting(plane) as same:
            assert (await greet(same)).through == 0
            await same.say(batch(1, 2))
            assert (await same.hear(5)).ack.through == 2
        assert await stored(plane) == [1, 2]

    run(tmp_path, talk)


def test_a_node_has_one_report_stream(tmp_path: Path) -> None:
    """Each may keep eight batches of four megabytes waiting. The newest goes on, and others' are as they were."""

    async def talk(plane: Serving) -> None:
        await plane.writing(nodes.add, OTHER)
        async with AsyncExitStack() as stack:
            good = await stack.enter_async_context(reporting(plane, OTHER))
            await greet(good, node=OTHER)
            bad = [await stack.enter_async_context(reporting(plane)) for _ in range(4)]
            for stream in bad:
                await greet(stream)
            await bad[-1].say(batch(1, 1))
            assert (await bad[-1].hear(5)).ack.through == 1
            await good.say(batch(1, 1))
            assert (await good.hear(5)).ack.through == 1
            for stream in bad[:-1]:
                with pytest.raises(PlaneAway, match="since"):
                    await stream.hear(2)

    run(tmp_path, talk)


def test_a_node_has_few_logs(tmp_path: Path) -> None:
    """A name is made up each time that numbers begin anew. The oldest that nothing is known of are forgotten."""

    async def act() -> int:
        database = open_database(f"sqlite:{tmp_path}/plane.db")
        collection = Collection(database)
        for number in range(300):
            await collection.begin("bad", f"log-{number}", 0)
        await collection.begin("honest", "log", 7)
        collection.close()
        with database.reading() as tx:
            assert tx.one("SELECT through FROM logs WHERE node = 'honest'") == (7,)
            assert tx.one("SELECT through FROM logs WHERE log = 'log-299'") == (0,)
            [(count,)] = tx.all("SELECT COUNT(*) FROM logs WHERE node = 'bad'")
        database.close()
        return int(count)

    assert asyncio.run(act()) <= 100
