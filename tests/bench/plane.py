"""A control plane with 200 agents: from a change to the last ACK, and how a fleet comes back after a restart.

    PYTHONPATH=tests python -m bench.plane [--agents N] [--short]

The plane is a process of its own. The agents run the real client code in this one, without kernels; a document is read
once in it and not once for each of them, because each node would have a processor of its own for that.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

from bench.rows import Bar, Row, row, table
from exeat.agent import bundles
from exeat.control import plane_client
from exeat.plane import people
from exeat.plane.nodes import nodes
from exeat.plane.policies import policies
from exeat.plane.policies.policies import Change
from exeat.plane.store.database import Database, open_database
from plane.certificates import authority
from plane.processes import PlaneProcess, plane_process
from plane.simulated import SimulatedAgent, running
from plane.stores import KINDS, policy_text, url_of

POLICIES, HOSTS = 20, 10_000
WITHIN_S = 300.0


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    agents: int = 200
    hosts: int = HOSTS
    rounds: int = 20
    restarts: int = 3


def measure(extent: Extent, kinds: tuple[str, ...] = KINDS) -> Iterator[Row]:
    """All rows."""
    with (
        patch.object(bundles, "_read", cache(bundles._read)),
        # As after a minute: else each round's waiting would grow on the last one's.
        patch.object(plane_client, "_LONG_S", 1.0),
    ):
        for kind in kinds:
            yield from _measured(kind, extent)


def _measured(kind: str, extent: Extent) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="exeat-bench-") as place:
        directory = Path(place)
        url = url_of(kind, directory)
        with plane_process(PlaneProcess(directory, authority(directory / "papers"), url)) as plane:
            database = open_database(url)
            try:
                yield from asyncio.run(_fleet(kind, plane, database, extent))
            finally:
                database.close()


async def _fleet(kind: str, plane: PlaneProcess, database: Database, extent: Extent) -> list[Row]:
    agents = [SimulatedAgent(f"node-{number:03}.test", start=str(number)) for number in range(extent.agents)]
    each = extent.hosts // POLICIES
    what = f"{kind}, {extent.agents} agents"
    with database.writing() as tx:
        token = people.add(tx, people.TokenWish("bench", people.Role.ADMIN), time.time_ns())
    rows = []
    async with running(agents, plane.access):
        await _until(lambda: all(agent.standing.is_connected for agent in agents))
        texts = [policy_text(f"p{number}", *_hosts(number, each)) for number in range(POLICIES)]
        began, cpu = time.time_ns(), plane.cpu_s()
        await asyncio.to_thread(_apply, plane, token, texts)
        first = await _acked(database, began, extent.agents)
        note = f"plane {plane.cpu_s() - cpu:.1f} s of a core"
        rows.append(row(f"{what}: {extent.hosts} hosts to all", [max(first)], "ms", None, note))
        cpu, taken = plane.cpu_s(), list[float]()
        last: list[float] = []
        for number in range(extent.rounds):
            await asyncio.sleep(0.3)
            text = policy_text("p0", *_hosts(0, each), f"new{number}.example.com")
            began = time.time_ns()
            await asyncio.to_thread(_apply, plane, token, [text])
            found = await _acked(database, began, extent.agents)
            taken += found
            last.append(max(found))
        cpu_ms = (plane.cpu_s() - cpu) / extent.rounds * 1000
        p99 = sorted(taken)[max(0, round(0.99 * len(taken)) - 1)]
        rows.append(
            row(
                f"{what}: one host added, applied to ACKed",
                taken,
                "ms",
                None,
                f"p99 {p99:.0f}; plane {cpu_ms:.0f} ms of a core",
            )
        )
        rows.append(row(f"{what}: the same, until the last ACK", last, "ms", None, f"worst {max(last):.0f}"))
        for how in ("stopped", "killed") if extent.restarts else ():
            back, cpus = [], []
            for _ in range(extent.restarts):
                seconds, cpu = await _restart(plane, agents, database, is_killed=how == "killed")
                back.append(seconds)
                cpus.append(cpu)
            note = f"plane {statistics.median(cpus):.1f} s of a core, its start included"
            rows.append(row(f"{what}: plane {how} and started, until all are back", back, "s", Bar(60), note))
    return rows


async def _restart(
    plane: PlaneProcess, agents: list[SimulatedAgent], database: Database, *, is_killed: bool
) -> tuple[float, float]:
    """A change is made while the plane is away. Seconds from its readiness until all have it; the plane's CPU."""
    await asyncio.to_thread(plane.kill if is_killed else plane.stop)
    text = policy_text("p1", f"at{time.time_ns()}.example.com")
    changed = time.time_ns()
    with database.writing() as tx:
        policies.apply(tx, [("bench", text)], Change("bench", "bench", changed))
    await asyncio.sleep(2)
    await asyncio.to_thread(plane.start)
    began = time.monotonic()
    await _acked(database, changed, len(agents))
    return time.monotonic() - began, plane.cpu_s()


def _hosts(policy: int, count: int) -> list[str]:
    return [f"h{number}.p{policy}.example.com" for number in range(count)]


def _apply(plane: PlaneProcess, token: str, texts: list[str]) -> None:
    """As `exeat plane policies apply` does."""
    documents = [{"where": f"bench{number}.yaml", "text": text} for number, text in enumerate(texts)]
    plane.post("/api/v1/policies", token, {"documents": documents, "reason": "bench"})


async def _acked(database: Database, since_ns: int, count: int) -> list[float]:
    """How many milliseconds each node took, once all have it."""
    found: list[float] = []

    def look() -> list[float]:
        with database.reading() as tx:
            there = nodes.nodes(tx)
        return [(one.acked_ns - since_ns) / 1e6 for one in there if one.acked_ns > since_ns and one.acked == one.serial]

    async with asyncio.timeout(WITHIN_S):
        while len(found := await asyncio.to_thread(look)) < count:
            await asyncio.sleep(0.1)
    return found


async def _until(is_so: object) -> None:
    assert callable(is_so)
    async with asyncio.timeout(WITHIN_S):
        while not is_so():
            await asyncio.sleep(0.01)


def main(argv: list[str] | None = None) -> int:
    """0, whatever was measured."""
    parser = argparse.ArgumentParser(prog="bench.plane", description="Measures a control plane and its fleet.")
    parser.add_argument("--agents", type=int, default=200, metavar="N")
    parser.add_argument("--short", action="store_true", help="20 agents, few rounds")
    options = parser.parse_args(argv)
    extent = Extent(20, 1000, 3, 1) if options.short else Extent(options.agents)
    rows = []
    for one in measure(extent):
        print(one.what, file=sys.stderr, flush=True)
        rows.append(one)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
