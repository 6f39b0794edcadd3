"""Commands of the plane's: believed as manifests are, done once, answered the same again."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from exeat.v1 import agent_pb2
from exeat.v1 import plane_pb2 as pb
from unit.fake_plane import NODE, FakePlane, papers, signed
from unit.fleet_words import Agent, public_key

COMMAND = b"exeat command v1\0"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """A node that does only what is signed."""
    return Agent(tmp_path, public_key(tmp_path))


def command(id_: str = "1", *, node: str = NODE, valid_s: float = 60, seed: bytes | None = bytes(range(32)),
            what: bytes = COMMAND, **fields: Any) -> pb.Signed:  # fmt: skip
    """Quarantine, unless something else is said."""
    fields = fields or {"set_mode": agent_pb2.SetModeRequest(workload="coder", mode=agent_pb2.MODE_QUARANTINE)}
    made = pb.Command(id=id_, node=node, by="alice", **fields)
    made.expires.FromNanoseconds(time.time_ns() + int(valid_s * 1e9))
    return signed(made.SerializeToString(), seed=seed, what=what)


def obey(agent: Agent, sent: pb.Signed) -> pb.CommandResult:
    """By an agent as it would be after a restart."""
    result = asyncio.run(agent.commands().obey(sent))
    assert result is not None
    return result


def test_each_command_is_done_in_the_name_of_who_asked(agent: Agent) -> None:
    """With what its operation returned."""
    result = obey(agent, command())
    assert (result.id, result.refusal, result.cut, result.workload.name) == ("1", "", 3, "coder")
    allow = agent_pb2.AllowRequest(workload="coder", destination="pypi.org", for_s=60, reason="x")
    assert obey(agent, command("2", allow=allow)).allowance == "cafe"
    assert obey(agent, command("3", disallow=agent_pb2.DisallowRequest(workload="coder", allowance="cafe"))).cut == 1
    assert [by for _, by in agent.doing.done] == ["plane: alice"] * 3
    assert agent.doing.done[1][0] == allow


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"seed": None}, "is not signed"),
        ({"seed": b"\7" * 32}, "is signed by key"),
        ({"what": b"exeat manifest v1\0"}, "was altered"),
        ({"node": "other.test"}, "for node 'other.test'"),
        ({"valid_s": -10}, "has expired, 10 s ago"),
        ({"valid_s": 7200}, "more than an hour"),
        ({"set_mode": agent_pb2.SetModeRequest(workload="unknown")}, "there is no workload unknown"),
        ({"set_mode": agent_pb2.SetModeRequest(workload="broken")}, "journalctl"),
    ],
)
def test_what_is_refused_is_not_done_and_says_why(agent: Agent, how: dict[str, Any], why: str) -> None:
    """A bug keeps its secrets."""
    result = obey(agent, command(**how))
    assert why in result.refusal
    assert "secret" not in result.refusal
    assert agent.doing.done == []
    assert obey(agent, command("twin")).refusal == ""


def test_what_this_agent_does_not_know_is_refused(agent: Agent) -> None:
    """A newer plane's command."""
    made = pb.Command(id="9", node=NODE)
    made.expires.FromNanoseconds(time.time_ns() + 10**10)
    result = obey(agent, signed(made.SerializeToString() + b"\xfa\x3e\x03new", what=COMMAND))
    assert "does not know what is asked: update it" in result.refusal


@pytest.mark.parametrize("content", [b"\xff\xff", b"", pb.Command(node=NODE, id="x" * 129).SerializeToString()])
def test_what_is_no_command_has_no_result(agent: Agent, content: bytes) -> None:
    """There is nobody to whom it would belong."""
    assert asyncio.run(agent.commands().obey(signed(content, what=COMMAND))) is None


def test_a_command_is_done_once_however_often_it_comes(agent: Agent) -> None:
    """Also after a restart, and the answer is the same."""
    sent = command()
    first = obey(agent, sent)
    assert obey(agent, sent) == first
    assert len(agent.doing.done) == 1
    assert obey(agent, command("2")).refusal == ""
    assert len(agent.doing.done) == 2


def test_a_refusal_is_remembered_too_but_not_one_of_a_stranger(agent: Agent) -> None:
    """Else a stranger could take a command's place before it comes."""
    unknown = command("1", set_mode=agent_pb2.SetModeRequest(workload="unknown"))
    assert obey(agent, unknown) == obey(agent, unknown)
    obey(agent, command("2", seed=b"\7" * 32))
    assert obey(agent, command("2")).refusal == ""


def test_what_was_begun_when_the_agent_died_is_not_begun_again(agent: Agent) -> None:
    """Nobody knows whether it was done, and the answer says so."""

    async def die(*_: Any) -> Any:
        raise KeyboardInterrupt

    doing = agent.doing.set_mode
    agent.doing.set_mode = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(agent.commands().obey(command()))
    agent.doing.set_mode = doing  # type: ignore[method-assign]
    assert "nobody knows whether it was done" in obey(agent, command()).refusal
    assert agent.doing.done == []


def test_a_result_is_told_after_its_commands_end(agent: Agent) -> None:
    """A plane that was away asks late."""
    sent = command(valid_s=0.3)
    assert obey(agent, sent).refusal == ""
    time.sleep(0.4)
    assert obey(agent, sent).refusal == ""
    assert "has expired" in obey(agent, command("2", valid_s=-0.1)).refusal


def test_without_a_disk_nothing_is_begun(agent: Agent) -> None:
    """It could be done twice."""
    sent = command()
    blocked = agent.directory / f".commands.json.{os.getpid()}"
    blocked.mkdir()
    assert "it cannot be noted" in obey(agent, sent).refusal
    assert agent.doing.done == []
    blocked.rmdir()
    assert obey(agent, sent).refusal == ""


def test_a_memory_that_cannot_be_read_is_set_aside(agent: Agent) -> None:
    """And said; commands go on."""
    obey(agent, command())
    (agent.directory / "commands.json").write_text('{"1": {"expires_ns": "x"}}')
    from exeat.agent.command_memory import CommandMemory

    assert "could be done twice" in CommandMemory(agent.directory / "commands.json").complaint
    assert len(list(agent.directory.glob("commands.unreadable-*"))) == 1
    assert obey(agent, command("2")).refusal == ""


def test_it_comes_and_is_answered_on_the_stream_and_again_after_a_reconnect(agent: Agent) -> None:
    """A plane sends a command until it has the result."""

    async def talk() -> None:
        async with FakePlane() as plane, agent.connected_to(papers().access(plane.port)):
            sent = pb.SyncResponse(command=command())
            await plane.say(sent)
            assert (await plane.heard("result")).cut == 3
            await plane.hang_up()
            await plane.heard("hello", 2)
            await plane.say(sent)
            assert (await plane.heard("result", 2)) == plane.all("result")[0]
            assert len(agent.doing.done) == 1

    asyncio.run(talk())
