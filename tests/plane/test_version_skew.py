"""Agents and planes of different versions: what one end does not know is passed over, what is missing has a default.

A newer end is played by fields that nobody has defined yet, an older one by fields that it leaves out.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message

from exeat.control.plane_channel import PlaneAway
from exeat.plane.nodes import workloads
from exeat.plane.policies import policies
from exeat.v1 import plane_pb2 as pb
from exeat.v1 import verdict_pb2
from plane.calling import NODE, becomes, calling, run
from plane.serving import Serving
from plane.stores import change, policy_text
from plane.test_plane_verdict_streams import batch, greet, reporting
from unit.fake_plane import FakePlane, papers, push, signed
from unit.fleet_words import Agent, policy, public_key, until

_M = TypeVar("_M", bound=Message)
# Field 900 as a text and field 901 as a number, as a version of next year could send them.
UNKNOWN = b"\xa2\x38\x05later" + b"\xa8\x38\x07"
TEXTS = {"alpha": policy("alpha")}


def newer(message: _M) -> _M:
    """The same with fields of next year, which stay in it."""
    return type(message).FromString(message.SerializeToString() + UNKNOWN)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """A node that takes only what is signed."""
    return Agent(tmp_path, public_key(tmp_path))


def test_a_newer_agent_is_understood_as_far_as_it_goes(tmp_path: Path) -> None:
    """Its protocol, its fields and its messages: the stream goes on in what both know."""

    async def talk(plane: Serving) -> None:
        await plane.writing(policies.apply, [("test", policy_text("a"))], change(time.time_ns()))
        async with calling(plane) as agent:
            hello = pb.Hello(node=NODE, start="1", protocol=999, version="9.0", features=["telepathy"])
            await agent.say(hello=newer(hello))
            assert (await agent.hear()).welcome.protocol == 1
            push_, manifest = await agent.push()
            await agent.say()  # a message of a kind that is not known here
            answer = pb.PolicyAnswer(nonce=push_.nonce, is_accepted=True, serial=manifest.serial)
            await agent.say(answer=newer(answer))
            state = pb.WorkloadState(name="w", cgroup="/w", mode=77, source="dream")  # type: ignore[arg-type]
            await agent.say(workloads=newer(pb.WorkloadNews(is_all=True, workloads=[newer(state)])))
            await agent.say(beat=newer(pb.AgentBeat(serial=manifest.serial, unreported=3)))
            node = await becomes(plane, lambda node: node.unreported == 3)
            assert (node.protocol, node.features, node.acked) == (999, ("telepathy",), manifest.serial)
            async with asyncio.timeout(5):
                while not (told := await plane.reading(workloads.workloads, NODE)):
                    await asyncio.sleep(0.02)
            assert [(one.name, one.mode, one.source) for one in told] == [("w", "77", "dream")]

    run(tmp_path, talk)


def test_an_older_agent_that_says_little_is_served(tmp_path: Path) -> None:
    """Without labels, features, version, kernel or a clock. One that speaks no protocol at all is not."""

    async def talk(plane: Serving) -> None:
        await plane.writing(policies.apply, [("test", policy_text("a"))], change(time.time_ns()))
        async with calling(plane) as agent:
            await agent.say(hello=pb.Hello(node=NODE, start="1", protocol=1))
            assert (await agent.hear()).welcome.protocol == 1
            assert [one.name for one in (await agent.take()).policies] == ["a"]
            await agent.say(beat=pb.AgentBeat())
            await becomes(plane, lambda node: node.acked > 0)
        async with calling(plane) as agent:
            await agent.say(hello=pb.Hello(node=NODE, start="1"))
            with pytest.raises(PlaneAway, match="protocol 0, and the plane 1: update the agent"):
                await agent.hear()

    run(tmp_path, talk)


def test_verdicts_of_a_newer_agent_are_kept_whole(tmp_path: Path) -> None:
    """Words as their numbers, fields as they came: a plane that is updated later can read them."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as agent:
            await agent.hello()
            async with reporting(plane) as stream:
                await greet(stream)
                await stream.say(pb.ReportRequest.FromString(UNKNOWN))
                said = batch(1, 1)
                said.batch.verdicts[0].verdict.CopyFrom(newer(said.batch.verdicts[0].verdict))
                said.batch.verdicts[0].verdict.reason = 9999  # type: ignore[assignment]
                said.batch.verdicts[0].verdict.verdict = 99  # type: ignore[assignment]
                await stream.say(newer(said))
                assert (await stream.hear(5)).ack.through == 1
        [(verdict, body)] = await plane.reading(lambda tx: tx.all("SELECT verdict, body FROM verdicts"))
        kept = verdict_pb2.VerdictRecord.FromString(bytes(body))
        assert (verdict, kept.verdict, kept.reason) == (99, 99, 9999)
        assert bytes(body).count(b"later") == 1

    run(tmp_path, talk)


def test_a_newer_plane_is_understood_as_far_as_it_goes(agent: Agent) -> None:
    """Also what it signs: a signature is over the bytes, with what this agent cannot read in them."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            plane.welcome = newer(plane.welcome)
            await plane.heard("hello")
            await plane.say(pb.SyncResponse.FromString(UNKNOWN))
            made = push(TEXTS, 17)
            content = newer(pb.Manifest.FromString(made.manifest.content)).SerializeToString()
            made.manifest.CopyFrom(signed(content))
            made.documents[0].CopyFrom(newer(made.documents[0]))
            await plane.say(newer(pb.SyncResponse(push=newer(made))))
            answer = await plane.heard("answer")
            assert (answer.is_accepted, answer.serial) == (True, 17)
            made.manifest.content += b"\0"
            await plane.say(pb.SyncResponse(push=made))
            assert not (await plane.heard("answer", 2)).is_accepted

    asyncio.run(talk())


def test_a_command_of_a_newer_plane_is_refused_not_half_done(agent: Agent) -> None:
    """What it asks for lies in a field that this agent cannot read. A known one with a field beside it is done."""

    def command(id_: str, **said: Any) -> pb.SyncResponse:
        made = pb.Command(id=id_, node=NODE, by="alice", **said)
        made.expires.FromNanoseconds(time.time_ns() + 60 * 10**9)
        return pb.SyncResponse(command=signed(newer(made).SerializeToString(), what=b"exeat command v1\0"))

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.heard("hello")
            await plane.say(command("1"))
            assert "does not know what is asked: update it" in (await plane.heard("result")).refusal
            await plane.say(command("2", set_mode={"workload": "coder-1"}))
            assert (await plane.heard("result", 2)).refusal == ""
            assert len(agent.doing.done) == 1

    asyncio.run(talk())


def test_an_older_plane_that_says_little_is_a_plane(agent: Agent) -> None:
    """Without a name, a version, a clock or nonces; its manifest has no time of issue."""

    async def talk() -> None:
        welcome = pb.Welcome(protocol=1, beat_s=1)
        async with FakePlane(welcome=welcome) as plane, agent.connected_to(papers().access(plane.port)):
            made = push(TEXTS, 17, "")
            manifest = pb.Manifest.FromString(made.manifest.content)
            manifest.ClearField("issued")
            made.manifest.CopyFrom(signed(manifest.SerializeToString()))
            await plane.say(pb.SyncResponse(push=made))
            answer = await plane.heard("answer")
            assert (answer.is_accepted, answer.nonce) == (True, "")
            await plane.say(pb.SyncResponse(beat=pb.PlaneBeat()))
            await plane.heard("beat", 2)
            assert agent.away == []

    asyncio.run(talk())


@pytest.mark.parametrize("protocol", [0, 2, 999, 2**32 - 1])
def test_a_plane_that_chooses_a_protocol_which_was_not_offered_is_left(agent: Agent, protocol: int) -> None:
    """And asked again later, when it has been updated."""

    async def talk() -> None:
        welcome = pb.Welcome(protocol=protocol, beat_s=1)
        async with FakePlane(welcome=welcome) as plane, agent.connected_to(papers().access(plane.port)):
            await until(lambda: agent.away)
            assert f"it wants to speak protocol {protocol}, and this agent knows 1" in agent.away[0]
            plane.welcome.protocol = 1
            await until(lambda: agent.standing.is_connected)

    asyncio.run(talk())
