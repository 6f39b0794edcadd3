"""One question to one server: over UDP, and over TCP where the answer did not fit.

What does not fit the question is passed over and the wait goes on, for whoever can send such replies must be able
neither to end the wait nor to be believed. Against guessing from afar: a random id, a fresh source port of the kernel's
choosing for each question, and a connected socket, so that the kernel drops every other sender's datagrams.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from exeat.dns.health import Peer
from exeat.dns.records import Reply
from exeat.dns.wire import parse_reply

EDNS_PAYLOAD = 1232  # DNS flag day 2020: fits the smallest IPv6 packet, so it is never a fragment
BAD_REPLIES_MAX = 32  # a few may be lost and found again, or meant for others; more is an attack or a broken server
_DATAGRAM_BYTES = 4096  # what is longer than was announced is cut, and then it is malformed
_STREAM_BYTES = 65_536
_LENGTH_BYTES = 2  # RFC 1035, 4.2.2

MakeSocket = Callable[[int, int], socket.socket]


@dataclass(slots=True)
class Counts:
    """What an Upstream has done so far."""

    questions: int = 0  # that were sent to somebody
    joined: int = 0  # that came while the same one was in flight
    floods: int = 0  # that were not taken
    exchanges: int = 0
    streams: int = 0
    bad_replies: int = 0
    failures: int = 0  # of servers
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class Asking:
    """What all exchanges of one question share."""

    loop: asyncio.AbstractEventLoop
    name: str
    kind: int
    query: bytes  # with an id of 0, which each exchange replaces by its own
    make_socket: MakeSocket
    counts: Counts

    def query_as(self, ident: int) -> bytes:
        """The question under this id."""
        return ident.to_bytes(2, "big") + self.query[2:]


class Exchange:
    """Begins when it is made, and then calls `on_end` once, with None if the server has failed; unless closed before.

    OSError: the server cannot even be asked.
    """

    __slots__ = ("_asking", "_bad_replies", "_ident", "_on_end", "_socket", "_stream", "began", "peer")

    def __init__(self, asking: Asking, peer: Peer, on_end: Callable[[Exchange, Reply | None], None]) -> None:
        self.peer = peer
        self.began = asking.loop.time()
        self._asking = asking
        self._on_end = on_end
        self._ident = secrets.randbits(16)
        self._bad_replies = 0
        self._stream: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
        with ExitStack() as unfinished:
            sock = unfinished.enter_context(asking.make_socket(peer.family, socket.SOCK_DGRAM))
            sock.setblocking(False)
            sock.connect(peer.address)
            sock.send(asking.query_as(self._ident))
            asking.loop.add_reader(sock.fileno(), self._read, sock)
            unfinished.pop_all()
        self._socket = sock
        asking.counts.exchanges += 1

    def close(self) -> None:
        """Lets go of it; nobody is called any more."""
        self._close_socket()
        if self._stream:
            self._stream.cancel()
            self._stream = None

    def _close_socket(self) -> None:
        if self._socket:
            self._asking.loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _read(self, sock: socket.socket) -> None:
        while True:  # ends: each turn takes a datagram, and only so many may be bad
            try:
                message = sock.recv(_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # nobody listens there, says ICMP
                self._end(None)
                return
            reply = self._fitting(message)
            if reply:
                self._take(reply)
                return
            if self._is_deceived:
                self._end(None)
                return

    def _take(self, reply: Reply) -> None:
        loop = self._asking.loop
        self.peer.answered(loop.time() - self.began)
        if reply.is_truncated:
            self._close_socket()
            self._stream = loop.create_task(self._ask_over_stream(), name=f"question over TCP to {self.peer.server}")
        else:
            self._end(reply)

    def _fitting(self, message: bytes) -> Reply | None:
        """The reply, if it is one to this question; others are counted."""
        reply = parse_reply(message, self._ident, self._asking.name, self._asking.kind)
        if reply is None:
            self._bad_replies += 1
            self._asking.counts.bad_replies += 1
        return reply

    @property
    def _is_deceived(self) -> bool:
        return self._bad_replies > BAD_REPLIES_MAX

    def _end(self, reply: Reply | None) -> None:
        self._close_socket()
        self._on_end(self, reply)

    async def _ask_over_stream(self) -> None:
        self._asking.counts.streams += 1
        self._ident = secrets.randbits(16)
        try:
            reply = await self._reply_of_stream()
        except OSError:  # refused, reset, unreachable
            reply = None
        self._stream = None  # its own end is no reason to cancel it
        self._end(reply)

    async def _reply_of_stream(self) -> Reply | None:
        loop = self._asking.loop
        query = self._asking.query_as(self._ident)
        with self._asking.make_socket(self.peer.family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, self.peer.address)
            await loop.sock_sendall(sock, len(query).to_bytes(_LENGTH_BYTES, "big") + query)
            pending = bytearray()
            while data := await loop.sock_recv(sock, _STREAM_BYTES):
                pending += data
                while message := _first_message(pending):
                    reply = self._fitting(bytes(message[_LENGTH_BYTES:]))
                    if reply:
                        return None if reply.is_truncated else reply
                    if self._is_deceived:
                        return None
                    del pending[: len(message)]
        return None


def _first_message(pending: bytearray) -> bytearray | None:
    """The first whole message with its length in front, at least two bytes."""
    if len(pending) < _LENGTH_BYTES:
        return None
    end = _LENGTH_BYTES + int.from_bytes(pending[:_LENGTH_BYTES], "big")
    return pending[:end] if len(pending) >= end else None
