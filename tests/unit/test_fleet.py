"""The agent's end of the Sync stream, with a real plane over real TLS; only the kernel is replaced."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exeat.control.plane_channel import MESSAGE_MAX
from exeat.errors import KernelError
from exeat.v1 import plane_pb2 as pb
from unit.fake_plane import NODE, FakePlane, papers, push, revision, signed
from unit.fleet_words import Agent, policy, public_key, until

TEXTS = {"alpha": policy("alpha"), "beta": policy("beta", "b.shop.test")}


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """A node that takes only what is signed."""
    return Agent(tmp_path, public_key(tmp_path))


def pushed(texts: dict[str, str], serial: int, nonce: str = "1", **how: Any) -> pb.SyncResponse:
    """A push as it travels."""
    return pb.SyncResponse(push=push(texts, serial, nonce, **how))


def test_it_says_who_it_is_and_is_welcomed(agent: Agent) -> None:
    """Node, labels, version, kernel, key and clock; then workloads, then beats."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            hello = await plane.heard("hello")
            assert (hello.node, dict(hello.labels), hello.version) == (NODE, {"role": "sandbox"}, "0.9")
            assert (hello.protocol, hello.kernel, list(hello.features)) == (1, "6.1.0", ["tests"])
            assert abs(hello.now.ToNanoseconds() - time.time_ns()) < 60e9
            assert (hello.serial, len(hello.holdings), len(hello.keys)) == (0, 0, 1)
            assert (await plane.heard("workloads")).is_all
            beat = await plane.heard("beat", 2)
            assert (beat.lost_events, beat.workloads, beat.serial) == (7, 0, 0)
            view = agent.standing.view()
            assert (view.state, view.endpoint, view.name) == ("connected", f"127.0.0.1:{plane.port}", "fake")
            assert agent.standing.complaints(time.time_ns()) == []

    asyncio.run(talk())


def test_a_push_is_enforced_kept_and_acknowledged(agent: Agent) -> None:
    """In this order; and over a restart without a plane it holds again."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.say(pushed(TEXTS, 17))
            answer = await plane.heard("answer")
            assert (answer.is_accepted, answer.nonce, answer.serial, answer.switched) == (True, "1", 17, 1)
            assert answer.took_ns > 0
            assert [bundle.serial for bundle in agent.ground.enforced] == [17]
            assert agent.files.load(NODE, agent.trust).bundle is not None
            assert agent.standing.view().serial == 17

    asyncio.run(talk())
    after = Agent(agent.directory, agent.key)
    assert after.standing.bundle is not None
    assert after.standing.bundle.holdings == {name: revision(text) for name, text in TEXTS.items()}


def test_what_is_held_is_told_and_need_not_be_sent(agent: Agent) -> None:
    """After a reconnect a change of one policy is one document."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.say(pushed(TEXTS, 17))
            await plane.heard("answer")
            await plane.hang_up()
            hello = await plane.heard("hello", 2)
            assert hello.serial == 17
            assert {one.name: one.revision for one in hello.holdings} == {n: revision(t) for n, t in TEXTS.items()}
            lean = pushed({**TEXTS, "gamma": policy("gamma")}, 18, "2")
            del lean.push.documents[:2]
            await plane.say(lean)
            answer = await plane.heard("answer", 2)
            assert (answer.is_accepted, answer.serial) == (True, 18)
            assert [document.name for document in agent.ground.enforced[-1].documents] == ["alpha", "beta", "gamma"]

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (pushed({"alpha": policy("alpha").replace("hosts", "hots")}, 18, "2"), "alpha:9: `hots` is no field"),
        (pushed(TEXTS, 16, "2"), "older than 17"),
        (pushed(TEXTS, 18, "2", seed=None), "is not signed"),
        (pushed(TEXTS, 18, "2", seed=b"\7" * 32), "is signed by key"),
        (pushed(TEXTS, 18, "2", node="other.test"), "for node other.test"),
        (pushed(TEXTS, 18, "2", valid_s=-1), "has expired"),
        (pb.SyncResponse(push=pb.PolicyPush(nonce="2")), "is not signed"),
    ],
)
def test_what_is_refused_changes_nothing_and_the_next_good_one_is_taken(
    agent: Agent, bad: pb.SyncResponse, why: str
) -> None:
    """The NACK carries the sentence; the complaint stands until something is accepted."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.say(pushed(TEXTS, 17))
            await plane.heard("answer")
            await plane.say(bad)
            answer = await plane.heard("answer", 2)
            assert (answer.is_accepted, answer.nonce, answer.serial) == (False, "2", 17)
            assert why in answer.faults[0].text
            assert len(agent.ground.enforced) == 1
            assert any(why in complaint for complaint in agent.standing.complaints(time.time_ns()))
            assert why in agent.standing.view().last_answer
            await plane.say(pushed({"beta": TEXTS["beta"]}, 19, "3"))
            assert (await plane.heard("answer", 3)).is_accepted
            assert agent.standing.complaints(time.time_ns()) == []

    asyncio.run(talk())


def test_what_cannot_be_enforced_is_refused(agent: Agent) -> None:
    """A failure with its sentence, a bug without its secrets; nothing of it is kept."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            agent.ground.failure = KernelError("the map is full: remove a policy")
            await plane.say(pushed(TEXTS, 17))
            answer = await plane.heard("answer")
            assert (answer.is_accepted, answer.faults[0].text) == (False, "the map is full: remove a policy")
            agent.ground.failure = ZeroDivisionError("secret")
            await plane.say(pushed({"beta": TEXTS["beta"]}, 18, "2"))
            answer = await plane.heard("answer", 2)
            assert not answer.is_accepted
            assert "journalctl" in answer.faults[0].text
            assert "secret" not in str(answer)
            assert agent.files.load(NODE, agent.trust).bundle is None
            agent.ground.failure = None
            await plane.say(pushed(TEXTS, 19, "3"))
            assert (await plane.heard("answer", 3)).is_accepted

    asyncio.run(talk())


def test_workloads_that_stay_as_they_were_are_told(agent: Agent) -> None:
    """The manifest is in force all the same."""

    async def talk() -> None:
        agent.ground.failures = ("/a stays as it was: the map is full",)
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.say(pushed(TEXTS, 17))
            answer = await plane.heard("answer")
            assert answer.is_accepted
            assert list(answer.failures) == ["/a stays as it was: the map is full"]

    asyncio.run(talk())


def test_a_disk_that_takes_nothing_does_not_stop_enforcement(agent: Agent) -> None:
    """A workload that fills the disk must not keep a policy away. It is said, and tried again."""
    (agent.directory / "plane").write_text("in the way")

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.say(pushed(TEXTS, 17))
            answer = await plane.heard("answer")
            assert answer.is_accepted
            assert "not on disk" in answer.warnings[0]
            assert any("not on disk" in complaint for complaint in agent.standing.complaints(time.time_ns()))
            (agent.directory / "plane").unlink()
            await until(lambda: agent.files.load(NODE, agent.trust).bundle is not None)
            await until(lambda: agent.standing.complaints(time.time_ns()) == [])

    asyncio.run(talk())


def test_a_plane_that_sends_the_same_bad_push_for_ever_waits_longer_each_time(agent: Agent) -> None:
    """Also under new numbers; what is good is taken at once."""
    bad = {"alpha": policy("alpha").replace("hosts", "hots")}

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            began = time.monotonic()
            busy = time.process_time()
            for turn in range(3):
                await plane.say(pushed(bad, 18 + turn, str(turn)))
                assert not (await plane.heard("answer", turn + 1)).is_accepted
            assert time.monotonic() - began >= 2.9  # 0, 1 and 2 s
            assert time.process_time() - busy < 1.5
            await plane.say(pushed(TEXTS, 30, "9"))
            began = time.monotonic()
            assert (await plane.heard("answer", 4)).is_accepted
            assert time.monotonic() - began < 1

    asyncio.run(talk())


def test_a_plane_that_waits_for_an_answer_can_still_command(agent: Agent) -> None:
    """Quarantine does not queue behind a policy that was refused again and again."""
    bad = {"alpha": policy("alpha").replace("hosts", "hots")}

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            for turn in range(3):
                await plane.say(pushed(bad, 18 + turn, str(turn)))
                if turn < 2:
                    await plane.heard("answer", turn + 1)
            command = pb.Command(id="q", node=NODE, by="alice")
            command.set_mode.workload = "coder"
            command.expires.FromNanoseconds(time.time_ns() + 60 * 10**9)
            signature = signed(command.SerializeToString(), what=b"exeat command v1\0")
            await plane.say(pb.SyncResponse(command=signature))
            assert (await plane.heard("result", within_s=1)).refusal == ""
            assert len(plane.all("answer")) == 2

    asyncio.run(talk())


def test_documents_that_are_lacking_are_asked_for(agent: Agent) -> None:
    """And taken at once when all of them come."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            lean = pushed(TEXTS, 17)
            del lean.push.documents[0]
            await plane.say(lean)
            answer = await plane.heard("answer")
            assert (answer.is_accepted, answer.wants_all, answer.serial) == (False, True, 0)
            await plane.say(pushed(TEXTS, 17, "2"))
            answer = await plane.heard("answer", 2, 1)
            assert (answer.is_accepted, answer.wants_all) == (True, False)

    asyncio.run(talk())


def test_a_key_that_is_missing_keeps_the_agent_from_talking_until_it_is_there(agent: Agent) -> None:
    """Nothing that comes could be believed."""
    assert agent.key
    content = agent.key.read_bytes()
    agent.key.unlink()

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await until(lambda: len(agent.away) > 1)
            assert "plane.pub: No such file" in agent.away[0]
            assert plane.all("hello") == []
            agent.key.write_bytes(content)
            assert len((await plane.heard("hello")).keys) == 1

    asyncio.run(talk())


def test_a_second_push_before_the_answer_ends_the_conversation(agent: Agent) -> None:
    """There would be no saying what an answer answers."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.say(pushed(TEXTS, 17))
            await plane.say(pushed(TEXTS, 18, "2"))
            await until(lambda: bool(agent.away))
            assert "second push before the answer" in agent.away[0]

    asyncio.run(talk())


def test_workloads_are_told_once_and_then_what_changed(agent: Agent) -> None:
    """Came, changed, gone."""
    one = pb.WorkloadState(name="one", cgroup="/one")
    two = pb.WorkloadState(name="two", cgroup="/two")
    agent.ground.workloads = {"one": one, "two": two}

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            first = await plane.heard("workloads")
            assert (first.is_all, [state.name for state in first.workloads]) == (True, ["one", "two"])
            agent.ground.workloads = {"one": one, "two": pb.WorkloadState(name="two", cgroup="/2")}
            changed = await plane.heard("workloads", 2)
            assert (changed.is_all, [state.cgroup for state in changed.workloads]) == (False, ["/2"])
            del agent.ground.workloads["one"]
            gone = await plane.heard("workloads", 3)
            assert (list(gone.gone), len(gone.workloads)) == (["one"], 0)

    asyncio.run(talk())


def test_clocks_that_differ_are_a_complaint(agent: Agent) -> None:
    """Beyond 30 seconds, in either direction; and no longer once they agree."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.heard("beat")
            for ahead_s, words in ((3600, "3599 s ahead of"), (-3600, "3600 s behind"), (1 << 60, "ahead of")):
                beat = pb.SyncResponse(beat=pb.PlaneBeat())
                beat.beat.now.seconds = int(time.time()) + ahead_s
                await plane.say(beat)
                await until(lambda: abs(agent.standing.skew_ms) > 30_000)
                (complaint,) = agent.standing.complaints(time.time_ns())
                assert "plane's clock" in complaint
                assert words.split()[-1] in complaint
                agent.standing.view().SerializeToString()
                await until(lambda: not agent.standing.complaints(time.time_ns()))  # its own beats tell the right time

    asyncio.run(talk())


def test_what_a_newer_plane_says_beside_is_passed_over(agent: Agent) -> None:
    """Unknown fields, and messages without a case that is known."""

    async def newer(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        await anext(requests)
        welcome = pb.SyncResponse(welcome=pb.Welcome(plane="newer", version="9", protocol=1, beat_s=1))
        yield welcome.SerializeToString() + b"\xfa\x3e\x03new"
        yield b"\xfa\x3e\x03new"
        yield pushed(TEXTS, 17).SerializeToString() + b"\xfa\x3e\x03new"
        async for raw in requests:
            request = pb.SyncRequest.FromString(raw)
            if request.WhichOneof("said") == "answer":
                answers.append(request.answer)
                return

    answers: list[pb.PolicyAnswer] = []

    async def talk() -> None:
        async with FakePlane(sync=newer) as plane, agent.connected_to(papers().access(plane.port)):
            await until(lambda: bool(answers))
            assert answers[0].is_accepted

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("welcome", "why"),
    [
        (pb.Welcome(protocol=2, beat_s=1), "wants to speak protocol 2, and this agent knows 1"),
        (pb.Welcome(protocol=0, beat_s=1), "wants to speak protocol 0"),
        (pb.Welcome(protocol=1, beat_s=0), "wants a beat each 0 s"),
        (pb.Welcome(protocol=1, beat_s=1 << 31), "wants a beat each"),
    ],
)
def test_a_plane_with_which_it_cannot_talk_is_left(agent: Agent, welcome: pb.Welcome, why: str) -> None:
    """And what is in force stays so."""

    async def talk() -> None:
        async with FakePlane(welcome=welcome) as plane, agent.connected_to(papers().access(plane.port)):
            await until(lambda: bool(agent.away))
            assert why in agent.away[0]
            assert agent.standing.view().state == "away"

    asyncio.run(talk())


def test_a_plane_that_falls_silent_is_away_after_three_beats(agent: Agent) -> None:
    """The complaint comes when it stays away; the manifest holds on."""

    async def mute(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        await anext(requests)
        yield pb.SyncResponse(welcome=pb.Welcome(protocol=1, beat_s=1)).SerializeToString()
        await asyncio.sleep(60)

    async def talk() -> None:
        async with FakePlane(sync=mute) as plane, agent.connected_to(papers().access(plane.port)):
            await until(lambda: agent.standing.is_connected)
            began = time.monotonic()
            await until(lambda: bool(agent.away))
            assert 2.5 < time.monotonic() - began < 6
            assert "it has said nothing for 3 s" in agent.away[0]
            assert agent.standing.complaints(time.time_ns()) == []
            late = agent.standing.complaints(time.time_ns() + 20 * 10**9)
            assert "stays in force" in late[0] or agent.standing.is_connected

    asyncio.run(talk())


def test_a_manifest_that_expires_while_the_plane_is_away_stays_in_force(agent: Agent) -> None:
    """With a complaint."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.say(pushed(TEXTS, 17, valid_s=1))
            assert (await plane.heard("answer")).is_accepted
            assert agent.standing.complaints(time.time_ns()) == []
        assert "has expired" in agent.standing.complaints(time.time_ns() + 2 * 10**9)[0]
        assert agent.standing.bundle is not None

    asyncio.run(talk())


def test_a_push_of_100_megabytes_is_not_read(agent: Agent) -> None:
    """The connection ends with a sentence, memory stays where it was; the greatest that may come is taken."""

    async def talk() -> None:
        large = pushed(TEXTS, 17)
        large.push.documents.add(text="#" * (100 << 20))
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.heard("hello")
            before = _resident()
            await plane.say(large)
            await until(lambda: bool(agent.away))
            why = f"larger than max ({large.ByteSize()} vs. {MESSAGE_MAX})"
            assert why in agent.away[0] or "broke off in the middle" in agent.away[0]  # who noticed it first tells
            assert _resident() - before < 450 << 20  # the plane's own copies are in this process as well
            fitting = pushed({f"p{n}": policy(f"p{n}") + "#" * 1_000_000 for n in range(30)}, 18, "2")
            await plane.heard("hello", 2)
            await plane.say(fitting)
            assert (await plane.heard("answer", 1, 30)).is_accepted

    asyncio.run(talk())


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
