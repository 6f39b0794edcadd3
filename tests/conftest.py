"""Tests run beside each other in several processes; what shares something of the host does not.

`alone`: it measures time or memory, or counts what is left of other runs; it runs by itself, after the others.
"""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

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
    "test_attack_identity.py", "test_container_policies", "test_pod_policies", "test_image_", "test_runtimes_",
)  # fmt: skip
_DEB = ("test_deb",)  # the packages are built once
_GROUPS = {"runs": _RUNS, "containers": _CONTAINERS, "deb": _DEB}
_ALONE = (
    "test_bench_short", "test_verdict_flood", "test_attack_gate_floods", "test_upstream_load", "test_compile_size",
    "test_launch.py", "test_bench_guest_short", "test_real_guest", "test_attack_identity_many",
)  # fmt: skip


class _ByFile(LoadScopeScheduling):
    """Tests of one file stay in one process, because they share fixtures.

    Not by marks of xdist_group: xdist 3.8 writes them into what pytest 9.2 does not read, and groups nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        name = nodeid.partition("::")[0].rpartition("/")[2]
        return next((group for group, names in _GROUPS.items() if name.startswith(names)), name)


@pytest.hookimpl(optionalhook=True)  # without xdist there is no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    """In the order of the folders: what takes long comes first, and the many small tests of unit/ fill the end."""
    config.option.loadscopereorder = False
    return _ByFile(config, log)


@pytest.hookimpl(tryfirst=True)  # before they are chosen by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what runs by itself."""
    for item in items:
        if Path(str(item.fspath)).name.startswith(_ALONE):
            item.add_marker(pytest.mark.alone)
