"""An agent without a kernel, to be connected to a plane: all of it is real but the ground that it stands on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exeat.agent.bundle_files import BundleFiles
from exeat.agent.bundles import Bundle
from exeat.agent.command_memory import CommandMemory
from exeat.agent.commands import Commands
from exeat.agent.fleet import Fleet
from exeat.agent.fleet_parts import Enforced, Health, NodeFacts
from exeat.agent.standing import Standing
from exeat.agent.trust import Trust
from exeat.audit.signing import Signer, public_pem
from exeat.control.peer import Peer
from exeat.control.plane_client import PlaneClient
from exeat.control.together import until_one_ends
from exeat.errors import Refused, StatusWord
from exeat.plane_access import Endpoint, PlaneAccess
from exeat.v1 import agent_pb2
from exeat.v1 import plane_pb2 as pb
from unit.fake_plane import NODE, SEED

POLICY = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  owner: tests@example.com
  reason: "tests of the plane"
  subject: {{cgroups: ["/agents.slice/*"], nodes: {{role: sandbox}}}}
  egress:
  - {{name: web, hosts: [{host}]}}
"""


def policy(name: str, host: str = "a.shop.test") -> str:
    """A document."""
    return POLICY.format(name=name, host=host)


def public_key(directory: Path, seed: bytes = SEED) -> Path:
    """The file that an agent's settings name."""
    path = directory / "plane.pub"
    path.write_bytes(public_pem(Signer(seed).public))
    return path


@dataclass
class FakeGround:
    """Notes what it should enforce."""

    enforced: list[Bundle] = field(default_factory=list)
    failure: Exception | None = None
    failures: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()
    workloads: dict[str, pb.WorkloadState] = field(default_factory=dict)

    def enforce(self, bundle: Bundle) -> Enforced:
        """Or fails, as a test says."""
        if self.failure:
            raise self.failure
        self.enforced.append(bundle)
        return Enforced(len(self.enforced), self.failures)

    def states(self) -> Mapping[str, pb.WorkloadState]:
        """As a test says."""
        return dict(self.workloads)

    def health(self) -> Health:
        """As a test says."""
        return Health(len(self.workloads), 7, self.complaints)


@dataclass
class FakeDoing:
    """Notes what it should do."""

    done: list[tuple[Any, str]] = field(default_factory=list)

    async def set_mode(self, request: agent_pb2.SetModeRequest, peer: Peer) -> agent_pb2.SetModeResponse:
        """Knows one workload."""
        if request.workload == "unknown":
            raise Refused(StatusWord.NOT_FOUND, "there is no workload unknown: exeat workloads shows them")
        if request.workload == "broken":
            raise ZeroDivisionError("secret")
        self.done.append((request, str(peer)))
        return agent_pb2.SetModeResponse(cut=3)

    async def allow(self, request: agent_pb2.AllowRequest, peer: Peer) -> agent_pb2.AllowResponse:
        """Always the same allowance."""
        self.done.append((request, str(peer)))
        return agent_pb2.AllowResponse(rule=agent_pb2.RuleOrigin(allowance="cafe"))

    async def disallow(self, request: agent_pb2.DisallowRequest, peer: Peer) -> agent_pb2.DisallowResponse:
        """Always one connection."""
        self.done.append((request, str(peer)))
        return agent_pb2.DisallowResponse(cut=1)


@dataclass
class Agent:
    """One node, whose state outlives it in a directory."""

    directory: Path
    key: Path | None = None
    node: str = NODE
    ground: FakeGround = field(default_factory=FakeGround)
    doing: FakeDoing = field(default_factory=FakeDoing)
    away: list[str] = field(default_factory=list)
    standing: Standing = field(init=False)
    client: PlaneClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.trust = Trust(self.key)
        self.files = BundleFiles(self.directory / "plane")
        self.standing = Standing(self.node)
        kept = self.files.load(self.node, self.trust)
        self.standing.bundle, self.standing.damage = kept.bundle, kept.complaint

    def commands(self) -> Commands:
        """Those of this agent."""
        memory = CommandMemory(self.directory / "commands.json")
        return Commands(self.node, self.trust, memory, self.doing, lambda text: pb.WorkloadState(name=text))

    @asynccontextmanager
    async def connected_to(self, access: PlaneAccess, report: Any = None) -> AsyncIterator[Agent]:
        """Talks as long as the block lasts."""
        facts = NodeFacts(
            self.node, {"role": "sandbox"}, "0.9", "6.1.0", ("tests",), "start", time.time_ns(), self.trust
        )
        fleet = Fleet(facts, self.ground, self.files, self.commands(), self.standing)

        def away(endpoint: Endpoint, why: str) -> None:
            self.away.append(why)
            self.standing.went(str(endpoint), why)

        self.client = PlaneClient(access, fleet, report, away)
        task = asyncio.create_task(_both(self.client, fleet))
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _both(client: PlaneClient, fleet: Fleet) -> None:
    await until_one_ends(client.run(), fleet.keep_on())


async def until(is_so: Any, within_s: float = 10.0) -> None:
    """Waits for it."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.01)
