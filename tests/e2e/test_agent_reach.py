"""How far a policy reaches down the tree of cgroups: to whom below it, not to the agent itself, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bed import start_in
from bed.namespace import Namespace
from e2e.agent_stage import AgentStage, open_agent_stage, say
from e2e.gatekeeper import look_up, look_up_after_moving
from exeat.kernel.abi import ANCESTORS_MAX
from exeat.kernel.filesystems import levels_above


@pytest.fixture
def stage() -> Iterator[AgentStage]:
    """No agent runs yet."""
    with open_agent_stage() as stage:
        yield stage


def below(stage: AgentStage, levels: int) -> Path:
    """A cgroup so many levels below the root of all."""
    path = stage.top
    for level in range(1 + (levels_above(stage.top.parent) or 0), levels):
        path = path / f"level{level}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def looked_up(name: str) -> list[str] | str:
    """Addresses, or that the question was denied."""
    try:
        return look_up(name)
    except PermissionError:
        return "EPERM"


def test_an_agent_below_its_own_policy_does_not_cut_itself_off(stage: AgentStage) -> None:
    """As of a DaemonSet under a policy for /kubepods.slice: it asks its upstream, which nobody beside it may."""
    parent = stage.cgroup("all")
    own, coder = parent / "exeat", parent / "coder"
    own.mkdir()
    coder.mkdir()
    stage.write("all", stage.policy("all", stage.names("a.shop.test"), subject=stage.path(parent)))
    stage.start(cgroup=own)
    assert stage.run(lambda: looked_up("a.shop.test"), coder) == [stage.shop.address4]
    stage.kill()
    stage.start(cgroup=own)  # in its place from the beginning, whatever the one before it left
    assert stage.run(lambda: looked_up("b.shop.test"), coder) == []
    assert stage.run(lambda: looked_up("a.shop.test"), coder) == [stage.shop.address4]
    assert stage.run(lambda: say(stage.evil.address4), coder) == "EPERM"
    assert stage.evil.count().connections == 0
    assert stage.run(lambda: say(stage.evil.address4), own) == "hello"  # it alone is judged by nobody
    stage.kill()
    stage.start()  # elsewhere: who is there now is no agent
    assert stage.run(lambda: say(stage.evil.address4), own) == "EPERM"
    assert stage.evil.count().connections == 1


def test_who_is_in_the_agents_cgroup_does_not_go_free_with_it(stage: AgentStage) -> None:
    """As of an agent that was started in somebody's session: it is judged as they are, and says so."""
    parent = stage.cgroup("all")
    session = parent / "session"
    session.mkdir()
    stage.write("all", stage.policy("all", stage.names("a.shop.test"), subject=stage.path(parent)))
    beside = start_in(stage.bed, ["sleep", "300"], cgroup=session)
    stage.start(cgroup=session)
    assert stage.run(lambda: say(stage.evil.address4), session) == "EPERM"
    assert stage.evil.count().connections == 0
    assert f"judged by the policies of {stage.path(parent)}" in stage.exeat("status", check=False).stdout
    stage.kill()
    beside.kill()
    beside.wait()
    stage.bed.disown(beside)
    stage.start(cgroup=session)
    assert "judged by the policies" not in stage.exeat("status", check=False).stdout
    assert stage.run(lambda: say(stage.evil.address4), session) == "hello"


@pytest.mark.parametrize("moves_after_s", [0.0, 0.05, 0.3])
def test_a_container_under_a_policy_for_all_of_them_gets_its_first_answer(
    stage: AgentStage, moves_after_s: float
) -> None:
    """Its cgroup is no workload of its own, and the gate is in its namespace before it asks all the same."""
    parent = stage.cgroup("all")
    stage.write("all", stage.policy("all", stage.names("a.shop.test"), subject=stage.path(parent)))
    stage.start()
    for number in range(3):
        cgroup, inside = parent / f"container{number}", Namespace()
        inside.command("ip", "link", "set", "lo", "up")
        cgroup.mkdir()
        ask = partial(look_up_after_moving, inside, moves_after_s, "a.shop.test")
        try:
            assert stage.run(ask, cgroup) == [stage.shop.address4]
        finally:
            inside.close()


def test_deeper_than_programs_look_nothing_is_called_judged(stage: AgentStage) -> None:
    """What cannot be enforced is refused, and told; one level above, it is enforced."""
    deep, deepest = below(stage, ANCESTORS_MAX), below(stage, ANCESTORS_MAX + 1)
    mount = stage.top.parent
    stage.start()
    refused = stage.exeat("register", "deepest", "--cgroup", f"/{deepest.relative_to(mount)}", check=False)
    assert refused.returncode != 0
    assert f"only cgroups 1 to {ANCESTORS_MAX} levels below the root are judged" in refused.stderr
    assert stage.run(lambda: say(stage.evil.address4), deepest) == "hello"
    pattern = f"/{deepest.relative_to(mount)}"
    stage.write("deepest", stage.policy("deepest", stage.rules(stage.shop), subject=pattern))
    stage.wait_until(lambda: "levels below the root are judged" in stage.exeat("status", check=False).stdout)
    assert pattern not in stage.exeat("workloads").stdout
    reached = stage.evil.count().connections
    stage.exeat("register", "deep", "--cgroup", f"/{deep.relative_to(mount)}")
    assert stage.run(lambda: say(stage.evil.address4), deep) == "EPERM"
    assert stage.run(lambda: say(stage.evil.address4), deepest) == "EPERM"  # by what is above it
    assert stage.evil.count().connections == reached
