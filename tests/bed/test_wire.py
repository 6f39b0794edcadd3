"""The sniffer tells the truth: what was on the wire, with or without a server."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from bed import Bed, Host, Tcp, Toward, Udp, call_in
from bed.sniffer import read_frame


def send_udp(address: str, port: int, payload: bytes) -> bytes:
    """One datagram; the answer, or nothing if none comes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.connect((address, port))
        sock.send(payload)
        try:
            return sock.recv(2048)
        except (TimeoutError, ConnectionRefusedError):
            return b""


def test_the_sniffer_sees_a_datagram_that_a_host_reads_and_one_that_no_socket_awaits(
    bed: Bed, new_host: Callable[..., Host]
) -> None:
    """An open and a closed port, over IPv4 and IPv6."""
    host = new_host(Udp(5000))
    sniffer = bed.sniff()
    for address in host.addresses:
        assert call_in(bed, lambda at=address: send_udp(at, 5000, b"awaited")) == f"I am {host.name}\n".encode()
        assert call_in(bed, lambda at=address: send_udp(at, 5001, b"unawaited")) == b""
        assert sniffer.toward(address, "udp", 5000).payload == 7
        assert sniffer.toward(address, "udp", 5001).payload == 9
    assert (host.count().datagrams, host.datagrams()) == (2, [b"awaited", b"awaited"])
    assert sniffer.saw(b"unawaited")
    assert not sniffer.saw(b"never sent")


def test_the_sniffer_sees_what_goes_to_an_address_nobody_has(bed: Bed) -> None:
    """A packet that left is proven although no server could have seen it."""
    sniffer = bed.sniff()
    assert sniffer.toward("2001:db8:9::7").frames == 0
    call_in(bed, lambda: send_udp("2001:db8:9::7", 53, b"lost"))
    assert sniffer.toward("2001:db8:9::7", "udp", 53).payload == 4


def test_a_ping_is_answered_and_seen_on_the_wire(bed: Bed, new_host: Callable[..., Host]) -> None:
    """An unprivileged ping socket, by ping_group_range."""
    host = new_host()
    sniffer = bed.sniff()

    def ping() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(2)
            sock.sendto(b"\x08\0\0\0\0\0\0\1token", (host.address4, 0))
            return sock.recv(100)

    assert call_in(bed, ping, user="nobody")[8:] == b"token"
    assert sniffer.toward(host.address4, "icmp").frames == 1


def test_fast_open_puts_payload_into_the_syn_and_it_is_counted() -> None:
    """The SYN, which is the first frame, carries the bytes that the server then reads."""
    with Bed({"net.ipv4.tcp_fastopen": 5}, {"net.ipv4.tcp_fastopen": 0x203}) as bed:  # without cookies
        host = bed.add("fast.test", Tcp(7, fastopen=True))
        sniffer = bed.sniff()

        def send() -> bytes:
            with socket.socket() as sock:
                sock.sendto(b"early", socket.MSG_FASTOPEN, (host.address4, 7))
                return sock.recv(100)

        assert call_in(bed, send) == b"I am fast.test\nearly"
        assert b"early" in sniffer.frames()[0]
        assert host.received() == b"early"


def test_a_multipath_host_speaks_multipath(bed: Bed, new_host: Callable[..., Host]) -> None:
    """MP_CAPABLE is answered, so payload is not counted on a fallback to TCP."""
    if not Path("/proc/sys/net/mptcp/enabled").exists():
        pytest.skip("this kernel has no MPTCP")
    host = new_host(Tcp(7, mptcp=True))
    sniffer = bed.sniff()

    def send() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as sock:
            sock.connect((host.address4, 7))
            sock.sendall(b"paths")
            return sock.recv(100)

    assert call_in(bed, send) == f"I am {host.name}\npaths".encode()
    assert host.count().bytes == 5
    assert b"\x1e\x04\x01" in sniffer.frames()[0]  # MP_CAPABLE, version 1, in the SYN


IPV4 = b"\x45\0" + struct.pack("!HHHBBH", 28, 1, 0, 64, 17, 0) + ipaddress.ip_address("203.0.113.1").packed * 2
LATER_FRAGMENT = IPV4[:6] + struct.pack("!H", 185) + IPV4[8:]
IPV6_HEAD, IPV6_ADDRESSES = b"\x60\0\0\0", ipaddress.ip_address("2001:db8::1").packed * 2
DATAGRAM = struct.pack("!HHHH", 1, 53, 8, 0)
OPTIONS = b"\x3c\0\1\4\0\0\0\0" + b"\x11\0\1\4\0\0\0\0"  # hop-by-hop, then destination options, then UDP
FIRST_FRAGMENT = b"\x11\0\0\1\0\0\0\7"


@pytest.mark.parametrize(
    ("ethertype", "packet", "toward", "payload"),
    [
        (0x0800, IPV4 + DATAGRAM, Toward("203.0.113.1", "udp", 53), 0),
        (0x0800, IPV4 + DATAGRAM + b"padding", Toward("203.0.113.1", "udp", 53), 0),
        (0x0800, LATER_FRAGMENT + DATAGRAM, Toward("203.0.113.1", "udp", 0), 8),
        (0x0800, IPV4[:9] + b"\x2f" + IPV4[10:] + DATAGRAM, Toward("203.0.113.1", "47", 0), 8),
        (0x0800, IPV4[:12], Toward("", "ethertype 0x0800", 0), 12),
        (0x0800, IPV4 + DATAGRAM[:6], Toward("203.0.113.1", "udp", 0), 6),
        (0x86DD, IPV6_HEAD + b"\0\x18\0\x40" + IPV6_ADDRESSES + OPTIONS + DATAGRAM,
         Toward("2001:db8::1", "udp", 53), 0),
        (0x86DD, IPV6_HEAD + b"\0\x10\x2c\x40" + IPV6_ADDRESSES + FIRST_FRAGMENT + DATAGRAM,
         Toward("2001:db8::1", "udp", 53), 0),
        (0x0806, b"who has", Toward("", "ethertype 0x0806", 0), 7),
    ],
)  # fmt: skip
def test_a_frame_is_read_by_its_last_header(ethertype: int, packet: bytes, toward: Toward, payload: int) -> None:
    """Padding is no payload; a later fragment, a foreign protocol and a short packet have no port."""
    assert read_frame(bytes(12) + struct.pack("!H", ethertype) + packet) == (toward, payload)


def test_a_sniffer_that_lost_frames_refuses_to_prove_anything(bed: Bed, new_host: Callable[..., Host]) -> None:
    """More frames than the kernel queues for it."""
    host = new_host()
    sniffer = bed.network.sniff(queue_bytes=1)  # the kernel makes it its minimum

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(100):
                sock.sendto(bytes(1000), (host.address4, 9))

    call_in(bed, flood)
    with pytest.raises(RuntimeError, match="proves nothing"):
        sniffer.toward(host.address4)
