"""Kinds of sockets that no later hook could judge, and clients that come past the usual system calls."""

import socket
from typing import Any

import pytest

from bed import Bed, Host, Sniffer, call_in
from e2e import uring
from e2e.escapes import ALLOWED_NAME, ALLOWED_TCP, dial, dropped, got, hello, judged, rules, says, tcp
from e2e.guard import Guard, rule
from exeat.model.verdicts import Reason

INET, INET6 = socket.AF_INET, socket.AF_INET6
STREAM, DGRAM, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
ICMP, ICMPV6, SCTP, DCCP, UDPLITE, MPTCP, SMC = 1, 58, 132, 33, 136, 262, 256
SOCK_SEQPACKET, SOCK_DCCP = 5, 6

KINDS = {
    "raw ICMP": (INET, RAW, ICMP, Reason.RAW_SOCKET),
    "raw UDP": (INET, RAW, 17, Reason.RAW_SOCKET),
    "raw, headers written by the program": (INET, RAW, 255, Reason.RAW_SOCKET),
    "raw ICMPv6": (INET6, RAW, ICMPV6, Reason.RAW_SOCKET),
    "MPTCP": (INET, STREAM, MPTCP, Reason.MPTCP_SOCKET),
    "MPTCP over IPv6": (INET6, STREAM, MPTCP, Reason.MPTCP_SOCKET),
    "UDP-Lite": (INET, DGRAM, UDPLITE, Reason.PROTOCOL_NOT_JUDGED),
    "UDP-Lite over IPv6": (INET6, DGRAM, UDPLITE, Reason.PROTOCOL_NOT_JUDGED),
    "SCTP": (INET, STREAM, SCTP, Reason.PROTOCOL_NOT_JUDGED),
    "SCTP, one to many": (INET, SOCK_SEQPACKET, SCTP, Reason.PROTOCOL_NOT_JUDGED),
    "DCCP": (INET, SOCK_DCCP, DCCP, Reason.PROTOCOL_NOT_JUDGED),
    "SMC": (INET, STREAM, SMC, Reason.PROTOCOL_NOT_JUDGED),
    "ping": (INET, DGRAM, ICMP, Reason.ICMP_NOT_ALLOWED),
    "ping over IPv6": (INET6, DGRAM, ICMPV6, Reason.ICMP_NOT_ALLOWED),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_socket_that_no_hook_could_judge_is_not_made(guard: Guard, bed: Bed, good: Host, kind: str) -> None:
    """Outside it is made; inside, the same call fails and TCP still works."""
    family, type_, protocol, reason = KINDS[kind]

    def make() -> Any:
        return got(lambda: socket.socket(family, type_, protocol).close())

    outside = call_in(bed, make, cgroup=guard.top)
    if outside in ("EPROTONOSUPPORT", "ESOCKTNOSUPPORT"):
        pytest.skip(f"this kernel has no such socket ({kind}) for anybody")
    assert outside is None
    with guard.workload(*rules(good)) as w:
        with judged(w, dropped(reason)):
            assert call_in(bed, make, cgroup=w.cgroup) == "EPERM"
        with judged(w, ALLOWED_TCP):
            assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")


ECHO4, ECHO6 = b"\x08\0\0\0\0\0\0\1token", b"\x80\0\0\0\0\0\0\1token"


def ping(address: str, *, connects: bool = False) -> Any:
    """One echo request from a ping socket."""
    is_v6 = ":" in address
    with socket.socket(INET6 if is_v6 else INET, DGRAM, ICMPV6 if is_v6 else ICMP) as sock:
        sock.settimeout(1)

        def do() -> bytes:
            if connects:
                sock.connect((address, 0))
                sock.send(ECHO6 if is_v6 else ECHO4)
            else:
                sock.sendto(ECHO6 if is_v6 else ECHO4, (address, 0))
            return sock.recv(100)[8:]

        return got(do)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("connects", [False, True])
def test_an_icmp_rule_opens_ping_to_its_networks_only(
    guard: Guard, bed: Bed, good: Host, evil: Host, wire: Sniffer, version: int, connects: bool
) -> None:
    """sendto() on a ping socket passes no send hook: the packet itself is judged."""
    to_good, to_evil = (good.address4, evil.address4) if version == 4 else (good.address6, evil.address6)
    with guard.workload(rule(to_good, protocol="icmp")) as w:
        with judged(w, dropped(Reason.ADDRESS_NOT_ALLOWED)):
            # The kernel keeps the error of an IPv6 ping's sendto() to itself (ping_v6_sendmsg, 6.18).
            error = "TIMEOUT" if version == 6 and not connects else "EPERM"
            assert call_in(bed, lambda: ping(to_evil, connects=connects), cgroup=w.cgroup) == error
        assert wire.toward(to_evil).frames == 0
        assert call_in(bed, lambda: ping(to_good, connects=connects), cgroup=w.cgroup) == b"token"
        assert wire.toward(to_good).frames == 1


def test_io_uring_connects_and_sends_under_the_same_policy(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """No system call but io_uring_enter is made for connect and send."""
    if uring.is_disabled():
        pytest.skip("io_uring is switched off on this kernel")

    def dial_by_ring(address: str) -> Any:
        sock = tcp(address)
        sock.setblocking(True)
        ring = uring.Ring()
        connected = ring.connect(sock.fileno(), address, 7)
        return got(lambda: sock.recv(100)) if not connected and ring.send(sock.fileno(), b"ring") == 4 else connected

    with guard.workload(*rules(good)) as w:
        with judged(w, dropped(Reason.ADDRESS_NOT_ALLOWED)):
            assert call_in(bed, lambda: dial_by_ring(evil.address4), cgroup=w.cgroup) == -1  # EPERM
        assert evil.count().is_untouched
        with judged(w, ALLOWED_TCP):
            assert call_in(bed, lambda: dial_by_ring(good.address4), cgroup=w.cgroup) == says(good, b"ring")


def test_io_uring_sends_no_hello_that_is_not_allowed(guard: Guard, bed: Bed, good: Host) -> None:
    """IORING_OP_SEND passes on_message like send()."""
    if uring.is_disabled():
        pytest.skip("io_uring is switched off on this kernel")
    theirs, ours = hello("evil.test"), hello("good.test")

    def send_by_ring(data: bytes) -> int:
        sock = tcp(good.address4)
        sock.connect((good.address4, 8443))
        return uring.Ring().send(sock.fileno(), data)

    with guard.workload(*rules(good)) as w:
        with judged(w, dropped(Reason.NAME_NOT_ALLOWED)):
            assert call_in(bed, lambda: send_by_ring(theirs), cgroup=w.cgroup) == -13  # EACCES
        assert good.count().bytes == 0
        with judged(w, ALLOWED_NAME):
            assert call_in(bed, lambda: send_by_ring(ours), cgroup=w.cgroup) == len(ours)
        assert good.received(-1) == ours
