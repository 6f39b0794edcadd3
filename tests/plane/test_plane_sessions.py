"""Agents at a plane: who is let in, what they are sent and when, what becomes of answers, commands and silence.

Both ends are real, TLS and store included; an agent is either the real client on no kernel, or a `Caller`, which says
what a test tells it to say.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from exeat.control.plane_channel import PlaneAway
from exeat.plane.nodes import commands, nodes
from exeat.plane.nodes.node import Standing
from exeat.plane.policies import policies
from exeat.plane.settings import Enroll
from exeat.v1 import agent_pb2
from exeat.v1 import plane_pb2 as pb
from plane.calling import NODE, becomes, calling, node_of, run
from plane.serving import Serving, until
from plane.simulated import SimulatedAgent, running
from plane.stores import KINDS, change, on_nodes, policy_text


async def apply(plane: Serving, *texts: str) -> None:
    """As an operator's command would."""
    await plane.writing(policies.apply, [("test", text) for text in texts], change(time.time_ns()))


def revision(text: str) -> str:
    """As the protocol has it."""
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_real_agents_get_what_is_for_them(tmp_path: Path, kind: str) -> None:
    """By labels; a change goes to those that it is for, and to no other."""

    async def talk(plane: Serving) -> None:
        boxes = [SimulatedAgent(f"box-{number}", {"role": "box"}) for number in range(3)]
        agents = [*boxes, SimulatedAgent("web", {"role": "web"})]
        boxed, common = policy_text("boxed", spec=on_nodes(role="box")), policy_text("common")
        await apply(plane, boxed, common)
        async with running(agents, plane.access):
            await until(lambda: all(agent.holdings for agent in agents))
            assert agents[0].holdings == {"boxed": revision(boxed), "common": revision(common)}
            assert agents[3].holdings == {"common": revision(common)}
            pushes = [len(agent.ground.enforced) for agent in agents]
            boxed = policy_text("boxed", "other.example.com", spec=on_nodes(role="box"))
            await apply(plane, boxed)
            await until(lambda: all(agent.holdings["boxed"] == revision(boxed) for agent in boxes))
            for box in boxes:
                node = await becomes(plane, lambda node: node.standing(time.time_ns()) is Standing.CURRENT, box.node)
                assert (node.version, node.kernel, node.replica) == ("0.9", "6.1.0", "plane-1")
                assert node.took_ns > 0
            assert [len(agent.ground.enforced) for agent in agents] == [pushes[0] + 1, *(pushes[1] + 1,) * 2, pushes[3]]
            await plane.writing(nodes.pin, "web", {"role": "box"})
            await until(lambda: len(agents[3].holdings) == 2)
        await becomes(plane, lambda node: node.standing(time.time_ns()) is Standing.AWAY, "web")

    run(tmp_path, talk, kind)


def test_only_documents_that_are_lacking_travel(tmp_path: Path) -> None:
    """A change of one policy among several is one document; a removal is none."""

    async def talk(plane: Serving) -> None:
        a, b = policy_text("a"), policy_text("b")
        await apply(plane, a, b)
        async with calling(plane) as agent:
            welcome = await agent.hello()
            assert (welcome.plane, welcome.protocol, welcome.beat_s) == ("plane-1", 1, 10)
            assert abs(welcome.now.ToNanoseconds() - time.time_ns()) < 60e9
            push, manifest = await agent.push()
            assert manifest.node == NODE
            assert {one.name: one.revision for one in manifest.policies} == {"a": revision(a), "b": revision(b)}
            assert {one.revision: one.text for one in push.documents} == {revision(a): a, revision(b): b}
            days = (manifest.expires.ToNanoseconds() - manifest.issued.ToNanoseconds()) / 86_400e9
            assert days == 7
            await agent.say(answer=pb.PolicyAnswer(nonce=push.nonce, is_accepted=True, serial=manifest.serial))
            a = policy_text("a", "new.example.com")
            await apply(plane, a)
            push, newer = await agent.push()
            assert [one.text for one in push.documents] == [a]
            assert newer.serial > manifest.serial
            await agent.say(answer=pb.PolicyAnswer(nonce=push.nonce, is_accepted=True, serial=newer.serial))
            await plane.writing(policies.remove, "b", change(time.time_ns()))
            push, manifest = await agent.push()
            assert [one.name for one in manifest.policies] == ["a"]
            assert list(push.documents) == []

    run(tmp_path, talk)


def test_who_has_it_already_is_sent_nothing(tmp_path: Path) -> None:
    """After a reconnect; and the twin that says it has something older is."""

    async def talk(plane: Serving) -> None:
        text = policy_text("a")
        await apply(plane, text)
        async with calling(plane) as agent:
            await agent.hello()
            manifest = await agent.take()
            await becomes(plane, lambda node: node.acked == manifest.serial)
        holdings = [pb.Holding(name="a", revision=revision(text))]
        async with calling(plane) as agent:
            await agent.hello(serial=manifest.serial, holdings=holdings)
            await agent.hears_nothing()
        async with calling(plane) as agent:
            await agent.hello(serial=manifest.serial - 1, holdings=holdings)
            push, newer = await agent.push()
            assert (newer.serial > manifest.serial, len(push.documents)) == (True, 0)
        async with calling(plane) as agent:  # of a plane whose clock was ahead
            await agent.hello(serial=manifest.serial + 10**9, holdings=holdings[:0])
            push, newer = await agent.push()
            assert (newer.serial, len(push.documents)) == (manifest.serial + 10**9 + 1, 1)

    run(tmp_path, talk)


def test_what_is_refused_is_shown_and_not_sent_again_until_it_changes(tmp_path: Path) -> None:
    """Nor after news of something else; and the fault goes with the next ACK, also where that is of the old content."""

    async def talk(plane: Serving) -> None:
        old, new = policy_text("p"), policy_text("p", "bad.example.com")
        await apply(plane, old)
        async with calling(plane) as agent:
            await agent.hello()
            first = await agent.take()
            await apply(plane, new)
            await agent.refuse("p:3: no such host")
            node = await becomes(plane, lambda node: bool(node.fault))
            assert (node.fault, node.acked) == ("p:3: no such host", first.serial)
            assert node.standing(time.time_ns()) is Standing.REFUSED
            other = policy_text("other", spec=on_nodes(role="other"))
            await apply(plane, other)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):
                    await agent.push()
        async with calling(plane) as agent:
            await agent.hello(serial=first.serial, holdings=[pb.Holding(name="p", revision=revision(old))])
            await agent.refuse("p:3: no such host")
            await apply(plane, old)
            manifest = await agent.take()
            assert [one.revision for one in manifest.policies] == [revision(old)]
            node = await becomes(plane, lambda node: not node.fault)
            assert node.standing(time.time_ns()) is Standing.CURRENT

    run(tmp_path, talk)


def test_who_wants_all_gets_all_once(tmp_path: Path) -> None:
    """Then it is a refusal like any other."""

    async def talk(plane: Serving) -> None:
        text = policy_text("p")
        await apply(plane, text)
        async with calling(plane) as agent:
            await agent.hello(serial=1, holdings=[pb.Holding(name="p", revision=revision(text))])
            push = await agent.refuse("it was lost", wants_all=True)
            assert list(push.documents) == []
            push = await agent.refuse("it was lost", wants_all=True)
            assert [one.text for one in push.documents] == [text]
            await agent.hears_nothing()

    run(tmp_path, talk)


def test_a_second_push_waits_for_the_answer_to_the_first(tmp_path: Path) -> None:
    """And then brings only what is newest."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as agent:
            await agent.hello()
            await agent.take()
            await apply(plane, policy_text("p", "one.example.com"))
            push, manifest = await agent.push()
            for host in ("two.example.com", "three.example.com"):
                await apply(plane, policy_text("p", host))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await agent.push()
        async with calling(plane) as agent:
            await agent.hello(start="2")
            push, manifest = await agent.push()
            await apply(plane, policy_text("p", "four.example.com"))
            await asyncio.sleep(0.1)
            await agent.say(answer=pb.PolicyAnswer(nonce=push.nonce, is_accepted=True, serial=manifest.serial))
            push, _ = await agent.push()
            assert "four.example.com" in push.documents[0].text

    run(tmp_path, talk)


def test_news_that_come_in_a_bunch_are_one_push(tmp_path: Path) -> None:
    """Twenty changes one after the other are far fewer pushes than twenty."""

    async def talk(plane: Serving) -> None:
        agents = [SimulatedAgent(f"node-{number}") for number in range(5)]
        async with running(agents, plane.access):
            await until(lambda: all(agent.standing.bundle for agent in agents))
            for number in range(20):
                await apply(plane, policy_text("p", f"h{number}.example.com"))
            last = revision(policy_text("p", "h19.example.com"))
            await until(lambda: all(agent.holdings.get("p") == last for agent in agents))
            assert all(len(agent.ground.enforced) < 15 for agent in agents)

    run(tmp_path, talk)


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_is_sent_until_there_is_a_result(tmp_path: Path, kind: str) -> None:
    """Once on a stream, and again on the next one; the result is kept."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as agent:
            await agent.hello()
            await agent.take()
            wanted = pb.Command(node=NODE, by="alice", disallow=agent_pb2.DisallowRequest(workload="w", allowance="a"))
            known = await plane.writing(commands.ask, wanted, time.time_ns())
            command = pb.Command.FromString((await agent.hear()).command.content)
            assert (command.id, command.by, command.disallow.workload) == (known, "alice", "w")
            other = await plane.writing(commands.ask, wanted, time.time_ns())
            assert pb.Command.FromString((await agent.hear()).command.content).id == other
            await agent.say(result=pb.CommandResult(id=other, refusal="there is no such allowance"))
            await _ended(plane, other)
        async with calling(plane) as agent:
            await agent.hello(start="2", serial=(await node_of(plane)).acked)
            assert pb.Command.FromString((await agent.hear()).command.content).id == known
            await agent.say(result=pb.CommandResult(id=known, cut=3))
            assert (await _ended(plane, known)).result.cut == 3
        asked = await plane.reading(commands.asked, other)
        assert (asked.state, asked.result.refusal) == (commands.State.REFUSED, "there is no such allowance")
        async with calling(plane) as agent:
            await agent.hello(start="3", serial=(await node_of(plane)).acked)
            await agent.hears_nothing()

    run(tmp_path, talk, kind)


async def _ended(plane: Serving, known: str) -> Any:
    async with asyncio.timeout(5):
        while not (asked := await plane.reading(commands.asked, known)).has_ended:
            await asyncio.sleep(0.02)
    return asked


def test_the_same_node_anew_ends_the_older_stream(tmp_path: Path) -> None:
    """The newer one goes on, and the node stays connected."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as older, calling(plane) as newer:
            await older.hello(start="1")
            await older.take()
            await newer.hello(start="2")
            with pytest.raises(PlaneAway, match=r"another agent has connected as node-1\.test"):
                await older.hear()
            await newer.take()
            await asyncio.sleep(0.3)
            assert (await node_of(plane)).is_connected
            assert plane.plane.presence.connected() == 1
        await becomes(plane, lambda node: not node.is_connected)
        assert not plane.plane.presence.is_connected(NODE)

    run(tmp_path, talk)


def test_a_retired_node_is_sent_away_until_it_is_active_again(tmp_path: Path) -> None:
    """At once where it is connected, and each time that it comes."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as agent:
            await agent.hello()
            await agent.take()
            await plane.writing(nodes.retire, NODE)
            with pytest.raises(PlaneAway, match="retired"):
                await agent.hear()
        async with calling(plane) as agent:
            with pytest.raises(PlaneAway, match=r"does not let this node in: .*is retired"):
                await agent.hello()
        await plane.writing(nodes.activate, NODE)
        async with calling(plane) as agent:
            assert (await agent.hello()).plane == "plane-1"

    run(tmp_path, talk)


def test_with_enroll_listed_only_nodes_that_were_added_are_let_in(tmp_path: Path) -> None:
    """Whatever certificate they have."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as agent:
            with pytest.raises(PlaneAway, match="is not listed"):
                await agent.hello()
        await plane.writing(nodes.add, NODE)
        async with calling(plane) as agent:
            assert (await agent.hello()).plane == "plane-1"

    run(tmp_path, talk, enroll=Enroll.LISTED)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"beat": pb.AgentBeat()}, "begins with a hello"),
        (
            {"hello": pb.Hello(node="node-2.test", start="1", protocol=1)},
            "the certificate is for `node-1.test`, and not",
        ),
        ({"hello": pb.Hello(node="a/../b", start="1", protocol=1)}, "is no node's name"),
        ({"hello": pb.Hello(node=NODE, start="1")}, "no protocol in common: this agent speaks protocol 0"),
        ({"hello": pb.Hello(node=NODE, protocol=1)}, "`start` is what tells two agents apart"),
        ({"hello": pb.Hello(node=NODE, start="1", protocol=1, serial=1 << 60)}, "no plane has given the serial"),
    ],
)
def test_a_hello_that_makes_no_sense_is_refused(tmp_path: Path, said: dict[str, Any], sentence: str) -> None:
    """Nothing of it gets into the store."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as agent:
            await agent.say(**said)
            with pytest.raises(PlaneAway, match=re.escape(sentence)):
                await agent.hear()
        assert await plane.reading(nodes.nodes) == []

    run(tmp_path, talk)


def test_a_newer_protocol_is_answered_with_the_newest_that_both_know(tmp_path: Path) -> None:
    """And messages of it that are not known here are passed over."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as agent:
            assert (await agent.hello(protocol=9)).protocol == 1
            await agent.say()
            await agent.take()

    run(tmp_path, talk)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"hello": pb.Hello(node=NODE)}, "a hello is said once"),
        ({"answer": pb.PolicyAnswer(nonce="9", is_accepted=True)}, "the push `9`, which does not wait"),
        ({"beat": pb.AgentBeat(now=Timestamp(seconds=1 << 62))}, "4611686018427387904 s and 0 ns is no time"),
        ({"workloads": pb.WorkloadNews(workloads=[pb.WorkloadState(since=Timestamp(nanos=-1))])}, "is no time"),
    ],
)
def test_what_makes_no_sense_ends_the_stream(tmp_path: Path, said: dict[str, Any], sentence: str) -> None:
    """Once it was welcomed."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as agent:
            await agent.hello()
            await agent.take()
            await agent.say(**said)
            with pytest.raises(PlaneAway, match=re.escape(sentence)):
                await agent.hear()

    run(tmp_path, talk)
