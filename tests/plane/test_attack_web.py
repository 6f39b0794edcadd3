"""Somebody with a viewer's token, an approver's or none at the plane's web door: what they can take or break."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from exeat.plane import people, web_connection
from exeat.plane.api import fields as api_fields
from exeat.plane.api import room as api_room
from exeat.plane.api.room import FOLLOWED_MAX, ApiRoom
from exeat.plane.daemon import PlaneDaemon
from exeat.plane.parts import Plane
from exeat.plane.people import Role, TokenWish
from exeat.plane.settings import AgentsDoor, PlaneSettings, StorePlace, WebDoor
from exeat.plane.web import application, policies_page
from plane import console_stage
from plane.calling import calling, run
from plane.certificates import authority
from plane.console_stage import Tokens
from plane.console_visitor import visiting
from plane.plane_stage import Stage, open_stage, put_policy
from plane.serving import ANY_PORT, Serving
from plane.stores import policy_text, url_of


@pytest.fixture(name="stage", scope="module")
def a_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The API with a policy."""
    with open_stage(tmp_path_factory.mktemp("plane")) as stage:
        put_policy(stage.database)
        yield stage


@pytest.fixture(name="door", scope="module")
def a_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Tokens]]:
    """The whole web door: pages, API and all; its address."""
    with console_stage.open_plane(tmp_path_factory.mktemp("plane")) as plane:
        tokens = console_stage.make_tokens(plane.database, time.time_ns())
        with console_stage.serving(plane) as address:
            yield address, tokens


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Below HTTP."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as found:
        yield found


def head(stage: Stage, path: str, role: str, length: int, method: str = "POST") -> bytes:
    """Of a request whose body is to come."""
    return (
        f"{method} /api/v1{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stage.tokens[role]}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def status_of(found: socket.socket) -> int:
    """Of the answer that comes."""
    answer = b""
    while b"\r\n" not in answer:
        part = found.recv(4096)
        assert part, "the connection was closed without an answer"
        answer += part
    return int(answer.split()[1])


def test_a_method_is_what_the_request_line_says(stage: Stage) -> None:
    """No header, field or query makes a GET of a viewer's, or a POST of an approver's, a DELETE."""
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        status, _, content = stage.raw("GET", "/policies/coder", role="viewer", headers={name: "DELETE"})
        assert (status, json.loads(content)["name"]) == (200, "coder")
        assert stage.raw("POST", "/policies/coder", {}, "approver", {name: "DELETE"})[0] == 405
    assert stage.ask("GET", "/policies/coder?_method=DELETE", role="viewer")[0] == 400
    assert stage.ask("DELETE", "/policies/coder", role="viewer")[0] == 403
    assert stage.get("/policies/coder")["name"] == "coder"


@pytest.mark.parametrize(
    "path",
    [
        "/static/x/../../../../etc/passwd",
        "/static/x/..%2f..%2f..%2fetc%2fpasswd",
        "/static/x/%2e%2e/%2e%2e/rendering.py",
        "/static/..%2f..%2frendering.py/console.css%00.py",
        "/static/x/%00",
        "/static//etc/passwd",
        "/static/x/README.md",
        "/templates/base.html",
    ],
)
def test_no_path_leads_out_of_what_ships(door: tuple[str, Tokens], path: str) -> None:
    """The style sheet beside it is there."""
    address = door[0]
    with visiting(address) as nobody:
        page = nobody.get("/sign-in").text
        style = next(part for part in page.split('"') if part.startswith("/static/") and part.endswith(".css"))
        assert nobody.get(style).status_code == 200
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)  # as it is: a browser would take the dots away
        answer = connection.getresponse()
        text = answer.read()
    assert answer.status in (400, 404)
    assert b"root:" not in text
    assert b"import" not in text


def test_who_is_asked_by_the_token_alone(door: tuple[str, Tokens]) -> None:
    """Neither what a proxy would say nor where somebody says that they come from counts."""
    address, tokens = door
    words = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-User": "root", "X-Auth-Request-Groups": "admins", "Via": "p"}
    with visiting(address) as nobody:
        for name, text in words.items():
            assert nobody.client.get("/api/v1/whoami", headers={name: text}).status_code == 401
            assert nobody.client.get("/nodes", headers={name: text}).status_code == 303
        bearer = {"Authorization": f"Bearer {tokens.viewer}", **words}
        assert nobody.client.get("/api/v1/whoami", headers=bearer).json()["role"] == "viewer"


@pytest.mark.parametrize("there", ["/nodes\r\nSet-Cookie: a=b", "/nodes\nX: y", "//evil.test", "/\\evil.test", "/\0"])
def test_nothing_that_is_posted_becomes_a_header(door: tuple[str, Tokens], there: str) -> None:
    """Where to go on is a path of ours or none; the twin is."""
    address, tokens = door
    with visiting(address) as vera:
        same = {"sec-fetch-site": "same-origin"}
        answer = vera.client.post("/theme", data={"theme": "dark", "here": there}, headers=same)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "a=b" not in str(answer.headers)
        answer = vera.client.post("/sign-in", data={"token": tokens.viewer, "next": "/nodes?q=a"}, headers=same)
        assert answer.headers["location"] == "/nodes?q=a"


def test_a_body_of_nobody_is_not_waited_for(stage: Stage) -> None:
    """Nor one of somebody who may not: 32 MiB would be kept until it is there."""
    stage.tokens["nobody"] = "exeat_wrong"
    for role, status in (("nobody", 401), ("viewer", 403), ("approver", 403)):
        with connected(stage.port) as found:
            found.sendall(head(stage, "/policies", role, 30 << 20))
            assert status_of(found) == status
    with connected(stage.port) as found:
        body = b'{"documents": []}'
        found.sendall(head(stage, "/policies", "admin", len(body)) + body)
        assert status_of(found) == 400


def test_a_body_that_does_not_come_is_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its sender's next request is answered."""
    monkeypatch.setattr(api_fields, "_BODY_S", 0.3)
    with connected(stage.port) as found:
        found.sendall(head(stage, "/policies/diff", "viewer", 1000) + b"{")
        assert status_of(found) == 400
    assert stage.post("/policies/diff", {"documents": [{"text": policy_text("a")}]}, "viewer")["policies"]


def test_large_requests_of_one_token_come_one_after_the_other(stage: Stage) -> None:
    """A viewer who asks ten times at once for what takes long keeps no other viewer waiting, and no admin."""
    before = "\n".join(f"# x{number % 50}\n# u{number}" for number in range(950))
    put_policy(stage.database, f"{policy_text('slow')}{before}\n")
    after = "\n".join(f"# x{number % 50}\n# v{number}" for number in range(950))
    body = {"documents": [{"text": f"{policy_text('slow', 'b.example.com')}{after}\n"}]}
    took: list[float] = []

    def ask() -> None:
        began_s = time.monotonic()
        assert stage.ask("POST", "/policies/diff", body, "viewer")[0] == 200
        took.append(time.monotonic() - began_s)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    worst_s = 0.0
    while any(thread.is_alive() for thread in threads):
        began_s = time.monotonic()
        assert stage.get("/whoami", "approver")["role"] == "approver"
        assert stage.post("/policies/diff", {"documents": [{"text": policy_text("b")}]}, "admin")["policies"]
        worst_s = max(worst_s, time.monotonic() - began_s)
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    took.sort()
    assert took[4] > 2 * took[0]  # in turn
    assert worst_s < took[4] / 2
    assert worst_s < 5


def test_room_for_large_requests_is_given_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where somebody goes while they wait; who waits too long is told so."""
    monkeypatch.setattr(api_room, "_WAIT_S", 0.2)

    async def act() -> None:
        room = ApiRoom()
        inside = asyncio.Event()

        async def hold(name: str) -> None:
            async with room.for_large(name):
                inside.set()
                await asyncio.sleep(60)

        holders = [asyncio.create_task(hold(name)) for name in ("a", "b", "c")]
        await inside.wait()
        for name in ("a", "d"):
            with pytest.raises(Exception, match="other large requests"):
                async with room.for_large(name):
                    raise AssertionError
        waiting = asyncio.create_task(hold("e"))
        await asyncio.sleep(0.05)
        for task in (waiting, *holders):
            task.cancel()
        await asyncio.gather(waiting, *holders, return_exceptions=True)
        for name in ("a", "b", "c", "d", "e"):
            async with room.for_large(name):
                pass

    asyncio.run(act())


def test_one_token_follows_a_few_times_and_others_too(stage: Stage) -> None:
    """Each stream is a connection, of which the door has five hundred."""
    with contextlib.ExitStack() as stack:
        follow = head(stage, "/verdicts/follow", "viewer", 0, "GET")

        def ask(role: str) -> int:
            found = stack.enter_context(connected(stage.port))
            found.sendall(follow.replace(stage.tokens["viewer"].encode(), stage.tokens[role].encode()))
            return status_of(found)

        first = stack.enter_context(contextlib.ExitStack())
        found = first.enter_context(connected(stage.port))
        found.sendall(follow)
        assert status_of(found) == 200
        assert [ask("viewer") for _ in range(FOLLOWED_MAX)] == [200] * (FOLLOWED_MAX - 1) + [409]
        assert ask("approver") == 200
        first.close()
        deadline_s = time.monotonic() + 20  # the plane finds out when it writes
        while (status := ask("viewer")) == 409 and time.monotonic() < deadline_s:
            time.sleep(0.5)
        assert status == 200


PATHS = (
    "/nodes", "/nodes/x", "/workloads", "/policies", "/policies/coder", "/policies/coder/diff", "/history",
    "/policies/coder/history", "/rollouts", "/rollouts/1", "/verdicts", "/denials", "/approvals", "/commands",
    "/commands/x", "/report", "/tokens",
)  # fmt: skip
FIELDS = (
    "since", "until", "limit", "before", "node", "policy", "workload", "to", "verdict", "revision", "from", "all",
    "format", "mode", "nonsense",
)  # fmt: skip
VALUES = (
    "", "0", "-1", "1e9", "9" * 18, "9" * 400, "99999999d", "9999999999999999999999d", "%00", "%ff%fe", "a" * 20_000,
    "%25%5f'%22;--", "::1", "::/0", "0.0.0.0/0", "*.example.com", ".", "..", "[::1]:99999", "true",
    "FORWARDED,,DROPPED", "2027-13-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "abcdef",
    "a%0d%0ab", "%F0%9F%98%80",
)  # fmt: skip


def test_no_question_makes_it_fail(stage: Stage) -> None:
    """Whatever stands in a query is answered or refused with a sentence, and never with `exeat failed`."""
    dice = random.Random(7)
    asked = 0
    for path, field in itertools.product(PATHS, FIELDS):
        for value in dice.sample(VALUES, 4):
            more = f"&{dice.choice(FIELDS)}={dice.choice(VALUES)}" if dice.random() < 0.3 else ""
            status, found = stage.ask("GET", f"{path}?{field}={value}{more}")
            assert status in (200, 400, 403, 404, 409), (path, field, value, more, found)
            asked += status == 400
    assert asked > 100


BODIES: tuple[Any, ...] = (
    {}, {"documents": None}, {"documents": [{}]}, {"documents": [{"text": 5}]}, {"documents": [[]]},
    {"documents": [{"text": "\0"}]}, {"documents": [{"text": "\ud800"}]}, {"documents": [{"text": "{" * 100_000}]},
    {"documents": [{"text": policy_text("a"), "where": "\x1b[2J"}] * 50},
    {"documents": [{"text": policy_text("a")}], "rollout": {"stages": [10**30]}, "dry_run": True},
    {"documents": [{"text": policy_text("a")}], "rollout": {"stages": [50, 10]}, "dry_run": True},
    {"documents": [{"text": policy_text("a")}], "rollout": [], "dry_run": True},
    {"documents": [{"text": policy_text("a")}], "rollout": {"stages": [1.5], "soak_s": -1}, "dry_run": True},
    {"destination": "x" * 2000, "owner": "o", "reason": "r"}, {"destination": "\ud800", "owner": "o", "reason": "r"},
    {"destination": "1.2.3.4:0/tcp", "owner": "\0", "reason": "\n", "expires": "9999999999d"},
    {"destination": "x.test", "owner": "o", "reason": "r", "expires": "-5d", "token": "\ud800"},
    {"node": "\0", "workload": "w", "do": "mode", "mode": "open"}, {"node": "n", "workload": "\ud800", "do": "mode"},
    {"node": "n", "workload": "w", "do": ["mode"]}, {"node": "n", "workload": "w", "do": "allow", "for_s": 10**40},
    {"name": "\ud800", "role": "admin"}, {"name": "a", "role": []}, {"name": "a", "role": "admin", "expires": "1e9"},
    {"set": {"\0": "\ud800"}}, {"set": {"a": None}}, {"remove": [1]}, {"revision": "\0" * 70}, {"revision": {}},
    {"reason": "\ud800"}, {"reason": "\0"},
)  # fmt: skip
CHANGES = (
    "/nodes", "/nodes/x/labels", "/nodes/x/retire", "/policies", "/policies/diff", "/policies/coder/rollback",
    "/rollouts/1/pause", "/approvals", "/approvals/preview", "/commands", "/tokens",
)  # fmt: skip


def test_no_order_makes_it_fail(stage: Stage) -> None:
    """The same for bodies; nothing of it is done by halves."""
    for path, body in itertools.product(CHANGES, BODIES):
        status, found = stage.ask("POST", path, body)
        assert status in (200, 400, 403, 404, 409, 413, 422), (path, body, found)
    for content in (b"[" * 60_000, b"\xff", b"", b"[]", b"1" * 60_000, b'{"a":' * 9000, b'{"a": NaN}'):
        status, _, _ = stage.raw("POST", "/policies/diff", content, "viewer")
        assert status == 400, content[:20]
    assert stage.get("/policies/coder")["is_current"]


def test_headers_without_end_are_not_kept(stage: Stage) -> None:
    """A megabyte of them; the twin's are a few kilobytes."""
    with connected(stage.port) as found:
        found.sendall(b"GET /api/v1/whoami HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(200):
                found.sendall(f"X-{number}: {'y' * 5000}\r\n".encode())
        with contextlib.suppress(ConnectionError):
            assert status_of(found) in (400, 431)
    few = {f"X-{number}": "y" * 500 for number in range(10)}
    assert stage.raw("GET", "/whoami", role="viewer", headers=few)[0] == 200


def test_readers_of_slow_pages_keep_no_agent_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty requests of a viewer's for a page that takes two seconds; a node says hello meanwhile."""

    def slow(*_: object) -> object:
        time.sleep(2)
        return [], []

    monkeypatch.setattr(policies_page, "_lines", slow)

    async def talk() -> None:
        papers = authority(tmp_path / "papers")
        files = papers.plane
        agents = AgentsDoor(files.certificate, files.key, files.ca, ANY_PORT)
        store = StorePlace(url_of("sqlite", tmp_path))
        parts: list[Plane] = []

        def whole(plane: Plane) -> Any:
            parts.append(plane)
            return application(plane)

        daemon = PlaneDaemon(PlaneSettings(agents=agents, name="plane-1", web=WebDoor(ANY_PORT), store=store), whole)
        running = asyncio.create_task(daemon.run())
        await asyncio.wait_for(daemon.is_ready.wait(), 20)
        plane = Serving(daemon, parts[0], papers, {})
        try:
            token = await plane.writing(people.add, TokenWish("vera", Role.VIEWER), time.time_ns())
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.web_port}", timeout=60) as vera:
                await vera.post("/sign-in", data={"token": token}, headers={"sec-fetch-site": "same-origin"})
                pages = [asyncio.create_task(vera.get("/policies")) for _ in range(40)]
                await asyncio.sleep(0.5)
                began_s = time.monotonic()
                async with calling(plane) as agent:
                    await agent.hello()
                    await agent.take()
                assert time.monotonic() - began_s < 1.5
                for page in pages:
                    page.cancel()
                await asyncio.gather(*pages, return_exceptions=True)
        finally:
            daemon.stop()
            await asyncio.wait_for(running, 30)

    asyncio.run(talk())


def test_connections_that_say_nothing_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody who reaches the port could open them; for a moment they do."""
    monkeypatch.setattr(web_connection, "HEAD_S", 3.0)

    async def talk(plane: Serving) -> None:
        port = plane.daemon.web_port

        def health() -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/healthz")
                return connection.getresponse().status

        with contextlib.ExitStack() as stack:
            assert await asyncio.to_thread(health) == 200
            for number in range(510):
                stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=5)))
                if number % 50 == 0:
                    await asyncio.sleep(0.02)
            assert await asyncio.to_thread(health) == 503
            deadline_s = time.monotonic() + 15
            while (status := await asyncio.to_thread(health)) != 200 and time.monotonic() < deadline_s:
                await asyncio.sleep(1)
            assert status == 200

    run(tmp_path, talk)
