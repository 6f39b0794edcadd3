"""What several modules of unit tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from upstream_stage import Stage


@pytest.fixture(scope="module")
def servers() -> Iterator[Stage]:
    """One set of DNS servers on loopback for all tests of a module."""
    from loopback_hosts import loopback_hosts  # dnspython takes its time: only who needs servers pays it
    from upstream_stage import Stage

    with loopback_hosts() as hosts:
        yield Stage(hosts)


@pytest.fixture
def stage(servers: Stage) -> Stage:
    """As if nothing had been before."""
    servers.clear()
    return servers


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes are asked again a hundred times as soon."""
    from exeat.agent import identities

    monkeypatch.setattr(identities, "_AGAIN_S", (0.001, 0.001, 0.002))
