"""Questions over TCP: one after the other on each connection, with a bound on connections, bytes and time."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from exeat.dns.callers import Peer

CONNECTIONS_MAX = 64  # per workload; clients use one each
IDLE_S = 10.0  # RFC 7766 6.2.3: a few seconds
MESSAGE_S = 5.0  # from a message's first byte to its last
_LENGTH = struct.Struct("!H")

AnswerOne = Callable[[bytes, Peer], Awaitable[bytes | None]]


class TcpClients:
    """The connections of one gate. Whom it does not admit is reset."""

    def __init__(self, answer: AnswerOne, admits: Callable[[Peer], bool]) -> None:
        self._answer = answer
        self._admits = admits
        self._open: set[asyncio.Task[None]] = set()

    async def listen(self, listener: socket.socket) -> asyncio.Server:
        """Begins to accept."""
        return await asyncio.start_server(self._accept, sock=listener, limit=_LENGTH.size + 65535)

    def close(self) -> None:
        """Ends every connection."""
        for task in self._open:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        try:
            peer = writer.get_extra_info("peername")
            if self._admits(peer) and len(self._open) < CONNECTIONS_MAX:
                self._open.add(task)
                await self._converse(reader, writer, peer)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            pass  # it is slow, or has gone: nothing is owed to it any more
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        while True:
            first = await asyncio.wait_for(reader.readexactly(1), IDLE_S)
            message = await asyncio.wait_for(self._rest(first, reader), MESSAGE_S)
            answer = await self._answer(message, peer)
            if answer is None:
                return
            writer.write(_LENGTH.pack(len(answer)) + answer)
            await asyncio.wait_for(writer.drain(), MESSAGE_S)

    async def _rest(self, first: bytes, reader: asyncio.StreamReader) -> bytes:
        length = _LENGTH.unpack(first + await reader.readexactly(1))[0]
        return await reader.readexactly(length)
