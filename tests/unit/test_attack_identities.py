"""Runtimes that flap, hang, lie or are a stranger's: no container is let go, and nobody else waits for it."""

import asyncio
import os
import socket as sockets
from collections.abc import Callable
from pathlib import Path

import pytest

from exeat.agent import identities as module
from exeat.agent.identities import Identities
from exeat.control.cri import CriRuntime
from exeat.errors import ExeatError
from exeat.model.identity import Container, Identity, Pod
from exeat.runtimes.docker import DockerRuntime

ID = "ab" * 32
UID = "f3b9c1d2-1a2b-4c3d-8e9f-0a1b2c3d4e5f"
BARE, OF_DOCKER, OF_PODMAN = f"/machine/{ID}", f"/docker/{ID}", f"/machine.slice/libpod-{ID}.scope"
OF_POD = f"/kubepods/burstable/pod{UID}/{ID}"
KNOWN = Identity(Container("docker", ID, "coder", "python:3"))


class Runtime:
    """Answers when it is let, what it is told to."""

    def __init__(self, socket: Path, answer: Identity | ExeatError | None, name: str = "docker") -> None:
        self.name, self.socket, self.answer = name, socket, answer
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0
        self.at_once = self.most_at_once = 0

    async def find(self, container_id: str) -> Identity | None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        if isinstance(self.answer, ExeatError):
            raise self.answer
        return self.answer

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred times as fast."""
    monkeypatch.setattr(module, "_AGAIN_S", (0.001,))


def met(tmp_path: Path, *runtimes: object) -> tuple[Identities, list[int]]:
    """Identities over these runtimes, and whom they told news of."""
    identities = Identities(tuple(runtimes), tmp_path / "kept", lambda path: tmp_path / "cg" / path.lstrip("/"))  # type: ignore[arg-type]
    for path in (BARE, OF_DOCKER, OF_PODMAN, OF_POD):
        (tmp_path / "cg" / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    news: list[int] = []
    identities.news = news.append
    return identities, news


def socket_at(path: Path) -> Path:
    """One that is there."""
    path.touch()
    return path


async def until(is_so: Callable[[], bool]) -> None:
    """Waits for it, not for ever."""
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.001)


def test_a_runtime_that_went_away_is_one_that_does_not_answer(tmp_path: Path) -> None:
    """Docker says of containerd's container that it is not its own, while containerd is upgraded."""

    async def go() -> None:
        docker, podman = Runtime(socket_at(tmp_path / "d"), None), Runtime(socket_at(tmp_path / "p"), None, "podman")
        identities, news = met(tmp_path, docker, podman)
        identities.of(1, OF_PODMAN)
        await until(lambda: news == [1])  # it listened, and knew nothing of it
        podman.socket.unlink()
        identities.of(2, BARE)
        before = docker.asked
        await until(lambda: docker.asked > before + 20)
        assert identities.is_awaited(2, BARE)
        assert "podman has listened" in identities.why_unknown(2)
        podman.answer = KNOWN
        podman.socket.touch()
        await until(lambda: identities.of(2, BARE) == KNOWN)
        await identities.close()

    asyncio.run(go())


def test_of_a_pod_cri_must_have_said_something(tmp_path: Path) -> None:
    """The agent was started while it was away, and Docker listens beside it."""

    async def go() -> None:
        docker = Runtime(socket_at(tmp_path / "d"), None)
        cri = Runtime(tmp_path / "c", None, "cri")
        identities, _ = met(tmp_path, docker, cri)
        identities.of(1, OF_POD)
        identities.of(2, BARE)
        await until(lambda: docker.asked > 30)
        assert identities.is_awaited(1, OF_POD)
        assert not identities.is_awaited(2, BARE)  # a socket that was never there is no runtime of this host
        cri.answer = Identity(None, Pod("ml", "p", UID))
        cri.socket.touch()
        await until(lambda: identities.of(1, OF_POD) == cri.answer)
        await identities.close()

    asyncio.run(go())


def test_what_belongs_to_a_runtime_that_is_off_is_nobodys(tmp_path: Path) -> None:
    """The settings say so; it is not left behind a wall for ever."""

    async def go() -> None:
        docker = Runtime(socket_at(tmp_path / "d"), KNOWN)
        identities, news = met(tmp_path, docker)
        assert not identities.is_awaited(1, OF_PODMAN)
        assert identities.is_awaited(2, OF_DOCKER)
        await until(lambda: news == [2])
        await identities.close()

    asyncio.run(go())


def test_a_runtime_that_hangs_keeps_no_pod_waiting(tmp_path: Path) -> None:
    """However many containers of its own are asked for; and it is not asked for all of them at once."""

    async def go() -> None:
        docker = Runtime(socket_at(tmp_path / "d"), KNOWN)
        cri = Runtime(socket_at(tmp_path / "c"), Identity(None, Pod("ml", "p", UID)), "cri")
        docker.gate.clear()
        identities, news = met(tmp_path, docker, cri)
        (tmp_path / "cg/docker").mkdir(exist_ok=True)
        for number in range(100):
            identities.of(100 + number, f"/docker/{number:064x}")
        await until(lambda: docker.asked > 0)
        identities.of(1, OF_POD)
        await until(lambda: news == [1])
        assert docker.most_at_once <= 8
        docker.gate.set()
        await until(lambda: len(news) == 101)
        await identities.close()

    asyncio.run(go())


def test_an_answer_that_comes_when_the_container_has_gone_is_nobodys(tmp_path: Path) -> None:
    """Nor that of another under the same path."""

    async def go() -> None:
        docker = Runtime(socket_at(tmp_path / "d"), KNOWN)
        docker.gate.clear()
        identities, news = met(tmp_path, docker)
        identities.of(1, OF_DOCKER)
        await until(lambda: docker.asked == 1)
        identities.forget_at({OF_DOCKER})
        identities.of(2, OF_DOCKER)
        docker.gate.set()
        await until(lambda: news == [2])
        assert [file.name for file in (tmp_path / "kept").iterdir()] == ["2.json"]
        identities.forget(2)
        assert list((tmp_path / "kept").iterdir()) == []
        await identities.close()

    asyncio.run(go())


def test_the_next_agent_does_not_wall_in_what_was_found_to_be_nobodys(tmp_path: Path) -> None:
    """Its connections would end at each restart. It is asked for all the same: it may have come late."""

    async def go() -> None:
        docker = Runtime(socket_at(tmp_path / "d"), None)
        identities, news = met(tmp_path, docker)
        identities.of(1, OF_DOCKER)
        await until(lambda: news == [1])
        await identities.close()
        docker.answer = KNOWN
        again, news = met(tmp_path, docker)
        again.load()
        assert not again.is_awaited(1, OF_DOCKER)
        assert again.of(1, OF_DOCKER) is None
        await until(lambda: news == [1])
        assert again.of(1, OF_DOCKER) == KNOWN
        await again.close()

    asyncio.run(go())


def test_what_came_and_went_is_not_remembered(tmp_path: Path) -> None:
    """Two thousand containers, known or not."""

    async def go() -> None:
        docker = Runtime(socket_at(tmp_path / "d"), KNOWN)
        identities, news = met(tmp_path, docker)
        for number in range(2000):
            path = f"/docker/{number:064x}"
            identities.of(number, path)
            if number % 2:
                await until(lambda: news[-1:] == [number])  # noqa: B023
            identities.forget_at({path})
        assert identities._known == identities._at == {}
        assert list((tmp_path / "kept").iterdir()) == []
        assert len(asyncio.all_tasks()) < 20
        await identities.close()

    asyncio.run(go())


def _file(path: Path) -> None:
    path.write_text("")


def _circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_file, os.mkfifo, Path.mkdir, _circle])
@pytest.mark.parametrize("kind", ["docker", "cri"])
def test_what_is_no_socket_answers_nothing_and_blocks_nobody(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    """A file, a pipe, a directory, a link to itself where the runtime should listen."""

    async def go() -> None:
        make(tmp_path / "s")
        runtime = DockerRuntime("docker", tmp_path / "s") if kind == "docker" else CriRuntime(tmp_path / "s")
        identities, news = met(tmp_path, runtime)
        began = asyncio.get_running_loop().time()
        identities.of(1, BARE)
        await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() - began < 2
        assert identities.is_awaited(1, BARE)
        assert news == []
        await identities.close()

    asyncio.run(go())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
@pytest.mark.parametrize("how", ["socket of a user", "directory of a user", "directory of everybody", "link to one"])
def test_a_socket_that_somebody_else_could_serve_is_not_asked(tmp_path: Path, how: str) -> None:
    """He would say of root's containers what he likes. The twin at root's own place is asked."""

    async def go() -> None:
        place, path = tmp_path / "users", tmp_path / "users" / "s"
        place.mkdir()
        with sockets.socket(sockets.AF_UNIX) as listener:
            listener.bind(str(path))
            if how == "directory of everybody":
                place.chmod(0o777)
            else:
                os.chown(place if how == "directory of a user" else path, 12345, 12345)
            if how == "link to one":
                (tmp_path / "link").symlink_to(path)
                path = tmp_path / "link"
            theirs, ours = Runtime(path, KNOWN), Runtime(socket_at(tmp_path / "ours"), KNOWN)
            identities, _ = met(tmp_path, theirs)
            identities.of(1, OF_DOCKER)
            await until(lambda: "is not root's alone" in identities.why_unknown(1))
            assert theirs.asked == 0
            assert identities.is_awaited(1, OF_DOCKER)
            await identities.close()
            twin, news = met(tmp_path, ours)
            twin.of(1, OF_DOCKER)
            await until(lambda: news == [1])
            await twin.close()

    asyncio.run(go())
