"""A change of policy as a program sees it that never stops connecting: what both policies allow is never denied."""

import threading
import time
from collections.abc import Iterator

import pytest

from e2e.agent_stage import AgentStage, open_agent_stage, say
from e2e.escapes import got, tcp
from e2e.gatekeeper import look_up

CHANGES, PAUSE_S = 25, 0.12


@pytest.fixture
def stage() -> Iterator[AgentStage]:
    """One workload."""
    with open_agent_stage() as stage:
        yield stage


def test_a_granted_address_is_open_throughout_changes_of_policy(stage: AgentStage) -> None:
    """The new policy's grants are written before it counts; a moment later would be too late for somebody."""
    by_name = "  - {name: by-name, hosts: [a.shop.test], ports: [7], protocol: tcp}\n"
    cgroup = stage.cgroup("coder-1")

    def write(number: int) -> None:
        stage.write("coder", stage.policy("coder", by_name + stage.rules(stage.evil, port=8000 + number)))

    write(0)
    stage.start()
    address = stage.shop.address4
    ends_s = time.monotonic() + CHANGES * PAUSE_S
    counted: list[int] = []

    def client() -> list[int]:
        assert look_up("a.shop.test") == [address]
        allowed = denied = 0
        while time.monotonic() < ends_s:
            with tcp(address) as sock:
                sock.settimeout(5)
                if got(lambda: sock.connect((address, 7))) == "EPERM":
                    denied += 1
                else:
                    allowed += 1
        return [allowed, denied]

    thread = threading.Thread(target=lambda: counted.extend(stage.run(client, cgroup)))
    thread.start()
    for number in range(1, CHANGES):
        write(number)
        time.sleep(PAUSE_S)
    thread.join()
    assert counted[0] > 100
    assert counted[1] == 0, stage.exeat("workloads", "coder-1").stdout
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
