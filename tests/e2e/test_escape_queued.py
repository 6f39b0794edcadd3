"""Bytes that reach the send queue past on_message, to leave with, or behind, a hello that was judged."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bed import Bed, Tcp, call_in
from e2e.guard import Guard, rule
from exeat.model.verdicts import Reason
from hellos.build import Hello

ALLOWED = Hello(sni="one.test").stream()
EVIL = Hello(sni="evil.test").stream()


@contextmanager
def slow_handshake(bed: Bed) -> Iterator[None]:
    """The host drops SYNs for a moment, so that a connect() takes until TCP sends its SYN again, one second later."""
    hosts = bed.network.hosts
    hosts.command("nft", "add table inet slow")
    hosts.command("nft", "add chain inet slow in { type filter hook prerouting priority -300; }")
    hosts.command("nft", "add rule inet slow in tcp flags syn / syn,ack drop")
    timer = threading.Timer(0.5, lambda: hosts.command("nft", "delete table inet slow"))
    timer.start()
    try:
        yield
    finally:
        timer.join()


def sends_while_connecting(address: str, early: bytes, late: bytes) -> str:
    """One thread is already inside send() when the connection is established; the other sends then."""
    client = socket.socket()
    client.settimeout(0.0)
    try:
        client.connect((address, 443))
    except BlockingIOError:
        client.settimeout(None)
    told = []

    def send_early() -> None:
        try:
            client.send(early, socket.MSG_MORE)
        except OSError as error:
            told.append(error.strerror)

    thread = threading.Thread(target=send_early)
    thread.start()
    thread.join(5)
    try:
        client.sendall(late)
        time.sleep(0.5)
        client.sendall(late)
    except OSError as error:
        told.append(error.strerror)
    time.sleep(0.3)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return ", ".join(told)


def test_bytes_queued_before_the_socket_was_watched_do_not_leave_with_an_allowed_hello(guard: Guard) -> None:
    """A send() that began before the handshake was over never passes on_message; held back by MSG_MORE, its bytes would
    leave in front of the hello that another thread has judged."""
    with Bed() as bed:
        host = bed.add("one.test", Tcp(443, "record"))
        with guard.workload(rule("203.0.113.0/24", hosts=("one.test",), protocol="tls")) as workload:
            with slow_handshake(bed):
                attempt = partial(sends_while_connecting, host.address4, EVIL, ALLOWED)
                call_in(bed, attempt, cgroup=workload.cgroup, timeout=15)
            assert host.count().bytes == 0, host.received()[:80]
            assert Reason.UNVERIFIED_DATA in {told.reason for told in workload.told()}


def test_a_program_that_sends_while_connecting_reaches_an_open_destination(guard: Guard) -> None:
    """The twin: the same calls over the same path where no name is asked."""
    with Bed() as bed:
        host = bed.add("one.test", Tcp(443, "record"))
        with guard.workload(rule("203.0.113.0/24", ports=(443,))) as workload:
            with slow_handshake(bed):
                attempt = partial(sends_while_connecting, host.address4, EVIL, ALLOWED)
                call_in(bed, attempt, cgroup=workload.cgroup, timeout=15)
            assert host.received().startswith(EVIL + ALLOWED)
