"""Containers become known: asked of runtimes that answer late, wrongly, or not at all."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from exeat.agent import identities as module
from exeat.agent.identities import Identities
from exeat.errors import ExeatError
from exeat.model.identity import Container, Identity, Pod

ID = "ab" * 32
PATH = f"/docker/{ID}"
KNOWN = Identity(
    Container("docker", ID, "coder", "python:3", ("python:3",), (("app", "x"),)), Pod("ml", "p", "u", (("a", "b"),))
)


class Runtime:
    """Answers as it is told; the last answer again and again."""

    def __init__(self, socket: Path, *answers: Identity | None | ExeatError, name: str = "docker") -> None:
        self.name, self.socket = name, socket
        self.asked: list[str] = []
        self.answers = list(answers)

    async def find(self, container_id: str) -> Identity | None:
        self.asked.append(container_id)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ExeatError):
            raise answer
        return answer

    async def close(self) -> None:
        self.asked.append("closed")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, a hundred times as fast."""
    monkeypatch.setattr(module, "_AGAIN_S", (0.001, 0.001, 0.002))


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """One that exists, which is all that is looked at."""
    path = tmp_path / "runtime.sock"
    path.touch()
    return path


def met(tmp_path: Path, *runtimes: Runtime) -> tuple[Identities, list[int]]:
    """Identities over these runtimes, and whom they told news of."""
    identities = Identities(runtimes, tmp_path / "identities", lambda path: tmp_path / path.lstrip("/"))
    (tmp_path / PATH.lstrip("/")).mkdir(parents=True, exist_ok=True)
    news: list[int] = []
    identities.news = news.append
    return identities, news


async def until(is_so: Callable[[], bool]) -> None:
    """Waits for it, not for ever."""
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.001)


def test_a_container_is_awaited_until_its_runtime_has_told_who_it_is(tmp_path: Path, socket: Path) -> None:
    """Asked once, told once."""

    async def go() -> None:
        runtime = Runtime(socket, KNOWN)
        identities, news = met(tmp_path, runtime)
        assert identities.of(7, PATH) is None
        assert identities.is_awaited(7, PATH)
        assert identities.why_unknown(7)
        await until(lambda: news == [7])
        assert identities.of(7, PATH) == KNOWN
        assert not identities.is_awaited(7, PATH)
        assert identities.why_unknown(7) == ""
        assert identities.unknown() == identities.complaints == []
        assert runtime.asked == [ID]

    asyncio.run(go())


def test_what_is_no_container_is_not_asked_for(tmp_path: Path, socket: Path) -> None:
    """Nor what is below one."""

    async def go() -> None:
        runtime = Runtime(socket, KNOWN)
        identities, _ = met(tmp_path, runtime)
        for path in ("/", "/system.slice/a.service", f"{PATH}/below", "tap0"):
            assert identities.of(8, path) is None
            assert not identities.is_awaited(8, path)
        await asyncio.sleep(0.01)
        assert runtime.asked == []

    asyncio.run(go())


def test_a_look_alike_in_a_directory_that_a_user_may_write_is_no_container(tmp_path: Path, socket: Path) -> None:
    """He would come under the policy of a container of his choice."""

    async def go() -> None:
        runtime = Runtime(socket, KNOWN)
        identities, _ = met(tmp_path, runtime)
        (tmp_path / "docker").chmod(0o777)
        assert identities.of(7, PATH) is None
        assert not identities.is_awaited(7, PATH)
        (tmp_path / "docker").chmod(0o755)
        assert identities.is_awaited(7, PATH)

    asyncio.run(go())


def test_a_runtime_that_fails_is_asked_again_and_the_container_stays_awaited(tmp_path: Path, socket: Path) -> None:
    """And the complaint says why."""

    async def go() -> None:
        runtime = Runtime(socket, ExeatError("docker does not answer"))
        identities, news = met(tmp_path, runtime)
        identities.of(7, PATH)
        await until(lambda: len(runtime.asked) > 12)
        assert identities.is_awaited(7, PATH)
        assert news == []
        assert identities.unknown() == [
            "it is not known who 1 container is, and all is denied that only a policy by name would allow: "
            "docker does not answer"
        ]
        runtime.answers = [KNOWN]
        await until(lambda: news == [7])

    asyncio.run(go())


def test_a_runtime_that_does_not_listen_yet_is_waited_for(tmp_path: Path) -> None:
    """The agent starts before it."""

    async def go() -> None:
        runtime = Runtime(tmp_path / "later.sock", KNOWN)
        identities, news = met(tmp_path, runtime)
        identities.of(7, PATH)
        await asyncio.sleep(0.02)
        assert identities.is_awaited(7, PATH)
        assert "no runtime that would know listens" in identities.why_unknown(7)
        assert runtime.asked == []
        runtime.socket.touch()
        await until(lambda: news == [7])

    asyncio.run(go())


def test_what_every_runtime_denies_is_let_go_and_known_if_it_comes_late(tmp_path: Path, socket: Path) -> None:
    """A pod's sandbox is listed late."""

    async def go() -> None:
        runtime = Runtime(socket, *[None] * 6, KNOWN)
        identities, news = met(tmp_path, runtime)
        identities.of(7, PATH)
        await until(lambda: news == [7])
        assert not identities.is_awaited(7, PATH)
        assert identities.of(7, PATH) is None
        await until(lambda: news == [7, 7])
        assert identities.of(7, PATH) == KNOWN

    asyncio.run(go())


def test_one_runtime_that_fails_keeps_what_the_other_denies_awaited(tmp_path: Path, socket: Path) -> None:
    """It may be the one that knows."""

    async def go() -> None:
        denies, fails = Runtime(socket, None), Runtime(socket, ExeatError("gone"), name="podman")
        identities, news = met(tmp_path, denies, fails)
        path = f"/machine/{ID}"  # a name that could be anybody's
        (tmp_path / "machine").mkdir()
        identities.of(7, path)
        await until(lambda: len(fails.asked) > 20)
        assert identities.is_awaited(7, path)
        assert news == []

    asyncio.run(go())


def test_only_the_runtime_that_the_name_tells_is_asked(tmp_path: Path, socket: Path) -> None:
    """Another may have one of that id."""

    async def go() -> None:
        docker, podman = Runtime(socket, KNOWN), Runtime(socket, KNOWN, name="podman")
        identities, news = met(tmp_path, podman, docker)
        identities.of(7, PATH)
        await until(lambda: news == [7])
        assert (docker.asked, podman.asked) == ([ID], [])

    asyncio.run(go())


def test_the_next_agent_knows_at_once_what_this_one_was_told(tmp_path: Path, socket: Path) -> None:
    """Though no runtime answers it."""

    async def go() -> None:
        identities, news = met(tmp_path, Runtime(socket, KNOWN))
        identities.of(7, PATH)
        await until(lambda: news == [7])
        silent = Runtime(socket, ExeatError("away"))
        again, _ = met(tmp_path, silent)
        again.load()
        assert again.of(7, PATH) == KNOWN
        assert not again.is_awaited(7, PATH)
        other, _ = met(tmp_path, silent)
        other.load()
        assert other.of(7, PATH.replace("ab", "cd")) is None  # the id stands for another cgroup now
        await asyncio.sleep(0.01)
        assert silent.asked == ["cd" * 32] * len(silent.asked)

    asyncio.run(go())


@pytest.mark.parametrize("text", ["", "[]", '["/x", {}]', '["/x", {"container": 5, "pod": null}]', "[" * 10_000])
def test_a_memory_that_cannot_be_read_is_asked_again(tmp_path: Path, socket: Path, text: str) -> None:
    """As if there were none."""

    async def go() -> None:
        identities, news = met(tmp_path, Runtime(socket, KNOWN))
        (tmp_path / "identities").mkdir()
        (tmp_path / "identities" / "7.json").write_text(text)
        identities.load()
        assert identities.is_awaited(7, PATH)
        await until(lambda: news == [7])

    asyncio.run(go())


def test_a_container_that_has_gone_is_forgotten_and_its_runtime_asked_no_more(tmp_path: Path, socket: Path) -> None:
    """Also on disk."""

    async def go() -> None:
        runtime = Runtime(socket, ExeatError("away"))
        identities, news = met(tmp_path, runtime)
        identities.of(7, PATH)
        await until(lambda: len(runtime.asked) > 2)
        identities.forget_at({PATH})
        before = len(runtime.asked)
        await asyncio.sleep(0.02)
        assert len(runtime.asked) <= before + 1
        assert identities.unknown() == identities.complaints == []
        runtime.answers = [KNOWN]
        identities.of(9, PATH)  # made anew under the same name
        await until(lambda: news == [9])
        assert [file.stem for file in (tmp_path / "identities").iterdir()] == ["9"]
        identities.forget_but(lambda workload: False)
        assert list((tmp_path / "identities").iterdir()) == []
        await identities.close()
        assert runtime.asked[-1] == "closed"

    asyncio.run(go())
