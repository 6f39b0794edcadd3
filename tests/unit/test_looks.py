"""Where gates listen: wherever processes of their workloads are, a few milliseconds at a time, and not without end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

import exeat.agent.looks as module
from exeat.agent.census import News
from exeat.agent.enforcer import Enforcer
from exeat.agent.looks import Looks
from exeat.errors import KernelError

OWN = os.stat("/proc/self/ns/net").st_ino
WORKLOAD, OTHER = 7, 8


class House:
    """Opens, or fails as it is told to."""

    def __init__(self) -> None:
        self.opened = 0
        self.left: list[int] = []
        self.fails: Exception | None = None
        self.takes_s = 0.0

    def open(self, namespace: int | None = None) -> int:
        """The network's cookie."""
        if self.fails:
            raise self.fails
        time.sleep(self.takes_s)
        self.opened += 1
        return self.opened

    def leave(self, network: int) -> None:
        """Of a namespace."""
        self.left.append(network)


class Tree:
    """Cgroups with processes."""

    def __init__(self) -> None:
        self.ids = {"/": 1, "/a": WORKLOAD, "/b": OTHER}
        self.processes: dict[str, list[int]] = {}
        self.walks = 0

    def id_of(self, path: str) -> int | None:
        """Of a cgroup."""
        return self.ids.get(path)

    def pids(self, path: str) -> Iterator[int]:
        """In it and below."""
        self.walks += 1
        for cgroup, pids in self.processes.items():
            if cgroup == path or cgroup.startswith(f"{path}/"):
                yield from pids


class Stage:
    """Two workloads, /a and /b."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.houses = {WORKLOAD: House(), OTHER: House()}
        self.bound: dict[int, Any] = {
            one: SimpleNamespace(
                id=one, path=path, name=path[1:], house=self.houses[one], namespaces={}, unseen={}, joined=0
            )
            for one, path in ((WORKLOAD, "/a"), (OTHER, "/b"))
        }
        enforcer: Any = SimpleNamespace(bound=self.bound)
        enforcer.nearest = partial(Enforcer.nearest, enforcer)
        tree: Any = self.tree
        self.entered: list[bool] = []  # whether each was new
        self.failures: list[Exception] = []  # of those to be entered next
        self.looks = Looks(enforcer, tree, lambda bound: True, self.enter)

    def enter(self, inode: int, pid: int, *, is_new: bool) -> None:
        """Has frames stopped there."""
        assert inode != OWN
        if self.failures:
            raise self.failures.pop()
        self.entered.append(is_new)


@pytest.fixture
def stage() -> Stage:
    """Nobody is anywhere."""
    return Stage()


@pytest.fixture
def namespaces() -> Iterator[Callable[[int], list[int]]]:
    """Makes processes, each in a network namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("namespaces are made by root")
    made: list[subprocess.Popen[bytes]] = []

    def make(count: int) -> list[int]:
        script = (
            "import ctypes, sys; assert ctypes.CDLL(None).unshare(0x40000000) == 0; print(flush=True); sys.stdin.read()"
        )
        new = [
            subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(count)
        ]
        made.extend(new)
        for process in new:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
        return [process.pid for process in new]

    yield make
    for process in made:
        process.kill()
        process.communicate()


def run(stage: Stage, act: Callable[[], object], for_s: float = 0.0) -> None:
    """In a loop."""

    async def body() -> None:
        act()
        await asyncio.sleep(for_s)

    asyncio.run(body())


def test_a_workload_without_processes_listens_where_its_first_one_will_most_likely_be(stage: Stage) -> None:
    """Here."""
    run(stage, lambda: stage.looks.look(WORKLOAD))
    assert set(stage.bound[WORKLOAD].namespaces) == {OWN}
    assert stage.bound[WORKLOAD].joined == 1


def test_a_process_that_moves_on_is_followed(stage: Stage, namespaces: Callable[[int], list[int]]) -> None:
    """As a runtime's does, from its own namespace into the container's; and not for ever."""
    (there,) = namespaces(1)
    stage.tree.processes["/a"] = [os.getpid()]

    async def body() -> None:
        stage.looks.follow(WORKLOAD)
        assert len(stage.bound[WORKLOAD].namespaces) == 1
        stage.tree.processes["/a"] = [there]
        await asyncio.sleep(0.3)
        assert len(stage.bound[WORKLOAD].namespaces) == 2
        await asyncio.sleep(3.5)
        walks = stage.tree.walks
        await asyncio.sleep(0.5)
        assert stage.tree.walks == walks < 20

    asyncio.run(body())


def test_below_a_workload_a_new_cgroups_processes_are_followed(
    stage: Stage, namespaces: Callable[[int], list[int]]
) -> None:
    """A container's, under a policy for all of them; beside it nothing is."""
    here, there = namespaces(2)
    stage.tree.ids |= {"/a/new": 70, "/new": 71}
    stage.tree.processes = {"/a/old": [os.getpid()] * 1000, "/a/new": [here], "/new": [there]}
    run(stage, lambda: stage.looks.hear(News(came={"/a/new", "/new", "/gone"})), 0.1)
    assert set(stage.bound[WORKLOAD].namespaces) == {os.stat(f"/proc/{here}/ns/net").st_ino}
    assert not stage.bound[OTHER].namespaces


@pytest.mark.parametrize("error", [OSError(24, "too many open files"), KernelError("the table is full")])
def test_where_it_cannot_listen_it_tries_again_and_goes_on_with_the_others(stage: Stage, error: Exception) -> None:
    """Nothing is taken for done, and no error ends more than this one look."""
    stage.tree.processes = {"/a": [os.getpid()], "/b": [os.getpid()]}
    stage.houses[WORKLOAD].fails = error

    async def body() -> None:
        stage.looks.look_at_all([WORKLOAD, OTHER])
        assert not stage.bound[WORKLOAD].namespaces
        assert set(stage.bound[OTHER].namespaces) == {OWN}
        stage.houses[WORKLOAD].fails = None
        await asyncio.sleep(0.1)
        assert set(stage.bound[WORKLOAD].namespaces) == {OWN}

    asyncio.run(body())


def test_many_namespaces_are_gone_through_in_slices_and_the_loop_goes_on(
    stage: Stage, namespaces: Callable[[int], list[int]]
) -> None:
    """Whoever makes them gets all of them in the end, later than others get theirs."""
    pids = namespaces(30)
    stage.tree.processes = {"/a": pids, "/b": [os.getpid()]}
    stage.houses[WORKLOAD].takes_s = 0.01
    late: list[float] = []

    async def body() -> None:
        stage.looks.follow(WORKLOAD)
        stage.looks.follow(OTHER)
        assert len(stage.bound[WORKLOAD].namespaces) < 5
        assert set(stage.bound[OTHER].namespaces) == {OWN}
        for _ in range(40):
            began = time.monotonic()
            await asyncio.sleep(0)
            late.append(time.monotonic() - began)
        deadline = time.monotonic() + 10
        while len(stage.bound[WORKLOAD].namespaces) < 30 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    asyncio.run(body())
    assert len(stage.bound[WORKLOAD].namespaces) == 30
    assert sorted(late)[len(late) // 2] < 0.1


def test_one_workload_takes_no_more_namespaces_than_it_may(
    stage: Stage, namespaces: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said whose there are too many of; who leaves one may have another."""
    monkeypatch.setattr(module, "NAMESPACES_MAX", 3)
    pids = namespaces(5)
    stage.tree.processes["/a"] = pids

    async def body() -> None:
        stage.looks.look_abroad()
        stage.looks.look(WORKLOAD)
        assert stage.houses[WORKLOAD].opened == 3
        assert stage.looks.complaint.startswith("a is in more than 3 network namespaces")
        stage.tree.processes["/a"] = pids[2:]
        stage.looks.look_abroad()
        stage.looks.look_abroad()
        stage.looks.look_abroad()
        assert len(stage.houses[WORKLOAD].left) == 2
        assert len(stage.bound[WORKLOAD].namespaces) == 3
        stage.looks.look_abroad()
        assert stage.looks.complaint == ""

    asyncio.run(body())


def test_a_workload_that_goes_while_it_is_gone_through_ends_that(
    stage: Stage, namespaces: Callable[[int], list[int]]
) -> None:
    """And what follows it."""
    stage.tree.processes["/a"] = namespaces(10)
    stage.houses[WORKLOAD].takes_s = 0.01

    async def body() -> None:
        stage.looks.follow(WORKLOAD)
        del stage.bound[WORKLOAD]
        await asyncio.sleep(0.2)
        assert stage.houses[WORKLOAD].opened < 5
        assert not stage.looks._turns
        assert not stage.looks._walks

    asyncio.run(body())


def test_where_frames_cannot_be_stopped_its_gate_listens_all_the_same(
    stage: Stage, namespaces: Callable[[int], list[int]]
) -> None:
    """It is said, and tried again with each look."""
    stage.tree.processes["/a"] = [os.getpid(), *namespaces(1)]
    stage.failures = [KernelError("no room")]
    run(stage, lambda: stage.looks.look(WORKLOAD))
    assert len(stage.bound[WORKLOAD].namespaces) == 2
    assert stage.looks.complaint == "a is in a network namespace where its frames are not stopped: no room"
    run(stage, stage.looks.look_abroad)
    assert stage.entered == [False]
    assert stage.looks.complaint == ""
