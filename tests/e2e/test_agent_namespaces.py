"""Workloads in network namespaces of their own: the agent's gate listens there, cuts there, and leaves again."""

import errno
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bed import start_in
from bed.namespace import CLONE_NEWNET, Namespace, _libc
from bed.network import lay_line
from e2e.agent_holder import hold
from e2e.agent_stage import AgentStage, open_agent_stage, say
from e2e.gatekeeper import fetch, look_up, look_up_after_moving
from e2e.guard import remove_cgroup

SOON_S = 1.0
LEFT_S = 15.0  # a namespace without a process of the workload dies within that
CONTAINERS = 20  # made to measure the first answer


@pytest.fixture(scope="module")
def running() -> Iterator[AgentStage]:
    """One agent for the module; its policy is for every cgroup of the stage."""
    with open_agent_stage() as stage:
        stage.write("coder", policy(stage, stage.rules(stage.shop)))
        stage.start()
        yield stage


@pytest.fixture
def stage(running: AgentStage) -> Iterator[AgentStage]:
    """Without the cgroups of the test before."""
    running.shop.reset()
    running.evil.reset()
    yield running
    for cgroup in running.top.iterdir():
        if cgroup.is_dir():
            remove_cgroup(cgroup)
    running.wait_until(lambda: not running.json("workloads").get("workloads"))


def policy(stage: AgentStage, rules: str) -> str:
    """A policy of these rules and of a name."""
    return stage.policy("coder", rules + stage.names("a.shop.test"))


@contextmanager
def container(stage: AgentStage) -> Iterator[Namespace]:
    """A namespace with a way to the hosts; its end there is a device named `container`."""
    hosts = stage.bed.network.hosts
    assert not device_is_there(stage)
    namespace = Namespace()
    try:
        lay_line(namespace, hosts, "container", ("198.51.100.128/30",))
        yield namespace
    finally:
        namespace.close()
        stage.wait_until(lambda: not device_is_there(stage), LEFT_S)


def device_is_there(stage: AgentStage) -> bool:
    """Whether the container's namespace lives."""
    return "container" in stage.bed.network.hosts.command("ip", "-o", "link")


def gates(stage: AgentStage, cgroup: Path) -> int:
    """In how many namespaces a workload's gate listens."""
    return int(stage.json("workloads", stage.path(cgroup))["workloads"][0].get("gates", 0))


def until_answered() -> tuple[float, int]:
    """Asks until there is an answer: after how many seconds, and how many questions were denied before."""
    began = time.monotonic()
    denied = 0
    while time.monotonic() - began < 10:
        try:
            if look_up("a.shop.test"):
                return time.monotonic() - began, denied
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENETUNREACH):  # the latter: nobody judges the cgroup yet
                raise
            denied += 1
            time.sleep(0.001)
    raise TimeoutError(f"{denied} questions were denied, and none answered")


def quantiles(seconds: list[float]) -> str:
    """For people."""
    ordered = sorted(one * 1000 for one in seconds)
    return f"p50 {ordered[len(ordered) // 2]:.1f} ms, slowest of {len(ordered)} {ordered[-1]:.1f} ms"


def test_in_a_container_names_resolve_and_rules_hold(stage: AgentStage) -> None:
    """What is allowed arrives by the container's own wire; what is not does not."""
    cgroup = stage.cgroup("container")
    stage.wait_until(lambda: stage.exeat("workloads", stage.path(cgroup), check=False).returncode == 0)
    with container(stage) as inside:
        assert stage.run(lambda: say(stage.shop.address4), cgroup, at=inside) == "hello"
        assert stage.run(lambda: say(stage.evil.address4), cgroup, at=inside) == "EPERM"
        stage.run(until_answered, cgroup, at=inside)
        assert stage.run(lambda: fetch(stage.shop.address4, "a.shop.test"), cgroup, at=inside) == "I am a.shop.test"
        assert stage.run(lambda: fetch(stage.shop.address4, "b.shop.test"), cgroup, at=inside) == "EACCES"
        assert stage.run(lambda: look_up("a.evil.test"), cgroup, at=inside) == []
    assert stage.evil.count().connections == 0


def test_the_first_question_in_a_new_container_is_answered_soon(
    stage: AgentStage, record_property: Callable[[str, object], None]
) -> None:
    """Its loopback is up before its first process, as container engines do it; the process asks at once."""
    took, denied = [], 0
    for number in range(CONTAINERS):
        cgroup, inside = stage.cgroup(f"new-{number}"), Namespace()
        try:
            inside.command("ip", "link", "set", "lo", "up")
            seconds, before = stage.run(until_answered, cgroup, at=inside)
        finally:
            inside.close()
        took.append(seconds)
        denied += before > 0
    print(f"first answer in a new namespace: {quantiles(took)}; {denied} first questions were denied")
    record_property("first_answer_ms", [round(one * 1000, 1) for one in took])
    assert max(took) < SOON_S


@pytest.mark.parametrize("moves_after_s", [0.0, 0.02, 0.1, 0.3])
def test_a_process_that_moves_into_its_namespace_finds_its_gate_there(stage: AgentStage, moves_after_s: float) -> None:
    """As a runtime's does: it enters the container's cgroup, then its namespace, and becomes the program later."""
    cgroup, inside = stage.cgroup("moves"), Namespace()
    inside.command("ip", "link", "set", "lo", "up")
    try:
        found = stage.run(lambda: look_up_after_moving(inside, moves_after_s, "a.shop.test"), cgroup)
        assert found == [stage.shop.address4]
    finally:
        inside.close()


def test_a_loopback_that_comes_up_late_is_noticed(stage: AgentStage) -> None:
    """A process that lives in the namespace before its loopback does gets answers once there is a way to get them."""
    cgroup, inside = stage.cgroup("late"), Namespace()
    try:
        process = start_in(stage.bed, ["sleep", "60"], cgroup=cgroup, at=inside)
        time.sleep(2.5)  # later than the agent looks by itself
        inside.command("ip", "link", "set", "lo", "up")
        seconds, _ = stage.run(until_answered, cgroup, at=inside)
        assert seconds < SOON_S
        process.kill()
        process.wait()
        stage.bed.disown(process)
    finally:
        inside.close()


def test_a_second_namespace_inside_gets_a_gate_of_its_own(stage: AgentStage) -> None:
    """As `unshare --net` makes it; the first one's goes on, and both are this workload's."""
    cgroup = stage.cgroup("two")
    stage.run(until_answered, cgroup)

    def in_a_namespace_of_its_own() -> tuple[float, int]:
        assert _libc.unshare(CLONE_NEWNET) == 0
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return until_answered()

    seconds, denied = stage.run(in_a_namespace_of_its_own, cgroup)
    print(f"first answer in a namespace made inside: {seconds * 1000:.1f} ms, {denied} questions were denied before")
    assert seconds < SOON_S
    assert gates(stage, cgroup) == 2
    assert stage.run(lambda: look_up("a.shop.test"), cgroup) == [stage.shop.address4]
    stage.wait_until(lambda: gates(stage, cgroup) == 1, LEFT_S)
    assert stage.run(lambda: look_up("a.shop.test"), cgroup) == [stage.shop.address4]


@pytest.mark.parametrize("remains", [True, False], ids=["somebody remains elsewhere", "nobody remains"])
def test_a_namespace_that_everybody_left_dies(stage: AgentStage, remains: bool) -> None:
    """The gate's listeners keep it alive no longer than that; the workload itself lives on."""
    cgroup = stage.cgroup("left")
    other = start_in(stage.bed, ["sleep", "60"], cgroup=cgroup) if remains else None
    with container(stage) as inside:
        process = start_in(stage.bed, ["sleep", "60"], cgroup=cgroup, at=inside)
        stage.run(until_answered, cgroup, at=inside)
        assert gates(stage, cgroup) >= 1
        time.sleep(11)  # it is not left while somebody is there
        assert stage.run(lambda: look_up("a.shop.test"), cgroup, at=inside) == [stage.shop.address4]
        process.kill()
        process.wait()
        stage.bed.disown(process)
        inside.close()
        took = stage.wait_until(lambda: not device_is_there(stage), LEFT_S)
        print(f"the namespace died {took:.1f} s after its last process")
    assert stage.run(until_answered, cgroup)[0] < SOON_S
    if other:
        other.kill()
        other.wait()
        stage.bed.disown(other)


def test_a_removed_cgroup_leaves_its_namespace_at_once(stage: AgentStage) -> None:
    """With the workload its gate goes."""
    cgroup = stage.cgroup("removed")
    with container(stage) as inside:
        stage.run(until_answered, cgroup, at=inside)
        inside.close()
        cgroup.rmdir()
        assert stage.wait_until(lambda: not device_is_there(stage), LEFT_S) < 3


def test_a_change_of_policy_cuts_inside_a_container(stage: AgentStage) -> None:
    """Idle and busy, within a second; what is allowed still goes on."""
    cgroup = stage.cgroup("cut")
    stage.write("coder", policy(stage, stage.rules(stage.shop, stage.evil)))
    with container(stage) as inside:
        stage.wait_until(lambda: stage.run(lambda: say(stage.evil.address4), cgroup, at=inside) == "hello")
        with hold(stage, cgroup, at=inside, shop=stage.shop.address4, evil=stage.evil.address4) as held:
            held.wait_open()
            stage.wait_until(lambda: gates(stage, cgroup) >= 1)
            began = time.monotonic()
            stage.write("coder", policy(stage, stage.rules(stage.shop)))
            for name in ("evil idle", "evil busy"):
                how, when = held.ended(name)
                assert how in ("ECONNABORTED", "EPERM")
                assert when - began < SOON_S
            assert held.is_open("shop idle", "shop busy")
        assert stage.run(lambda: say(stage.evil.address4), cgroup, at=inside) == "EPERM"
