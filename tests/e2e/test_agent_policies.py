"""Several policies for one workload, modes and rollouts, and what ends while the agent runs: with open connections."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bed import Host, Tcp
from e2e.agent_holder import hold
from e2e.agent_stage import AgentStage, open_agent_stage, say
from exeat.core.rollout import is_chosen

SOON_S = 1.0  # what changes acts on open connections within that


@pytest.fixture(scope="module")
def running() -> Iterator[AgentStage]:
    """One agent for the module; `third` is one more host."""
    with open_agent_stage() as stage:
        stage.bed.add("third", Tcp(7))
        stage.start()
        yield stage


@pytest.fixture
def stage(running: AgentStage) -> Iterator[AgentStage]:
    """Without the policies and cgroups of the test before."""
    for host in (running.shop, running.evil, running.bed.host("third")):
        host.reset()
    yield running
    for path in (running.directory / "policies.d").iterdir():
        path.unlink()
    for cgroup in running.top.iterdir():
        if cgroup.is_dir():
            cgroup.rmdir()
    running.wait_until(lambda: not running.json("workloads").get("workloads"))


@pytest.fixture
def third(stage: AgentStage) -> Host:
    """A host that no policy names."""
    return stage.bed.host("third")


def in_force(stage: AgentStage, *names: str, cgroup: Path | None = None) -> None:
    """Waits until exactly these policies are, and the workload is under some."""

    def are() -> bool:
        held = {one["name"] for one in stage.json("status").get("policies", []) if not one.get("errors")}
        found = [one["cgroup"] for one in stage.json("workloads").get("workloads", [])]
        return held == set(names) and (cgroup is None or stage.path(cgroup) in found)

    stage.wait_until(are)


def ends_in(seconds: float) -> tuple[str, float]:
    """A moment of whole seconds as a policy has it, and by the monotonic clock."""
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
    left = (moment - datetime.now(UTC)).total_seconds()
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ"), time.monotonic() + left


def reasons(stage: AgentStage, cgroup: Path) -> set[tuple[str, str]]:
    """Verdict and reason of all that was told of a workload."""
    said = stage.exeat("verdicts", "--workload", stage.path(cgroup), "-o", "json").stdout
    return {(line["verdict"], line["reason"]) for line in map(json.loads, said.splitlines())}


def test_the_rules_of_two_policies_hold_and_each_tells_where_it_came_from(stage: AgentStage, third: Host) -> None:
    """One of them is taken away: what it alone allowed is cut within a second, and nothing else."""
    cgroup = stage.cgroup("union")
    stage.write("one", stage.policy("one", stage.rules(stage.shop)))
    stage.write("two", stage.policy("two", stage.rules(stage.evil)))
    in_force(stage, "one", "two", cgroup=cgroup)
    stage.wait_until(lambda: len(stage.json("workloads", "union")["workloads"][0]["policies"]) == 2)
    rules = stage.json("workloads", "union")["workloads"][0]["rules"]
    assert {(one["rule"], one["policy"]) for one in rules} == {("shop-7", "one"), ("evil-7", "two")}
    assert stage.run(lambda: say(third.address4), cgroup) == "EPERM"
    with hold(stage, cgroup, shop=stage.shop.address4, evil=stage.evil.address4) as held:
        held.wait_open()
        began = time.monotonic()
        (stage.directory / "policies.d" / "two.yaml").unlink()
        for name in ("evil idle", "evil busy"):
            how, when = held.ended(name)
            assert how == "ECONNABORTED"
            assert when - began < SOON_S
        assert held.is_open("shop idle", "shop busy")
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
    assert stage.evil.count().connections == 2
    assert third.count().connections == 0


@pytest.mark.parametrize(
    ("one", "two", "mode", "gets"),
    [
        ("enforce", "monitor", "MODE_ENFORCE", "EPERM"),
        ("open", "monitor", "MODE_MONITOR", "hello"),
        ("open", "enforce", "MODE_ENFORCE", "EPERM"),
        ("quarantine", "open", "MODE_QUARANTINE", "EPERM"),
        ("open", "open", "MODE_OPEN", "hello"),
    ],
)
def test_of_two_modes_the_stricter_one_holds(
    stage: AgentStage, third: Host, one: str, two: str, mode: str, gets: str
) -> None:
    """Judged by a host that neither policy names; the one that both name is open except in quarantine."""
    cgroup = stage.cgroup(f"modes-{one}-{two}")
    stage.write("one", stage.policy("one", stage.rules(stage.shop), mode=one))
    stage.write("two", stage.policy("two", stage.rules(stage.shop), mode=two))
    in_force(stage, "one", "two", cgroup=cgroup)
    stage.wait_until(lambda: stage.json("workloads", cgroup.name)["workloads"][0]["mode"] == mode)
    assert stage.run(lambda: say(third.address4), cgroup) == gets
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == ("EPERM" if one == "quarantine" else "hello")
    assert third.count().connections == (gets == "hello")
    if mode == "MODE_MONITOR":
        stage.wait_until(lambda: ("AUDIT", "address_not_allowed") in reasons(stage, cgroup))


def test_a_rollout_enforces_for_those_it_chooses_and_reports_for_the_others(stage: AgentStage, third: Host) -> None:
    """The choice is the documented hash, and it grows: who was in stays in."""
    cgroups = [stage.cgroup(f"roll-{number}") for number in range(12)]
    for percent in (50, 100):
        text = stage.policy("part", stage.rules(stage.shop), more=f"  rollout: {{percent: {percent}}}\n")
        stage.write("part", text)
        chosen = {one for one in cgroups if is_chosen(stage.path(one), "part", percent)}
        assert percent == 100 or 0 < len(chosen) < len(cgroups)

        def modes() -> dict[str, str]:
            return {one["cgroup"]: one["mode"] for one in stage.json("workloads").get("workloads", [])}

        wanted = {stage.path(one): "MODE_ENFORCE" if one in chosen else "MODE_MONITOR" for one in cgroups}
        stage.wait_until(lambda wanted=wanted: modes() == wanted)
        third.reset()
        for cgroup in cgroups:
            assert stage.run(lambda: say(third.address4), cgroup) == ("EPERM" if cgroup in chosen else "hello")
            assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
            expected = ("DROPPED" if cgroup in chosen else "AUDIT", "address_not_allowed")
            stage.wait_until(lambda cgroup=cgroup, expected=expected: expected in reasons(stage, cgroup))
        assert third.count().connections == len(cgroups) - len(chosen)


def test_a_rule_that_ends_cuts_its_connections_and_no_others(stage: AgentStage) -> None:
    """Within a second of its end, idle or busy; from then on the reason is that it ended."""
    cgroup = stage.cgroup("rule-end")
    end, moment = ends_in(6)
    ending = stage.rules(stage.evil).replace("protocol: tcp", f'protocol: tcp, expires: "{end}"')
    stage.write("ends", stage.policy("ends", stage.rules(stage.shop) + ending))
    in_force(stage, "ends", cgroup=cgroup)
    with hold(stage, cgroup, shop=stage.shop.address4, evil=stage.evil.address4) as held:
        held.wait_open()
        for name in ("evil idle", "evil busy"):
            how, when = held.ended(name)
            assert how in ("ECONNABORTED", "EPERM")  # a busy one may meet the kernel before the agent
            assert -0.1 < when - moment < SOON_S
        assert held.is_open("shop idle", "shop busy")
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
    stage.wait_until(lambda: ("DROPPED", "rule_expired") in reasons(stage, cgroup))


def test_a_policy_that_ends_denies_all(stage: AgentStage) -> None:
    """And cuts what it allowed."""
    cgroup = stage.cgroup("policy-end")
    end, moment = ends_in(5)
    stage.write("ends", stage.policy("ends", stage.rules(stage.shop), more=f'  expires: "{end}"\n'))
    in_force(stage, "ends", cgroup=cgroup)
    with hold(stage, cgroup, shop=stage.shop.address4) as held:
        held.wait_open()
        for name in ("shop idle", "shop busy"):
            _, when = held.ended(name)
            assert -0.1 < when - moment < SOON_S
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "EPERM"
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    stage.wait_until(lambda: ("DROPPED", "policy_expired") in reasons(stage, cgroup))
    assert stage.shop.count().connections == 2


def test_one_of_two_policies_ends_and_the_other_goes_on(stage: AgentStage) -> None:
    """Its rules end with it, the union does not."""
    cgroup = stage.cgroup("one-ends")
    end, moment = ends_in(6)
    stage.write("ends", stage.policy("ends", stage.rules(stage.evil), more=f'  expires: "{end}"\n'))
    stage.write("stays", stage.policy("stays", stage.rules(stage.shop)))
    in_force(stage, "ends", "stays", cgroup=cgroup)
    stage.wait_until(lambda: len(stage.json("workloads", "one-ends")["workloads"][0]["policies"]) == 2)
    with hold(stage, cgroup, shop=stage.shop.address4, evil=stage.evil.address4) as held:
        held.wait_open()
        assert -0.1 < held.ended("evil idle")[1] - moment < SOON_S
        assert held.is_open("shop idle", "shop busy")
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
