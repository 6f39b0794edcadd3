"""What Prometheus reads of a plane, and whether it is well: /metrics, /healthz. It names no node and no workload.

Counters are this replica's own; what is read from the store is the same at each replica.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exeat.metrics.families import resident_bytes
from exeat.metrics.text import CONTENT_TYPE, Kind, Sample, head, histogram_lines, lines
from exeat.plane.api.room import Threads
from exeat.plane.nodes import nodes
from exeat.plane.nodes.node import Standing
from exeat.plane.parts import Plane
from exeat.plane.policies import policies, rollouts
from exeat.plane.store.database import StoreError

_OBJECTS = {"Accepted": "accepted", "Pending": "waiting"}  # all others are refused
_PUSH = ("exeat_plane_push_seconds", "From a push to its ACK, of those that were accepted")


class _Family(NamedTuple):
    name: str
    kind: Kind
    labels: tuple[str, ...]
    what: str
    samples: Iterable[Sample]


def routes(plane: Plane) -> list[Route]:
    """For the web door; nobody need be signed in, so each has one thread, and keeps nobody else's."""
    reading, looking = Threads(1, "metrics"), Threads(1, "health")

    async def metrics(_: Request) -> Response:
        return Response(await reading.run(text, plane), media_type=CONTENT_TYPE)

    async def health(_: Request) -> Response:
        found = await looking.run(complaints, plane)
        status, body = (503, "".join(f"{one}\n" for one in found)) if found else (200, "ok\n")
        return PlainTextResponse(body, status, {"Cache-Control": "no-store"})

    return [Route("/metrics", metrics), Route("/healthz", health)]


def complaints(plane: Plane) -> list[str]:
    """What keeps this replica from doing its work, in sentences."""
    try:
        with plane.database.reading() as tx:
            tx.one("SELECT 1 FROM settings")
    except StoreError:
        plane.counts.store_errors["read"] += 1
        return ["the store cannot be asked: the plane's log says why"]
    return []


def text(plane: Plane) -> str:
    """All of it now, in Prometheus' text format. What cannot be read is left out."""
    parts: list[str] = []
    for family in (*_counted(plane), *_stored(plane)):
        parts += head(family.name, family.kind, family.what), *lines(family.name, family.labels, family.samples)
    name, what = _PUSH
    parts += head(name, Kind.HISTOGRAM, what), *histogram_lines(name, plane.counts.push_seconds.counted())
    return "".join(parts)


def _counted(plane: Plane) -> Iterator[_Family]:
    counts, collected = plane.counts, plane.collected
    yield _gauge("exeat_plane_connected_nodes", "Agents that are connected to this replica", plane.presence.connected())
    answers = (Sample((word,), counts.answers[word]) for word in ("ack", "nack"))
    yield _Family("exeat_plane_answers_total", Kind.COUNTER, ("answer",), "What agents answered to pushes", answers)
    ended = (Sample((word,), counts.commands[word]) for word in ("done", "refused"))
    yield _Family("exeat_plane_commands_total", Kind.COUNTER, ("result",), "Commands that agents have ended", ended)
    yield _count("exeat_plane_verdicts_stored_total", "Verdicts that were stored", collected.stored)
    lost = "Lines that agents deleted unreported, because the plane was away for too long"
    yield _count("exeat_plane_lines_lost_total", lost, collected.lost)
    yield _gauge("exeat_plane_verdicts_waiting", "Verdicts that came and are not stored yet", collected.waiting)
    errors = Counter(counts.store_errors)
    errors["verdicts"] = collected.failures
    samples = (Sample((what,), errors[what]) for what in ("read", "write", "verdicts"))
    yield _Family("exeat_plane_store_errors_total", Kind.COUNTER, ("what",), "What the store did not do", samples)
    web = (Sample((f"{status}xx",), counts.web[status]) for status in range(1, 6))
    yield _Family("exeat_plane_web_requests_total", Kind.COUNTER, ("status",), "Requests at the web door", web)
    problems = len(plane.directory.problems())
    yield _gauge("exeat_plane_directory_problems", "What keeps the policy directory from being in force", problems)
    leads = int(plane.cluster.is_leading)
    yield _gauge("exeat_plane_cluster_leads", "1: this replica follows the policies of the cluster", leads)
    waits = len(plane.cluster.problems())
    yield _gauge("exeat_plane_cluster_problems", "What keeps the policies of the cluster from being followed", waits)
    objects = Counter(_OBJECTS.get(reason.value, "refused") for reason in plane.cluster.counts().elements())
    samples = (Sample((state,), objects[state]) for state in ("accepted", "refused", "waiting"))
    what = "Policies that are objects of the cluster, at the replica that follows it"
    yield _Family("exeat_plane_cluster_objects", Kind.GAUGE, ("state",), what, samples)
    yield _gauge("exeat_plane_resident_bytes", "Resident memory of the plane", resident_bytes())
    yield _count("exeat_plane_cpu_seconds_total", "Processor time of the plane", time.process_time())


def _stored(plane: Plane) -> Iterator[_Family]:
    now_ns = plane.now_ns()
    try:
        with plane.database.reading() as tx:
            standings = Counter(node.standing(now_ns) for node in nodes.nodes(tx))
            sources = Counter(policy.source.value for policy in policies.current(tx))
            states = Counter(one.state.value for one in rollouts.underway(tx).values())
    except StoreError:
        plane.counts.store_errors["read"] += 1
        return
    found = (Sample((standing.value,), standings[standing]) for standing in Standing)
    yield _Family("exeat_plane_nodes", Kind.GAUGE, ("state",), "Nodes of the fleet", found)
    kept = (Sample((source,), sources[source]) for source in ("store", "directory", "cluster"))
    yield _Family("exeat_plane_policies", Kind.GAUGE, ("source",), "Policies that shall hold", kept)
    underway = (Sample((state,), states[state]) for state in ("running", "stopped"))
    yield _Family("exeat_plane_rollouts", Kind.GAUGE, ("state",), "Roll-outs that are underway", underway)


def _gauge(name: str, what: str, number: float) -> _Family:
    return _Family(name, Kind.GAUGE, (), what, (Sample((), number),))


def _count(name: str, what: str, number: float) -> _Family:
    return _Family(name, Kind.COUNTER, (), what, (Sample((), number),))
