"""A workload that says hello a thousand times a second, and a server that tells byte for byte what it heard.

Two forked processes: the client in the bed's client namespace, which enters a workload's cgroup for each batch, and the
recorder among the hosts, which knows each connection by its client port. (A bed host settles for 10 ms before it
answers what it received: too long for thousands.) A connection is over when the recorder has read its end and closed it
in turn, so what it says has arrived is all that ever will.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from bed import Bed, missing_capability
from bed.namespace import die_with_parent, enter
from e2e.guard import Guard, Told, Workload, rule
from exeat.kernel.filesystems import mount_point
from exeat.model.names import HostPattern, PatternKind
from exeat.model.policy import Rule
from exeat.model.verdicts import Reason, Verdict

SO_COOKIE = 57  # asm-generic/socket.h; Python has no name for it
PATIENCE_S = 0.15  # for the server's end; who waits longer has bytes in the queue that the kernel does not let out
HOSTS = "203.0.113.0/24"  # where the bed puts its hosts
Option = tuple[int, int, int]
NODELAY: Option = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@dataclass(frozen=True)
class Talk:
    """What to write to one connection, one send() each; a number is a pause in seconds."""

    writes: Sequence[bytes | float]
    options: tuple[Option, ...] = ()
    flags: int = 0

    @property
    def stream(self) -> bytes:
        """All that is written."""
        return b"".join(part for part in self.writes if isinstance(part, bytes))


@dataclass(frozen=True)
class Outcome:
    """What became of it: `error` is the errno of write number `failed_at`, `got` what the server read."""

    accepted: int
    error: int
    failed_at: int
    is_stuck: bool
    cookie: int
    port: int
    got: bytes = b""
    told: tuple[Told, ...] = ()

    @property
    def verdicts(self) -> list[tuple[Verdict, Reason]]:
        """What the operator was told, in order."""
        return [(told.verdict, told.reason) for told in self.told]


@dataclass
class HelloClient:
    """Client and recorder, from start() to close()."""

    bed: Bed
    address: str = ""
    port: int = 443
    _pipes: list[Connection] = field(default_factory=list)
    _children: list[int] = field(default_factory=list)

    def start(self) -> HelloClient:
        """Fork both."""
        self.address = self.bed.network.next_addresses()[0]
        self._client = self._fork(self.bed.network.client.fd, _be_client)
        self._recorder = self._fork(self.bed.network.hosts.fd, lambda pipe: _be_recorder(pipe, self.address, self.port))
        self._recorder.recv()  # listens
        return self

    def say(self, workload: Workload, talks: Iterable[Talk]) -> list[Outcome]:
        """One connection after the other, and what each came to."""
        self._client.send((str(workload.cgroup), self.address, self.port, list(talks)))
        outcomes: list[Outcome] = self._client.recv()
        self._recorder.send(any(outcome.is_stuck for outcome in outcomes))
        heard: dict[int, bytes] = self._recorder.recv()
        told: dict[int, list[Told]] = {}
        for verdict in workload.told():
            told.setdefault(verdict.cookie, []).append(verdict)
        return [
            replace(outcome, got=heard.get(outcome.port, b""), told=tuple(told.get(outcome.cookie, ())))
            for outcome in outcomes
        ]

    def close(self) -> None:
        """End both: they leave when their pipe closes."""
        for pipe in self._pipes:
            pipe.close()
        for child in self._children:
            os.waitpid(child, 0)

    def _fork(self, namespace_fd: int, live: Callable[[Connection], None]) -> Connection:
        ours, theirs = Pipe()
        child = os.fork()
        if child == 0:
            try:
                for pipe in (*self._pipes, ours):
                    pipe.close()  # or the end of one would wait for the end of the other
                die_with_parent()
                enter(namespace_fd)
                with suppress(EOFError):
                    live(theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._pipes.append(ours)
        self._children.append(child)
        return ours


def _be_client(pipe: Connection) -> None:
    root = mount_point("cgroup2")
    assert root
    home = next(line[4:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/"))
    while True:
        cgroup, address, port, talks = pipe.recv()
        (Path(cgroup) / "cgroup.procs").write_text("0")
        outcomes = [_talk(address, port, talk) for talk in talks]
        (root / home / "cgroup.procs").write_text("0")  # whoever stays is killed with the workload
        pipe.send(outcomes)


def _talk(address: str, port: int, talk: Talk) -> Outcome:
    accepted, error, failed_at = 0, 0, -1
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        for level, name, value in talk.options:
            sock.setsockopt(level, name, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(PATIENCE_S * 1e6)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 2, 0))
        cookie = struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]
        sock.connect((address, port))
        own_port = sock.getsockname()[1]
        for i, part in enumerate(talk.writes):
            if isinstance(part, float):
                time.sleep(part)
                continue
            try:
                accepted += sock.send(part, talk.flags)
            except OSError as failure:
                error, failed_at = failure.errno or -1, i
                break
        is_stuck = not _hears_the_end(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT: ports are few
    return Outcome(accepted, error, failed_at, is_stuck, cookie, own_port)


def _hears_the_end(sock: socket.socket) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    with suppress(OSError):  # reset, or ENOTCONN
        sock.shutdown(socket.SHUT_WR)
        while time.monotonic() < deadline:
            try:
                if not sock.recv(1 << 16):
                    return True
            except BlockingIOError:  # in a sockhash, whatever wakes recv() makes it return this (seen on 6.18)
                continue
    return False


def _be_recorder(pipe: Connection, address: str, port: int) -> None:
    selector = selectors.DefaultSelector()
    listener = socket.create_server((address, port), backlog=1024)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    selector.register(pipe, selectors.EVENT_READ)
    records: dict[int, bytes] = {}
    pipe.send("listening")

    def serve(timeout: float | None) -> bool | None:
        is_asked, ready = None, selector.select(timeout)
        for key, _events in ready:
            if key.fileobj is pipe:
                is_asked = True
            elif key.fileobj is listener:
                with suppress(OSError):
                    sock, peer = listener.accept()
                    sock.setblocking(False)
                    records[peer[1]] = b""
                    selector.register(sock, selectors.EVENT_READ, peer[1])
            else:
                _hear(selector, key.fileobj, key.data, records)
        return is_asked if ready else False

    while True:
        if not serve(None):
            continue
        is_hasty = not pipe.recv()
        selector.unregister(pipe)
        while serve(0 if is_hasty else 0.02) is not False:
            pass
        selector.register(pipe, selectors.EVENT_READ)
        pipe.send(records)
        records.clear()


def _hear(selector: selectors.BaseSelector, sock: socket.socket, port: int, records: dict[int, bytes]) -> None:
    try:
        data = sock.recv(1 << 18)
    except OSError:  # reset
        data = b""
    records[port] = records.get(port, b"") + data
    if not data:
        selector.unregister(sock)
        sock.close()


def naming(*names: str, allows_ech: bool = False) -> Rule:
    """A tls rule over all the bed's hosts for exactly these names, also those that no author would write."""
    patterns = tuple(HostPattern(PatternKind.EXACT, name) for name in dict.fromkeys(names))
    return replace(rule(HOSTS, protocol="tls", allows_ech=allows_ech), hosts=patterns)


def assert_allowed(outcome: Outcome, talk: Talk, name: str | None = None) -> None:
    """No error, one verdict, and the server read exactly what was written."""
    assert (outcome.error, outcome.failed_at, outcome.is_stuck) == (0, -1, False), outcome
    assert outcome.verdicts == [(Verdict.FORWARDED, Reason.NAME_ALLOWED)]
    assert outcome.got == talk.stream
    if name is not None:
        assert outcome.told[0].name.lower() == name


def assert_denied(outcome: Outcome, *reasons: Reason) -> None:
    """EACCES for the writer, one of these reasons for the operator, and not one byte at the server."""
    assert outcome.got == b"", outcome
    assert outcome.error == 13, outcome
    (told,) = outcome.told
    assert told.verdict is Verdict.DROPPED
    assert told.reason in reasons


@pytest.fixture(scope="module")
def hello_guard(request: pytest.FixtureRequest) -> Iterator[Guard]:
    """The session's instance of the enforcer where there is one, or one for this module."""
    if missing := missing_capability():
        pytest.skip(missing)
    with suppress(pytest.FixtureLookupError):
        yield request.getfixturevalue("guard")
        return
    guard = Guard()
    try:
        yield guard
    finally:
        guard.close()


@pytest.fixture(scope="module")
def client(hello_guard: Guard) -> Iterator[HelloClient]:
    """The client of a module's tests, in a bed of its own."""
    with Bed() as bed:
        client = HelloClient(bed).start()
        try:
            yield client
        finally:
            client.close()
