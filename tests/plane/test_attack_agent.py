"""A node that has been taken over, with its own certificate: what its Sync stream can do to the plane and to others.

Plane, TLS and store are real; the hostile agent is a `Caller`, beside honest ones. What is refused has a twin.
"""

from __future__ import annotations

import asyncio
import random
import string
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from exeat.control.plane_channel import PlaneAway
from exeat.plane.nodes import commands, nodes, workloads
from exeat.plane.nodes.node import Answered, Arrival, Beat
from exeat.plane.policies import policies
from exeat.plane.store.database import Tx
from exeat.plane.streams import pushing
from exeat.v1 import agent_pb2
from exeat.v1 import plane_pb2 as pb
from plane.calling import becomes, calling, node_of, run
from plane.serving import Serving
from plane.simulated import SimulatedAgent, running
from plane.stores import KINDS, T0, change, come, on_nodes, open_store, policy_text

OTHER = "honest.test"


async def apply(plane: Serving, *texts: str) -> None:
    """As an operator's command would."""
    await plane.writing(policies.apply, [("test", text) for text in texts], change(time.time_ns()))


async def ask(plane: Serving, node: str) -> str:
    """A command for a node; its id."""
    wanted = pb.Command(node=node, by="alice")
    wanted.set_mode.workload = "coder-1"
    found = await plane.writing(commands.ask, wanted, time.time_ns())
    assert isinstance(found, str)
    return found


async def asked(plane: Serving, id_: str) -> commands.Asked:
    """What became of it."""
    found = await plane.reading(commands.asked, id_)
    assert isinstance(found, commands.Asked)
    return found


def test_a_result_counts_from_the_node_that_was_asked_only(tmp_path: Path) -> None:
    """Another node knows neither its command nor how to end it."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as bad, calling(plane, OTHER) as good:
            await bad.hello()
            await good.hello(OTHER)
            await bad.take()
            await good.take()
            id_ = await ask(plane, OTHER)
            command = pb.Command.FromString((await good.hear()).command.content)
            assert command.id == id_
            for forged in (id_, id_ + "\0", "", "x" * 100_000):
                await bad.say(result=pb.CommandResult(id=forged, refusal="no such workload"))
            await bad.hears_nothing()
            assert (await asked(plane, id_)).state == "sent"
            await good.say(result=pb.CommandResult(id=id_, cut=3))
            async with asyncio.timeout(5):
                while (await asked(plane, id_)).state != "done":
                    await asyncio.sleep(0.02)

    run(tmp_path, talk)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_kept_no_larger_than_anybody_reads(tmp_path: Path, kind: str) -> None:
    """A thousand of them are one answer of the API."""
    with open_store(kind, tmp_path) as database, database.writing() as tx:
        come(tx, "n1")
        wanted = pb.Command(node="n1", by="alice")
        wanted.set_mode.workload = "coder-1"
        id_ = commands.ask(tx, wanted, T0)
        result = pb.CommandResult(id=id_, refusal="\0" + "x" * (3 << 20), allowance="y" * 5000, cut=7)
        result.workload.name, result.workload.cgroup = "z" * 100_000, "c" * 100_000
        result.workload.policies.extend(["p"] * 10_000)
        result.workload.mode_until.seconds = 60
        assert commands.ended(tx, "n1", result, T0)
        kept = commands.asked(tx, id_)
        assert kept is not None
        assert kept.result is not None
        assert kept.result.ByteSize() < 10_000
        assert (kept.state, kept.result.id, kept.result.cut) == ("refused", id_, 7)
        assert kept.result.workload.mode_until.seconds == 60


def test_holding_a_foreign_policy_brings_nobody_its_text(tmp_path: Path) -> None:
    """What a node gets, the plane decides: not what it says that it has, and not what it says that it lacks."""

    async def talk(plane: Serving) -> None:
        secret = policy_text("secret", "internal.example.com", spec=on_nodes(role="vault"))
        await apply(plane, secret, policy_text("common"))
        there = await plane.reading(policies.current)
        async with calling(plane) as bad:
            await bad.hello(serial=1, holdings=[pb.Holding(name=one.name, revision=one.revision) for one in there])
            push, manifest = await bad.push()
            assert ([one.name for one in manifest.policies], len(push.documents)) == (["common"], 0)
            await bad.say(answer=pb.PolicyAnswer(nonce=push.nonce, wants_all=True))
            push, manifest = await bad.push()
            assert ([one.name for one in manifest.policies], len(push.documents)) == (["common"], 1)
            assert "internal.example.com" not in str(push)
        async with calling(plane, OTHER) as good:
            await good.hello(OTHER, labels={"role": "vault"})
            push, _ = await good.push()
            assert "internal.example.com" in str(push)

    run(tmp_path, talk)


@pytest.mark.parametrize("nonce", ["0", "2", "", "1\0", "x" * 100_000, "-1"])
def test_an_answer_is_to_the_push_that_waits_for_it(tmp_path: Path, nonce: str) -> None:
    """Anything else ends the stream, and nothing counts as enforced."""

    async def talk(plane: Serving) -> None:
        await apply(plane, policy_text("a"))
        async with calling(plane) as bad:
            await bad.hello()
            await bad.push()
            await bad.say(answer=pb.PolicyAnswer(nonce=nonce, is_accepted=True, serial=1))
            with pytest.raises(PlaneAway, match="does not wait for an answer"):
                await bad.hear()
        assert (await node_of(plane)).acked == 0
        async with calling(plane) as same:
            await same.hello()
            manifest = await same.take()
            await becomes(plane, lambda node: node.acked == manifest.serial)

    run(tmp_path, talk)


def test_numbers_that_cannot_be_are_kept_out_or_bounded(tmp_path: Path) -> None:
    """A serial beyond all others would be the last one that the node ever gets; the twin's is merely in the future."""

    async def talk(plane: Serving) -> None:
        await apply(plane, policy_text("a"))
        async with calling(plane) as bad:
            with pytest.raises(PlaneAway, match="no plane has given the serial"):
                await bad.hello(serial=2**64 - 1)
        async with calling(plane) as bad:
            await bad.hello(serial=2**52)
            push, manifest = await bad.push()
            assert manifest.serial == 2**52 + 1
            await bad.say(
                answer=pb.PolicyAnswer(
                    nonce=push.nonce, is_accepted=True, serial=2**64 - 1, took_ns=2**64 - 1, switched=2**32 - 1
                )
            )
            beat = pb.AgentBeat(lost_events=2**64 - 1, unreported=2**64 - 1, workloads=2**32 - 1, serial=2**64 - 1)
            await bad.say(beat=beat)
            node = await becomes(plane, lambda node: node.lost_events > 0)
            assert (node.acked, node.took_ns, node.unreported) == (2**52 + 1, 2**63 - 1, 2**63 - 1)
            await apply(plane, policy_text("a", "b.example.com"))
            assert (await bad.push())[1].serial == 2**52 + 2

    run(tmp_path, talk)


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_has_no_more_workloads_than_a_kernel(tmp_path: Path, kind: str) -> None:
    """Told at once or a few at a time; what it had before is still changed, and other nodes are as they were."""

    def count(tx: Tx, node: str) -> int:
        return len(workloads.workloads(tx, node))

    def news(first: int, last: int, **how: Any) -> pb.WorkloadNews:
        return pb.WorkloadNews(workloads=[pb.WorkloadState(name=f"w{one:06}") for one in range(first, last)], **how)

    most = workloads.WORKLOADS_MAX
    with open_store(kind, tmp_path) as database, database.writing() as tx:
        workloads.put(tx, "honest", news(0, 3, is_all=True))
        workloads.put(tx, "bad", news(0, most + 5000, is_all=True))
        assert count(tx, "bad") == most
        workloads.put(tx, "bad", news(900_000, 900_010))
        assert count(tx, "bad") == most
        changed = pb.WorkloadState(name="w000007", mode=agent_pb2.MODE_QUARANTINE)
        workloads.put(tx, "bad", pb.WorkloadNews(workloads=[changed], gone=["w000008"]))
        found = workloads.workload(tx, "bad", "w000007")
        assert found is not None
        assert (count(tx, "bad"), found.mode) == (most - 1, "quarantine")
        workloads.put(tx, "bad", news(900_000, 900_010))
        assert count(tx, "bad") == most
        assert count(tx, "honest") == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_workload_is_kept_no_larger_than_anybody_reads(tmp_path: Path, kind: str) -> None:
    """Long names stay different, and fit into an index."""
    said = pb.WorkloadState(name="名" * 5000, cgroup="c" * 100_000, source="s" * 100_000, policies=["p" * 5000] * 3000)
    said.labels.update({f"{'k' * 300}{number}": "v" * 5000 for number in range(1000)})
    twin = pb.WorkloadState(name="名" * 5000 + "x")
    with open_store(kind, tmp_path) as database, database.writing() as tx:
        workloads.put(tx, "bad", pb.WorkloadNews(is_all=True, workloads=[said, twin]))
        first, second = sorted(workloads.workloads(tx, "bad"), key=lambda one: len(one.cgroup), reverse=True)
        assert first.name != second.name
        assert max(len(first.name.encode()), len(first.cgroup), len(first.source)) <= 2000
        assert len(first.labels) <= 64
        assert len(first.policies) <= 1000
        workloads.put(tx, "bad", pb.WorkloadNews(gone=["名" * 5000]))
        assert [one.name for one in workloads.workloads(tx, "bad")] == [second.name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_holds_no_more_than_an_agent_can(tmp_path: Path, kind: str) -> None:
    """The twin holds as much as one can, under the longest names."""
    arrival = Arrival("plane-1", T0)
    most = [pb.Holding(name=f"p{number:062}", revision="f" * 64) for number in range(2000)]
    with open_store(kind, tmp_path) as database:
        with database.writing() as tx:
            policies.apply(tx, [("test", policy_text("a"))], change())
        for wrong in (
            [pb.Holding(name=f"p{number}") for number in range(10_001)],
            [pb.Holding(name="x" * 64)],
            [pb.Holding(name="")],
            [pb.Holding(name="a", revision="f" * 65)],
        ):
            with pytest.raises(Exception, match="a node holds at most"), database.writing() as tx:
                nodes.hello(tx, pb.Hello(node="n1", serial=1, holdings=wrong), arrival)
        with database.writing() as tx:
            nodes.hello(tx, pb.Hello(node="n1", serial=1, holdings=most), arrival)
            assert len(nodes.holdings(tx, "n1")) == 2000


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_an_agent_says_is_refused_by_the_store(tmp_path: Path, kind: str) -> None:
    """What the store refuses, it would refuse again and again, and take others' changes of the same moment with it."""
    dice = random.Random(5)
    letters = string.printable + "\0\x1b\u202e名\U0001f600<&'\""
    noise = "".join(
        dice.choices(letters, k=100_000)
    )  # parts of it: a die for each letter takes most of the test's time

    def text() -> str:
        length = dice.choice((0, 1, 20, 3000))
        start = dice.randrange(len(noise) - length)
        return noise[start : start + length]

    def moment() -> int:
        return dice.choice((0, 1, 9_223_372_035))

    with open_store(kind, tmp_path) as database:
        with database.writing() as tx:
            policies.apply(tx, [("test", policy_text("a"))], change())
        for number in range(40):
            hello = pb.Hello(node="n1", version=text(), kernel=text(), start=text(), protocol=2**32 - 1)
            hello.features.extend(text() for _ in range(200))
            hello.labels.update({text()[:63] or "x": text()[:253] for _ in range(60)})
            hello.serial = dice.choice((0, 1, 2**53))
            hello.holdings.extend(pb.Holding(name=text()[:63] or "x", revision=text()[:64]) for _ in range(50))
            hello.now.seconds = moment()
            state = pb.WorkloadState(name=text(), cgroup=text(), source=text(), mode=dice.choice((0, 4, 2**31 - 1)))  # type: ignore[arg-type]
            state.labels.update({text(): text() for _ in range(100)})
            state.policies.extend(text() for _ in range(50))
            state.since.seconds, state.mode_until.seconds = moment(), moment()
            answer = pb.PolicyAnswer(is_accepted=number % 2 == 0, serial=2**64 - 1, took_ns=2**64 - 1)
            answer.failures.extend(text() for _ in range(200))
            answer.faults.extend(pb.PolicyFault(policy=text(), text=text()) for _ in range(200))
            with database.writing() as tx:
                node = nodes.hello(tx, hello, Arrival("plane-1", T0))
                workloads.put(tx, "n1", pb.WorkloadNews(is_all=True, workloads=[state] * 2, gone=[text(), text()]))
                nodes.answered(tx, Answered("n1", node.serial, (("a", "f" * 64),), T0), answer)
                complaints = tuple(text() for _ in range(200))
                nodes.beat(tx, [Beat("n1", T0, dice.choice((-(10**15), 10**15)), 2**64 - 1, 2**64 - 1, complaints)])
                commands.ended(tx, "n1", pb.CommandResult(id=text(), refusal=text(), workload=state), T0)
            with database.reading() as tx:
                assert nodes.node(tx, "n1") is not None
                assert len(workloads.workloads(tx, "n1")) == 1


def test_a_node_that_comes_and_goes_without_end_disturbs_no_other(tmp_path: Path) -> None:
    """Thirty times within a second or two, also several at once; the honest one gets what is new meanwhile."""

    async def talk(plane: Serving) -> None:
        await apply(plane, policy_text("a"))
        honest = SimulatedAgent(OTHER)

        async def churn(number: int) -> None:
            for turn in range(10):
                async with calling(plane) as bad:
                    with suppress(PlaneAway):  # the next one has come already
                        await bad.hello(start=f"{number} {turn}")

        async with running([honest], plane.access):
            churning = [asyncio.create_task(churn(number)) for number in range(3)]
            for number in range(5):
                text = policy_text("a", f"h{number}.example.com")
                await apply(plane, text)
                [wanted] = [one.revision for one in await plane.reading(lambda tx: policies.current(tx))]
                async with asyncio.timeout(5):
                    while honest.holdings.get("a") != wanted:
                        await asyncio.sleep(0.02)
            await asyncio.gather(*churning)
            assert honest.away == []
            async with asyncio.timeout(5):
                while plane.plane.presence.connected() != 1:
                    await asyncio.sleep(0.02)

    run(tmp_path, talk)


def test_a_node_that_answers_no_push_keeps_nothing_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room for documents on their way is everybody's."""
    monkeypatch.setattr(pushing, "_UNDERWAY_MAX", 2000)
    monkeypatch.setattr(pushing, "_ANSWER_S", 1.0)

    async def talk(plane: Serving) -> None:
        await apply(plane, policy_text("a", *[f"h{number}.example.com" for number in range(200)]))
        async with calling(plane) as bad, calling(plane, OTHER) as good:
            await bad.hello()
            await bad.push()
            await good.hello(OTHER)
            async with asyncio.timeout(5):
                assert (await good.take()).node == OTHER

    run(tmp_path, talk)


def test_a_message_that_would_grow_in_memory_is_not_parsed(tmp_path: Path) -> None:
    """Four megabytes of empty workloads are 300 MB, a gigabyte of objects, three seconds of everybody's time."""

    async def talk(plane: Serving) -> None:
        async with calling(plane) as good:
            await good.hello()
            await good.take()
            await good.say(workloads=pb.WorkloadNews(workloads=[pb.WorkloadState(name=f"w{n}") for n in range(10_000)]))
            await good.hears_nothing()
        async with calling(plane, OTHER) as bad:
            await bad.hello(OTHER)
            await bad.take()
            await bad.say(workloads=pb.WorkloadNews(gone=[""] * 1_000_000))
            with pytest.raises(PlaneAway, match="parts"):
                await bad.hear(5)

    run(tmp_path, talk)
