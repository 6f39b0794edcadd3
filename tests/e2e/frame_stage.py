"""A stage for who sends frames: an agent whose policy allows nothing but a name, and a host that counts datagrams."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bed import Host, Udp
from bed.frames import PORT
from e2e.agent_stage import AgentStage, open_agent_stage
from e2e.guard import remove_cgroup
from exeat.kernel.tcx import has_tcx


@contextmanager
def open_frame_stage() -> Iterator[tuple[AgentStage, Host]]:
    """Both, or a skip with a sentence."""
    if not has_tcx():
        pytest.skip("this kernel has no tcx")
    with open_agent_stage() as stage:
        sink = stage.bed.add("sink", Udp(PORT))
        stage.write("coder", stage.policy("coder", stage.names("a.shop.test")))
        stage.start()
        yield stage, sink


def managed_cgroup(stage: AgentStage, name: str) -> Path:
    """A cgroup that is under the policy by now."""
    cgroup = stage.cgroup(name)
    stage.wait_until(lambda: stage.exeat("workloads", stage.path(cgroup), check=False).returncode == 0)
    return cgroup


@contextmanager
def free_cgroup(stage: AgentStage) -> Iterator[Path]:
    """A cgroup that no policy is for."""
    cgroup = stage.top.parent / f"exeat-agents-{os.getpid()}-free"
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        remove_cgroup(cgroup)
