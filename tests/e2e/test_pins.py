"""What is pinned enforces on: without a process, and while programs are replaced."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.guard import remove_cgroup
from exeat.errors import KernelError
from exeat.kernel.filesystems import mount_point
from exeat.kernel.instance import Instance, instances, remove_instance

HAMMER = """
import socket, sys, time
denied = allowed = 0
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for port in (int(sys.argv[1]), int(sys.argv[3])):
        client = socket.socket()
        try:
            client.connect(("127.0.0.2", port))
            allowed += 1
        except PermissionError:
            denied += 1
        finally:
            client.close()
print(allowed, denied)
"""
LEAVE_BEHIND = """
import sys
from pathlib import Path
from e2e.guard import rule
from exeat.core.compile import compile_policy
from exeat.kernel.instance import Instance
from exeat.kernel.tables import Tables
from exeat.model.policy import Policy
instance = Instance(sys.argv[1])
instance.load()
cgroup = Path(sys.argv[2])
tables = Tables(instance)
policy = Policy("pins", (rule("127.0.0.2/32", ports=(int(sys.argv[3]),)),))
tables.switch(cgroup.stat().st_ino, tables.add(compile_policy(policy)))
instance.attach(cgroup)
"""


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """Somebody else's service on loopback; connections wait in its queue or are refused by a full one."""
    with socket.create_server(("127.0.0.2", 0), backlog=4096) as server:
        yield server


@pytest.fixture(scope="module")
def denied_listener() -> Iterator[socket.socket]:
    """The same beside it, which no rule names."""
    with socket.create_server(("127.0.0.2", 0), backlog=4096) as server:
        server.settimeout(0)
        yield server


@pytest.fixture(scope="module")
def left_behind(listener: socket.socket) -> Iterator[tuple[str, Path]]:
    """An instance whose maker has exited."""
    name = f"pins-{os.getpid()}"
    root = mount_point("cgroup2")
    assert root
    cgroup = root / name
    cgroup.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    port = str(listener.getsockname()[1])
    subprocess.run([sys.executable, "-c", LEAVE_BEHIND, name, str(cgroup), port], env=environment, check=True)
    yield name, cgroup
    remove_instance(name)
    remove_cgroup(cgroup)


def hammer(cgroup: Path, seconds: float, *listeners: socket.socket) -> "subprocess.Popen[str]":
    """Connects to an allowed and a denied port in turn, inside the cgroup."""
    allowed, denied = (str(one.getsockname()[1]) for one in listeners)
    return subprocess.Popen(
        [sys.executable, "-c", HAMMER, allowed, str(seconds), denied],
        preexec_fn=lambda: (cgroup / "cgroup.procs").write_text(str(os.getpid())) and None,
        stdout=subprocess.PIPE,
        text=True,
    )


def accept_all(listener: socket.socket, client: "subprocess.Popen[str]") -> int:
    """Takes what comes until its client has ended, and counts it."""
    listener.settimeout(0.1)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except TimeoutError:
            if client.poll() is not None:
                return count
        else:
            count += 1


def was_never_reached(listener: socket.socket) -> bool:
    """The server's own word."""
    try:
        listener.accept()
    except BlockingIOError:
        return True
    return False


def test_enforcement_outlives_its_maker(
    left_behind: tuple[str, Path], listener: socket.socket, denied_listener: socket.socket
) -> None:
    """Nobody of exeat runs; allowed and denied are as before."""
    client = hammer(left_behind[1], 0.5, listener, denied_listener)
    served = accept_all(listener, client)
    allowed, denied = map(int, client.communicate()[0].split())
    assert allowed == served
    assert allowed > 0
    assert denied == allowed
    assert was_never_reached(denied_listener)


def test_replacing_the_programs_leaves_no_moment_without_them(
    left_behind: tuple[str, Path], listener: socket.socket, denied_listener: socket.socket
) -> None:
    """Every connection to the denied port fails, every one to the allowed port works, while programs are swapped."""
    client = hammer(left_behind[1], 4, listener, denied_listener)
    instance = Instance(left_behind[0])
    before = {path.name: path.stat().st_ino for path in (instance.directory / "programs").iterdir()}
    instance.load()
    after = {path.name: path.stat().st_ino for path in (instance.directory / "programs").iterdir()}
    instance.close()
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    served = accept_all(listener, client)
    allowed, denied = map(int, client.communicate()[0].split())
    assert allowed == served
    assert denied == allowed
    assert was_never_reached(denied_listener)


def test_a_broken_program_replaces_nothing(
    left_behind: tuple[str, Path],
    listener: socket.socket,
    denied_listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A text that does not compile is refused with the compiler's file and line, and the old programs stay."""
    from exeat.kernel import instance as module

    text = module.joined_source()
    monkeypatch.setattr(module, "joined_source", lambda: text.replace("int on_tcp(", "int on_tcp_("))
    with pytest.raises(KernelError, match="on_tcp"):
        Instance(left_behind[0]).load()
    monkeypatch.setattr(module, "joined_source", lambda: text.replace("return PACKET_PASS;", "return PACKET_PAS;"))
    with pytest.raises(KernelError, match=r"hook_packet\.h:\d+"):
        Instance(left_behind[0]).load()
    client = hammer(left_behind[1], 0.3, listener, denied_listener)
    served = accept_all(listener, client)
    allowed, denied = map(int, client.communicate()[0].split())
    assert allowed == served
    assert denied == allowed
    assert was_never_reached(denied_listener)


def test_removing_an_instance_leaves_no_trace() -> None:
    """Nothing pinned, and a BPF file system that exeat mounted goes as well once nobody needs it."""
    instance = Instance(f"trace-{os.getpid()}")
    instance.load()
    assert instance.name in instances()
    instance.remove()
    assert instance.name not in instances()
