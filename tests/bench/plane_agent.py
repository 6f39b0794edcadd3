"""From an operator's change to its enforcement: a real plane, a real agent, the kernel, and one host more each time.

    PYTHONPATH=tests python -m bench.plane_agent [--short]

The clock starts with the request to the plane's API, and ends when the agent says that the workload is judged by
another table set. Beside it: when the API answered, and what the agent itself says from push to enforcement.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.fleet import REST_S
from bench.rows import Bar, Row, row, table
from e2e.plane_loop_stage import WEB, Loop, open_loop
from exeat.control.asking import AgentClient
from exeat.v1 import agent_pb2 as pb
from unit.fake_plane import NODE

POLICIES, HOSTS, PUSHES = 50, 10_000, 60
BAR = Bar(100)
_REST_S = 0.3  # between two pushes: the agent removes the table set before
_WITHIN_S = 30.0


@dataclass
class Pushed:
    """Milliseconds of each push."""

    enforced: list[float] = field(default_factory=list)
    applied: list[float] = field(default_factory=list)  # the API's answer
    taken: list[float] = field(default_factory=list)  # by the agent's own clock


class Operator:
    """Asks as `exeat plane` does, one connection a call, but without a new process each time."""

    def __init__(self, loop: Loop) -> None:
        self._place = loop.stage.bed.network.client
        self._headers = {
            "Authorization": f"Bearer {loop.token.read_text().strip()}",
            "Content-Type": "application/json",
        }

    def apply(self, texts: list[str]) -> None:
        """As `exeat plane policies apply`."""
        documents = [{"where": f"bench{at}.yaml", "text": text} for at, text in enumerate(texts)]
        body = json.dumps({"documents": documents, "reason": "bench"})
        connection = http.client.HTTPConnection(WEB.removeprefix("http://"), timeout=60)
        self._place.call(connection.connect)
        with contextlib.closing(connection):
            connection.request("POST", "/api/v1/policies", body, self._headers)
            answer = connection.getresponse()
            said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the plane answers {answer.status}: {said[:500]!r}")


def measure(pushes: int = PUSHES, policies: int = POLICIES, hosts: int = HOSTS) -> Iterator[Row]:
    """All rows."""
    each = hosts // policies
    with open_loop() as loop:
        operator, stage = Operator(loop), loop.stage
        for number in range(policies):
            stage.cgroup(f"p{number}")
        operator.apply([_policy(loop, number, each) for number in range(policies)])
        loop.wait_in_force(_WITHIN_S)
        stage.wait_until(lambda: len(stage.json("workloads")["workloads"]) == policies, _WITHIN_S)
        what = f"one host more in 1 of {policies} policies, {hosts:,} hosts in all"
        yield from _rows(what, _pushed(loop, operator, policies // 2, each, pushes))
        time.sleep(REST_S)
        resident = int(stage.json("status")["resident_bytes"]) / (1 << 20)
        yield row(f"  the agent then, {policies} workloads: resident", [resident], "MB", Bar(60))
    with open_loop() as loop:
        operator = Operator(loop)
        loop.stage.cgroup("p0")
        operator.apply([_policy(loop, 0, hosts)])
        loop.wait_in_force(_WITHIN_S)
        yield from _rows(f"one host more in a policy of {hosts:,}", _pushed(loop, operator, 0, hosts, pushes))


def _policy(loop: Loop, number: int, hosts: int) -> str:
    names = [f"h{host}.p{number}.example.com" for host in range(hosts)]
    stage = loop.stage
    return stage.policy(f"p{number}", stage.names(*names), subject=f"/{stage.top.name}/p{number}")


def _pushed(loop: Loop, operator: Operator, number: int, hosts: int, pushes: int) -> Pushed:
    found = Pushed()
    workload = f"/{loop.stage.top.name}/p{number}"
    with loop.stage.client() as agent:
        for more in range(1, pushes + 1):
            text = _policy(loop, number, hosts + more)
            time.sleep(_REST_S)
            _push(agent, workload, lambda text=text: operator.apply([text]), found)  # type: ignore[misc]
            loop.wait_in_force(_WITHIN_S)
            ((took_ns,),) = loop.rows("SELECT took_ns FROM nodes WHERE name = ?", NODE)
            found.taken.append(took_ns / 1e6)
    return found


def _push(agent: AgentClient, workload: str, apply: Callable[[], None], found: Pushed) -> None:
    before = _policy_id(agent, workload)
    began = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:  # it may be enforced before the API has answered
        answered = pool.submit(_ms_of, apply)
        while _policy_id(agent, workload) == before:
            if time.perf_counter() - began > _WITHIN_S:
                raise TimeoutError(f"{workload} was not switched")
            time.sleep(0.002)
        found.enforced.append((time.perf_counter() - began) * 1000)
        found.applied.append(answered.result())


def _ms_of(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def _policy_id(agent: AgentClient, workload: str) -> int:
    (one,) = agent.list_workloads(pb.ListWorkloadsRequest(workload=workload)).workloads
    return int(one.policy_id)


def _rows(what: str, found: Pushed) -> Iterator[Row]:
    yield row(f"{what}: applied to enforced", found.enforced, "ms", None, f"{len(found.enforced)} times")
    yield row("  the same, p99", [_p99(found.enforced)], "ms", BAR)
    yield row("  from push to enforced, by the agent's clock", found.taken, "ms")
    yield row("  the same, p99", [_p99(found.taken)], "ms", BAR)
    yield row("  applied to the API's answer", found.applied, "ms", None, f"p99 {_p99(found.applied):.0f}")


def _p99(values: list[float]) -> float:
    return sorted(values)[max(0, round(0.99 * len(values)) - 1)]


def main(argv: list[str] | None = None) -> int:
    """0, whatever was measured."""
    parser = argparse.ArgumentParser(prog="bench.plane_agent", description="Measures a change from plane to kernel.")
    parser.add_argument("--short", action="store_true", help="few pushes, few hosts")
    options = parser.parse_args(argv)
    rows = list(measure(3, 5, 500) if options.short else measure())
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
