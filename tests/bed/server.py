"""The process inside the hosts namespace: all hosts of a bed in one loop, commanded over a pipe.

One thread, so that an answer to "what have you counted?" comes after everything that had arrived by then. It ends when
the pipe closes, which is also when the test run dies.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing.connection import Connection as Pipe
from typing import TYPE_CHECKING, Any

from bed.conversations import Conversation, Echo, Encrypted, Http, Silent, introduction, on_server_name
from bed.services import Asked, Counts, Dns, Listening, Tcp, Tls, Udp

if TYPE_CHECKING:
    from bed.dns import Resolver

RECORD_LIMIT = 1 << 20
SINK_RECORD_LIMIT = 64 << 10
QUIET_S = 0.01  # counts are given after this long without an event: softirqs may still carry a packet over the veth
SETTLE_LIMIT_S = 0.5  # unless the traffic never stops
READ_BYTES = 256 << 10
BACKLOG = 1024
DATAGRAMS_BYTES = 8 << 20  # the default holds some 270 small ones: a herd's others would be lost, and not counted
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>; socket has no name for it


@dataclass
class Ledger:
    """What reached one host."""

    records: list[bytearray] = field(default_factory=list)
    connections: int = 0
    bytes: int = 0
    datagrams: list[bytes] = field(default_factory=list)
    sni: list[str | None] = field(default_factory=list)
    questions: list[Asked] = field(default_factory=list)

    def counts(self) -> Counts:
        """The numbers for a test to compare."""
        sizes = sum(map(len, self.datagrams))
        return Counts(self.connections, self.bytes, len(self.datagrams), sizes, list(self.sni))


class Connection:
    """One accepted TCP connection: counts, records, and lets its conversation answer."""

    def __init__(
        self, server: Server, ledger: Ledger, sock: socket.socket, peer: tuple[str, int], service: Tls | Tcp | Dns
    ) -> None:
        self._server, self._ledger, self._socket = server, ledger, sock
        self.conversation: Conversation
        self.peer: tuple[str, int] = peer[:2]  # of accept(): a socket that was reset has none any more
        is_sink = isinstance(service, Tcp) and service.behaviour == "sink"
        self._limit = SINK_RECORD_LIMIT if is_sink else RECORD_LIMIT
        self._record = bytearray()
        self._unsent = b""
        self._has_ended = False
        self._is_closed = False
        ledger.connections += 1
        ledger.records.append(self._record)

    def ready(self, events: int) -> None:
        """Read or write, whatever the socket is ready for."""
        try:
            if events & selectors.EVENT_READ:
                self._read()
            self._write()
        except BlockingIOError:
            return
        except OSError:  # reset by the client, or by exeat
            self._close()

    def say(self, data: bytes) -> None:
        """Write at a time of one's own, after what is still unwritten."""
        if not self._is_closed:
            self._unsent += data
            self.ready(0)

    def _read(self) -> None:
        data = self._socket.recv(READ_BYTES)
        self._ledger.bytes += len(data)
        self._record += data[: self._limit - len(self._record)]
        if data:
            self._unsent += self.conversation.hear(data)
        else:
            self._has_ended = True
            self._unsent += self.conversation.end()

    def _write(self) -> None:
        if self._unsent:
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        if self._unsent:
            self._server.selector.modify(self._socket, selectors.EVENT_WRITE, self.ready)
        elif self._has_ended or self.conversation.is_over:
            self._close()
        else:
            self._server.selector.modify(self._socket, selectors.EVENT_READ, self.ready)

    def _close(self) -> None:
        self._server.selector.unregister(self._socket)
        self._socket.close()
        self._is_closed = True


class Server:
    """The hosts of a bed by name, and the loop that serves them."""

    def __init__(self, pipe: Pipe) -> None:
        self.selector = selectors.DefaultSelector()
        self._pipe = pipe
        self._ledgers: dict[str, Ledger] = {}
        self._resolvers: dict[str, Resolver] = {}
        self._delayed: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.selector.register(pipe, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the pipe closes."""
        while True:
            if self._turn(None):
                deadline = time.monotonic() + SETTLE_LIMIT_S
                try:
                    command, *arguments = self._pipe.recv()
                except EOFError:
                    return
                if command != "listen":
                    self._settle(deadline)
                self._pipe.send(self._obey(command, arguments))

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call in so many seconds, or now."""
        if delay_s:
            heapq.heappush(self._delayed, (time.monotonic() + delay_s, next(self._numbers), call))
        else:
            call()

    def _select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._delayed:
            until_next = max(0.0, self._delayed[0][0] - time.monotonic())
            timeout = until_next if timeout is None else min(timeout, until_next)
        ready = self.selector.select(timeout)
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            heapq.heappop(self._delayed)[2]()
        return ready

    def _turn(self, timeout: float | None) -> bool:
        """Serve what is ready; whether a command waits."""
        is_commanded = False
        for key, events in self._select(timeout):
            if key.data is None:
                is_commanded = True
            else:
                key.data(events)
        return is_commanded

    def _settle(self, deadline: float) -> None:
        self.selector.unregister(self._pipe)
        while time.monotonic() < deadline:
            ready = self.selector.select(QUIET_S)  # not _select: an answer that is due later is no traffic yet
            if not ready:
                break
            for key, events in ready:
                key.data(events)
        self.selector.register(self._pipe, selectors.EVENT_READ)

    def _obey(self, command: str, arguments: list[Any]) -> tuple[bool, Any]:
        orders: dict[str, Callable[..., Any]] = {
            "listen": self._listen,
            "counts": lambda name: self._ledgers[name].counts(),
            "received": lambda name, index: bytes(self._ledgers[name].records[index]),
            "datagrams": lambda name: list(self._ledgers[name].datagrams),
            "questions": lambda name: list(self._ledgers[name].questions),
            "zone": lambda name, zone: self._resolvers[name].set_zone(zone),
            "manner": lambda name, manner, of: self._resolvers[name].set_manner(manner, of),
            "reset": lambda name: self._ledgers[name].__init__(),  # in place: open connections keep counting into it
        }
        try:
            return True, orders[command](*arguments)
        except (OSError, LookupError, ValueError) as error:
            return False, error

    def _listen(self, order: Listening) -> None:
        ledger = self._ledgers.setdefault(order.name, Ledger())
        if isinstance(order.service, Dns):
            self._listen_dns(order, order.service, ledger)
            return
        context = _tls_context(order)

        def converse(_: Connection) -> Conversation:
            return _conversation(order, context, ledger)

        for address in order.addresses:
            sock = _open(order, address)
            if isinstance(order.service, Udp):
                ready = partial(self._answer_datagrams, sock, ledger, order)
            else:
                ready = partial(self._accept, sock, ledger, order.service, converse)
            self.selector.register(sock, selectors.EVENT_READ, ready)

    def _listen_dns(self, order: Listening, service: Dns, ledger: Ledger) -> None:
        from bed.dns import DatagramServer, Resolver, Stream  # dnspython takes its time: only beds with a Dns pay it

        resolver = self._resolvers.setdefault(order.name, Resolver(service))

        def converse(connection: Connection) -> Conversation:
            return Stream(resolver, ledger, connection.peer, connection.say, self.later)

        for address in order.addresses:
            sock = _open(order, address, socket.SOCK_DGRAM)
            server = DatagramServer(resolver, sock, ledger, self.later)
            self.selector.register(sock, selectors.EVENT_READ, server.ready)
            listener = _open(order, address)
            ready = partial(self._accept, listener, ledger, service, converse)
            self.selector.register(listener, selectors.EVENT_READ, ready)

    def _accept(
        self,
        listener: socket.socket,
        ledger: Ledger,
        service: Tls | Tcp | Dns,
        converse: Callable[[Connection], Conversation],
        _: int,
    ) -> None:
        with contextlib.suppress(OSError):  # none left, or reset before we came to it
            sock, peer = listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # tickets, then the answer: 40 ms of Nagle
            connection = Connection(self, ledger, sock, peer, service)
            connection.conversation = converse(connection)
            self.selector.register(sock, selectors.EVENT_READ, connection.ready)

    def _answer_datagrams(self, sock: socket.socket, ledger: Ledger, order: Listening, _: int) -> None:
        with contextlib.suppress(OSError):  # none left, or the ICMP error of an earlier answer
            while True:
                data, sender = sock.recvfrom(1 << 16)
                ledger.datagrams.append(data)
                if isinstance(order.service, Udp) and order.service.answers:
                    sock.sendto(introduction(order.name), sender)


def _open(order: Listening, address: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    service = order.service
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if isinstance(service, Udp) or kind == socket.SOCK_DGRAM:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        with contextlib.suppress(PermissionError):  # of loopback hosts, for tests without root
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, DATAGRAMS_BYTES)
        sock.bind((address, service.port))
    else:
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_MPTCP if service.mptcp else 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if isinstance(service, Tcp) and service.inline_urgent:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.bind((address, service.port))
        if service.fastopen:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, BACKLOG)
        sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _tls_context(order: Listening) -> ssl.SSLContext | None:
    if not isinstance(order.service, Tls):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(order.chain, order.key)
    context.set_alpn_protocols(["http/1.1"])
    context.sni_callback = on_server_name
    if order.service.groups:
        context.set_ecdh_curve(order.service.groups)
    return context


def _conversation(order: Listening, context: ssl.SSLContext | None, ledger: Ledger) -> Conversation:
    service = order.service
    if isinstance(service, Tls) and context:
        http = Http(order.name)

        def note_sni(name: str | None) -> None:
            ledger.sni.append(name)
            http.name = name if name in service.names else order.name

        return Encrypted(context, http, note_sni)
    behaviour = service.behaviour if isinstance(service, Tcp) else ""
    if behaviour == "http":
        return Http(order.name)
    if behaviour == "echo":
        return Echo(order.name)
    return Silent(order.name if behaviour == "sink" else None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("descriptor", type=int)
    Server(Pipe(parser.parse_args().descriptor)).run()
