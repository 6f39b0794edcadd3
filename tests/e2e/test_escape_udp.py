"""Datagrams to another place than the one that was judged, and the many ways to say where."""

import ctypes
import socket
import struct
from ipaddress import ip_address
from typing import Any

import pytest

from bed import Bed, Host, Sniffer, call_in
from e2e.escapes import dropped, got, judged, post, rules, says, udp, unspecify
from e2e.guard import Guard, rule
from exeat.model.verdicts import Reason, Verdict

ALLOWED = (Verdict.FORWARDED, Reason.NETWORK_ALLOWED)
DENIED = dropped(Reason.ADDRESS_NOT_ALLOWED)
libc = ctypes.CDLL(None, use_errno=True)


def sockaddr4(address: str, port: int, family: int = socket.AF_INET) -> bytes:
    """A struct sockaddr_in, whatever its family says."""
    return struct.pack("=H", family) + struct.pack("!H", port) + ip_address(address).packed + bytes(8)


def sendto(sock: socket.socket, data: bytes, to: bytes) -> int:
    """sendto() with an address that Python would not write."""
    sent = libc.sendto(sock.fileno(), data, len(data), 0, to, len(to))
    if sent < 0:
        raise OSError(ctypes.get_errno(), "sendto")
    return int(sent)


def sendmmsg(sock: socket.socket, packets: list[tuple[bytes, bytes]]) -> int:
    """Several datagrams in one system call; how many were taken."""
    keep: list[Any] = []
    messages = b""
    for to, data in packets:
        name, buffer = ctypes.create_string_buffer(to, len(to)), ctypes.create_string_buffer(data, len(data))
        vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(buffer), len(data)))
        keep += [name, buffer, vector]
        header = struct.pack("=QIxxxxQQQQi4x", ctypes.addressof(name), len(to), ctypes.addressof(vector), 1, 0, 0, 0)
        messages += header + bytes(8)
    return int(libc.sendmmsg(sock.fileno(), messages, len(packets), 0))


@pytest.mark.parametrize("version", [4, 6])
def test_a_connected_socket_sends_nowhere_else(guard: Guard, bed: Bed, good: Host, evil: Host, version: int) -> None:
    """sendto() with an address overrides connect(), for one datagram."""
    to_good, to_evil = (good.address4, evil.address4) if version == 4 else (good.address6, evil.address6)

    def run() -> list[Any]:
        sock = udp(to_good)
        sock.connect((to_good, 5000))
        return [post(to_evil, sock=sock), got(lambda: sock.send(b"on")), got(lambda: sock.recv(100))]

    with guard.workload(*rules(good)) as w:
        with judged(w, ALLOWED, DENIED):
            assert call_in(bed, run, cgroup=w.cgroup) == ["EPERM", 2, says(good)]
        assert evil.count().is_untouched
        w.switch(*rules(good), *rules(evil))
        with judged(w, ALLOWED, ALLOWED):
            call_in(bed, run, cgroup=w.cgroup)  # a connected socket does not hear anybody else's answer
        assert evil.count().datagrams == 1


def test_another_port_is_another_destination(guard: Guard, bed: Bed, good: Host) -> None:
    """The same address, connected, and a port that no rule names."""
    with guard.workload(*rules(good)) as w:
        with judged(w, dropped(Reason.PORT_NOT_ALLOWED)):
            assert call_in(bed, lambda: post(good.address4, 5001), cgroup=w.cgroup) == "EPERM"
        assert good.count().is_untouched
        with judged(w, ALLOWED):
            assert call_in(bed, lambda: post(good.address4, 5000), cgroup=w.cgroup) == says(good)


def test_sendmmsg_is_judged_message_by_message(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """The first is allowed, the second is not, the third is never tried; alone, all to the allowed host go."""

    def run(*addresses: str) -> int:
        return sendmmsg(udp(), [(sockaddr4(address, 5000), b"mm") for address in addresses])

    ours, theirs = good.address4, evil.address4
    with guard.workload(*rules(good)) as w:
        with judged(w, ALLOWED, DENIED):
            assert call_in(bed, lambda: run(ours, theirs, ours), cgroup=w.cgroup) == 1
        assert (good.count().datagrams, evil.count().datagrams) == (1, 0)
        with judged(w, ALLOWED):
            assert call_in(bed, lambda: run(ours, ours, ours), cgroup=w.cgroup) == 3
        assert good.count().datagrams == 4


def test_two_rules_do_not_make_a_third(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """One host's port 5000 and the other's 5001, in turns on one socket: never 5001 and 5000."""
    with guard.workload(
        rule(good.address4, ports=(5000,), protocol="udp"), rule(evil.address4, ports=(5001,), protocol="udp")
    ) as w:

        def run() -> list[Any]:
            sock = udp()
            one, other = (good.address4, 5000), (evil.address4, 5001)
            crossed = (good.address4, 5001), (evil.address4, 5000)
            return [got(lambda to=to: sock.sendto(b"2", to)) for to in (one, crossed[0], other, crossed[1], one)]

        with judged(w, ALLOWED, ALLOWED, ALLOWED, *[dropped(Reason.PORT_NOT_ALLOWED)] * 2):
            assert call_in(bed, run, cgroup=w.cgroup) == [1, "EPERM", 1, "EPERM", 1]
        assert (good.count().datagrams, evil.count().datagrams) == (2, 1)


def test_an_address_of_no_family_is_still_an_address(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """UDP's sendto() takes AF_UNSPEC for AF_INET."""

    def run(address: str) -> Any:
        return got(lambda: sendto(udp(), b"unspecified", sockaddr4(address, 5000, socket.AF_UNSPEC)))

    with guard.workload(*rules(good)) as w:
        with judged(w, DENIED):
            assert call_in(bed, lambda: run(evil.address4), cgroup=w.cgroup) == "EPERM"
        assert evil.count().is_untouched
        with judged(w, ALLOWED):
            assert call_in(bed, lambda: run(good.address4), cgroup=w.cgroup) == 11
        assert good.count().datagrams == 1


MAPPED = {
    "sendto(), mapped": lambda address: post(f"::ffff:{address}", sock=udp("", socket.AF_INET6)),
    "connect(), mapped": lambda address: got(
        lambda: (
            (sock := udp("", socket.AF_INET6)).connect((f"::ffff:{address}", 5000))
            or (sock.send(b"m"), sock.recv(99))[1]
        )
    ),
    "sendto() with an IPv4 address": lambda address: got(
        lambda: sendto(sock := udp("", socket.AF_INET6), b"4 on 6", sockaddr4(address, 5000)) and sock.recv(99)
    ),
}


@pytest.mark.parametrize("way", MAPPED)
def test_ipv4_by_way_of_an_ipv6_socket_is_ipv4(guard: Guard, bed: Bed, good: Host, evil: Host, way: str) -> None:
    """::ffff:a.b.c.d and a.b.c.d are one destination."""
    go = MAPPED[way]
    with guard.workload(*rules(good)) as w:
        with judged(w, DENIED):
            assert call_in(bed, lambda: go(evil.address4), cgroup=w.cgroup) == "EPERM"
        assert evil.count().is_untouched
        with judged(w, ALLOWED):
            assert call_in(bed, lambda: go(good.address4), cgroup=w.cgroup) == says(good)


def test_a_corked_datagram_stays_with_its_first_destination(
    guard: Guard, bed: Bed, good: Host, evil: Host, wire: Sniffer
) -> None:
    """sendto(good, MSG_MORE), then sendto(evil): the kernel keeps the first address, whatever the second says."""

    def run() -> list[Any]:
        sock = udp()
        more = sock.sendto(b"one ", socket.MSG_MORE, (good.address4, 5000))
        return [more, got(lambda: sock.sendto(b"two", (evil.address4, 5000)))]

    with guard.workload(*rules(good)) as w:
        answers = call_in(bed, run, cgroup=w.cgroup)
        assert answers[0] == 4
        assert wire.toward(evil.address4).frames == 0
    assert good.datagrams() in ([b"one two"], [])


def test_a_destination_taken_off_a_socket_is_gone(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """connect(good), connect(AF_UNSPEC), connect(evil)."""

    def run(second: str) -> list[Any]:
        sock = udp()
        sock.connect((good.address4, 5000))
        unspecify(sock)
        without = got(lambda: sock.send(b"nowhere"))
        return [without, got(lambda: sock.connect((second, 5000)) or (sock.send(b"again"), sock.recv(99))[1])]

    with guard.workload(*rules(good)) as w:
        with judged(w, ALLOWED, DENIED):
            assert call_in(bed, lambda: run(evil.address4), cgroup=w.cgroup) == ["EDESTADDRREQ", "EPERM"]
        assert evil.count().is_untouched
        with judged(w, ALLOWED, ALLOWED):
            assert call_in(bed, lambda: run(good.address4), cgroup=w.cgroup) == ["EDESTADDRREQ", says(good)]


def test_segmentation_offload_goes_where_it_was_judged(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """UDP_SEGMENT: one send, ten datagrams, all to where it was allowed."""
    UDP_SEGMENT = 103  # noqa: N806  # its name in linux/udp.h

    def run(address: str) -> Any:
        sock = udp()
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        return got(lambda: sock.sendto(b"s" * 1000, (address, 5000)))

    with guard.workload(*rules(good)) as w:
        with judged(w, DENIED):
            assert call_in(bed, lambda: run(evil.address4), cgroup=w.cgroup) == "EPERM"
        assert evil.count().is_untouched
        with judged(w, ALLOWED):
            assert call_in(bed, lambda: run(good.address4), cgroup=w.cgroup) == 1000
        assert good.count().datagrams == 10


@pytest.mark.parametrize("to", ["239.1.2.3", "255.255.255.255", "224.0.0.251", "ff02::fb%uplink"])
def test_nobody_is_told_by_multicast_or_broadcast(guard: Guard, bed: Bed, good: Host, wire: Sniffer, to: str) -> None:
    """Not even where the whole of both families is allowed."""

    def run() -> Any:
        sock = udp(to)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return got(lambda: sock.sendto(b"everybody", socket.getaddrinfo(to, 5000, type=socket.SOCK_DGRAM)[0][4]))

    assert call_in(bed, run, cgroup=guard.top) == 9
    assert wire.saw(b"everybody")
    wire.clear()
    with guard.workload(rule("0.0.0.0/0", "::/0", ports=(5000,), protocol="udp")) as w:
        with judged(w, DENIED):
            assert call_in(bed, run, cgroup=w.cgroup) == "EPERM"
        assert not wire.saw(b"everybody")
        assert call_in(bed, lambda: post(good.address4), cgroup=w.cgroup) == says(good)
