"""Socket options and control messages that put something else on the wire than what was judged."""

import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from bed import Bed, Host, Sniffer, call_in
from e2e.escapes import (
    ALLOWED_TCP,
    SOL_TCP,
    Steps,
    dial,
    dropped,
    got,
    judged,
    later_managed,
    post,
    rules,
    says,
    tcp,
    udp,
)
from e2e.guard import Guard
from exeat.model.verdicts import Reason, Verdict

IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
VIA_EVIL = b"\x83\x07\x04" + ip_address("203.0.113.11").packed + b"\0"
SEGMENTS = b"\0\4\4\1\1\0\0\0" + ip_address("2001:db8:2::a").packed + ip_address("2001:db8:2::b").packed
MREQ = ip_address("239.1.2.3").packed + bytes(4)
MREQ6 = ip_address("ff15::1").packed + struct.pack("=I", 0)
GROUP = struct.pack("=I4xH2x", 0, socket.AF_INET) + ip_address("239.1.2.3").packed + bytes(120)
SOURCE = bytes(4) + bytes(4) + bytes(4)
MD5 = bytes(216)
TCP4, TCP6, UDP4, UDP6 = "tcp4", "tcp6", "udp4", "udp6"

OPTIONS: dict[str, tuple[str, int, int, bytes]] = {
    "TCP_FASTOPEN_CONNECT": (TCP4, SOL_TCP, 30, b"\1\0\0\0"),
    "TCP_FASTOPEN": (TCP4, SOL_TCP, 23, b"\1\0\0\0"),
    "TCP_FASTOPEN_NO_COOKIE": (TCP4, SOL_TCP, 34, b"\1\0\0\0"),
    "TCP_REPAIR": (TCP4, SOL_TCP, 19, b"\1\0\0\0"),
    "TCP_MD5SIG": (TCP4, SOL_TCP, 14, MD5),
    "TCP_MD5SIG_EXT": (TCP4, SOL_TCP, 32, MD5),
    "TCP_ULP tls": (TCP4, SOL_TCP, 31, b"tls"),
    "TCP_ULP mptcp": (TCP4, SOL_TCP, 31, b"mptcp"),
    "TCP_AO_ADD_KEY": (TCP4, SOL_TCP, 38, bytes(288)),
    "IP_OPTIONS": (UDP4, IP, 4, VIA_EVIL),
    "IP_OPTIONS on TCP": (TCP4, IP, 4, VIA_EVIL),
    "IP_OPTIONS on an IPv6 socket": (TCP6, IP, 4, VIA_EVIL),
    "IP_ADD_MEMBERSHIP": (UDP4, IP, 35, MREQ),
    "IP_ADD_SOURCE_MEMBERSHIP": (UDP4, IP, 39, SOURCE),
    "MCAST_JOIN_GROUP": (UDP4, IP, 42, GROUP),
    "IPV6_RTHDR type 4": (UDP6, IPV6, 57, SEGMENTS),
    "IPV6_RTHDR type 4 on TCP": (TCP6, IPV6, 57, SEGMENTS),
    "IPV6_HOPOPTS": (UDP6, IPV6, 54, b"\0\0\1\4\0\0\0\0"),
    "IPV6_DSTOPTS": (UDP6, IPV6, 59, b"\0\0\1\4\0\0\0\0"),
    "IPV6_JOIN_GROUP": (UDP6, IPV6, 20, MREQ6),
    "IPV6_ADDRFORM": (UDP6, IPV6, 1, b"\2\0\0\0"),
}


def make(kind: str) -> socket.socket:
    """A socket of that kind."""
    family = socket.AF_INET if kind.endswith("4") else socket.AF_INET6
    return tcp("", family) if kind.startswith("tcp") else udp("", family)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_changes_the_wire_is_refused(guard: Guard, bed: Bed, good: Host, name: str) -> None:
    """EPERM inside; outside the kernel takes it, or refuses it with an error of its own."""
    kind, level, option, value = OPTIONS[name]

    def set_it() -> Any:
        return got(lambda: make(kind).setsockopt(level, option, value))

    assert call_in(bed, set_it, cgroup=guard.top) != "EPERM"
    with guard.workload(*rules(good)) as w:
        with judged(w, dropped(Reason.SOCKET_OPTION)):
            assert call_in(bed, set_it, cgroup=w.cgroup) == "EPERM"
        with judged(w, ALLOWED_TCP):
            assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")


def test_ordinary_options_are_left_alone(guard: Guard, bed: Bed, good: Host) -> None:
    """What every client sets."""

    def run() -> Any:
        sock = tcp(good.address4)
        sock.setsockopt(SOL_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(SOL_TCP, socket.TCP_USER_TIMEOUT, 5000)
        sock.setsockopt(IP, socket.IP_TOS, 16)
        return dial(good.address4, sock=sock)

    with guard.workload(*rules(good)) as w, judged(w, ALLOWED_TCP):
        assert call_in(bed, run, cgroup=w.cgroup) == says(good, b"hello")


@pytest.mark.parametrize("is_managed", [False, True])
def test_an_option_of_more_than_a_page_still_works(guard: Guard, bed: Bed, good: Host, is_managed: bool) -> None:
    """The hook sees a page at most. iptables-restore sets such options; here 5,000 bytes where 4 are read."""

    def run() -> Any:
        with tcp(good.address4) as sock:
            sock.setsockopt(SOL_TCP, socket.TCP_NODELAY, b"\1\0\0\0" + bytes(4996))
            return sock.getsockopt(SOL_TCP, socket.TCP_NODELAY)

    with guard.workload(*rules(good)) as w:
        assert call_in(bed, run, cgroup=w.cgroup if is_managed else guard.top) == 1
        assert w.reasons() == []


def test_a_refused_option_of_more_than_a_page_is_refused(guard: Guard, bed: Bed, good: Host) -> None:
    """Length does not hide an option."""

    def run() -> Any:
        return got(lambda: make(UDP4).setsockopt(IP, 4, VIA_EVIL + bytes(4992)))

    with guard.workload(*rules(good)) as w, judged(w, dropped(Reason.SOCKET_OPTION)):
        assert call_in(bed, run, cgroup=w.cgroup) == "EPERM"


@pytest.mark.parametrize("is_managed", [False, True])
def test_joining_a_multicast_group_reports_nothing_on_the_line(
    guard: Guard, bed: Bed, good: Host, wire: Sniffer, is_managed: bool
) -> None:
    """The kernel's own report carries 23 bits of the group's address and passes no packet hook."""
    where = ip_address("198.51.100.1").packed
    group = ip_address("239.9.8.7" if is_managed else "239.9.8.6").packed

    def join() -> Any:
        sock = udp("198.51.100.1")
        joined = got(lambda: sock.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, group + where))
        time.sleep(0.3)  # the report is delayed
        return joined

    with guard.workload(*rules(good)) as w:
        assert call_in(bed, join, cgroup=w.cgroup if is_managed else guard.top) == ("EPERM" if is_managed else None)
    assert wire.saw(group) is not is_managed


def test_a_source_route_in_a_control_message_stops_at_the_backstop(
    guard: Guard, bed: Bed, good: Host, evil: Host, wire: Sniffer
) -> None:
    """IP_RETOPTS is no socket option. The final address is allowed, the first hop is not."""
    IP_RETOPTS = 7  # noqa: N806  # its name in linux/in.h

    def send(ancillary: list[Any]) -> Any:
        return got(lambda: udp(good.address4).sendmsg([b"routed"], ancillary, 0, (good.address4, 5000)))

    via_evil = [(IP, IP_RETOPTS, b"\x83\x07\x04" + ip_address(evil.address4).packed + b"\0")]
    assert call_in(bed, lambda: send(via_evil), cgroup=guard.top) == 6
    assert wire.toward(evil.address4).frames == 1
    wire.clear()
    with guard.workload(*rules(good)) as w:
        with judged(w, (Verdict.FORWARDED, Reason.NETWORK_ALLOWED), dropped(Reason.IP_OPTIONS_PRESENT)):
            assert call_in(bed, lambda: send(via_evil), cgroup=w.cgroup) == "EPERM"
        assert (wire.toward(evil.address4).frames, wire.toward(good.address4, "udp").frames) == (0, 0)
        assert call_in(bed, lambda: send([]), cgroup=w.cgroup) == 6
    assert wire.toward(good.address4, "udp").frames == 1


@pytest.mark.parametrize("connects_first", [False, True])
def test_a_segment_list_set_before_the_policy_stops_at_the_backstop(
    guard: Guard, bed: Bed, good: Host, evil: Host, wire: Sniffer, connects_first: bool
) -> None:
    """IPV6_RTHDR needs no privilege: the packet would go to the first segment, which connect and sendto never see."""
    segments = b"\0\4\4\1\1\0\0\0" + bytes(16) + ip_address(evil.address6).packed

    def run(pause: Callable[[], None]) -> list[Any]:
        sock = udp(good.address6)
        if connects_first:
            sock.connect((good.address6, 5000))
        sock.setsockopt(IPV6, 57, segments)
        if not connects_first:
            sock.connect((good.address6, 5000))
        before = got(lambda: sock.send(b"first"))
        pause()
        after = got(lambda: sock.send(b"second"))
        return [before, after, post(good.address6)]

    with later_managed(guard) as w, Steps(bed, run, w.cgroup) as steps:
        assert wire.toward(evil.address6).frames == 1  # outside it works
        w.switch(*rules(good))
        with judged(w, dropped(Reason.EXTENSION_HEADER), (Verdict.FORWARDED, Reason.NETWORK_ALLOWED)):
            steps.go_on()
    assert steps.result == [5, "EPERM", says(good)]
    assert wire.toward(evil.address6).frames == 1
    assert not wire.saw(b"second")
