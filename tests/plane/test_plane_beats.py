"""What agents tell a plane of themselves, and what it makes of their silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exeat.errors import Refused
from exeat.plane.counts import Counts
from exeat.plane.policies.signing import PlaneSigner
from exeat.plane.store.database import open_database
from exeat.plane.streams.sessions import Replica, Sessions
from exeat.v1 import plane_pb2 as pb
from plane.calling import NODE, becomes, calling, run
from plane.serving import Serving
from plane.stores import KINDS, url_of


@pytest.mark.parametrize("kind", KINDS)
def test_beats_and_workloads_are_kept(tmp_path: Path, kind: str) -> None:
    """Clock, complaints and counts; hostile text and numbers too."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as agent:
            await agent.hello(labels={"role": "a\0b"}, features=["\0"])
            await agent.take()
            beat = pb.AgentBeat(complaints=["the disk\0is full"], lost_events=(1 << 64) - 1, unreported=5)
            beat.now.FromNanoseconds(time.time_ns() - 90 * 10**9)
            await agent.say(beat=beat)
            state = pb.WorkloadState(name="w\0", cgroup="/w", labels={"a\0": "b"}, policies=["p"], mode=7)  # type: ignore[arg-type]
            state.since.seconds = 9_223_372_035
            await agent.say(workloads=pb.WorkloadNews(is_all=True, workloads=[state]))
            node = await becomes(plane, lambda node: bool(node.complaints))
            assert node.unreported == 5
            assert -91_000 <= node.skew_ms <= -89_000
            assert node.is_connected

    run(tmp_path, talk, kind)


def test_a_silent_agent_is_gone_and_one_that_beats_is_not(tmp_path: Path) -> None:
    """Three beats long."""

    async def act() -> None:
        database = open_database(url_of("sqlite", tmp_path))
        sessions = Sessions(Replica("quick", "1", beat_s=1), database, PlaneSigner(), Counts())
        keeping = asyncio.create_task(sessions.run())

        async def said(beats: int) -> AsyncIterator[pb.SyncRequest]:
            yield pb.SyncRequest(hello=pb.Hello(node=NODE, start=str(beats), protocol=1))
            for _ in range(beats):
                yield pb.SyncRequest(beat=pb.AgentBeat())
                await asyncio.sleep(1)
            await asyncio.sleep(60)

        for beats in (0, 4):
            began, heard = time.monotonic(), []

            async def listen(stream: AsyncIterator[pb.SyncResponse], heard: list[str | None]) -> None:
                async for response in stream:
                    heard.append(response.WhichOneof("said"))

            with pytest.raises(Refused, match="nothing was heard of node-1.test for 3 s"):
                await listen(sessions.sync(frozenset({NODE}), said(beats)), heard)
            took_s = time.monotonic() - began
            assert heard[:2] == ["welcome", "push"]
            assert heard.count("beat") >= took_s - 2
            assert 0 <= took_s - 3 - max(0, beats - 1) < 2
        assert sessions.connected() == 0
        keeping.cancel()
        await sessions.scribe.finish()
        database.close()

    asyncio.run(act())
