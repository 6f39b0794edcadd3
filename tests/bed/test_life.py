"""A workload runs where it is told to, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bed import Bed, call_in, curl, run_in, start_in


def holders(inode: int) -> list[str]:
    """Which processes live in, or hold open, the network namespace of this inode."""
    found = []
    for entry in [*Path("/proc").glob("[0-9]*/ns/net"), *Path("/proc").glob("[0-9]*/fd/*")]:
        try:
            target = os.readlink(entry)
        except OSError:  # gone meanwhile
            continue
        if target == f"net:[{inode}]":
            found.append(str(entry))
    return found


def test_a_command_and_a_function_run_in_the_cgroup_and_as_the_user_given(bed: Bed, cgroup: Path) -> None:
    """Both ways to run something are workloads in the full sense."""
    done = run_in(bed, ["sh", "-c", "id -un; cat /proc/self/cgroup"], cgroup=cgroup, user="nobody")
    assert done.stdout.startswith("nobody\n")
    assert f"0::/{cgroup.name}\n" in done.stdout
    seen = call_in(bed, lambda: (os.getuid(), Path("/proc/self/cgroup").read_text()), cgroup=cgroup)
    assert seen[0] == os.getuid()
    assert f"0::/{cgroup.name}\n" in seen[1]


def test_a_stranger_on_the_other_side_can_dial_in(bed: Bed) -> None:
    """What a test of reverse connections needs."""
    listener = bed.network.client.call(lambda: socket.create_server(("198.51.100.1", 7000)))
    with listener:
        assert call_in(bed, lambda: socket.create_connection(("198.51.100.1", 7000)).send(b"hi"), at=bed.network.hosts)
        assert listener.accept()[0].recv(10) == b"hi"


def test_an_exception_and_a_hang_of_a_function_reach_the_caller(bed: Bed) -> None:
    """A denial's error and a hang can be told apart."""
    with pytest.raises(ConnectionRefusedError):
        call_in(bed, lambda: socket.create_connection(("203.0.113.5", 81)))
    with pytest.raises(TimeoutError, match="did not end"):
        call_in(bed, signal.pause, timeout=0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        run_in(bed, ["sleep", "60"], timeout=0.1)


def test_two_beds_at_once_do_not_see_each_other() -> None:
    """The same addresses, other wires."""
    with Bed() as one, Bed() as two:
        first, second = one.add("one.test"), two.add("two.test")
        assert first.address4 == second.address4
        assert curl(one, first).stdout == "I am one.test\n"
        assert second.count().is_untouched
        assert curl(two, second).stdout == "I am two.test\n"
        assert first.count().connections == 1


def test_nothing_is_left_after_the_end_even_of_a_failure_with_a_process_that_hides() -> None:
    """Neither a raised exception nor a child in a session of its own keeps a namespace alive."""
    inodes = []

    def fail() -> None:
        with Bed() as bed:
            inodes.extend([bed.network.client.inode, bed.network.hosts.inode])
            bed.add("left.test")
            bed.sniff()
            start_in(bed, ["sh", "-c", "setsid sleep 300 & sleep 300"])
            assert holders(inodes[0])
            raise RuntimeError("the test fails")

    with pytest.raises(RuntimeError, match="the test fails"):
        fail()
    assert [holders(inode) for inode in inodes] == [[], []]


def test_nothing_is_left_of_a_test_run_that_is_killed(tmp_path: Path) -> None:
    """Not even kill -9 leaves a process or a namespace."""
    script = (
        "import time\nfrom bed import Bed, start_in\nwith Bed() as bed:\n    bed.add('killed.test')\n"
        "    start_in(bed, ['sleep', '300'])\n"
        "    print(bed.network.client.inode, bed.network.hosts.inode, flush=True)\n    time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        inodes = [int(word) for word in run.stdout.readline().split()]
        assert all(map(holders, inodes))
        run.kill()
    deadline = time.monotonic() + 2
    while any(map(holders, inodes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [holders(inode) for inode in inodes] == [[], []]
