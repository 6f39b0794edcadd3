"""A container runtime that answers as a test tells it, and what the agent then knows of containers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from exeat.agent.identities import Identities
from exeat.errors import ExeatError
from exeat.model.identity import Container, Identity, Pod
from exeat.runtimes.runtime import Runtime

ID = "ab" * 32
UID = "f3b9c1d2-1a2b-4c3d-8e9f-0a1b2c3d4e5f"
BARE = f"/machine/{ID}"  # a name that could be anybody's
OF_DOCKER, OF_PODMAN = f"/docker/{ID}", f"/machine.slice/libpod-{ID}.scope"
OF_POD = f"/kubepods/burstable/pod{UID}/{ID}"
KNOWN = Identity(
    Container("docker", ID, "coder", "python:3", ("python:3",), (("app", "x"),)), Pod("ml", "p", "u", (("a", "b"),))
)

Answer = Identity | None | ExeatError


class FakeRuntime:
    """Answers when it is let, what it is told to: the last answer again and again."""

    def __init__(self, socket: Path, *answers: Answer, name: str = "docker") -> None:
        self.name, self.socket = name, socket
        self.answers = list(answers)
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []
        self.most_at_once = 0
        self.is_closed = False
        self._at_once = 0

    async def find(self, container_id: str) -> Identity | None:
        """See Runtime."""
        self.asked.append(container_id)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await self.gate.wait()
        finally:
            self._at_once -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ExeatError):
            raise answer
        return answer

    async def close(self) -> None:
        """See Runtime."""
        self.is_closed = True


def socket_at(path: Path) -> Path:
    """One that is there, which is all that is looked at."""
    path.touch()
    return path


def met(place: Path, *runtimes: Runtime) -> tuple[Identities, list[int]]:
    """What an agent with these runtimes knows, and of whom it had news. Kept in `kept`; cgroups are in `cg`."""
    identities = Identities(runtimes, place / "kept", lambda path: place / "cg" / path.lstrip("/"))
    for path in (BARE, OF_DOCKER, OF_PODMAN, OF_POD):
        (place / "cg" / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    news: list[int] = []
    identities.news = news.append
    return identities, news


async def until(is_so: Callable[[], object]) -> None:
    """Waits for it, not for ever."""
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.001)


async def nobody_asks() -> None:
    """Waits until every question has been given up."""
    await until(lambda: len(asyncio.all_tasks()) == 1)
