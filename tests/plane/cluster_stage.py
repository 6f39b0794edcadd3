"""A whole plane beside an API server of a cluster, with agents: for tests of what comes of the cluster's objects."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exeat.plane.cluster import controller, following, lease, writing
from exeat.plane.cluster.controller import ClusterController
from exeat.plane.policies import policies
from plane.certificates import Authority
from plane.cluster_api import FakeCluster
from plane.serving import Serving, serving, until
from plane.simulated import SimulatedAgent, running


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in tenths of the time."""
    monkeypatch.setattr(following, "_MOST_S", 0.5)
    monkeypatch.setattr(following, "_SHORT_S", 0.1)
    monkeypatch.setattr(controller, "_ROUND_S", 0.5)
    monkeypatch.setattr(controller, "_AFTER_ERROR_S", 0.2)
    monkeypatch.setattr(controller, "_COST", 1)
    monkeypatch.setattr(writing, "_SOON_S", 0.1)
    monkeypatch.setattr(writing, "_COUNTS_S", 0.5)
    monkeypatch.setattr(writing, "_REFUSED_S", 0.5)
    monkeypatch.setattr(lease, "RENEW_S", 0.3)
    monkeypatch.setattr(lease, "LEASE_NS", 2 * 10**9)


@dataclass
class Stage:
    """What a test asks and tells."""

    cluster: FakeCluster
    serving: Serving
    agent: SimulatedAgent

    @property
    def controller(self) -> ClusterController:
        """The plane's part that follows the cluster."""
        found = self.serving.daemon._cluster
        assert found
        return found

    @property
    def holdings(self) -> set[str]:
        """Names of the policies that the agent has."""
        return set(self.agent.holdings)

    def text(self, policy: str) -> str:
        """The document whose revision the agent has."""
        with self.serving.plane.database.reading() as tx:
            return policies.document(tx, self.agent.holdings[policy])

    async def becomes(self, *names: str, within_s: float = 15.0) -> None:
        """The agent has these policies and no others."""
        try:
            await until(lambda: self.holdings == set(names), within_s)
        except TimeoutError:
            said = (sorted(self.holdings)[:9], self.controller.problems(), self.cluster.asked[-5:])
            raise AssertionError(f"not {names}: {said}") from None

    async def has(self, namespace: str, name: str, reason: str, kind: str = "Accepted", within_s: float = 15.0) -> str:
        """An object's condition has this reason; its message."""
        try:
            await until(lambda: self.cluster.condition(namespace, name, kind)[1] == reason, within_s)
        except TimeoutError:
            said = (json.dumps(self.cluster.get(namespace, name)), self.controller.problems())
            raise AssertionError(f"not {reason}: {said}") from None
        return self.cluster.condition(namespace, name, kind)[2]

    async def history(self) -> list[tuple[str, str]]:
        """Names and actions of all changes, the first first."""
        found = await self.serving.reading(lambda tx: policies.history(tx, limit=100_000))
        return [(one.name, one.action.value) for one in reversed(found)]

    async def sees(self, is_so: Callable[[], Any], within_s: float = 15.0) -> None:
        """Waits for it."""
        await until(is_so, within_s)


@contextlib.asynccontextmanager
async def staged(cluster: FakeCluster, place: Path, authority: Authority, store: str = "") -> AsyncIterator[Stage]:
    """A plane that follows the cluster, and one agent. The store is the same for every stage of a place."""
    async with serving(authority, store or f"sqlite:{place}/plane.db", cluster=cluster.place) as served:
        agent = SimulatedAgent("node-1.test")
        async with running([agent], served.access):
            yield Stage(cluster, served, agent)
