"""What the escape tests are made of: clients that try to get out, and looks at whether they did.

The clients run inside call_in, so they answer in plain values: what they got, or the name of the errno.
"""

import errno
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from bed import Bed, Host, call_in
from e2e.guard import Guard, Workload, remove_cgroup, rule
from exeat.model.policy import Rule
from exeat.model.verdicts import Reason, Verdict

PATIENCE_S = 0.4  # a packet between the two namespaces takes microseconds; a dropped one never comes
SOL_TCP = socket.IPPROTO_TCP
ALLOWED_TCP = (Verdict.FORWARDED, Reason.NETWORK_ALLOWED)
ALLOWED_NAME = (Verdict.FORWARDED, Reason.NAME_ALLOWED)


def dropped(reason: Reason) -> tuple[Verdict, Reason]:
    """A denial for this reason."""
    return Verdict.DROPPED, reason


def rules(host: Host, **more: Any) -> tuple[Rule, ...]:
    """What `good` is good for: plain TCP, UDP, and TLS under its own name."""
    both = (host.address4, host.address6)
    return (
        rule(*both, ports=(7, 70), protocol="tcp", **more),
        rule(*both, ports=(5000,), protocol="udp", **more),
        rule(*both, ports=(443, 8443), hosts=(host.name,), protocol="tls", **more),
    )


def got(do: Callable[[], Any]) -> Any:
    """What it returns, or the name of the errno that it raises; "TIMEOUT" if the socket's patience ended."""
    try:
        return do()
    except TimeoutError as error:
        return errno.errorcode[error.errno] if error.errno else "TIMEOUT"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))


def family_of(address: str) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(address: str, family: int = 0) -> socket.socket:
    """A TCP socket with little patience."""
    sock = socket.socket(family or family_of(address), socket.SOCK_STREAM)
    sock.settimeout(PATIENCE_S)
    return sock


def udp(address: str = "", family: int = 0) -> socket.socket:
    """A UDP socket with little patience."""
    sock = socket.socket(family or family_of(address), socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE_S)
    return sock


def ask(sock: socket.socket, data: bytes = b"hello") -> Any:
    """Sends on a connected socket and returns the answer."""

    def do() -> bytes:
        sock.send(data)
        return sock.recv(1 << 16)

    return got(do)


def dial(address: str, port: int = 7, data: bytes = b"hello", sock: socket.socket | None = None) -> Any:
    """Connects, sends, and returns the answer."""
    sock = sock or tcp(address)
    refused = got(lambda: sock.connect((address, port)))
    return refused or ask(sock, data)


def post(address: str, port: int = 5000, data: bytes = b"datagram", sock: socket.socket | None = None) -> Any:
    """Sends one datagram and returns the answer."""
    sock = sock or udp(address)

    def do() -> bytes:
        sock.sendto(data, (address, port))
        return sock.recv(1 << 16)

    return got(do)


def says(host: Host, then: bytes = b"") -> bytes:
    """The host's answer."""
    return f"I am {host.name}\n".encode() + then


@cache
def hello(name: str, curve: str = "") -> bytes:
    """A real client's ClientHello with this name, in one record."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if curve:
        context.set_ecdh_curve(curve)
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake needs a server")


def unspecify(sock: socket.socket) -> None:
    """connect(AF_UNSPEC): takes the connection, or the destination, off a socket. Python's connect() cannot say it."""
    from ctypes import CDLL, get_errno

    libc = CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16):
        raise OSError(get_errno(), os.strerror(get_errno()))


@contextmanager
def judged(workload: Workload, *expected: tuple[Verdict, Reason]) -> Iterator[None]:
    """Exactly these verdicts are told inside, in any order, and the counters have them too."""
    workload.told()
    tables = workload.guard.tables
    before = {one: tables.counter(*one) for one in set(expected)}
    yield
    told = [f"{verdict.name} {reason.name}" for verdict, reason in workload.reasons()]
    assert sorted(told) == sorted(f"{verdict.name} {reason.name}" for verdict, reason in expected)
    for one, count in before.items():
        # A dropped segment is counted again whenever TCP sends it again, and told once.
        assert tables.counter(*one) - count >= expected.count(one), one


@contextmanager
def later_managed(guard: Guard) -> Iterator[Workload]:
    """A cgroup below the attached one that nobody manages until `switch` is called."""
    workload = Workload(guard, guard.leaf())
    try:
        yield workload
    finally:
        guard.tables.unbind(workload.id)
        for policy_id in workload.policy_ids:
            guard.tables.remove(policy_id)
        remove_cgroup(workload.cgroup)


class Steps:
    """A function in a cgroup that waits where it calls `pause()`, until the test has changed the world.

    with Steps(bed, function, cgroup) as steps:      # returns at the first pause
        ...
        steps.go_on()                                # returns at the next pause, or the end
    assert steps.result == ...
    """

    def __init__(self, bed: Bed, function: Callable[[Callable[[], None]], Any], cgroup: Path | None) -> None:
        self._from_child, child_says = os.pipe()
        child_hears, self._to_child = os.pipe()
        self._ends = [child_says, child_hears]
        self.result: Any = None
        self._error: BaseException | None = None

        def pause() -> None:
            os.write(child_says, b".")
            os.read(child_hears, 1)

        def body() -> None:
            try:
                self.result = call_in(bed, lambda: function(pause), cgroup=cgroup)
            except BaseException as error:  # noqa: BLE001  # raised by the test
                self._error = error
            os.write(child_says, b"!")

        self._thread = threading.Thread(target=body)

    def __enter__(self) -> "Steps":
        self._thread.start()
        os.read(self._from_child, 1)
        self._complain()
        return self

    def _complain(self) -> None:
        if self._error:
            raise self._error

    def go_on(self) -> None:
        """Lets it run to its next pause or its end."""
        os.write(self._to_child, b".")
        os.read(self._from_child, 1)
        self._complain()

    def __exit__(self, *_: object) -> None:
        os.write(self._to_child, b"." * 100)
        self._thread.join()
        for end in (*self._ends, self._from_child, self._to_child):
            os.close(end)
        self._complain()


@contextmanager
def hosts_drop(bed: Bed, match: str, hook: str = "input") -> Iterator[None]:
    """Packets that match are lost before the hosts see them, as on a bad line."""
    lines = f"table inet lossy {{\nchain lossy {{\ntype filter hook {hook} priority -300\n{match} drop\n}}\n}}\n"
    bed.network.hosts.command("nft", "-f", "-", stdin=lines)
    try:
        yield
    finally:
        bed.network.hosts.command("nft", "delete", "table", "inet", "lossy")


def ipv4_packet(destination: str, protocol: int, body: bytes, options: bytes = b"", fragment: int = 0) -> bytes:
    """A whole IPv4 packet for a raw socket; the kernel fills in what is 0."""
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, words * 4 + len(body), 7, fragment, 64, protocol, 0)
    return head + ip_address("198.51.100.1").packed + ip_address(destination).packed + options + body


def udp_datagram(port: int, data: bytes) -> bytes:
    """A UDP header without a checksum, and data."""
    return struct.pack("!HHHH", 4000, port, 8 + len(data), 0) + data


def sleeping_send(address: str, port: int, first: bytes, second: bytes, flags: int = 0) -> list[Any]:
    """Data from a send() that waited for the handshake, so that it began before any program saw the socket; then more.

    The hosts must lose the first SYN, or there is no time to wait in.
    """
    sock = tcp(address)
    sock.setblocking(False)
    got(lambda: sock.connect((address, port)))
    sock.setblocking(True)
    sender = threading.Thread(target=lambda: got(lambda: sock.send(first, flags)))
    sender.start()
    sender.join(5)
    time.sleep(0.05)
    sent = got(lambda: sock.send(second))
    time.sleep(1.2)  # TCP sends again what was dropped
    return [sent]
