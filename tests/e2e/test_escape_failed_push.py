"""A write that the kernel could not take whole leaves its verdict behind for the next one (tcp_bpf_send_verdict: after
an error psock->eval stays, and no program is asked about the next bytes)."""

import select
import socket
import struct
import time
from typing import Any

import pytest

from bed import Bed, call_in
from e2e.escapes import SOL_TCP, got, hello
from e2e.guard import Guard, rule

CCS = b"\x14\3\3\0\1\1"
MSG_EOR = 0x80  # a segment of its own for each record, so that a few fill the smallest send buffer


def retried(address: str, first: bytes, second: bytes, *, fills: bool) -> list[Any]:
    """A hello; then, with the send buffer full or empty, another name in the hello that the server asks for."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sock.setsockopt(SOL_TCP, socket.TCP_NODELAY, 1)
    sock.connect((address, 443))
    sock.send(first)
    time.sleep(0.2)
    sock.recv(1 << 14)
    sock.setblocking(False)
    if fills:
        got(lambda: sock.send(CCS * 40, MSG_EOR))
    body = second[5:]
    # Six bytes, as many as the record that did not fit: one byte of the handshake. What comes after is no hello to us.
    begun = b"\x16\3\3\0\1" + body[:1] + b"\x16\3\3" + struct.pack("!H", len(body) - 1) + body[1:]
    select.select([], [sock], [], 2)  # as soon as the server has acknowledged enough of it
    sent = got(lambda: sock.send(begun))
    time.sleep(0.3)
    sock.close()
    return [sent]


@pytest.mark.parametrize("fills", [False, True])
def test_the_second_hellos_name_is_read_whatever_failed_before(guard: Guard, fills: bool) -> None:
    """With an empty buffer the other name is denied; a full one must not help."""
    second = hello("evil.test", "secp384r1")
    first = hello("one.test")
    with Bed() as bed:
        server = bed.openssl_server("one.test", "evil.test", groups="P-384")
        with guard.workload(rule("203.0.113.0/24", hosts=("one.test", "evil.test"), protocol="tls")) as w:
            call_in(bed, lambda: retried(server.address4, first, second, fills=fills), cgroup=w.cgroup)
            assert "one.test" in server.names_seen()
            assert "evil.test" not in server.names_seen()
