"""The door for people and tools: uvicorn in the plane's own loop, with TLS where there is a certificate.

A renewed certificate is taken without a restart.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

from exeat.errors import ExeatError, SocketError
from exeat.plane.settings import WebDoor
from exeat.plane.web_connection import WebConnection

_CONNECTIONS_MAX = 500
_BACKLOG = 256
_FILES_S = 2.0  # how often the files are looked at
_GRACE_S = 2
_UNREAD_S = 60.0  # for somebody who reads nothing of what is sent to them
_log = logging.getLogger("exeat.plane")

_Message = MutableMapping[str, Any]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]


class WebServer:
    """Listens at once; start() begins to answer."""

    def __init__(self, door: WebDoor) -> None:
        self._door = door
        self._listener = _listener(door)
        self.port = int(self._listener.getsockname()[1])
        self._server: uvicorn.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, app: _App, statuses: "Counter[int]") -> None:
        """Answers by `app`, and counts its answers by hundreds. Raises ExeatError for files that will not do."""
        config = uvicorn.Config(
            _counted(app, statuses),
            http=WebConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # whom to believe about that, the settings say
            server_header=False,
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_graceful_shutdown=_GRACE_S,
        )
        config.load()
        if self._door.certificate and self._door.key:
            config.ssl = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # TLS 1.2 or newer
            _load(config.ssl, self._door.certificate, self._door.key)
            self._tasks.append(asyncio.create_task(_follow(config.ssl, self._door.certificate, self._door.key)))
        self._server = _Server(config)
        self._tasks.append(asyncio.create_task(self._server.serve([self._listener])))

    async def stop(self) -> None:
        """Ends every connection, those that do not end by themselves after a moment."""
        if self._server:
            self._server.should_exit = True
            await asyncio.wait(self._tasks[-1:], timeout=_GRACE_S + 1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's."""
        yield


def _listener(door: WebDoor) -> socket.socket:
    family = socket.AF_INET6 if door.listen.address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Each connection has it from the listener. One where nothing is to be sent may be silent.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNREAD_S * 1000))
        listener.bind((str(door.listen.address), door.listen.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        text = f"the console cannot be served on {door.listen}: {error.strerror}. Write another `web.listen`"
        raise SocketError(text) from error
    return listener


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        text = f"{certificate} and {key} are no certificate and its key in PEM, without a password: {why}"
        raise ExeatError(text) from error


async def _follow(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Connections that are made from then on get the new one."""
    seen = _state(certificate, key)
    while True:
        await asyncio.sleep(_FILES_S)
        if (now := _state(certificate, key)) == seen:
            continue
        seen = now
        try:
            _load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), certificate, key)  # half of a pair breaks none
            _load(context, certificate, key)
        except ExeatError as error:
            _log.warning("the console goes on with the certificate as it was: %s", error)
        else:
            _log.info("the console's certificate is new, and taken")


def _state(*paths: Path) -> tuple[tuple[int, int, int] | None, ...]:
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _counted(app: _App, statuses: "Counter[int]") -> _App:
    async def run(
        scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        async def sending(message: _Message) -> None:
            if message["type"] == "http.response.start":
                statuses[message["status"] // 100] += 1
            await send(message)

        await app(scope, receive, sending)

    return run
