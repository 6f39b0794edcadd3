"""Agents that only report, several in a process: the client's own channel, batches made beforehand.

python -m bench.collect_agents PLAN        # a Plan as JSON; prints a Told as JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path

from exeat.control.convert import to_wire
from exeat.control.plane_channel import PlaneChannel
from exeat.control.plane_files import read_credentials
from exeat.model.verdicts import Reason, Verdict
from exeat.plane_access import Endpoint, PlaneAccess
from exeat.v1 import plane_pb2 as pb
from unit.record_words import any_record

BATCH = 500
_WORKLOADS, _HOSTS = 10, 40  # of a node


@dataclass(frozen=True)
class Plan:
    """What one process does."""

    nodes: list[str]
    directory: str  # with the certificates
    port: int
    rate: int  # verdicts in a second, of all its nodes; 0: as fast as the plane takes them
    batches: int  # of each node


@dataclass(frozen=True)
class Told:
    """What came of it."""

    began: float  # by the clock of the whole machine
    ended: float  # when the last batch was acknowledged
    cpu_s: float
    worst_s: float  # the longest that a batch waited for its answer


class _Agent:
    def __init__(self, plan: Plan, node: str) -> None:
        place = Path(plan.directory)
        endpoint = Endpoint("127.0.0.1", plan.port)
        access = PlaneAccess((endpoint,), place / "ca.pem", place / f"{node}.crt", place / f"{node}.key")
        self._channel = PlaneChannel(endpoint, access, read_credentials(access))
        self._node, self._plan = node, plan
        self._batch = _batch(node)
        self._sent: dict[int, float] = {}
        self.worst_s = 0.0

    async def greet(self) -> None:
        """Until the plane has taken it in."""
        self._stream = self._channel.report()
        await self._stream.say(pb.ReportRequest(hello=pb.ReportHello(node=self._node, log="bench")))
        self._window = asyncio.Semaphore((await self._stream.hear(30)).welcome.window)

    async def tell(self, began: float) -> None:
        """All of it, in its time; returns with the last answer."""
        hearing = asyncio.create_task(self._hear())
        each_s = BATCH * len(self._plan.nodes) / self._plan.rate if self._plan.rate else 0
        for number in range(self._plan.batches):
            await self._window.acquire()
            await asyncio.sleep(max(0.0, began + number * each_s - time.monotonic()))
            request = self._numbered(number * BATCH + 1)
            self._sent[request.batch.through] = time.monotonic()
            await self._stream.say(request)
        await hearing
        await self._channel.__aexit__()

    async def _hear(self) -> None:
        for _ in range(self._plan.batches):
            through = (await self._stream.hear(60)).ack.through
            self.worst_s = max(self.worst_s, time.monotonic() - self._sent.pop(through))
            self._window.release()

    def _numbered(self, first: int) -> pb.ReportRequest:
        now = int(time.time())
        for number, one in enumerate(self._batch.verdicts, first):
            one.number = number
            one.verdict.time.seconds = now
        self._batch.first, self._batch.through = first, first + BATCH - 1
        return pb.ReportRequest(batch=self._batch)


def _batch(node: str) -> pb.VerdictBatch:
    """Like a busy host's hour: ten sandboxes, forty hosts, most of it allowed."""
    batch = pb.VerdictBatch()
    for number in range(BATCH):
        is_denied = number % 10 == 0
        record = any_record(
            verdict=Verdict.DROPPED if is_denied else Verdict.FORWARDED,
            reason=Reason.NAME_NOT_ALLOWED if is_denied else Reason.NAME_ALLOWED,
            workload=f"/agents.slice/coder-{number % _WORKLOADS}.scope",
            policy="coding-agent",
            rule=None if is_denied else "model-api",
            name=f"host-{number * 7 % _HOSTS}.{node}.example.com",
            address=ip_address(f"203.0.113.{number * 7 % _HOSTS + 1}"),
            source=ip_address("10.0.0.5"),
            source_port=30_000 + number,
        )
        batch.verdicts.add(number=1, verdict=to_wire(record))
    return batch


async def _run(plan: Plan) -> Told:
    agents = [_Agent(plan, node) for node in plan.nodes]
    await asyncio.gather(*(agent.greet() for agent in agents))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began, cpu_s = time.monotonic(), time.process_time()
    await asyncio.gather(*(agent.tell(began) for agent in agents))
    return Told(began, time.monotonic(), time.process_time() - cpu_s, max(agent.worst_s for agent in agents))


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(_run(Plan(**json.loads(sys.argv[1])))))), flush=True)
