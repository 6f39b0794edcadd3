"""The door: looks at who connects, and carries bytes between them and gRPC, which in Python cannot see who they are.

gRPC listens in a directory that only root may enter. The door connects there from a socket of a name that it made up
for this one asker; gRPC shows that name to the operation, and the door knows whose it is.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from pathlib import Path

from exeat.control.peer import Peer, may_ask, peer_of
from exeat.control.place import Place
from exeat.control.stranger import PREFACE, has_greeted, turn_away
from exeat.errors import SocketError, StatusWord

CONNECTIONS_MAX = 64
_FOR_ROOT = 16  # of them: so that the group cannot lock the administrator out
_CROWD_MAX = 256  # with those who have said nothing yet, or are being turned away; root is let in beyond
_CHUNK = 65_536
_LINGER_S = 1.0
STRANGER = "only root and members of group exeat may ask the agent"
CROWD = f"the agent has {CONNECTIONS_MAX} connections: end some of them"
_GRPC_FORM = "unix-abstract:"
_log = logging.getLogger(__name__)


class Door:
    """The connections of one agent."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._inner: Path = place.inner
        self._peers: dict[str, Peer] = {}  # by the name of the door's own end
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begins to accept."""
        self._server = await asyncio.start_unix_server(self._accept, sock=self._place.listener, limit=_CHUNK)

    def stop_accepting(self) -> None:
        """Those inside may go on."""
        if self._server:
            self._server.close()
        self._place.stop_listening()

    async def close(self) -> None:
        """Ends every connection."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._place.clear()

    def peer_behind(self, grpc_name: str) -> Peer | None:
        """Who asks, by what gRPC calls the connection; None: it did not come through the door."""
        return self._peers.get(grpc_name.removeprefix(_GRPC_FORM)) if grpc_name.startswith(_GRPC_FORM) else None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            await self._receive(reader, writer)
        except ConnectionError:
            return  # it has gone: nothing is owed to it any more
        except (SocketError, OSError) as error:
            _log.error("a connection to the agent's socket was closed: %s", error)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        peer = peer_of(connection)
        if len(self._tasks) > _CROWD_MAX and peer.uid != 0:
            return
        is_known = may_ask(connection, peer, self._place.group)
        if not await has_greeted(reader):
            return
        if not is_known:
            await turn_away(reader, writer, StatusWord.PERMISSION, STRANGER)
        elif len(self._peers) >= CONNECTIONS_MAX - (0 if peer.uid == 0 else _FOR_ROOT):
            await turn_away(reader, writer, StatusWord.UNAVAILABLE, CROWD)
        else:
            await self._carry(peer, reader, writer)

    async def _carry(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = f"exeat-{os.getpid()}-{secrets.token_hex(8)}"
        self._peers[name] = peer
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(sock=self._dial(name), limit=_CHUNK)
            try:
                inner_writer.write(PREFACE)
                await _both_ways((reader, inner_writer), (inner_reader, writer))
            finally:
                inner_writer.transport.abort()
        finally:
            del self._peers[name]

    def _dial(self, name: str) -> socket.socket:
        """Connects at once: gRPC's queue is longer than the door lets in."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.bind(f"\0{name}")
            end.connect(str(self._inner))
            end.setblocking(False)
        except OSError:
            end.close()
            raise
        return end


async def _both_ways(
    inward: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    outward: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Until either end closes; what gRPC said last still leaves."""
    tasks = [asyncio.create_task(_one_way(*way)) for way in (inward, outward)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1].done():
            outward[1].close()
            with contextlib.suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(outward[1].wait_closed(), _LINGER_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A reader that stops reading stops what is written to it, and nobody else."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
