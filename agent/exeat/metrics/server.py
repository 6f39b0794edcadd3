"""Serves metrics and health over HTTP: one thread, whatever clients there are.

A client has five seconds from its first byte to the last of the answer, or is cut off. Where too many are there, the
one that has been there longest goes: whoever asks in earnest is done within milliseconds.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exeat.errors import ExeatError
from exeat.metrics.families import Registry
from exeat.metrics.text import CONTENT_TYPE
from exeat.settings import Listen

CLIENTS_MAX = 32
DEADLINE_S = 5.0
_REQUEST_MAX = 8192
_BACKLOG = 256
_PLAIN = "text/plain; charset=utf-8"
_STATUS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Health:
    """Sentences about what is not as it should be; none where all is well."""

    complaints: Callable[[], Sequence[str]]  # a loop of the agent does not turn any more
    unready: Callable[[], Sequence[str]]  # policies are not in force yet


class Server:
    """Serves until stop()."""

    def __init__(self, listener: socket.socket, health: Health, registry: Registry) -> None:
        self.port = int(listener.getsockname()[1])
        self._listener = listener
        self._pages: dict[str, Callable[[], tuple[int, str, str]]] = {
            "/metrics": lambda: (200, CONTENT_TYPE, registry.text()),
            "/metrics/workloads": lambda: _read(registry.workloads_text),
            "/healthz": lambda: _told(health.complaints),
            "/readyz": lambda: _told(health.unready),
        }
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}  # the longest there first
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends every connection and the thread; a second call does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._listener.close()
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener, limit=_REQUEST_MAX, backlog=_BACKLOG)
        await self._stopped.wait()
        server.close()
        clients = list(self._clients)
        while self._clients:
            self._cut_off_eldest()
        await asyncio.gather(*clients, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            self._cut_off_eldest()
        client = self._loop.create_task(self._attend(reader, writer))
        self._clients[client] = writer
        client.add_done_callback(lambda client: self._clients.pop(client, None))

    def _cut_off_eldest(self) -> None:
        client = next(iter(self._clients))
        self._clients.pop(client).transport.abort()  # here: a task that was never begun cleans nothing up
        client.cancel()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(request.decode("latin-1").partition("\r\n")[0]))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return  # too slow, too long, or gone: its own loss
        finally:
            writer.transport.abort()

    def _answer(self, request_line: str) -> bytes:
        method, _, rest = request_line.partition(" ")
        page = self._pages.get(rest.partition(" ")[0].partition("?")[0])
        if method not in ("GET", "HEAD"):
            status, kind, body = 405, _PLAIN, "only GET and HEAD are answered here\n"
        elif page is None:
            status, kind, body = 404, _PLAIN, f"there are {', '.join(self._pages)}\n"
        else:
            status, kind, body = page()
        content = body.encode()
        head = (
            f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (b"" if method == "HEAD" else content)


def serve(listen: Listen, health: Health, registry: Registry) -> Server:
    """Begins to serve. Raises ExeatError with a sentence where the address cannot be had."""
    family = socket.AF_INET6 if listen.address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(listen.address), listen.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ExeatError(
            f"metrics cannot be served on {listen}: {error.strerror}. "
            "Write another `metrics.listen` into the agent's settings, or `off`"
        ) from error
    return Server(listener, health, registry)


def _read(text: Callable[[], str]) -> tuple[int, str, str]:
    try:
        return 200, CONTENT_TYPE, text()
    except (ExeatError, OSError) as error:
        return 503, _PLAIN, f"{error}\n"


def _told(complaints: Callable[[], Sequence[str]]) -> tuple[int, str, str]:
    try:
        sentences = complaints()
    except (ExeatError, OSError) as error:
        sentences = [str(error)]
    return (503, _PLAIN, "".join(f"{sentence}\n" for sentence in sentences)) if sentences else (200, _PLAIN, "ok\n")
