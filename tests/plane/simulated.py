"""A fleet without kernels: many agents in one process, each with the real client code and real TLS.

async with running(agents, access_of):
    await until(lambda: all(agent.standing.is_connected for agent in agents))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exeat.agent.bundles import Bundle
from exeat.agent.fleet import Fleet
from exeat.agent.fleet_parts import NodeFacts
from exeat.agent.standing import Standing
from exeat.agent.trust import Trust
from exeat.control.plane_client import PlaneClient
from exeat.plane_access import Endpoint, PlaneAccess
from exeat.v1 import plane_pb2 as pb
from unit.fleet_words import FakeGround


class MemoryDisk:
    """In place of BundleFiles: each node would have a disk of its own."""

    def save(self, bundle: Bundle) -> None:
        """Kept nowhere."""


@dataclass
class Obedient:
    """Does every command, and notes it."""

    done: list[pb.Command] = field(default_factory=list)
    refusal: str = ""

    async def obey(self, signed: pb.Signed) -> pb.CommandResult:
        """At once."""
        command = pb.Command.FromString(signed.content)
        self.done.append(command)
        return pb.CommandResult(id=command.id, refusal=self.refusal)


@dataclass
class SimulatedAgent:
    """One node. It may be run several times, one after the other, and keeps what it has."""

    node: str
    labels: dict[str, str] = field(default_factory=dict)
    key: Path | None = None
    start: str = "1"
    ground: FakeGround = field(default_factory=FakeGround)
    commands: Obedient = field(default_factory=Obedient)
    away: list[str] = field(default_factory=list)
    standing: Standing = field(init=False)

    def __post_init__(self) -> None:
        self.standing = Standing(self.node)

    @property
    def holdings(self) -> dict[str, str]:
        """Revisions in force, by policy."""
        return self.standing.bundle.holdings if self.standing.bundle else {}

    async def run(self, access: PlaneAccess, report: Any = None) -> None:
        """Until it is cancelled."""
        trust = Trust(self.key)
        facts = NodeFacts(self.node, self.labels, "0.9", "6.1.0", ("tests",), self.start, time.time_ns(), trust)
        fleet = Fleet(facts, self.ground, MemoryDisk(), self.commands, self.standing)
        await PlaneClient(access, fleet, report, self._went).run()

    def _went(self, endpoint: Endpoint, why: str) -> None:
        self.away.append(why)
        self.standing.went(str(endpoint), why)


@asynccontextmanager
async def running(agents: Iterable[SimulatedAgent], access_of: Callable[[str], PlaneAccess]) -> AsyncIterator[None]:
    """They talk, or try to, as long as the block lasts."""
    tasks = [asyncio.create_task(agent.run(access_of(agent.node))) for agent in agents]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
