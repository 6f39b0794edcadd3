"""Packets that a program wrote itself: the backstop reads the headers that will be on the wire."""

import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from bed import Bed, Host, Sniffer, call_in
from e2e.escapes import (
    ALLOWED_NAME,
    Steps,
    dropped,
    got,
    hello,
    ipv4_packet,
    judged,
    later_managed,
    post,
    rules,
    says,
    tcp,
    udp_datagram,
)
from e2e.guard import Guard
from exeat.model.verdicts import Reason, Verdict

MORE_FRAGMENTS = 0x2000
LSRR = b"\x83\x07\x04" + ip_address("203.0.113.11").packed + b"\0"  # loose source route by way of the host `evil`
DATA = b"written by hand"

V4 = {
    "to another address": (
        lambda good, evil: ipv4_packet(evil, 17, udp_datagram(5000, DATA)),
        Reason.ADDRESS_NOT_ALLOWED,
    ),
    "to another port": (lambda good, evil: ipv4_packet(good, 17, udp_datagram(5001, DATA)), Reason.PORT_NOT_ALLOWED),
    "a first fragment": (
        lambda good, evil: ipv4_packet(good, 17, udp_datagram(5000, DATA), fragment=MORE_FRAGMENTS),
        Reason.FRAGMENT,
    ),
    "a later fragment": (lambda good, evil: ipv4_packet(good, 17, DATA, fragment=100), Reason.FRAGMENT),
    "a source route": (
        lambda good, evil: ipv4_packet(good, 17, udp_datagram(5000, DATA), options=LSRR),
        Reason.IP_OPTIONS_PRESENT,
    ),
    "another protocol": (lambda good, evil: ipv4_packet(good, 253, DATA), Reason.PACKET_PROTOCOL),
    "IP in IP": (
        lambda good, evil: ipv4_packet(good, 4, ipv4_packet(evil, 17, udp_datagram(5000, DATA))),
        Reason.PACKET_PROTOCOL,
    ),
    "ICMPv6 in IPv4": (lambda good, evil: ipv4_packet(good, 58, DATA), Reason.PACKET_PROTOCOL),
    "ICMP": (lambda good, evil: ipv4_packet(good, 1, b"\x08\0\0\0\0\0\0\1" + DATA), Reason.PORT_NOT_ALLOWED),
    "half a UDP header": (lambda good, evil: ipv4_packet(good, 17, b"\x0f\xa0\x13"), Reason.MALFORMED_PACKET),
    "a TCP header that ends after the packet": (
        lambda good, evil: ipv4_packet(good, 6, struct.pack("!HHIIBBHHH", 1, 7, 1, 1, 0xF0, 16, 9, 0, 0)),
        Reason.MALFORMED_PACKET,
    ),
    "TCP payload out of nothing": (
        lambda good, evil: ipv4_packet(good, 6, struct.pack("!HHIIBBHHH", 1, 8443, 1, 1, 0x50, 24, 9, 0, 0) + DATA),
        Reason.UNVERIFIED_DATA,
    ),
}


def raw_sender(packet: bytes, to: tuple[str, int]) -> Callable[[Callable[[], None]], list[object]]:
    """Makes a raw socket while it may, and sends once it is managed."""

    def run(pause: Callable[[], None]) -> list[object]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        pause()
        return [got(lambda: sock.sendto(packet, to))]

    return run


@pytest.mark.parametrize("kind", V4)
def test_a_raw_socket_older_than_the_policy_sends_nothing_odd(
    guard: Guard, bed: Bed, good: Host, evil: Host, wire: Sniffer, kind: str
) -> None:
    """The address in the header counts, not the one given to sendto(), which is the allowed host's."""
    write, reason = V4[kind]
    packet = write(good.address4, evil.address4)
    with later_managed(guard) as w:
        sender = raw_sender(packet, (good.address4, 0))
        with Steps(bed, sender, w.cgroup) as steps:
            w.switch(*rules(good))
            with judged(w, dropped(reason)):
                steps.go_on()
        assert steps.result == ["EPERM"]
        assert not wire.saw(DATA)
        assert (wire.toward(good.address4).frames, wire.toward(evil.address4).frames) == (0, 0)


def test_a_raw_socket_older_than_the_policy_still_sends_what_is_allowed(guard: Guard, bed: Bed, good: Host) -> None:
    """The twin: the same socket, the same call, an ordinary datagram."""
    packet = ipv4_packet(good.address4, 17, udp_datagram(5000, DATA))
    with later_managed(guard) as w, Steps(bed, raw_sender(packet, (good.address4, 0)), w.cgroup) as steps:
        w.switch(*rules(good))
        with judged(w):  # what only the backstop sees is counted and not told when it may pass
            steps.go_on()
    assert steps.result == [len(packet)]
    assert good.datagrams() == [DATA]


def ipv6_packet(source: str, to: str, following: int, body: bytes) -> bytes:
    """A whole IPv6 packet."""
    head = struct.pack("!IHBB", 6 << 28, len(body), following, 64)
    return head + ip_address(source).packed + ip_address(to).packed + body


OPTIONS = b"\x11\0\1\4\0\0\0\0"  # then UDP; a PadN
V6 = {
    "hop-by-hop options": (0, OPTIONS, Reason.EXTENSION_HEADER),
    "destination options": (60, OPTIONS, Reason.EXTENSION_HEADER),
    "a routing header": (43, b"\x11\2\4\0\0\0\0\0" + ip_address("2001:db8:2::b").packed, Reason.EXTENSION_HEADER),
    "a fragment": (44, b"\x11\0\0\1\0\0\0\7", Reason.FRAGMENT),
    "an atomic fragment": (44, b"\x11\0\0\0\0\0\0\7", Reason.FRAGMENT),
    "an authentication header": (51, b"\x11\4" + bytes(22), Reason.EXTENSION_HEADER),
    "a mobility header": (135, b"\x11\0\0\0\0\0\0\0", Reason.PACKET_PROTOCOL),
    "no next header": (59, b"", Reason.PACKET_PROTOCOL),
}


@pytest.mark.parametrize("kind", V6)
def test_no_ipv6_header_stands_between_address_and_transport(
    guard: Guard, bed: Bed, good: Host, wire: Sniffer, kind: str
) -> None:
    """Not even to the allowed host: what follows would go unread, or elsewhere."""
    following, header, reason = V6[kind]
    plain = ipv6_packet("2001:db8:1::1", good.address6, 17, udp_datagram(5000, DATA))
    odd = ipv6_packet("2001:db8:1::1", good.address6, following, header + udp_datagram(5000, DATA))

    def run(pause: Callable[[], None]) -> list[object]:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        pause()
        sent = [got(lambda: sock.sendto(odd, (good.address6, 0)))]
        pause()
        return [*sent, got(lambda: sock.sendto(plain, (good.address6, 0)))]

    with later_managed(guard) as w, Steps(bed, run, w.cgroup) as steps:
        w.switch(*rules(good))
        with judged(w, dropped(reason)):
            steps.go_on()
        assert wire.toward(good.address6).frames == 0
        steps.go_on()
        assert wire.toward(good.address6).frames == 1
    assert steps.result == ["EPERM", len(plain)]


def test_a_datagram_larger_than_the_line_is_cut_after_it_was_judged(
    guard: Guard, bed: Bed, good: Host, wire: Sniffer
) -> None:
    """4 kB: three fragments on the wire, one judgement, and no FRAGMENT."""
    with guard.workload(*rules(good)) as w:
        for address in (good.address4, good.address6):
            with judged(w, (Verdict.FORWARDED, Reason.NETWORK_ALLOWED)):
                assert call_in(bed, lambda at=address: post(at, data=b"x" * 4000), cgroup=w.cgroup) == says(good)
        assert wire.toward(good.address4).frames == 3
    assert good.datagrams() == [b"x" * 4000] * 2


@pytest.mark.parametrize("flags", [socket.MSG_OOB, 0])
def test_urgent_data_does_not_take_a_byte_out_of_a_judged_hello(guard: Guard, bed: Bed, good: Host, flags: int) -> None:
    """on_message sees the byte in the stream, the server would not: denied. Without the flag the same writes pass."""
    ours = hello("good.test")

    def send() -> list[object]:
        sock = tcp(good.address4)
        sock.connect((good.address4, 8443))
        return [sock.send(ours[:-1]), got(lambda: sock.send(ours[-1:], flags))]

    with guard.workload(*rules(good)) as w:
        expected = [ALLOWED_NAME, *([dropped(Reason.URGENT_DATA)] if flags else [])]
        with judged(w, *expected):
            assert call_in(bed, send, cgroup=w.cgroup) == [len(ours) - 1, 1]
        assert good.count().bytes == (0 if flags else len(ours))


def test_urgent_data_passes_where_no_name_is_asked_for(guard: Guard, bed: Bed, good: Host) -> None:
    """Under a plain tcp rule nothing of the stream was judged, so nothing can be taken out of it."""

    def send() -> object:
        sock = tcp(good.address4)
        sock.connect((good.address4, 7))
        sock.send(b"a")
        sock.send(b"b", socket.MSG_OOB)
        sock.send(b"c")
        return got(lambda: sock.recv(100))

    with guard.workload(*rules(good)) as w, judged(w, (Verdict.FORWARDED, Reason.NETWORK_ALLOWED)):
        assert call_in(bed, send, cgroup=w.cgroup).startswith(says(good, b"a"))
    assert good.count().bytes == 2  # the urgent byte is not in the stream that the server reads
