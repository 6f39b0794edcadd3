"""A plane with a small fleet in its store, made by the plane's own functions: what the console's tests look at."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from uvicorn import Config, Server

from exeat.control.convert import to_wire
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict
from exeat.plane import people
from exeat.plane.nodes import commands, nodes, workloads
from exeat.plane.nodes.nodes import Answered, Arrival, Beat
from exeat.plane.parts import Plane
from exeat.plane.people import Role, TokenWish
from exeat.plane.policies import policies
from exeat.plane.policies.policies import Action, Change, Plan
from exeat.plane.settings import AgentsDoor, PlaneSettings, WebDoor
from exeat.plane.store.database import Database, open_database
from exeat.plane.verdicts.collection import Collection
from exeat.plane.verdicts.live import Feed
from exeat.plane.web import application
from exeat.v1 import agent_pb2, plane_pb2
from unit.record_words import any_record

S = 1_000_000_000
MINUTE, HOUR, DAY = 60 * S, 3600 * S, 86_400 * S
NASTY = "<script>alert(1)</script>\x1b[2J\u202e&\"'"

_AGENT = """\
# The agents of the ml platform. Ask #ml-platform before you change it.
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {name: coding-agent, labels: {team: ml-platform}}
spec:
  owner: ml-platform@example.com
  reason: "Coding agents: model API, packages"
  expires: "%(expires)s"
  subject: {cgroups: ["/agents.slice/*.scope"], nodes: {role: sandbox}}
  egress:
  # the model
  - name: model-api
    hosts: [api.models.example, "*.eu.models.example"]
  - name: git-over-ssh  # until the mirror is there
    hosts: [git.example.com]
    ports: [22]
    protocol: tcp
"""
_MORE = """\
  - name: packages
    hosts: [pypi.example, files.pypi.example]
"""
_BUILD = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {name: build-farm}
spec:
  owner: build@example.com
  expires: "%(expires)s"
  subject: {cgroups: ["/build.slice/*"], nodes: {role: build}}
  mode: monitor
  egress:
  - {name: registry, hosts: [registry.example], ports: [443]}
  - {name: cache, cidrs: ["10.20.0.0/16"], ports: [6379, "8000-8010"], protocol: tcp}
"""
_BASE = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {name: everybody}
spec:
  owner: sre@example.com
  egress:
  - {name: time, hosts: [time.example.com], ports: [123], protocol: udp}
"""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one person for each role."""

    viewer: str
    approver: str
    admin: str


@contextmanager
def open_plane(place: Path, web: WebDoor | None = None) -> Iterator[Plane]:
    """A plane without a fleet, on SQLite."""
    database = open_database(f"sqlite:{place}/plane.db")
    nowhere = place / "none.pem"
    settings = PlaneSettings(AgentsDoor(nowhere, nowhere, nowhere), name="plane-eu-1", web=web or WebDoor())
    try:
        yield Plane(settings=settings, database=database, presence=_Nobody(), feed=Feed(database))
    finally:
        database.close()


def make_tokens(database: Database, now_ns: int) -> Tokens:
    """Three people: vera looks, ada approves, root may do everything."""
    with database.writing() as tx:
        wishes = (TokenWish("vera", Role.VIEWER), TokenWish("ada", Role.APPROVER), TokenWish("root", Role.ADMIN))
        return Tokens(*(people.add(tx, wish, now_ns) for wish in wishes))


def fill(database: Database) -> None:
    """Six nodes, three policies with history and a roll-out, workloads, verdicts of the last day."""
    now_ns = time.time_ns()
    ends = {"expires": (datetime.now(UTC) + timedelta(days=120)).strftime("%Y-%m-%dT%H:%M:%SZ")}
    soon = {"expires": (datetime.now(UTC) + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ")}
    with database.writing() as tx:
        first = [("agent.yaml", _AGENT % ends), ("build.yaml", _BUILD % soon), ("base.yaml", _BASE)]
        policies.apply(tx, first, Change("root", "the first ones", now_ns - 9 * DAY))
    with database.writing() as tx:
        change = Change("ci-deploy", "TICKET-118: packages for agents", now_ns - 3 * HOUR)
        policies.apply(tx, [("agent.yaml", (_AGENT + _MORE) % ends)], change)
    _nodes(database, now_ns)
    with database.writing() as tx:
        wider = (_BUILD % soon).replace("registry.example]", "registry.example, mirror.example]")
        change = Change("root", "a mirror nearer by", now_ns - 4 * MINUTE, Action.APPLY, Plan((10, 50, 100), 600, 20))
        policies.apply(tx, [("build.yaml", wider)], change)
    report(database, "sandbox-01", _verdicts(now_ns))
    report(database, "build-01", [_build_denial(now_ns, at) for at in range(1, 12)])


def report(database: Database, node: str, records: Iterable[Record], log: str = "1") -> None:
    """As an agent does, and waits until they are stored."""
    with ThreadPoolExecutor(1) as pool:  # whoever drives a browser has an event loop of its own in this thread
        pool.submit(lambda: asyncio.run(_report(database, node, log, list(records)))).result()


def tell(database: Database, node: str, *states: plane_pb2.WorkloadState) -> None:
    """All workloads of a node."""
    with database.writing() as tx:
        workloads.put(tx, node, plane_pb2.WorkloadNews(is_all=True, workloads=states))


def workload(name: str, cgroup: str, *policies_of: str, mode: str = "enforce") -> plane_pb2.WorkloadState:
    """As an agent tells of it."""
    state = plane_pb2.WorkloadState(name=name, cgroup=cgroup, policies=policies_of, source="subject")
    state.mode = agent_pb2.Mode.Value(f"MODE_{mode.upper()}")
    state.labels.update({"tenant": "acme"})
    state.since.FromNanoseconds(time.time_ns() - 47 * MINUTE)
    return state


def denial(**said: object) -> Record:
    """Of the coding agents' first workload, now, but for what is said."""
    return any_record(
        **{"time_ns": time.time_ns(), "workload": "/agents.slice/coder-7.scope", "policy": "coding-agent"} | said
    )


@contextmanager
def serving(plane: Plane) -> Iterator[str]:
    """The plane's web door on a free port of loopback; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config(application(plane), log_level="warning", lifespan="off", proxy_headers=False, server_header=False)
    config.timeout_graceful_shutdown = 1  # pages that follow the verdicts never end by themselves
    server = Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class _Nobody:
    def is_connected(self, node: str) -> bool:
        return False

    def connected(self) -> int:
        return 0


def _nodes(database: Database, now_ns: int) -> None:
    with database.writing() as tx:
        held = {one.name: one.revision for one in policies.current(tx)}
        before = next(one.before for one in policies.history(tx, "coding-agent"))
    sandbox, build = ("coding-agent", "everybody"), ("build-farm", "everybody")
    join(database, "sandbox-01", "sandbox", {name: held[name] for name in sandbox}, now_ns - 3 * HOUR)
    join(database, "sandbox-02", "sandbox", {name: held[name] for name in sandbox}, now_ns - 3 * HOUR)
    stale = {"coding-agent": before, "everybody": held["everybody"]}
    join(database, "sandbox-03", "sandbox", stale, now_ns - 9 * DAY)
    join(database, "build-01", "build", {name: held[name] for name in build}, now_ns - 9 * DAY)
    join(database, "build-02", "build", {name: held[name] for name in build}, now_ns - 9 * DAY)
    with database.writing() as tx:
        serial = nodes.next_serial(tx, "sandbox-03", now_ns)
        fault = plane_pb2.PolicyFault(
            policy="coding-agent", text="coding-agent:9: `nodes` is nothing that `subject` has"
        )
        asked = Answered("sandbox-03", serial, (), now_ns - 3 * HOUR)
        nodes.answered(tx, asked, plane_pb2.PolicyAnswer(is_accepted=False, faults=[fault]))
        nodes.beat(
            tx, [Beat("sandbox-01", now_ns, 12), Beat("sandbox-03", now_ns, 41_300, 3, 120), Beat("build-01", now_ns)]
        )
        nodes.beat(tx, [Beat("sandbox-02", now_ns, complaints=("the log's disk is 96 % full",))])
        nodes.gone(tx, "build-02", "plane-eu-1", now_ns - 26 * MINUTE)
        nodes.add(tx, "edge-paris-01")
        commands.ask(tx, _quarantine("sandbox-01", "coder-9"), now_ns - 8 * MINUTE)
        (waiting,) = commands.waiting(tx, "sandbox-01", now_ns - 8 * MINUTE)
        commands.ended(tx, "sandbox-01", plane_pb2.CommandResult(id=waiting.id, cut=3), now_ns - 8 * MINUTE)
    coder = [workload(f"coder-{n}", f"/agents.slice/coder-{n}.scope", "coding-agent", "everybody") for n in (3, 7)]
    bad = workload("coder-9", "/agents.slice/coder-9.scope", "coding-agent", "everybody", mode="quarantine")
    tell(database, "sandbox-01", *coder, bad)
    tell(database, "sandbox-02", workload("coder-12", "/agents.slice/coder-12.scope", "coding-agent", "everybody"))
    tell(database, "build-01", workload("runner-1", "/build.slice/runner-1", "build-farm", "everybody", mode="monitor"))


def join(database: Database, node: str, role: str, entries: dict[str, str], at_ns: int) -> None:
    """A node comes, is sent these revisions, and enforces them."""
    hello = plane_pb2.Hello(node=node, labels={"role": role, "zone": "eu-1"}, version="0.5.0", protocol=1, start="1")
    hello.kernel, hello.features[:] = "6.8.0-45-generic", ["tcx", "kfuncs"]
    hello.now.FromNanoseconds(at_ns)
    with database.writing() as tx:
        nodes.hello(tx, hello, Arrival("plane-eu-1", at_ns))
        serial = nodes.next_serial(tx, node, at_ns)
        asked = Answered(node, serial, tuple(sorted(entries.items())), at_ns)
        nodes.answered(tx, asked, plane_pb2.PolicyAnswer(is_accepted=True, serial=serial, took_ns=14_200_000))
        nodes.beat(tx, [Beat(node, time.time_ns())])


def _quarantine(node: str, name: str) -> plane_pb2.Command:
    mode = agent_pb2.SetModeRequest(workload=name, mode=agent_pb2.MODE_QUARANTINE, reason="INC-2041: odd uploads")
    return plane_pb2.Command(node=node, by="ada", set_mode=mode)


def _verdicts(now_ns: int) -> list[Record]:
    python, curl, git = (
        Process(4242, "python3", 1000),
        Process(4310, "curl", 1000),
        Process(4377, "git-remote-http", 1000),
    )
    seven, twelve = "/agents.slice/coder-7.scope", "/agents.slice/coder-12.scope"
    allowed = {"verdict": Verdict.FORWARDED, "reason": Reason.NAME_ALLOWED, "rule": "model-api"}
    found = []
    for step in range(240, 0, -1):
        at = {"time_ns": now_ns - step * 5 * MINUTE}
        found.append(denial(**at, **(allowed | {"reason": Reason.GRANTED}), name=None, process=python, hook="connect"))
        found.append(denial(**at, **allowed, name="api.models.example", process=python, hook="hello"))
        if step % 6 == 0:
            found.append(
                denial(**at, name="telemetry.vendor.example", hook="query", port=53, protocol=17, process=python)
            )
        if step % 9 == 0:
            found.append(denial(**at, name="huggingface.example", process=git, workload=twelve))
        if step % 16 == 0:
            raw = {"name": None, "address": ip_address("203.0.113.77"), "port": 5432, "hook": "connect"}
            found.append(denial(**at, **raw, reason=Reason.NOT_RESOLVED, process=python, workload=seven))
        if step % 40 == 0:
            found.append(denial(**at, name=None, reason=Reason.ECH, process=curl, address=ip_address("198.51.100.9")))
    return sorted(found, key=lambda record: record.time_ns)


def _build_denial(now_ns: int, at: int) -> Record:
    return any_record(
        time_ns=now_ns - at * HOUR, verdict=Verdict.AUDIT, workload="/build.slice/runner-1", policy="build-farm",
        name="mirror.example", process=Process(881, "cargo", 1001),
    )  # fmt: skip


async def _report(database: Database, node: str, log: str, records: list[Record]) -> None:
    collection = Collection(database)
    try:
        through = (await collection.begin(node, log, 0)).through
        for first in range(0, len(records), 400):
            batch = plane_pb2.VerdictBatch(first=through + first + 1, through=through + min(first + 400, len(records)))
            for place, record in enumerate(records[first : first + 400]):
                numbered = batch.verdicts.add(number=batch.first + place)
                numbered.verdict.CopyFrom(to_wire(record))
            await collection.take(node, log, batch)
    finally:
        await asyncio.to_thread(collection.close)
