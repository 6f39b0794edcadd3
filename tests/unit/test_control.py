"""The agent's local API: the real server behind the real door, asked over a real socket."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import psutil
import pytest

from exeat.control.asking import AgentClient
from exeat.control.calls import SERVICE, UNDER_WAY_MAX, short, snake
from exeat.control.client import connect, trouble_at
from exeat.control.operations import Operations
from exeat.control.server import MESSAGE_MAX
from exeat.errors import AgentUnavailable, ExeatError, KernelError, Refused, SocketError, StatusWord
from exeat.v1 import agent_pb2 as pb
from exeat.v1.agent_pb2_grpc import AgentStub
from unit.fake_agent import CODER, LOG, Running, fake_agent

EXEAT = (sys.executable, "-m", "exeat.cli.main")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the agent is to listen."""
    return tmp_path / "agent.sock"


@pytest.fixture
def running(path: Path) -> Iterator[Running]:
    """An agent that listens there."""
    with fake_agent(path) as agent:
        yield agent


def until(is_so: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """Waits for it."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_the_operations_are_those_of_the_proto() -> None:
    """One method for each, and no other."""
    methods = {name for name in vars(Operations) if not name.startswith("_")}
    assert methods == {snake(method.name) for method in SERVICE.methods}
    clients = {name for name in vars(AgentClient) if not name.startswith("_")}
    assert clients - {"close"} == methods


def test_an_operation_learns_who_asks(running: Running, path: Path) -> None:
    """By the kernel's word, also of several at the same time."""
    with connect(path) as one, connect(path) as two:
        assert one.get_status().version == two.get_status().version == "0.2.0"
    peers = running.agent.peers
    assert [(peer.uid, peer.gid, peer.pid) for peer in peers] == [(0, os.getgid(), os.getpid())] * 2


def test_every_method_answers(running: Running, path: Path) -> None:
    """Each of them, with what the operation returned."""
    with connect(path) as agent:
        assert [one.name for one in agent.list_workloads(pb.ListWorkloadsRequest()).workloads] == ["builder", "coder-7"]
        assert agent.register(pb.RegisterRequest(name="new", cgroup="/x")).workload.cgroup == "/x"
        assert agent.unregister(pb.UnregisterRequest(workload="new")).cut == 2
        assert agent.set_mode(pb.SetModeRequest(workload="coder-7", mode=pb.MODE_OPEN)).workload.mode == pb.MODE_OPEN
        allowed = agent.allow(pb.AllowRequest(workload="coder-7", destination="pypi.org", for_s=60, reason="x")).rule
        assert allowed.reason == "x (uid 0)"
        assert agent.disallow(pb.DisallowRequest(workload="coder-7", allowance=allowed.allowance)).cut == 1
        assert agent.list_grants(pb.ListGrantsRequest(workload="coder-7")).grants[0].name == "api.example.com"
        answer = agent.explain(pb.ExplainRequest(workload="coder-7", destination="api.example.com"))
        assert answer.explanations[0].rule == "model-api"
        assert agent.get_counters().lost_events == 3
        assert agent.reload().switched == 2


def test_verdicts_of_the_past_then_those_to_come(running: Running, path: Path) -> None:
    """And the agent's generator ends when the reader goes."""
    request = pb.WatchVerdictsRequest(follow=True, filter=pb.VerdictFilter(workload=CODER))
    request.since.seconds = 1
    with connect(path) as agent:
        stream = agent.watch_verdicts(request)
        past, live, later = next(stream), next(stream), next(stream)
        assert (len(past.verdicts), past.lost) == (len(LOG), 3)
        assert live.is_live
        assert later.verdicts[0].name == "evil.test"
        assert running.agent.ended == []
        stream.close()
    until(lambda: running.agent.ended == ["watch_verdicts"], "the generator goes on")


@pytest.mark.parametrize("word", StatusWord)
def test_a_refusal_keeps_its_word_and_sentence(running: Running, path: Path, word: StatusWord) -> None:
    """From the operation's end to the asker's."""
    running.agent.failure = Refused(word, "not so: `naïve`\nsecond line")
    expected = AgentUnavailable if word is StatusWord.UNAVAILABLE else Refused
    with connect(path) as agent, pytest.raises(expected, match="not so: `naïve`\nsecond line") as caught:
        agent.get_status()
    if isinstance(caught.value, Refused):
        assert caught.value.word is word


def test_a_failure_is_told_and_a_bug_is_not(running: Running, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The agent goes on after both; what a bug holds stays in the log."""
    with connect(path) as agent:
        running.agent.failure = KernelError("the map is gone: load it anew")
        with pytest.raises(ExeatError, match="the map is gone: load it anew"):
            agent.get_status()
        running.agent.failure = ZeroDivisionError("secret")
        with pytest.raises(ExeatError, match="journalctl") as caught:
            agent.get_status()
        assert "secret" not in str(caught.value)
        assert "secret" in caplog.text
        with pytest.raises(ExeatError, match="journalctl"):
            list(agent.watch_verdicts(pb.WatchVerdictsRequest(follow=True)))
        running.agent.failure = None
        assert agent.get_status().version


def test_a_long_refusal_arrives_in_part(running: Running, path: Path) -> None:
    """Clients refuse a status of more than 8 KiB altogether."""
    running.agent.failure = Refused(StatusWord.INVALID, "\n".join(f"file:{line}: wrong" for line in range(5000)))
    with connect(path) as agent, pytest.raises(Refused, match=r"^file:0: wrong\n(.|\n)*\.\.\. and \d+ lines more$"):
        agent.get_status()
    assert short("x" * 100_000).endswith("x ...")
    assert short("one line") == "one line"


def test_what_was_begun_ends_also_when_the_asker_has_gone(running: Running, path: Path) -> None:
    """No change stays half done; the asker is told that it was too slow."""
    running.agent.slowly_s = 0.5
    with AgentClient(path, deadline_s=0.1) as agent, pytest.raises(AgentUnavailable, match="not answered within 0.1 s"):
        agent.get_status()
    assert running.agent.finished == 0
    until(lambda: running.agent.finished == 1, "it was cancelled")


def test_only_so_much_is_under_way(running: Running, path: Path) -> None:
    """What is beyond is refused at once, and what was begun is answered."""
    running.agent.slowly_s = 2.0
    alone = (("grpc.use_local_subchannel_pool", 1),)  # else they would share one connection, and its bound of streams
    channels = [grpc.insecure_channel(f"unix:{path}", alone) for _ in range(3)]
    try:
        calls = [
            AgentStub(channel).GetStatus.future(pb.GetStatusRequest(), timeout=10)
            for channel in channels
            for _ in range(30)
        ]
        codes = [call.code() for call in calls]
    finally:
        for channel in channels:
            channel.close()
    assert codes.count(grpc.StatusCode.OK) == UNDER_WAY_MAX
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 90 - UNDER_WAY_MAX


def test_a_policy_of_16_mib_passes_and_more_does_not(running: Running, path: Path) -> None:
    """The bound is on what may be asked, not on what is said."""
    with connect(path) as agent:
        text = "x" * (16 << 20)
        assert agent.register(pb.RegisterRequest(name="big", cgroup="/x", policy_text=text)).workload.name == "big"
        with pytest.raises(ExeatError, match="larger"):
            agent.register(pb.RegisterRequest(name="bigger", cgroup="/x", policy_text="x" * (MESSAGE_MAX + 1)))
    assert "bigger" not in running.agent.workloads


def test_bytes_that_are_no_request_are_refused(running: Running, path: Path) -> None:
    """With a status, as every other."""
    with grpc.insecure_channel(f"unix:{path}") as channel:
        for raw, is_refused in ((b"\xff\xff\xff", True), (b"", False), (b"\x0a\x02\xff\xfe", True)):
            call = channel.unary_unary("/exeat.v1.Agent/Unregister")
            with pytest.raises(grpc.RpcError) as caught:
                call(raw, timeout=5)
            code = grpc.StatusCode.INVALID_ARGUMENT if is_refused else grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.code() is code, raw
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/exeat.v1.Agent/NoSuchThing")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_who_comes_not_through_the_door_is_refused(running: Running, path: Path) -> None:
    """Even root, at gRPC's own socket: an operation would not know who asks."""
    inner = next(path.parent.glob(".agent.sock.*/grpc.sock"))
    with grpc.insecure_channel(f"unix:{inner}") as channel, pytest.raises(grpc.RpcError) as caught:
        AgentStub(channel).GetStatus(pb.GetStatusRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert running.agent.peers == []


@pytest.mark.parametrize("way", ["its output is not read", "it is stopped"])
def test_a_reader_that_stops_harms_nobody(running: Running, path: Path, way: str) -> None:
    """The agent's generator waits for it, its memory stays, others are answered at once."""
    running.agent.flood = replace(LOG[1], evidence="x" * 500)
    command = [*EXEAT, "verdicts", "--follow", "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        try:
            assert reader.stdout
            assert reader.stdout.readline()
            if way == "it is stopped":
                reader.send_signal(signal.SIGSTOP)
            until(lambda: _is_still(running), "the generator is not held up", 20)
            memory = psutil.Process().memory_info().rss
            running.agent.flood, flood = None, running.agent.flood
            with connect(path) as agent:
                began = time.monotonic()
                for _ in range(100):
                    agent.get_status()
                assert time.monotonic() - began < 3
                seen = next(agent.watch_verdicts(pb.WatchVerdictsRequest(follow=True)))
                assert seen.is_live
            assert flood
            assert psutil.Process().memory_info().rss - memory < 16 << 20
        finally:
            reader.send_signal(signal.SIGCONT)
            reader.kill()
    until(lambda: len(running.agent.ended) == 2, "the generator of the reader that has gone goes on")


def _is_still(running: Running) -> bool:
    before = running.agent.flooded
    time.sleep(0.5)
    return running.agent.flooded == before > 0


def test_stopping_lets_what_is_under_way_end(path: Path) -> None:
    """And takes the socket and the directory away."""
    with fake_agent(path) as running, connect(path) as agent, ThreadPoolExecutor(1) as threads:
        running.agent.slowly_s = 0.4
        answer = threads.submit(agent.get_status)
        until(lambda: bool(running.agent.peers), "it was not asked")
        assert running.server
        running.do(running.server.stop(5))
        assert answer.result(5).version == "0.2.0"
        running.server = None
        assert list(path.parent.iterdir()) == []
        assert "systemctl start exeat" in str(trouble_at(path))


def test_the_socket_appears_with_its_mode(path: Path) -> None:
    """For root alone, or for root and the group; gRPC's own in a directory that only root may enter."""
    for group, mode, gid in (("no-such-group", 0o600, 0), ("games", 0o660, 60), (None, 0o600, 0)):
        with fake_agent(path, group):
            status = path.stat()
            assert (stat.S_IMODE(status.st_mode), status.st_gid) == (mode, gid)
            assert [stat.S_IMODE(one.stat().st_mode) for one in path.parent.glob(".agent.sock.*")] == [0o700]


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(path: Path) -> None:
    """What a killed agent left goes; a second agent is told."""
    command = [sys.executable, str(Path(__file__).parent / "fake_agent.py"), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
        assert killed.stdout
        assert killed.stdout.readline() == b"ready\n"
        with pytest.raises(SocketError, match="an agent listens on .* already"), fake_agent(path):
            pass
        killed.kill()
    assert path.exists()
    assert len(list(path.parent.iterdir())) == 2
    with fake_agent(path), connect(path) as agent:
        assert agent.get_status().version
        assert len(list(path.parent.iterdir())) == 2


def test_what_is_no_socket_stays(path: Path) -> None:
    """A file of that name is somebody's; a directory where others write is no place for a socket."""
    path.write_text("mine")
    with pytest.raises(SocketError, match="is no socket"), fake_agent(path):
        pass
    assert path.read_text() == "mine"
    path.parent.chmod(0o777)
    with pytest.raises(SocketError, match="others may put"), fake_agent(path.parent / "other.sock"):
        pass
    with pytest.raises(SocketError, match="too long"), fake_agent(path.parent / ("x" * 200)):
        pass


def test_a_socket_that_systemd_opened_is_used_and_left(path: Path) -> None:
    """It is systemd's to remove."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        (path.parent / f".{path.name}.left").mkdir()  # by one that was killed
        with fake_agent(path, listener=listener.dup()), connect(path) as agent:
            assert agent.get_status().version
        assert path.is_socket()
        assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_without_an_agent_the_error_says_what_to_do(path: Path) -> None:
    """Nothing there, a file, a directory, a name that no socket can have."""
    for place, sentence in ((path, "systemctl start exeat"), (path.parent / ("x" * 200), "--socket")):
        with pytest.raises(AgentUnavailable, match=sentence):
            connect(place)
