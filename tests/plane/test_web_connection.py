"""How long one connection at the web door is kept for somebody who wants nothing of it, and for whoever does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from exeat.plane import web_connection, web_server
from exeat.plane.settings import WebDoor
from exeat.plane.web import forms
from exeat.plane.web_server import WebServer
from plane import console_stage
from plane.serving import ANY_PORT

HEAD_S = 0.6
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 32 << 20

Talk = Callable[[int], Awaitable[None]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_connection, "HEAD_S", HEAD_S)


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """`/slow` after a while, `/events` piece by piece, `/large` at once, all else as well."""
    path = scope["path"]
    if path == "/slow":
        await asyncio.sleep(3 * HEAD_S)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if path == "/events":
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"event", "more_body": True})
            await asyncio.sleep(HEAD_S)
    body = bytes(LARGE) if path == "/large" else b"done"
    await send({"type": "http.response.body", "body": body, "more_body": False})


def at_the_door(talk: Talk) -> None:
    """With a port of its own."""

    async def act() -> None:
        server = WebServer(WebDoor(ANY_PORT))
        server.start(answer, Counter())
        try:
            await talk(server.port)
        finally:
            await server.stop()

    asyncio.run(act())


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Below HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def end_s(reader: asyncio.StreamReader) -> float:
    """How long it takes until the plane has ended it."""
    began_s = time.monotonic()
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)
    return time.monotonic() - began_s


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b""),
        (b"GET / HT", b""),
        (b"GET / HTTP/1.1\r\nX: ", b"a"),
        (GET, b"G"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b"a"),
    ],
    ids=["silent", "half a line", "slow header", "slow second head", "slow body that nobody wants"],
)
def test_a_connection_without_a_request_ends(first: bytes, then: bytes) -> None:
    """Also where each moment brings a byte."""

    async def talk(port: int) -> None:
        async with connected(port) as (reader, writer):
            writer.write(first)

            async def drip() -> None:
                while True:
                    await asyncio.sleep(0.1)
                    writer.write(then)

            dripping = asyncio.create_task(drip())
            took_s = await end_s(reader)
            dripping.cancel()
            await asyncio.wait((dripping,))
            assert HEAD_S / 2 < took_s < HEAD_S + 1.5

    at_the_door(talk)


@pytest.mark.parametrize("path", ["/slow", "/events"])
def test_an_answer_may_take_its_time(path: str) -> None:
    """And the next request on the connection is answered too."""

    async def talk(port: int) -> None:
        async with connected(port) as (reader, writer):
            for ask in (GET.replace(b"/", path.encode(), 1), GET):
                writer.write(ask[:10])
                await asyncio.sleep(HEAD_S / 3)  # in two parts, but soon enough
                writer.write(ask[10:])
                found = b""
                while b"done" not in found:
                    part = await asyncio.wait_for(reader.read(4096), 5)
                    assert part, "it was ended"
                    found += part
                await asyncio.sleep(1.5 * HEAD_S)  # silence between two requests is another bound's

    at_the_door(talk)


@pytest.mark.parametrize(("is_read", "is_whole"), [(False, False), (True, True)])
def test_an_answer_that_nobody_reads_is_given_up(
    is_read: bool, is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is read slowly is not."""
    monkeypatch.setattr(web_server, "_UNREAD_S", 0.5)

    async def talk(port: int) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, GET.replace(b"/", b"/large", 1))
            count, until_s = 0, time.monotonic() + 3
            while time.monotonic() < until_s:
                if is_read:
                    count += len(await loop.sock_recv(client, 4096))
                await asyncio.sleep(0.05)
            with contextlib.suppress(ConnectionError):
                while part := await asyncio.wait_for(loop.sock_recv(client, 1 << 20), 5):
                    count += len(part)
            assert (count > LARGE) is is_whole

    at_the_door(talk)


def test_a_form_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may post the one for the theme."""
    monkeypatch.setattr(forms, "_BODY_S", 0.3)
    head = (
        b"POST /theme HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: same-origin\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 10\r\n\r\n"
    )
    with console_stage.open_plane(tmp_path) as plane, console_stage.serving(plane) as address:
        for body, status in ((b"theme", b"400"), (b"theme=dark", b"303")):
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=5) as client:
                client.sendall(head + body)
                assert client.recv(4096).split()[1] == status
