"""Containers become known: asked of runtimes that answer late, wrongly, or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exeat.agent import identities as module
from exeat.agent.identities import runtimes_of
from exeat.control.cri import CriRuntime
from exeat.errors import ExeatError
from exeat.model.identity import Identity, Pod
from exeat.runtime_settings import RuntimeSettings
from exeat.runtimes.docker import DockerRuntime
from unit.fake_runtime import (
    BARE,
    ID,
    KNOWN,
    OF_DOCKER,
    OF_POD,
    OF_PODMAN,
    UID,
    FakeRuntime,
    met,
    nobody_asks,
    socket_at,
    until,
)

pytestmark = pytest.mark.usefixtures("impatient")

SILENT = ExeatError("docker does not answer")


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """One that exists."""
    return socket_at(tmp_path / "runtime.sock")


def test_every_runtime_of_the_settings_is_asked_at_its_own_socket() -> None:
    """None where they are off."""
    docker, podman, *cri = runtimes_of(RuntimeSettings())
    assert isinstance(docker, DockerRuntime)
    assert isinstance(podman, DockerRuntime)
    assert all(isinstance(one, CriRuntime) for one in cri)
    settings = RuntimeSettings(Path("/d"), Path("/p"), (Path("/c"), Path("/o")))
    told = [(one.name, str(one.socket)) for one in runtimes_of(settings)]
    assert told == [("docker", "/d"), ("podman", "/p"), ("cri", "/c"), ("cri", "/o")]
    assert runtimes_of(RuntimeSettings(None, None, ())) == ()


def test_a_container_is_awaited_until_its_runtime_has_told_who_it_is(tmp_path: Path, socket: Path) -> None:
    """Asked once, told once."""

    async def go() -> None:
        runtime = FakeRuntime(socket, KNOWN)
        identities, news = met(tmp_path, runtime)
        assert identities.of(7, OF_DOCKER) is None
        assert identities.is_awaited(7, OF_DOCKER)
        assert identities.why_unknown(7)
        await until(lambda: news == [7])
        assert identities.of(7, OF_DOCKER) == KNOWN
        assert not identities.is_awaited(7, OF_DOCKER)
        assert identities.why_unknown(7) == ""
        assert identities.unknown() == identities.complaints == []
        assert runtime.asked == [ID]

    asyncio.run(go())


def test_what_is_no_container_is_not_asked_for(tmp_path: Path, socket: Path) -> None:
    """Nor what is below one; the one itself is."""

    async def go() -> None:
        runtime = FakeRuntime(socket, KNOWN)
        identities, news = met(tmp_path, runtime)
        for path in ("/", "/system.slice/a.service", f"{OF_DOCKER}/below", "tap0"):
            assert identities.of(8, path) is None
            assert not identities.is_awaited(8, path)
        identities.of(7, OF_DOCKER)
        await until(lambda: news)
        assert (news, runtime.asked) == ([7], [ID])

    asyncio.run(go())


def test_a_look_alike_in_a_directory_that_a_user_may_write_is_no_container(tmp_path: Path, socket: Path) -> None:
    """He would come under the policy of a container of his choice."""

    async def go() -> None:
        identities, _ = met(tmp_path, FakeRuntime(socket, KNOWN))
        (tmp_path / "cg/docker").chmod(0o777)
        assert identities.of(7, OF_DOCKER) is None
        assert not identities.is_awaited(7, OF_DOCKER)
        (tmp_path / "cg/docker").chmod(0o755)
        assert identities.is_awaited(7, OF_DOCKER)

    asyncio.run(go())


def test_a_runtime_that_fails_is_asked_again_and_the_container_stays_awaited(tmp_path: Path, socket: Path) -> None:
    """And the complaint says why."""

    async def go() -> None:
        runtime = FakeRuntime(socket, SILENT)
        identities, news = met(tmp_path, runtime)
        identities.of(7, OF_DOCKER)
        await until(lambda: len(runtime.asked) > 12)
        assert identities.is_awaited(7, OF_DOCKER)
        assert news == []
        assert identities.unknown() == [
            "it is not known who 1 container is, and all is denied that only a policy by name would allow: "
            "docker does not answer"
        ]
        runtime.answers = [KNOWN]
        await until(lambda: news == [7])

    asyncio.run(go())


def test_a_runtime_that_denies_and_then_fails_is_told_as_one_that_fails(tmp_path: Path, socket: Path) -> None:
    """A sandbox is asked for before it is listed; the container stays behind the wall, so somebody must hear of it."""

    async def go() -> None:
        runtime = FakeRuntime(socket, None, SILENT)
        identities, news = met(tmp_path, runtime)
        identities.of(7, OF_DOCKER)
        await until(lambda: len(runtime.asked) > 4)
        assert identities.is_awaited(7, OF_DOCKER)
        assert [one.rpartition(": ")[2] for one in identities.unknown()] == [str(SILENT)]
        runtime.answers = [KNOWN]
        await until(lambda: news == [7])
        assert identities.unknown() == []

    asyncio.run(go())


def test_what_was_denied_once_is_no_complaint(tmp_path: Path, socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So each pod begins. It is awaited all the same."""
    monkeypatch.setattr(module, "_AGAIN_S", (600.0,))

    async def go() -> None:
        identities, news = met(tmp_path, FakeRuntime(socket, None))
        identities.of(7, OF_DOCKER)
        await until(lambda: identities.why_unknown(7) == "no runtime of this host knows it")
        assert identities.is_awaited(7, OF_DOCKER)
        assert identities.unknown() == news == []

    asyncio.run(go())


def test_a_runtime_that_does_not_listen_yet_is_waited_for(tmp_path: Path) -> None:
    """The agent starts before it."""

    async def go() -> None:
        runtime = FakeRuntime(tmp_path / "later.sock", KNOWN)
        identities, news = met(tmp_path, runtime)
        identities.of(7, OF_DOCKER)
        await until(lambda: "no runtime that would know listens" in identities.why_unknown(7))
        assert identities.is_awaited(7, OF_DOCKER)
        assert runtime.asked == []
        runtime.socket.touch()
        await until(lambda: news == [7])

    asyncio.run(go())


def test_a_runtime_that_has_listened_is_one_of_this_host_from_then_on(tmp_path: Path) -> None:
    """Policies by labels wall containers in only where there are any."""

    async def go() -> None:
        runtime = FakeRuntime(tmp_path / "later.sock", KNOWN)
        identities, _ = met(tmp_path, runtime)
        assert not identities.has_listeners
        runtime.socket.touch()
        assert identities.has_listeners
        runtime.socket.unlink()
        assert identities.has_listeners

    asyncio.run(go())


def test_an_agents_first_look_waits_for_the_first_answers(tmp_path: Path, socket: Path) -> None:
    """Whatever they are, as long as it may: what runs already is not cut while its runtime would answer."""

    async def go() -> None:
        runtime = FakeRuntime(socket, KNOWN)
        identities, _ = met(tmp_path, runtime)
        await identities.ask_first([(1, "/"), (7, OF_DOCKER)], 600.0)
        assert identities.of(7, OF_DOCKER) == KNOWN
        failing, _ = met(tmp_path / "failing", FakeRuntime(socket, SILENT))
        await failing.ask_first([(7, OF_DOCKER)], 600.0)
        assert failing.why_unknown(7) == str(SILENT)
        runtime.gate.clear()
        hanging, _ = met(tmp_path / "hanging", runtime)
        await hanging.ask_first([(7, OF_DOCKER)], 0.02)
        assert hanging.is_awaited(7, OF_DOCKER)

    asyncio.run(asyncio.wait_for(go(), 30))


def test_what_every_runtime_denies_is_let_go_and_known_if_it_comes_late(tmp_path: Path, socket: Path) -> None:
    """A pod's sandbox is listed late."""

    async def go() -> None:
        runtime = FakeRuntime(socket, *[None] * 6, KNOWN)
        identities, news = met(tmp_path, runtime)
        identities.of(7, OF_DOCKER)
        await until(lambda: news == [7])
        assert not identities.is_awaited(7, OF_DOCKER)
        assert identities.of(7, OF_DOCKER) is None
        await until(lambda: news == [7, 7])
        assert identities.of(7, OF_DOCKER) == KNOWN

    asyncio.run(go())


@pytest.mark.parametrize("before", [[None] * 3, [None, None, None, SILENT, None, None, None, SILENT, None]])
def test_it_is_not_let_go_before_it_was_denied_four_times_in_a_row(
    tmp_path: Path, socket: Path, before: list[ExeatError | None]
) -> None:
    """Who fails in between may be the one that knows."""

    async def go() -> None:
        identities, news = met(tmp_path, FakeRuntime(socket, *before, KNOWN))
        identities.of(7, OF_DOCKER)
        await until(lambda: identities.of(7, OF_DOCKER) == KNOWN)
        assert news == [7]  # of who it is, and not of being nobody's
        nobodys = FakeRuntime(socket, *before, SILENT, None)
        other, _ = met(tmp_path / "other", nobodys)
        asked: list[int] = []
        other.news = lambda workload: asked.append(len(nobodys.asked))
        other.of(7, OF_DOCKER)
        await nobody_asks()
        assert asked == [len(before) + 5]

    asyncio.run(go())


def test_what_is_nobodys_is_asked_for_eight_times(tmp_path: Path, socket: Path) -> None:
    """By this agent and, as it may have come late, four times more by the next one."""

    async def go() -> None:
        runtime = FakeRuntime(socket, None)
        identities, _ = met(tmp_path, runtime)
        identities.of(7, OF_DOCKER)
        await until(lambda: len(asyncio.all_tasks()) == 1 or len(runtime.asked) > 8)
        assert runtime.asked == [ID] * 8
        again, _ = met(tmp_path, runtime)
        again.load()
        await until(lambda: len(asyncio.all_tasks()) == 1 or len(runtime.asked) > 12)
        assert runtime.asked == [ID] * 12

    asyncio.run(go())


def test_one_runtime_that_fails_keeps_what_the_other_denies_awaited(tmp_path: Path, socket: Path) -> None:
    """It may be the one that knows."""

    async def go() -> None:
        denies, fails = FakeRuntime(socket, None), FakeRuntime(socket, SILENT, name="podman")
        identities, news = met(tmp_path, denies, fails)
        identities.of(7, BARE)
        await until(lambda: len(fails.asked) > 20)
        assert identities.is_awaited(7, BARE)
        assert news == []

    asyncio.run(go())


def test_only_the_runtime_that_the_name_tells_is_asked(tmp_path: Path, socket: Path) -> None:
    """Another may have one of that id."""

    async def go() -> None:
        docker, podman = FakeRuntime(socket, KNOWN), FakeRuntime(socket, KNOWN, name="podman")
        identities, news = met(tmp_path, podman, docker)
        identities.of(7, OF_DOCKER)
        await until(lambda: news == [7])
        assert (docker.asked, podman.asked) == ([ID], [])

    asyncio.run(go())


def test_of_a_pod_cri_is_asked_first(tmp_path: Path, socket: Path) -> None:
    """With cri-dockerd both know it. Of what may be anybody's, the first of the settings."""

    async def go() -> None:
        told = Identity(None, Pod("ml", "p", UID))
        docker, cri = FakeRuntime(socket, KNOWN), FakeRuntime(socket, told, name="cri")
        identities, news = met(tmp_path, docker, cri)
        identities.of(1, OF_POD)
        await until(lambda: news == [1])
        assert (identities.of(1, OF_POD), docker.asked) == (told, [])
        identities.of(2, BARE)
        await until(lambda: news == [1, 2])
        assert (identities.of(2, BARE), cri.asked) == (KNOWN, [ID])

    asyncio.run(go())


def test_where_cri_is_off_a_pod_that_the_others_deny_is_let_go(tmp_path: Path, socket: Path) -> None:
    """It is not left behind a wall for one that nobody asks."""

    async def go() -> None:
        identities, news = met(tmp_path, FakeRuntime(socket, None))
        identities.of(1, OF_POD)
        await until(lambda: news == [1])
        assert not identities.is_awaited(1, OF_POD)

    asyncio.run(go())


def test_the_next_agent_knows_at_once_what_this_one_was_told(tmp_path: Path, socket: Path) -> None:
    """Though no runtime answers it."""

    async def go() -> None:
        identities, news = met(tmp_path, FakeRuntime(socket, KNOWN))
        identities.of(7, OF_DOCKER)
        await until(lambda: news == [7])
        silent = FakeRuntime(socket, SILENT)
        again, _ = met(tmp_path, silent)
        again.load()
        assert again.of(7, OF_DOCKER) == KNOWN
        assert not again.is_awaited(7, OF_DOCKER)
        other, _ = met(tmp_path, silent)
        other.load()
        assert other.of(7, OF_DOCKER.replace("ab", "cd")) is None  # the id stands for another cgroup now
        await until(lambda: silent.asked)
        assert silent.asked == ["cd" * 32] * len(silent.asked)

    asyncio.run(go())


@pytest.mark.parametrize("text", ["", "[]", '["/x", {}]', '["/x", {"container": 5, "pod": null}]', "[" * 10_000])
def test_a_memory_that_cannot_be_read_is_asked_again(tmp_path: Path, socket: Path, text: str) -> None:
    """As if there were none."""

    async def go() -> None:
        identities, news = met(tmp_path, FakeRuntime(socket, KNOWN))
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept/7.json").write_text(text)
        identities.load()
        assert identities.is_awaited(7, OF_DOCKER)
        await until(lambda: news == [7])

    asyncio.run(go())


def test_what_cannot_be_kept_is_known_and_told(tmp_path: Path, socket: Path) -> None:
    """Until the disk takes something again. So is what it does not give up when a container goes."""

    async def go() -> None:
        identities, news = met(tmp_path, FakeRuntime(socket, KNOWN))
        (tmp_path / "kept").write_text("no directory")
        identities.of(7, OF_DOCKER)
        await until(lambda: news == [7])
        assert identities.of(7, OF_DOCKER) == KNOWN
        (complaint,) = identities.complaints
        assert complaint.startswith(f"{tmp_path / 'kept'}: ")
        assert complaint.endswith("; the next agent will ask again who the containers are")
        identities.forget_at({OF_DOCKER})
        assert identities.complaints[0].endswith("; who has gone is still there")
        (tmp_path / "kept").unlink()
        identities.of(8, BARE)
        await until(lambda: news == [7, 8])
        assert identities.complaints == []

    asyncio.run(go())


def test_a_container_that_has_gone_is_forgotten_and_its_runtime_asked_no_more(tmp_path: Path, socket: Path) -> None:
    """Also on disk."""

    async def go() -> None:
        runtime = FakeRuntime(socket, SILENT)
        identities, news = met(tmp_path, runtime)
        identities.of(7, OF_DOCKER)
        await until(lambda: len(runtime.asked) > 2)
        identities.forget_at({OF_DOCKER})
        await nobody_asks()
        assert identities.unknown() == identities.complaints == []
        runtime.answers = [KNOWN]
        identities.of(9, OF_DOCKER)  # made anew under the same name
        await until(lambda: news == [9])
        assert [file.stem for file in (tmp_path / "kept").iterdir()] == ["9"]
        identities.forget_but(lambda workload: False)
        assert list((tmp_path / "kept").iterdir()) == []
        await identities.close()
        assert runtime.is_closed

    asyncio.run(go())


def test_what_was_made_anew_under_one_name_is_forgotten_when_it_goes(tmp_path: Path, socket: Path) -> None:
    """And not with the one before it."""

    async def go() -> None:
        runtime = FakeRuntime(socket, KNOWN)
        runtime.gate.clear()
        identities, _ = met(tmp_path, runtime)
        identities.of(1, OF_DOCKER)
        identities.of(2, OF_DOCKER)
        identities.forget(1)
        assert [one for one in (1, 2) if identities.why_unknown(one)] == [2]
        identities.forget_at({OF_DOCKER})
        assert identities.unknown() == []

    asyncio.run(go())


def test_an_id_that_stands_for_another_cgroup_is_another_container(tmp_path: Path, socket: Path) -> None:
    """The one before is asked for no more, and what goes at its place is not this one."""

    async def go() -> None:
        runtime = FakeRuntime(socket, KNOWN)
        runtime.gate.clear()
        identities, news = met(tmp_path, runtime, FakeRuntime(socket, KNOWN, name="podman"))
        identities.of(7, OF_DOCKER)
        await until(lambda: runtime.asked)
        identities.of(7, OF_PODMAN)
        await until(lambda: news == [7])
        runtime.gate.set()
        await nobody_asks()
        assert news == [7]
        identities.forget_at({OF_DOCKER})
        assert identities.of(7, OF_PODMAN) == KNOWN

    asyncio.run(go())
