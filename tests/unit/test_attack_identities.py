"""Runtimes that flap, hang, lie or are a stranger's: no container is let go, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import Callable
from pathlib import Path

import pytest

from exeat.control.cri import CriRuntime
from exeat.model.identity import Identity, Pod
from exeat.runtimes.docker import DockerRuntime
from unit.fake_runtime import BARE, KNOWN, OF_DOCKER, OF_POD, OF_PODMAN, UID, FakeRuntime, met, socket_at, until

pytestmark = pytest.mark.usefixtures("impatient")


def test_a_runtime_that_went_away_is_one_that_does_not_answer(tmp_path: Path) -> None:
    """Docker says of containerd's container that it is not its own, while containerd is upgraded."""

    async def go() -> None:
        docker = FakeRuntime(socket_at(tmp_path / "d"), None)
        podman = FakeRuntime(socket_at(tmp_path / "p"), None, name="podman")
        identities, news = met(tmp_path, docker, podman)
        identities.of(1, OF_PODMAN)
        await until(lambda: news == [1])  # it listened, and knew nothing of it
        podman.socket.unlink()
        identities.of(2, BARE)
        before = len(docker.asked)
        await until(lambda: len(docker.asked) > before + 20)
        assert identities.is_awaited(2, BARE)
        assert "podman has listened" in identities.why_unknown(2)
        podman.answers = [KNOWN]
        podman.socket.touch()
        await until(lambda: identities.of(2, BARE) == KNOWN)
        await identities.close()

    asyncio.run(go())


def test_of_a_pod_cri_must_have_said_something(tmp_path: Path) -> None:
    """The agent was started while it was away, and Docker listens beside it."""

    async def go() -> None:
        docker = FakeRuntime(socket_at(tmp_path / "d"), None)
        cri = FakeRuntime(tmp_path / "c", None, name="cri")
        identities, _ = met(tmp_path, docker, cri)
        identities.of(1, OF_POD)
        identities.of(2, BARE)
        await until(lambda: len(docker.asked) > 30)
        assert identities.is_awaited(1, OF_POD)
        assert not identities.is_awaited(2, BARE)  # a socket that was never there is no runtime of this host
        its = Identity(None, Pod("ml", "p", UID))
        cri.answers = [its]
        cri.socket.touch()
        await until(lambda: identities.of(1, OF_POD) == its)
        await identities.close()

    asyncio.run(go())


def test_what_belongs_to_a_runtime_that_is_off_is_nobodys(tmp_path: Path) -> None:
    """The settings say so; it is not left behind a wall for ever."""

    async def go() -> None:
        docker = FakeRuntime(socket_at(tmp_path / "d"), KNOWN)
        identities, news = met(tmp_path, docker)
        assert not identities.is_awaited(1, OF_PODMAN)
        assert identities.is_awaited(2, OF_DOCKER)
        await until(lambda: news == [2])
        await identities.close()

    asyncio.run(go())


def test_a_runtime_that_hangs_keeps_no_pod_waiting(tmp_path: Path) -> None:
    """However many containers of its own are asked for; and it is not asked for all of them at once."""

    async def go() -> None:
        docker = FakeRuntime(socket_at(tmp_path / "d"), KNOWN)
        cri = FakeRuntime(socket_at(tmp_path / "c"), Identity(None, Pod("ml", "p", UID)), name="cri")
        docker.gate.clear()
        identities, news = met(tmp_path, docker, cri)
        (tmp_path / "cg/docker").mkdir(exist_ok=True)
        for number in range(100):
            identities.of(100 + number, f"/docker/{number:064x}")
        await until(lambda: docker.asked)
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
        docker = FakeRuntime(socket_at(tmp_path / "d"), KNOWN)
        docker.gate.clear()
        identities, news = met(tmp_path, docker)
        identities.of(1, OF_DOCKER)
        await until(lambda: docker.asked)
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
        docker = FakeRuntime(socket_at(tmp_path / "d"), None)
        identities, news = met(tmp_path, docker)
        identities.of(1, OF_DOCKER)
        await until(lambda: news == [1])
        await identities.close()
        docker.answers = [KNOWN]
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
        docker = FakeRuntime(socket_at(tmp_path / "d"), KNOWN)
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
        identities.of(1, BARE)
        await until(lambda: "not asked yet" not in identities.why_unknown(1))
        why = "no runtime that would know listens" if make is _circle else f"at {tmp_path / 's'} cannot say who is in a"
        assert why in identities.why_unknown(1)
        assert identities.is_awaited(1, BARE)
        assert news == []
        await identities.close()

    asyncio.run(go())


def _shown(how: str | int) -> str:
    return oct(how) if isinstance(how, int) else how


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
@pytest.mark.parametrize(
    "how", ["socket of a user", "directory of a user", "link to one", 0o777, 0o775, 0o757], ids=_shown
)
def test_a_socket_that_somebody_else_could_serve_is_not_asked(tmp_path: Path, how: str | int) -> None:
    """He would say of root's containers what he likes. Twins are asked: in root's directory, and in one like /tmp."""

    async def go() -> None:
        place, path = tmp_path / "users", tmp_path / "users" / "s"
        place.mkdir()
        with sockets.socket(sockets.AF_UNIX) as listener:
            listener.bind(str(path))
            if isinstance(how, int):
                place.chmod(how)
            else:
                os.chown(place if how == "directory of a user" else path, 12345, 12345)
            if how == "link to one":
                (tmp_path / "link").symlink_to(path)
                path = tmp_path / "link"
            theirs = FakeRuntime(path, KNOWN)
            identities, _ = met(tmp_path, theirs)
            identities.of(1, OF_DOCKER)
            await until(lambda: "is not root's alone" in identities.why_unknown(1))
            assert theirs.asked == []
            assert identities.is_awaited(1, OF_DOCKER)
            await identities.close()
        for mode in (0o755, 0o1777):  # where nobody may put his own in its place
            ours = tmp_path / f"{mode:o}"
            ours.mkdir()
            ours.chmod(mode)
            twin, news = met(ours, FakeRuntime(socket_at(ours / "s"), KNOWN))
            twin.of(1, OF_DOCKER)
            await until(lambda: news == [1])  # noqa: B023
            await twin.close()

    asyncio.run(go())
