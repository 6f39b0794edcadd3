"""Tests run beside each other in several processes; what shares something of the host does not.

`alone`: it measures time or memory, or counts what is left of other runs; it runs by itself, after the others.
"""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Tests start programs while gRPC runs in the same process; its handlers for fork() end the child now and then.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.pop("PYTHONUNBUFFERED", None)  # it hides what a program loses that does not flush
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, each of some thousand programs compiles its modules anew
sys.dont_write_bytecode = False
settings.register_profile("exeat", deadline=None)  # that the machine was busy is no counterexample
settings.load_profile("exeat")

# `exeat run` keeps its records in one place and asks what others left there: these are one after the other.
_RUNS = (
    "test_run_", "test_launch", "test_attack_gate_run", "test_bypass_run", "test_gate_clients", "test_agent_run",
    "test_policy_tools",
)  # fmt: skip
# An agent with policies for containers denies those that no runtime of its own knows: another test's.
_CONTAINERS = (
    "test_container_policies", "test_pod_policies", "test_attack_identity", "test_image_", "test_runtimes_",
    "test_deb",
)  # fmt: skip
_GROUPS = (("runs", _RUNS), ("containers", _CONTAINERS))
_ALONE = (
    "test_bench_short", "test_verdict_flood", "test_attack_gate_floods", "test_upstream_load", "test_compile_size",
    "test_launch.py", "test_bench_guest_short", "test_real_guest", "test_attack_identity_many",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before the groups are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file stay together: they share fixtures."""
    for item in items:
        name = Path(str(item.fspath)).name
        item.add_marker(
            pytest.mark.xdist_group(next((group for group, first in _GROUPS if name.startswith(first)), name))
        )
        if name.startswith(_ALONE):
            item.add_marker(pytest.mark.alone)
