"""What tests of several files here share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.container_stage import Door
from deploy.deb_packages import build
from e2e.agent_stage import AgentStage


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The Debian packages exeat and exeat-plane of this tree."""
    return build(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def door(opened: tuple[AgentStage, Door]) -> Iterator[Door]:
    """To the runtime of the asking module's agent; open again after the test."""
    yield opened[1]
    opened[1].open()
