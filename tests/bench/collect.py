"""Verdicts of many agents into the plane's store, over gRPC and TLS: how many in a second, and is each there once?

    PYTHONPATH=tests python -m bench.collect [--store sqlite] [--rate 50000] [--seconds 20]

The plane is this process: its gRPC server, its Report streams, its collection. Agents are other processes. PostgreSQL
runs as it comes from its package, with fsync.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil

from bench.collect_agents import BATCH, Plan, Told
from bench.rows import Bar, Row, row, table
from exeat.control.plane_server import serve_plane
from exeat.plane.store.database import Database, open_database
from exeat.plane.streams.verdict_streams import VerdictStreams
from exeat.plane.verdicts.collection import Collection
from exeat.settings import Listen
from exeat.v1 import plane_pb2 as pb
from plane.certificates import Authority, authority
from plane.postgres import own_cluster
from plane.stores import KINDS, come

AGENTS, PROCESSES = 8, 2
RATE, SECONDS = 50_000, 20
_AS_PACKAGED = ("fsync", "full_page_writes", "shared_buffers", "autovacuum")


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of the verdicts."""

    told: int
    seconds: float  # from the first to the last answer
    rows: int
    distinct: int
    counted: int  # in the tallies
    plane_s: float  # CPU time
    server_s: float  # PostgreSQL's
    agents_s: float
    worst_s: float

    @property
    def is_exact(self) -> bool:
        """None lost, none twice."""
        return self.told == self.rows == self.distinct == self.counted


class _Reports:
    """The half of a plane that this is about."""

    def __init__(self, streams: VerdictStreams) -> None:
        self._streams = streams

    def report(
        self, names: frozenset[str], requests: AsyncIterator[pb.ReportRequest]
    ) -> AsyncGenerator[pb.ReportResponse, None]:
        """As the plane does it."""
        return self._streams.report(names, requests)

    async def sync(
        self, names: frozenset[str], requests: AsyncIterator[pb.SyncRequest]
    ) -> AsyncGenerator[pb.SyncResponse, None]:
        """Nobody asks."""
        raise NotImplementedError
        yield


def collect(kind: str, place: Path, rate: int, seconds: int, agents: int = AGENTS) -> Collected:
    """One run into an empty store."""
    with _store(kind, place) as (database, server):
        return asyncio.run(_collect(database, server, authority(place / "papers"), rate, seconds, agents))


async def _collect(
    database: Database, server: psutil.Process | None, papers: Authority, rate: int, seconds: int, agents: int
) -> Collected:
    nodes = [f"node-{number}" for number in range(agents)]
    for node in nodes:
        papers.node(node)
        with database.writing() as tx:
            come(tx, node, at_ns=time.time_ns())
    collection = Collection(database)
    operations = _Reports(VerdictStreams(database, collection))
    listening = await serve_plane(operations, Listen(ip_address("127.0.0.1"), 0), papers.plane)
    batches = max(1, rate * seconds // BATCH // agents) if rate else 50 * seconds // agents * 4
    runs = []
    for process in range(PROCESSES):
        share = nodes[process::PROCESSES]
        plan = Plan(share, str(papers.ca.parent), listening.port, rate // PROCESSES, batches)
        runs.append(await asyncio.to_thread(_start, plan))
    before, plane_s = _cpu_s(server), time.process_time()
    for run in runs:
        _say(run)
    told = [Told(**json.loads(text)) for text in await asyncio.gather(*(asyncio.to_thread(_end, run) for run in runs))]
    plane_s, server_s = time.process_time() - plane_s, _cpu_s(server) - before
    await listening.stop(1)
    await asyncio.to_thread(collection.close)
    with database.reading() as tx:
        rows = int(tx.all("SELECT count(*) FROM verdicts")[0][0])
        distinct = int(tx.all("SELECT count(*) FROM (SELECT DISTINCT node, log, number FROM verdicts) AS found")[0][0])
        counted = int(tx.all("SELECT coalesce(sum(count), 0) FROM tallies")[0][0])
    return Collected(
        told=batches * BATCH * agents,
        seconds=max(one.ended for one in told) - min(one.began for one in told),
        rows=rows, distinct=distinct, counted=counted,
        plane_s=plane_s, server_s=server_s, agents_s=sum(one.cpu_s for one in told),
        worst_s=max(one.worst_s for one in told),
    )  # fmt: skip


@contextmanager
def _store(kind: str, place: Path) -> Iterator[tuple[Database, psutil.Process | None]]:
    if kind == "sqlite":
        yield (database := open_database(f"sqlite:{place}/plane.db")), None
        database.close()
        return
    with own_cluster() as cluster:
        cluster.stop("fast")
        for name in _AS_PACKAGED:
            del cluster.settings[name]
        cluster.start()
        pid = int((cluster.place / "data" / "postmaster.pid").read_text().split()[0])
        yield (database := open_database(cluster.url)), psutil.Process(pid)
        database.close()


def _cpu_s(server: psutil.Process | None) -> float:
    """Of all its processes that are there."""
    if server is None:
        return 0.0
    times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _start(plan: Plan) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "bench.collect_agents", json.dumps(asdict(plan))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout
    if run.stdout.readline() != "ready\n":
        raise RuntimeError("the agents did not come in (their last words are on stderr)")
    return run


def _say(run: subprocess.Popen[str]) -> None:
    assert run.stdin
    run.stdin.write("go\n")
    run.stdin.flush()


def _end(run: subprocess.Popen[str]) -> str:
    output, _ = run.communicate(timeout=300)
    if run.returncode:
        raise RuntimeError("agents failed (their last words are on stderr)")
    return output


def rows_of(kind: str, done: Collected, bar: Bar | None) -> Iterator[Row]:
    """For the table."""
    if not done.is_exact:
        raise RuntimeError(f"verdicts are lost, or twice: {done}")
    note = f"{done.told:,} told, {done.rows:,} stored, each once"
    yield row(f"{kind}: verdicts/s, none lost", [done.told / done.seconds], "/s", bar, note)
    yield row(f"{kind}: the plane's CPU", [done.plane_s / done.seconds * 100], "%")
    if done.server_s:
        yield row(f"{kind}: its server's CPU", [done.server_s / done.seconds * 100], "%")
    yield row(f"{kind}: the agents' CPU", [done.agents_s / done.seconds * 100], "%")
    yield row(f"{kind}: longest wait for an answer", [done.worst_s * 1000], "ms")


def main() -> int:
    """Prints the table; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", action="append", choices=KINDS)
    parser.add_argument("--rate", type=int, default=RATE, help="verdicts/s; 0: as fast as it goes")
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--agents", type=int, default=AGENTS)
    options = parser.parse_args()
    bar = Bar(options.rate * 0.97, True) if options.rate else None
    found: list[Row] = []
    for kind in options.store or KINDS:
        with tempfile.TemporaryDirectory(prefix="exeat-collect-") as place:
            done = collect(kind, Path(place), options.rate, options.seconds, options.agents)
        found += rows_of(kind, done, bar)
    print(table(found))
    return int(any(one.verdict == "over" for one in found))


if __name__ == "__main__":
    sys.exit(main())
