"""An API server of Kubernetes for tests, over real HTTPS: as much of it as follows policies, and ways to have it fail.

It keeps objects and their history as etcd does: one growing version for all, lists in pages of one moment, watches from
a version on, bookmarks, 410 for what is forgotten, statuses that are written apart, 409 for what has changed since. It
was made by Kubernetes' documentation; no real kube-apiserver can be had where these tests run.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from exeat.plane.settings import ClusterPlace
from plane.certificates import Authority

NAMESPACED, CLUSTER = "egresspolicies", "clusteregresspolicies"
KINDS = {NAMESPACED: "EgressPolicy", CLUSTER: "ClusterEgressPolicy"}
RULES: dict[str, Any] = {"egress": [{"name": "api", "hosts": ["api.example.com"]}]}


def rules(*hosts: str, **spec: Any) -> dict[str, Any]:
    """A spec with one rule."""
    return {"egress": [{"name": "hosts", "hosts": list(hosts)}], **spec}


@dataclass
class FakeCluster:
    """The server. What a test sets decides how it behaves; `asked` is what it was asked."""

    directory: Path
    authority: Authority
    tokens: set[str] = field(default_factory=lambda: {"first"})
    watch_s: float = 60.0  # how long a watch lasts at most
    page_max: int = 1000  # objects of a page, whatever is asked for
    refusals: dict[str, int] = field(default_factory=dict)  # list, watch, status: HTTP's status
    garbage: dict[str, bytes] = field(default_factory=dict)  # list, watch: what comes in its place
    are_continues_lost: int = 0  # so many times
    missing: set[str] = field(default_factory=set)  # kinds whose definition is not installed
    asked: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._version = 1000
        self._objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {NAMESPACED: {}, CLUSTER: {}}
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._oldest = self._version
        self._pages: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self._breaks = 0
        self.directory.mkdir(exist_ok=True)
        self.token.write_text("first\n")

    @property
    def token(self) -> Path:
        """The file with the plane's token."""
        return self.directory / "token"

    @property
    def place(self) -> ClusterPlace:
        """How the plane reaches it."""
        return ClusterPlace(self.url, self.authority.ca, self.token)

    def put(self, namespace: str, name: str, spec: Any = None, **metadata: Any) -> None:
        """Creates or changes an object; without a namespace, it is the cluster's."""
        plural = NAMESPACED if namespace else CLUSTER
        with self._lock:
            had = self._objects[plural].get((namespace, name))
            one = copy.deepcopy(had) if had else self._new(plural, namespace, name)
            if had is None or had.get("spec") != spec:
                one["metadata"]["generation"] = one["metadata"].get("generation", 0) + 1
            one["spec"] = copy.deepcopy(RULES if spec is None else spec)
            one["metadata"] |= metadata
            self._keep(plural, "MODIFIED" if had else "ADDED", one)

    def delete(self, namespace: str, name: str) -> None:
        """As kubectl does it."""
        plural = NAMESPACED if namespace else CLUSTER
        with self._lock:
            one = copy.deepcopy(self._objects[plural].pop((namespace, name)))
            self._version += 1
            one["metadata"]["resourceVersion"] = str(self._version)
            self._events.append((self._version, plural, {"type": "DELETED", "object": one}))

    def get(self, namespace: str, name: str) -> dict[str, Any]:
        """An object as it is."""
        with self._lock:
            return copy.deepcopy(self._objects[NAMESPACED if namespace else CLUSTER][namespace, name])

    def status(self, namespace: str, name: str) -> dict[str, Any]:
        """Its status."""
        return dict(self.get(namespace, name).get("status", {}))

    def condition(self, namespace: str, name: str, kind: str = "Accepted") -> tuple[str, str, str]:
        """Status, reason and message of a condition; of none: empty ones."""
        for one in self.status(namespace, name).get("conditions", []):
            if one["type"] == kind:
                return one["status"], one["reason"], one["message"]
        return "", "", ""

    def forget(self) -> None:
        """The history, as etcd does every five minutes."""
        with self._lock:
            self._version += 1
            self._events.clear()
            self._oldest = self._version

    def go_back(self, versions: int) -> None:
        """A backup was brought back, or a server that lags behind is asked."""
        with self._lock:
            self._version -= versions
            self._oldest = self._version
            self._events.clear()

    def break_watches(self) -> None:
        """Each connection that watches ends without a word."""
        self._breaks += 1

    def count(self, what: str) -> int:
        """How often it was asked to list, watch, or write a status."""
        return sum(1 for one, _ in list(self.asked) if one == what)

    def _new(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        self._version += 1
        metadata = {"name": name, "uid": f"uid-{self._version}", "creationTimestamp": "2026-11-22T00:00:00Z"}
        metadata |= {"namespace": namespace} if namespace else {}
        return {"apiVersion": "exeat.dev/v1", "kind": KINDS[plural], "metadata": metadata}

    def _keep(self, plural: str, word: str, one: dict[str, Any]) -> None:
        self._version += 1
        one["metadata"]["resourceVersion"] = str(self._version)
        self._objects[plural][one["metadata"].get("namespace", ""), one["metadata"]["name"]] = one
        self._events.append((self._version, plural, {"type": word, "object": copy.deepcopy(one)}))

    async def answer(self, request: Request) -> Response:
        """GET of all namespaces: a list, or a watch."""
        plural, query = request.path_params["plural"], request.query_params
        what = "watch" if query.get("watch") else "list"
        self.asked.append((what, plural))
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _failure(401, "Unauthorized")
        if plural in self.missing or plural not in KINDS:
            return _failure(404, "the server could not find the requested resource")
        if code := self.refusals.get(what):
            return _failure(code, "as the test says")
        if what in self.garbage:
            return Response(self.garbage[what], media_type="application/json")
        if what == "watch":
            events = self._watch(plural, int(query["resourceVersion"]), query)
            return StreamingResponse(events, media_type="application/json")
        return self._list(plural, int(query.get("limit", "500")), query.get("continue", ""))

    async def write(self, request: Request) -> Response:
        """PATCH of a status."""
        path = request.path_params
        plural, key = path["plural"], (path.get("namespace", ""), path["name"])
        self.asked.append(("status", "/".join(key)))
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _failure(401, "Unauthorized")
        if code := self.refusals.get("status"):
            return _failure(code, "as the test says")
        if request.headers["content-type"] != "application/merge-patch+json":
            return _failure(415, "this server takes merge patches")
        patch = json.loads(await request.body())
        with self._lock:
            if key not in self._objects[plural]:
                return _failure(404, "not found")
            one = copy.deepcopy(self._objects[plural][key])
            if (
                patch["metadata"].get("resourceVersion", one["metadata"]["resourceVersion"])
                != (one["metadata"]["resourceVersion"])
            ):
                return _failure(409, "the object has been modified; please apply your changes to the latest version")
            merged = {**one.get("status", {}), **patch["status"]}
            one["status"] = {name: value for name, value in merged.items() if value is not None}
            self._keep(plural, "MODIFIED", one)
            return JSONResponse(one)

    def _list(self, plural: str, limit: int, after: str) -> Response:
        with self._lock:
            if after:
                if self.are_continues_lost or after not in self._pages:
                    self.are_continues_lost = max(0, self.are_continues_lost - 1)
                    return _failure(410, "The provided continue parameter is too old")
                version, rest = self._pages.pop(after)
            else:
                version = self._version
                rest = [copy.deepcopy(one) for _, one in sorted(self._objects[plural].items())]
            size = min(limit, self.page_max)
            metadata: dict[str, Any] = {"resourceVersion": str(version)}
            if rest[size:]:
                metadata["continue"] = f"{plural}-{version}-{len(rest)}-{len(self._pages)}"
                metadata["remainingItemCount"] = len(rest) - size
                self._pages[metadata["continue"]] = version, rest[size:]
            found = {"apiVersion": "exeat.dev/v1", "kind": f"{KINDS[plural]}List", "metadata": metadata}
            return JSONResponse({**found, "items": rest[:size]})

    async def _watch(self, plural: str, version: int, query: Any) -> AsyncIterator[bytes]:
        if version < self._oldest:
            yield _line({"type": "ERROR", "object": _status(410, f"too old resource version: {version}")})
            return
        ends_s = time.monotonic() + min(self.watch_s, float(query["timeoutSeconds"]))
        breaks = self._breaks
        while time.monotonic() < ends_s:
            if self._breaks != breaks:
                raise ConnectionResetError
            with self._lock:
                events = [(at, event) for at, kind, event in self._events if at > version and kind == plural]
            for version, event in events:  # noqa: B007 - where the next look begins
                yield _line(event)
            await asyncio.sleep(0.02)
        if query.get("allowWatchBookmarks"):
            with self._lock:
                metadata = {"resourceVersion": str(self._version)}
            kind = {"apiVersion": "exeat.dev/v1", "kind": KINDS[plural]}
            yield _line({"type": "BOOKMARK", "object": {**kind, "metadata": metadata}})


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


def _failure(code: int, message: str) -> JSONResponse:
    return JSONResponse(_status(code, message), code)


@contextlib.contextmanager
def fake_cluster(directory: Path, authority: Authority, **how: Any) -> Iterator[FakeCluster]:
    """It answers, as long as the block lasts."""
    cluster = FakeCluster(directory / "cluster", authority, **how)
    with served(cluster):
        yield cluster


@contextlib.contextmanager
def served(cluster: FakeCluster) -> Iterator[None]:
    """The same one, which was away in between, on its own port."""
    place = "/apis/exeat.dev/v1"
    app = Starlette(
        routes=[
            Route(f"{place}/{{plural}}", cluster.answer),
            Route(f"{place}/{{plural}}/{{name}}/status", cluster.write, methods=["PATCH"]),
            Route(f"{place}/namespaces/{{namespace}}/{{plural}}/{{name}}/status", cluster.write, methods=["PATCH"]),
        ]
    )
    files = cluster.authority.plane
    config = uvicorn.Config(
        app,
        "127.0.0.1",
        cluster.port,
        ssl_certfile=files.certificate,
        ssl_keyfile=files.key,
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="cluster")
    thread.start()
    try:
        deadline_s = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline_s, "the cluster does not start"
            assert thread.is_alive(), "the cluster has ended"
            time.sleep(0.01)
        cluster.port = server.servers[0].sockets[0].getsockname()[1]
        cluster.url = f"https://localhost:{cluster.port}"
        yield
    finally:
        cluster.break_watches()
        server.should_exit = True
        thread.join(20)
