"""The plane's API on a real port, over a store in SQLite: for tests of the API and of the commands that speak it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from exeat.control.convert import to_wire
from exeat.core.verdict_reading import read_line
from exeat.model.verdicts import Reason, Verdict
from exeat.plane import people
from exeat.plane.api.routes import routes
from exeat.plane.counts import Counts
from exeat.plane.parts import Plane
from exeat.plane.people import Role, TokenWish
from exeat.plane.policies.policies import Change, apply
from exeat.plane.settings import AgentsDoor, PlaneSettings
from exeat.plane.store.database import Database, News, Topic, Tx, open_database
from exeat.plane.verdicts.live import Feed

HOUR = 3600 * 10**9
DAY = 24 * HOUR
CODER = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {name: coder}
spec:
  owner: ml@example.com
  # what a coding agent may reach
  egress:
  - name: model-api
    hosts: [api.example.com]  # the model
"""


@dataclass
class Stage:
    """A plane that answers, and one token for each role."""

    plane: Plane
    url: str
    port: int
    tokens: dict[str, str]
    problems: list[str] = field(default_factory=list)  # of the directory of policies

    @property
    def database(self) -> Database:
        return self.plane.database

    def ask(
        self, method: str, path: str, body: Any = None, role: str = "admin", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of one call."""
        status, _, content = self.raw(method, path, body, role, headers)
        return status, json.loads(content)

    def raw(
        self, method: str, path: str, body: Any = None, role: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """The same as bytes, with the answer's headers in lower case."""
        sent = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if content is not None:
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, f"/api/v1{path}", content, sent | (headers or {}))
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def get(self, path: str, role: str = "viewer") -> Any:
        """What is answered with 200."""
        status, found = self.ask("GET", path, role=role)
        assert status == 200, found
        return found

    def post(self, path: str, body: Any, role: str = "admin") -> Any:
        """The same of a POST."""
        status, found = self.ask("POST", path, body, role)
        assert status == 200, found
        return found

    def refused(self, method: str, path: str, body: Any = None, role: str = "admin") -> tuple[int, str]:
        """Status and sentence."""
        status, found = self.ask(method, path, body, role)
        assert status >= 400, found
        return status, found["error"]


@contextlib.contextmanager
def open_stage(place: Path) -> Iterator[Stage]:
    """Serves until the block ends."""
    database = open_database(f"sqlite:{place}/plane.db")
    problems: list[str] = []
    directory = Mock(problems=lambda: tuple(problems))
    nowhere = Path("/nonexistent")
    settings = PlaneSettings(AgentsDoor(nowhere, nowhere, nowhere), "plane-1")
    plane = Plane(settings, database, Mock(), Feed(database), Counts(), Mock(), directory)
    with database.writing() as tx:
        tokens = {role.value: people.add(tx, TokenWish(f"a-{role}", role), time.time_ns()) for role in Role}
    app = Starlette(routes=[Mount("/api/v1", routes=routes(plane))])
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, name="web")
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline, "the server does not start"
            assert thread.is_alive(), "the server has ended"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Stage(plane, f"http://127.0.0.1:{port}", port, tokens, problems)
    finally:
        server.should_exit = True
        thread.join(20)
        database.close()


def put_policy(database: Database, text: str = CODER, **words: Any) -> None:
    """Into the store, as somebody else did it."""
    change = Change(**({"by": "carol", "reason": "", "at_ns": time.time_ns()} | words))
    with database.writing() as tx:
        apply(tx, [("a file", text)], change)


@dataclass(frozen=True)
class Told:
    """Some verdicts that are alike, as a node told them."""

    target: str
    reason: Reason = Reason.NAME_NOT_ALLOWED
    verdict: Verdict = Verdict.DROPPED
    hook: str = "hello"
    port: int = 443
    protocol: int = 6
    policy: str = "coder"
    rule: str = ""
    workload: str = "/agents/coder-1"
    node: str = "web-1"
    count: int = 1
    at_ns: int = 0  # 0: now


def tell(database: Database, *told: Told) -> None:
    """Counts them, as the collection does."""
    with database.writing() as tx:
        for one in told:
            at_ns = one.at_ns or time.time_ns()
            tx.do(
                "INSERT INTO tallies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(at_ns // HOUR * HOUR, one.node, one.workload, one.policy, one.rule, one.target, one.port),
                *(one.protocol, one.hook, int(one.verdict), int(one.reason), one.count, at_ns, at_ns),
            )


def store(tx: Tx, lines: Sequence[str], node: str = "web-1") -> None:
    """Verdicts one by one, of lines as docs/verdicts.md describes them."""
    for line in lines:
        record = read_line(line, "the test")
        target = record.name or str(record.address or "")
        values = (record.time_ns, node, "log", 1, int(record.verdict), record.workload, target)
        columns = ("at_ns", "node", "log", "number", "verdict", "workload", "target", "body")
        tx.append("verdicts", columns, [(*values, to_wire(record).SerializeToString())])
    tx.tell(News(Topic.VERDICTS))
