"""The agent on a large host: 500 workloads, 50 policies, 10,000 hosts among them; what it holds, takes and needs."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.agent_side import HOSTS, policy_text
from bench.place import Place
from bench.rows import Bar, Row, p99, row
from e2e.agent_stage import AgentStage, open_agent_stage
from exeat.control.asking import AgentClient
from exeat.errors import Refused
from exeat.v1 import agent_pb2 as pb

POLICIES, WORKLOADS_EACH = 50, 10
IDLE_S = 20.0
REST_S = 6.0  # the ring of verdicts counts as the agent's memory until it has been empty for a while


def fleet(place: Place, rounds: int) -> Iterator[Row]:
    """Resident memory, idle time, restart; registration, allowance and changes of files to enforcement."""
    workloads = WORKLOADS_EACH if rounds > 2 else 1
    with open_agent_stage(keeps_programs=False) as stage:
        for number in range(POLICIES):
            stage.write(f"p{number}", _policy(stage, number, HOSTS // POLICIES))
            for one in range(workloads):
                stage.cgroup(f"p{number}-{one}")
        stage.start()
        time.sleep(REST_S)
        yield row(f"agent, {POLICIES * workloads} workloads: resident", [_resident_mb(stage)], "MB", Bar(60))
        yield row("the same, idle", [_idle_percent(stage, rounds)], "% of a core", Bar(1))
        with stage.client() as agent:
            yield from _asked(stage, agent, max(10, rounds * 10))
        yield row("one file of 50 changed: seen and enforced", _changed(stage, rounds), "ms", Bar(1000))
        yield from _large(stage, rounds)
        in_control = []
        for _ in range(max(2, rounds // 2)):
            stage.kill()
            stage.start()
            in_control.append(float(stage.json("status")["in_control_ms"]))
        yield row(f"agent killed, {POLICIES * workloads} workloads: start to in control", in_control, "ms", Bar(1000))
        time.sleep(REST_S)
        what = "the same, and one more policy of 10,000 hosts: resident"
        yield row(what, [_resident_mb(stage)], "MB", None, "beyond what the bar speaks of")


def _policy(stage: AgentStage, number: int, hosts: int) -> str:
    names = [f"h{host}.p{number}.example.com" for host in range(hosts)]
    return stage.policy(f"p{number}", stage.names(*names), subject=f"/{stage.top.name}/p{number}-*")


def _asked(stage: AgentStage, agent: AgentClient, times: int) -> Iterator[Row]:
    allowed, registered = [], []
    for number in range(times):
        workload = f"/{stage.top.name}/p{number % POLICIES}-0"
        request = pb.AllowRequest(workload=workload, destination=f"x{number}.test", for_s=600, reason="bench")
        allowed.append(_timed(lambda request=request: agent.allow(request)))  # type: ignore[misc]
    cgroups = [stage.cgroup(f"registered-{number}") for number in range(times)]
    time.sleep(0.5)
    for number, cgroup in enumerate(cgroups):
        one = pb.RegisterRequest(name=f"r{number}", cgroup=stage.path(cgroup), policies=["p1"])
        registered.append(_timed(lambda one=one: agent.register(one)))  # type: ignore[misc]
    note = "median and quartiles; p99 "
    yield row("one host allowed to one of 500 workloads", allowed, "ms", Bar(20), note + f"{p99(allowed):.0f}")
    yield row("a cgroup registered", registered, "ms", None, note + f"{p99(registered):.0f}")
    for number in range(times):
        agent.unregister(pb.UnregisterRequest(workload=f"r{number}"))


def _changed(stage: AgentStage, rounds: int) -> list[float]:
    """From the moment at which a file is in place until a workload's table set is another one."""
    found = []
    for number in range(max(3, rounds)):
        text = _policy(stage, 7, HOSTS // POLICIES + 1 + number)
        found.append(_until_switched(stage, f"/{stage.top.name}/p7-0", lambda text=text: stage.write("p7", text)))  # type: ignore[misc]
    return found


def _large(stage: AgentStage, rounds: int) -> Iterator[Row]:
    """One policy of 10,000 hosts, for one workload, and one host more."""
    stage.cgroup("large")
    path = f"/{stage.top.name}/large"
    subject = f"  subject: {{cgroups: [{path}]}}\n"
    first, added = [], []
    for number in range(max(2, rounds)):
        for hosts, found in ((HOSTS + number * 2, first), (HOSTS + number * 2 + 1, added)):
            text = policy_text(hosts).replace("{name: bench}", "{name: large}") + subject
            found.append(_until_switched(stage, path, lambda text=text: stage.write("large", text)))  # type: ignore[misc]
    yield row("policy of 10,000 hosts: file changed to enforced", first, "ms", Bar(1000))
    yield row("one host added to a file of 10,000: to enforced", added, "ms", Bar(20), "p99; a whole new table set")


def _until_switched(stage: AgentStage, workload: str, change: Callable[[], object]) -> float:
    with stage.client() as agent:
        before = _policy_id(agent, workload)
        began = time.perf_counter()
        change()
        while _policy_id(agent, workload) == before:
            if time.perf_counter() - began > 20:
                raise TimeoutError(f"{workload} was not switched: {stage.said()}")
            time.sleep(0.002)
        return (time.perf_counter() - began) * 1000


def _policy_id(agent: AgentClient, workload: str) -> int:
    with contextlib.suppress(StopIteration, Refused):
        return next(
            one.policy_id
            for one in agent.list_workloads(pb.ListWorkloadsRequest(workload=workload)).workloads
            if one.cgroup == workload
        )
    return 0


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def _resident_mb(stage: AgentStage) -> float:
    assert stage.process
    status = Path(f"/proc/{stage.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def _idle_percent(stage: AgentStage, rounds: int) -> float:
    assert stage.process
    seconds = IDLE_S if rounds > 2 else 3.0
    before = _cpu_s(stage.process.pid)
    time.sleep(seconds)
    return (_cpu_s(stage.process.pid) - before) / seconds * 100


def _cpu_s(pid: int) -> float:
    """Of all its threads."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
