"""Who may ask: by the kernel's word of who connected, and with a bound on how many do."""

from __future__ import annotations

import grp
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exeat.control.client import connect
from exeat.control.door import CONNECTIONS_MAX, CROWD, STRANGER
from exeat.control.peer import Peer
from exeat.errors import AgentUnavailable
from unit.fake_agent import Running, fake_agent

GROUP = "games"  # every Debian and Ubuntu has it, and nobody is in it
NOBODY = 65534
# Imports as root, because nobody may read the repository; then becomes somebody else, and asks.
ASK_AS = """
import os, sys
from pathlib import Path
from exeat.control.asking import AgentClient
from exeat.control.client import connect
from exeat.errors import ExeatError
import exeat.v1.agent_pb2
uid, gid, groups = int(sys.argv[2]), int(sys.argv[3]), [int(one) for one in sys.argv[4].split(",") if one]
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
try:
    with connect(Path(sys.argv[1])) as agent:
        print("answered", agent.get_status().version)
except ExeatError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def path() -> Iterator[Path]:
    """A place that everybody may enter, as /run/exeat."""
    directory = Path(tempfile.mkdtemp(prefix="exeat-door-"))
    directory.chmod(0o755)
    yield directory / "agent.sock"
    shutil.rmtree(directory)


@pytest.fixture
def running(path: Path) -> Iterator[Running]:
    """An agent whose socket anybody may connect to, as if somebody had set its mode wrong: the door must do."""
    with fake_agent(path, GROUP) as agent:
        path.chmod(0o666)
        yield agent


def ask_as(path: Path, uid: int, gid: int, *groups: int) -> str:
    """What somebody is told."""
    command = [sys.executable, "-c", ASK_AS, str(path), str(uid), str(gid), ",".join(map(str, groups))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_stranger_is_told_so(running: Running, path: Path) -> None:
    """By the door: the agent never hears of it."""
    assert ask_as(path, NOBODY, NOBODY) == f"Refused {STRANGER}"
    assert ask_as(path, NOBODY, NOBODY, 1, 2, 3) == f"Refused {STRANGER}"
    assert running.agent.peers == []


def test_a_member_of_the_group_is_answered(running: Running, path: Path) -> None:
    """By the first group or by one of many others; and so is root without it."""
    member = grp.getgrnam(GROUP).gr_gid
    many = [*range(100_000, 100_400), member]
    for uid, gid, groups in ((NOBODY, member, []), (NOBODY, NOBODY, [member]), (NOBODY, NOBODY, many), (0, NOBODY, [])):
        assert ask_as(path, uid, gid, *groups) == "answered 0.2.0", (uid, gid)
    assert [(peer.uid, peer.gid) for peer in running.agent.peers] == [
        (NOBODY, member), (NOBODY, NOBODY), (NOBODY, NOBODY), (0, NOBODY),
    ]  # fmt: skip
    assert all(isinstance(peer, Peer) and peer.pid not in (0, os.getpid()) for peer in running.agent.peers)


def test_the_mode_of_the_socket_keeps_strangers_out(path: Path) -> None:
    """Before the door does; the sentence says who may."""
    with fake_agent(path, GROUP):
        assert "only root and members of group exeat" in ask_as(path, NOBODY, NOBODY)
        assert ask_as(path, NOBODY, grp.getgrnam(GROUP).gr_gid) == "answered 0.2.0"


def test_a_missing_group_lets_in_root_alone(path: Path) -> None:
    """Not everybody whose number happens to be something."""
    with fake_agent(path, "no-such-group"):
        path.chmod(0o666)
        assert ask_as(path, NOBODY, grp.getgrnam(GROUP).gr_gid) == f"Refused {STRANGER}"
        assert ask_as(path, 0, 0) == "answered 0.2.0"


def test_idle_connections_are_bounded(running: Running, path: Path) -> None:
    """The next one is told; when one goes, there is room again."""
    idle = [_open(path) for _ in range(CONNECTIONS_MAX)]
    try:
        for one in idle:
            assert one.recv(1)  # gRPC's greeting: it is inside
        with pytest.raises(AgentUnavailable, match=CROWD.split(":")[0]), connect(path) as agent:
            agent.get_status()
        idle.pop().close()
        assert until_answered(path) == "0.2.0"
    finally:
        for one in idle:
            one.close()


def test_who_says_nothing_is_hung_up_on_and_who_idles_is_not(running: Running, path: Path) -> None:
    """Two seconds for the first bytes; then a connection may wait for as long as it likes."""
    idle = _open(path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(10)
        silent.connect(str(path))
        while silent.recv(4096):
            pass
    idle.setblocking(False)
    assert idle.recv(4096)  # the server's greeting
    with pytest.raises(BlockingIOError):
        idle.recv(4096)
    idle.close()


def until_answered(path: Path) -> str:
    """Asks again for two seconds: the door learns a little later that somebody has hung up."""
    for _ in range(20):
        try:
            with connect(path) as agent:
                return agent.get_status().version
        except AgentUnavailable:
            time.sleep(0.1)
    return "never"


@pytest.mark.parametrize(
    "said",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 40, b"\0" * 100_000],
    ids=["nothing", "http 1", "a huge frame", "zeros"],
)
def test_a_stranger_who_talks_nonsense_is_hung_up_on(running: Running, path: Path, said: bytes) -> None:
    """Within seconds, and nothing of it reaches gRPC."""
    script = (
        "import os,socket,sys,time; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s=socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1]); t=time.monotonic()\n"
        "try:\n s.sendall(sys.stdin.buffer.read())\n while s.recv(4096): pass\n"
        "except ConnectionError as gone: print(gone, file=sys.stderr)\n"
        "print(time.monotonic()-t)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], input=said, capture_output=True, timeout=30, check=True
    )
    assert float(done.stdout) < 4.5
    with connect(path) as agent:
        assert agent.get_status().version == "0.2.0"


def _open(path: Path) -> socket.socket:
    """A connection that has said just enough to be taken for a client."""
    one = socket.socket(socket.AF_UNIX)
    one.connect(str(path))
    one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack("!BHBBI", 0, 0, 4, 0, 0))
    return one
