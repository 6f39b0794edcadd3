"""Where frames of packet sockets are stopped: what the agent asks of the kernel as interfaces and namespaces come."""

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from exeat.agent import frames as module
from exeat.agent.frames import Frames
from exeat.errors import KernelError
from exeat.kernel.network_links import LinkNews, NetworkLink

SECONDS = 10**9
INODE = os.stat("/proc/self/ns/net").st_ino


class Guard:
    """What the kernel would be asked."""

    is_possible = True
    has_gone = False

    def __init__(self) -> None:
        self.did: list[object] = []
        self.there: set[int] = set()
        self.failure: Exception | None = None

    def attach(self, index: int, kind: str) -> None:
        if self.failure:
            raise self.failure
        if index not in self.there:
            self.did.append((index, kind))
        self.there.add(index)

    def attach_to_all(self) -> None:
        self.did.append("all")

    def sweep(self) -> bool:
        self.did.append("sweep")
        return self.has_gone


class Stage:
    """Two interfaces."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.guard = Guard()
        self.known = {
            one: NetworkLink(one, f"if{one}", b"", True, True, 0, (), kind) for one, kind in ((7, "veth"), (8, ""))
        }
        links = SimpleNamespace(of=self.known.get, all=lambda: tuple(self.known.values()))
        self.names: tuple[str, ...] = ("lo", "eth0")
        monkeypatch.setattr(module, "inside", lambda namespace, act: act())
        monkeypatch.setattr(module, "_interfaces_of", lambda pid: self.names)
        self.frames = Frames(cast(Any, self.guard), cast(Any, links))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """With nothing attached."""
    return Stage(monkeypatch)


def test_what_comes_is_attached_to_by_its_kind(stage: Stage) -> None:
    """And what has gone again before it was heard of is passed over."""
    stage.frames.heed(LinkNews(came={7, 8, 9}))
    assert sorted(stage.guard.did, key=str) == [(7, "veth"), (8, "")]


def test_what_fails_is_said_and_tried_again_until_it_has_gone(stage: Stage) -> None:
    """Others are not held up."""
    stage.guard.failure = KernelError("full")
    stage.frames.heed(LinkNews(came={7, 8}))
    assert sorted(stage.frames.complaints) == [
        "frames of packet sockets are not stopped at if7: full",
        "frames of packet sockets are not stopped at if8: full",
    ]
    del stage.known[8]
    stage.frames.heed(LinkNews(went={8}))
    stage.guard.failure = None
    stage.frames.mend(1)
    assert stage.guard.did == ["sweep", (7, "veth")]
    assert stage.frames.complaints == []


def test_what_somebody_took_away_is_put_back_now_and_then(stage: Stage) -> None:
    """Not all the time, while all is well."""
    stage.frames.mend(1)
    stage.guard.there.discard(7)
    stage.guard.did.clear()
    stage.frames.mend(29 * SECONDS)
    assert stage.guard.did == []
    stage.frames.mend(31 * SECONDS)
    assert stage.guard.did == ["sweep", (7, "veth")]


def test_a_namespace_is_entered_anew_if_its_interfaces_or_itself_are_others(stage: Stage) -> None:
    """An inode may come back as another namespace's."""
    enter, pid = stage.frames.enter, os.getpid()
    enter(INODE, pid, is_new=True)
    enter(INODE, pid, is_new=False)
    assert stage.guard.did == ["all"]
    stage.names = ("lo", "eth0", "eth1")
    enter(INODE, pid, is_new=False)
    enter(INODE, pid, is_new=False)
    assert stage.guard.did == ["all"] * 2
    enter(INODE, pid, is_new=True)
    assert stage.guard.did == ["all"] * 3


def test_what_could_not_be_entered_is_not_taken_for_done(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look enters it."""

    def refuse(namespace: int, act: object) -> None:
        raise OSError("no threads")

    with monkeypatch.context() as patch:
        patch.setattr(module, "inside", refuse)
        with pytest.raises(OSError, match="no threads"):
            stage.frames.enter(INODE, os.getpid(), is_new=True)
    stage.frames.enter(INODE, os.getpid(), is_new=False)
    assert stage.guard.did == ["all"]


def test_a_kernel_without_a_place_for_them_is_left_alone(stage: Stage) -> None:
    """As `exeat doctor` says."""
    stage.guard.is_possible = False
    stage.frames.heed(LinkNews(came={7}))
    stage.frames.enter(INODE, os.getpid(), is_new=True)
    stage.frames.mend(1)
    assert stage.guard.did == []
    assert not stage.frames.are_stopped
