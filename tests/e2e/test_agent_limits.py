"""Limits under an agent: the kernel's quarantine is known, shown, kept over restarts, and lifted by hand."""

from collections.abc import Iterator

import pytest

from e2e.agent_stage import AgentStage, open_agent_stage, say

LIMITS = "  limits: {connections: {max: 3, per: 1h, then: quarantine}}\n"
DENIES = "  limits: {connections: {max: 3, per: 1h, then: deny}}\n"
UNDECLARED = "  onUndeclared: quarantine\n"


@pytest.fixture
def stage() -> Iterator[AgentStage]:
    """A stage of its own."""
    with open_agent_stage() as stage:
        yield stage


def mode(stage: AgentStage, name: str) -> str:
    """What the agent says of a workload."""
    found = stage.json("workloads", name)["workloads"][0]
    return f"{found['mode']} {found.get('mode_reason', '')}".strip()


def test_a_quarantine_by_the_kernel_survives_the_agent_and_a_change_of_policy(stage: AgentStage) -> None:
    """And ends when somebody lifts it."""
    stage.write("coder", stage.policy("coder", stage.rules(stage.shop), more=LIMITS))
    cgroup, other = stage.cgroup("coder-1"), stage.cgroup("coder-2")
    stage.start()
    said = [stage.run(lambda: say(stage.shop.address4), cgroup) for _ in range(5)]
    assert said == ["hello"] * 3 + ["EPERM"] * 2
    stage.wait_until(lambda: mode(stage, "coder-1").startswith("MODE_QUARANTINE"))
    assert "connections" in mode(stage, "coder-1")
    stage.kill()
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "EPERM"
    stage.start()
    stage.write("coder", stage.policy("coder", stage.rules(stage.shop)))
    stage.wait_until(lambda: len(stage.json("workloads", "coder-2")["workloads"][0]["rules"]) == 1)
    stage.exeat("reload")
    assert mode(stage, "coder-1").startswith("MODE_QUARANTINE")
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "EPERM"
    assert stage.run(lambda: say(stage.shop.address4), other) == "hello"
    stage.exeat("quarantine", "coder-1", "--lift")
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"


def test_a_quarantine_that_fell_while_nobody_ran_is_found_by_the_next_agent(stage: AgentStage) -> None:
    """The program wrote it; the next agent must not take it for something to be tidied."""
    stage.write("coder", stage.policy("coder", stage.rules(stage.shop), more=UNDECLARED))
    cgroup = stage.cgroup("coder-1")
    stage.start()
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
    stage.kill()
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "EPERM"
    stage.start()
    assert mode(stage, "coder-1").startswith("MODE_QUARANTINE")
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "EPERM"
    assert stage.evil.count().connections == 0


def test_a_limit_that_only_denies_quarantines_nobody(stage: AgentStage) -> None:
    """Its reason is the same, and the mode stays."""
    stage.write("coder", stage.policy("coder", stage.rules(stage.shop), more=DENIES))
    cgroup = stage.cgroup("coder-1")
    stage.start()
    assert [stage.run(lambda: say(stage.shop.address4), cgroup) for _ in range(4)] == ["hello"] * 3 + ["EPERM"]
    stage.wait_until(lambda: "limit_connections" in stage.exeat("verdicts", "--since", "1m").stdout)
    assert mode(stage, "coder-1") == "MODE_ENFORCE"
    shown = stage.json("workloads", "coder-1")["workloads"][0]["limits"][0]
    assert (shown["name"], shown["used"], shown["max"], shown["then"]) == ("connections", "3", "3", "deny")
    assert "3 of 3" in stage.exeat("workloads", "coder-1").stdout
