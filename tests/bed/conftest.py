"""What the bed's own tests share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bed import Bed, Host, missing_capability


@pytest.fixture(scope="package", autouse=True)
def _can_make_a_bed() -> None:
    """Skip with a sentence where no bed can be made."""
    if missing := missing_capability():
        pytest.skip(missing)


@pytest.fixture(scope="package")
def bed() -> Iterator[Bed]:
    """One bed for the tests that only look."""
    with Bed({"net.ipv4.ping_group_range": "0 65535", "net.ipv4.tcp_fastopen": 5}) as it:
        yield it


@pytest.fixture
def new_host(bed: Bed, request: pytest.FixtureRequest) -> Callable[..., Host]:
    """Put up a host whose name no other test uses."""
    label = request.node.name.removeprefix("test_").replace("_", "-")[:50]
    return lambda *services, also=(): bed.add(f"{label}.test", *services, also=also)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of our own, gone afterwards."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    roots = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    if not roots:
        pytest.skip("no cgroup2 file system is mounted")
    path = Path(roots[0]) / f"bed-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir()
    yield path
    path.rmdir()
