"""A plane that has been taken over, but not its signing key: what it can do to an agent, and what it cannot.

The agent is the real one over real TLS, on no kernel; each thing that is refused has a twin that is not.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from exeat.agent.bundles import MANIFEST_MAX
from exeat.agent.patience import Patience
from exeat.agent.standing import Standing
from exeat.control.plane_fields import FIELDS_MAX, has_too_many_fields
from exeat.v1 import plane_pb2 as pb
from unit.fake_plane import NODE, FakePlane, manifest, papers, push, revision, signed
from unit.fleet_words import Agent, policy, public_key, until

OLD, NEW = {"alpha": policy("alpha", "old.test")}, {"alpha": policy("alpha", "new.test")}


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """A node that takes only what is signed."""
    return Agent(tmp_path, public_key(tmp_path))


def pushed(texts: dict[str, str], serial: int, nonce: str, **how: Any) -> pb.SyncResponse:
    """A push as it travels."""
    return pb.SyncResponse(push=push(texts, serial, nonce, **how))


def commanded(id_: str, *, seed: bytes | None = None, key: bool = True, **said: Any) -> pb.SyncResponse:
    """An order to open a workload; signed with the right key, unless it says another one or none."""
    command = pb.Command(**({"id": id_, "node": NODE, "by": "mallory"} | said))
    command.expires.FromNanoseconds(time.time_ns() + 60 * 10**9)
    command.set_mode.workload = "coder-1"
    how = {} if key and seed is None else {"seed": seed}
    return pb.SyncResponse(command=signed(command.SerializeToString(), what=b"exeat command v1\0", **how))


def field(number: int, content: bytes) -> bytes:
    """A field of a message, as it travels."""
    size, left = b"", len(content)
    while left > 0x7F:
        size, left = size + bytes([left & 0x7F | 0x80]), left >> 7
    return bytes([number << 3 | 2]) + size + bytes([left]) + content


def test_what_was_signed_once_does_not_come_back_after_a_restart_either(agent: Agent) -> None:
    """Old manifests stay signed for ever. The twin is the next one."""

    async def talk(one: Agent, *said: pb.SyncResponse) -> list[pb.PolicyAnswer]:
        async with FakePlane() as plane, one.connected_to(papers().access(plane.port)):
            for count, response in enumerate(said, 1):
                await plane.say(response)
                await plane.heard("answer", count)
            return plane.all("answer")

    old, new = pushed(OLD, 17, "1"), pushed(NEW, 18, "2")
    assert [one.is_accepted for one in asyncio.run(talk(agent, old, new))] == [True, True]
    after = Agent(agent.directory, agent.key)
    replayed, next_one = asyncio.run(talk(after, old, pushed(OLD, 19, "3")))
    assert (replayed.is_accepted, replayed.serial) == (False, 18)
    assert "older than 18" in replayed.faults[0].text
    assert next_one.is_accepted
    assert [bundle.serial for bundle in after.ground.enforced] == [19]


def test_a_document_does_not_come_under_the_name_or_hash_of_another(agent: Agent) -> None:
    """A good manifest with documents that its signer never meant."""
    lax = policy("alpha", "everything.test")
    content = manifest(NEW, 18).SerializeToString()

    def with_documents(nonce: str, *documents: pb.PolicyDocument) -> pb.SyncResponse:
        return pb.SyncResponse(push=pb.PolicyPush(nonce=nonce, manifest=signed(content), documents=documents))

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.say(with_documents("1", pb.PolicyDocument(revision=revision(NEW["alpha"]), text=lax)))
            assert "not what its SHA-256 says" in (await plane.heard("answer")).faults[0].text
            await plane.say(with_documents("2", pb.PolicyDocument(revision=revision(lax), text=lax)))
            answer = await plane.heard("answer", 2)
            assert (answer.is_accepted, answer.wants_all) == (False, True)
            assert agent.ground.enforced == []
            await plane.say(pushed(NEW, 18, "3"))
            assert (await plane.heard("answer", 3)).is_accepted

    asyncio.run(talk())


def test_documents_that_no_manifest_names_stay_nowhere(agent: Agent) -> None:
    """Neither in memory nor on disk, however many pushes bring some."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            for count in range(1, 4):
                said = pushed(NEW, 17 + count, str(count))
                texts = [f"# junk {count} {number}\n" * 1000 for number in range(50)]
                said.push.documents.extend(pb.PolicyDocument(revision=revision(text), text=text) for text in texts)
                await plane.say(said)
                assert (await plane.heard("answer", count)).is_accepted
        assert agent.standing.bundle is not None
        assert [one.name for one in agent.standing.bundle.documents] == ["alpha"]
        kept = [path.name for path in (agent.directory / "plane" / "documents").iterdir()]
        assert kept == [revision(NEW["alpha"])]

    asyncio.run(talk())


@pytest.mark.parametrize(
    "bomb",
    [
        field(2, b"\x1a\x00" * (4 << 20)),  # a push of four million empty documents
        field(2, b"\x1a\x00" * FIELDS_MAX) + field(2, b"\x1a\x00" * FIELDS_MAX),  # in two parts that are put together
        b"\x22\x00" * (1 << 20),  # a million beats in one message
    ],
)
def test_a_message_that_would_grow_in_memory_is_not_parsed(agent: Agent, bomb: bytes) -> None:
    """Parsed, the first takes 240 MB, of the agent's 60. Its twin has as many documents as a push may."""
    many = pushed(NEW, 18, "1")
    texts = [f"# {number}\n" for number in range(9_000)]
    many.push.documents.extend(pb.PolicyDocument(revision=revision(text), text=text) for text in texts)
    bombs = [bomb]

    async def sync(requests: Any, _context: Any) -> Any:
        hello = pb.SyncRequest.FromString(await anext(requests)).hello
        assert hello.node == NODE
        yield pb.SyncResponse(welcome=pb.Welcome(plane="x", protocol=1, beat_s=1)).SerializeToString()
        yield bombs.pop() if bombs else many.SerializeToString()
        async for _ in requests:
            pass

    async def talk() -> None:
        async with FakePlane(sync=sync) as plane, agent.connected_to(papers().access(plane.port)):
            await until(lambda: agent.away)
            assert "more parts than any message" in agent.away[0]
            await until(lambda: agent.ground.enforced, within_s=20)

    asyncio.run(talk())


@pytest.mark.parametrize("raw", [b"", b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 100, b"\x0d\x01", b"\x0f"])
def test_bytes_that_are_no_message_are_the_parsers_to_refuse(raw: bytes) -> None:
    """Counting ends, and finds few."""
    assert not has_too_many_fields(raw)
    assert has_too_many_fields(field(1, b"\x08\x01" * 30), 20)


def test_a_manifest_that_no_node_could_have_is_not_read(agent: Agent) -> None:
    """Thirty megabytes of it; the agent's loop goes on turning meanwhile, and the next push is taken."""
    huge = pb.SyncResponse(push=pb.PolicyPush(nonce="1", manifest=pb.Signed(content=b"\x2a\x00" * (15 << 20))))
    assert len(huge.push.manifest.content) > MANIFEST_MAX

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.heard("hello")
            await plane.say(huge)
            worst_s, before_s = 0.0, time.monotonic()
            while not plane.all("answer"):
                await asyncio.sleep(0.005)
                now_s = time.monotonic()
                worst_s, before_s = max(worst_s, now_s - before_s), now_s
            assert worst_s < 1.5  # the fake plane, which sends thirty megabytes, is in the same loop
            assert "bytes, of which at most" in plane.all("answer")[0].faults[0].text
            await plane.say(pushed(NEW, 18, "2"))
            assert (await plane.heard("answer", 2)).is_accepted

    asyncio.run(talk())


def test_another_bad_push_each_time_is_answered_more_slowly_too() -> None:
    """Somebody who tries until it is right need not wait; what is accepted begins the count anew."""
    patience = Patience()

    def other(number: int) -> pb.PolicyPush:
        return push({"alpha": policy("alpha", f"h{number}.test")}, number + 1)

    waits = []
    for number in range(20):
        waits.append(patience.wait_s(other(number)))
        patience.note(other(number), False)
    assert waits == [0.0] * 9 + [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    patience.note(other(21), True)
    assert patience.wait_s(other(22)) == 0.0


def test_patience_has_no_end() -> None:
    """A plane that repeats itself for weeks still gets an answer each minute."""
    patience, bad = Patience(), push(NEW, 1)
    for _ in range(3000):
        patience.note(bad, False)
    assert patience.wait_s(bad) == 60.0


def test_commands_that_nobody_signed_are_not_done_and_slow_their_sender_down(agent: Agent) -> None:
    """Each would be a line in the log. After them, one that is signed is done."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.heard("hello")
            for number in range(23):
                await plane.say(commanded(f"bad-{number}", seed=None, key=False))
            await plane.heard("result", 21)
            began_s = time.monotonic()
            await plane.heard("result", 23)
            assert time.monotonic() - began_s >= 0.4
            assert all("is not signed" in one.refusal for one in plane.all("result"))
            assert agent.doing.done == []
            await plane.say(commanded("other", seed=b"\7" * 32))
            assert "is signed by key" in (await plane.heard("result", 24)).refusal
            await plane.say(commanded("elsewhere", node="node-2.test"))
            assert "is for node" in (await plane.heard("result", 25)).refusal
            assert agent.doing.done == []
            await plane.say(commanded("good"))
            assert (await plane.heard("result", 26)).refusal == ""
            assert len(agent.doing.done) == 1

    asyncio.run(talk())


class CountingStanding(Standing):
    """Counts how often a clock is heard."""

    heard = 0

    def heard_clock(self, plane_ns: int, now_ns: int) -> None:
        """With each beat."""
        type(self).heard += 1
        super().heard_clock(plane_ns, now_ns)


def test_a_flood_of_beats_is_read_as_slowly_as_the_agent_likes(agent: Agent) -> None:
    """Five hundred a second at most; what stands in the queue behind them is taken all the same."""
    agent.standing = CountingStanding(NODE)
    beat = pb.SyncResponse(beat=pb.PlaneBeat())
    beat.beat.now.GetCurrentTime()
    raw = beat.SerializeToString()

    async def sync(requests: Any, _context: Any) -> Any:
        await anext(requests)
        yield pb.SyncResponse(welcome=pb.Welcome(plane="x", protocol=1, beat_s=1)).SerializeToString()
        for _ in range(1000):
            yield raw
        yield pushed(NEW, 18, "1").SerializeToString()
        async for _ in requests:
            pass

    async def talk() -> None:
        async with FakePlane(sync=sync) as plane, agent.connected_to(papers().access(plane.port)):
            await until(lambda: CountingStanding.heard)
            began_s = time.monotonic()
            await until(lambda: agent.ground.enforced)
            assert time.monotonic() - began_s > 1.5
            assert CountingStanding.heard == 1000

    asyncio.run(talk())


def test_a_second_welcome_and_the_same_push_twice_end_the_conversation_only(agent: Agent) -> None:
    """What is in force stays, and the agent comes back."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            await plane.say(pushed(NEW, 18, "1"))
            await plane.heard("answer")
            await plane.say(pb.SyncResponse(welcome=plane.welcome))
            await until(lambda: agent.away)
            assert "second welcome" in agent.away[0]
            hello = await plane.heard("hello", 2)
            assert (hello.serial, [one.name for one in hello.holdings]) == (18, ["alpha"])
            await plane.say(pushed(OLD, 19, "2"))
            assert (await plane.heard("answer", 2)).is_accepted

    asyncio.run(talk())


def test_what_a_plane_calls_itself_moves_no_cursor(agent: Agent) -> None:
    """Names and sentences of a plane's are cut and, where people see them, escaped."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            plane.welcome.plane = "\x1b[2J" + "x" * 100_000
            await until(lambda: agent.standing.is_connected)
            assert len(agent.standing.view().name) == 200
            await plane.say(pushed({"evil\x1b[2J\nname": policy("alpha")}, 18, "1"))
            answer = await plane.heard("answer")
            assert not answer.is_accepted
            assert "\x1b" not in agent.standing.refused
            assert "\n" not in agent.standing.refused

    asyncio.run(talk())
