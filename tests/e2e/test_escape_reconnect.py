"""One socket, several lives: what was allowed for one connection says nothing of the next, nor of who calls."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from bed import Bed, Host, Sniffer, call_in
from e2e.escapes import (
    ALLOWED_NAME,
    ALLOWED_TCP,
    ask,
    dropped,
    got,
    hello,
    judged,
    rules,
    says,
    tcp,
    unspecify,
)
from e2e.guard import Guard, rule
from exeat.model.verdicts import Reason

STRANGER = "198.51.100.2"
HERE = "198.51.100.1"


def reconnected(first: str, second: str, port: int = 7) -> Callable[[], list[Any]]:
    """connect, send, connect(AF_UNSPEC), connect elsewhere, send: what came back each time."""

    def run() -> list[Any]:
        sock = tcp(first)
        sock.connect((first, 7))
        before = ask(sock, b"1")
        unspecify(sock)
        refused = got(lambda: sock.connect((second, port)))
        return [before, refused or ask(sock, b"2")]

    return run


@pytest.mark.parametrize("version", [4, 6])
def test_a_second_connect_is_judged_like_the_first(
    guard: Guard, bed: Bed, good: Host, evil: Host, wire: Sniffer, version: int
) -> None:
    """The socket keeps its cookie over connect(AF_UNSPEC); its stamp is made anew."""
    ours, theirs = (good.address4, evil.address4) if version == 4 else (good.address6, evil.address6)
    with guard.workload(*rules(good)) as w:
        with judged(w, ALLOWED_TCP, dropped(Reason.ADDRESS_NOT_ALLOWED)):
            assert call_in(bed, reconnected(ours, theirs), cgroup=w.cgroup) == [says(good, b"1"), "EPERM"]
        assert wire.toward(theirs).frames == 0
        with judged(w, ALLOWED_TCP, ALLOWED_TCP):
            assert call_in(bed, reconnected(ours, ours), cgroup=w.cgroup) == [says(good, b"1"), says(good, b"2")]


def test_a_name_is_verified_for_one_connection(guard: Guard, bed: Bed, good: Host) -> None:
    """The same server, allowed before by its name, then another name: nothing of it arrives."""
    ours, theirs = hello("good.test"), hello("evil.test")

    def run(second: bytes) -> list[Any]:
        sock = tcp(good.address4)
        sock.connect((good.address4, 8443))
        sent = sock.send(ours)
        time.sleep(0.05)
        unspecify(sock)
        sock.connect((good.address4, 8443))
        return [sent, got(lambda: sock.send(second)), time.sleep(0.05)]

    with guard.workload(*rules(good)) as w:
        with judged(w, ALLOWED_NAME, dropped(Reason.NAME_NOT_ALLOWED)):
            assert call_in(bed, lambda: run(theirs), cgroup=w.cgroup)[1] == "EACCES"
        assert (good.count().connections, good.count().bytes) == (2, len(ours))
        with judged(w, ALLOWED_NAME, ALLOWED_NAME):
            assert call_in(bed, lambda: run(ours), cgroup=w.cgroup)[1] == len(ours)


def stranger_dials(bed: Bed, port: int, source_port: int = 0) -> Any:
    """Somebody on the hosts' side connects to the client and listens to what it says."""

    def dial() -> Any:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((STRANGER, source_port))
        sock.settimeout(0.6)
        refused = got(lambda: sock.connect((HERE, port)))
        return refused or got(lambda: sock.recv(100))

    return call_in(bed, dial, at=bed.network.hosts)


def serve(port: int, prepare: Callable[[socket.socket], None]) -> Callable[[], Any]:
    """Waits for a call and tells the caller a secret."""

    def run() -> Any:
        sock = tcp(HERE)
        prepare(sock)
        sock.listen()
        sock.settimeout(1.2)
        connection, _ = sock.accept()
        connection.settimeout(0.5)
        connection.send(b"the secret")
        time.sleep(0.4)
        return "told"

    return lambda: got(run)


def bind(port: int) -> Callable[[socket.socket], None]:
    """Binds to a port, as servers do."""

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HERE, port))

    return prepare


def call_back(bed: Bed, cgroup: Any, port: int, prepare: Callable[[socket.socket], None], **how: Any) -> list[Any]:
    """What the workload's server made of it, and what the stranger heard."""
    served: list[Any] = []
    thread = threading.Thread(target=lambda: served.append(call_in(bed, serve(port, prepare), cgroup=cgroup)))
    thread.start()
    time.sleep(0.25)
    heard = stranger_dials(bed, port, **how)
    thread.join()
    return [served[0], heard]


def test_a_stranger_who_dials_in_hears_nothing(guard: Guard, bed: Bed, good: Host, wire: Sniffer) -> None:
    """Not even a SYN-ACK leaves. Where the stranger is allowed, the same call is answered."""
    with guard.workload(*rules(good)) as w:
        w.told()
        assert call_back(bed, w.cgroup, 6001, bind(6001)) == ["TIMEOUT", "TIMEOUT"]
        assert w.reasons() == [dropped(Reason.ADDRESS_NOT_ALLOWED)]
        assert wire.toward(STRANGER).frames == 0
        w.switch(rule(STRANGER, ports=(7001,)))
        assert call_back(bed, w.cgroup, 6002, bind(6002), source_port=7001) == ["told", b"the secret"]


def test_listening_without_bind_is_no_way_round(guard: Guard, bed: Bed, good: Host, wire: Sniffer) -> None:
    """listen() alone passes no bind hook. The stranger guesses the port; here the range holds one."""
    bed.network.client.sysctl("net.ipv4.ip_local_port_range", "6100 6101")
    try:
        with guard.workload(*rules(good)) as w:
            for port in (6100, 6101):
                assert call_back(bed, w.cgroup, port, lambda sock: None)[1] in ("TIMEOUT", "ECONNREFUSED")
            assert dropped(Reason.ADDRESS_NOT_ALLOWED) in w.reasons()
            assert not wire.saw(b"the secret")
    finally:
        bed.network.client.sysctl("net.ipv4.ip_local_port_range", "32768 60999")


def test_an_allowed_connection_does_not_become_a_listener(guard: Guard, bed: Bed, good: Host, wire: Sniffer) -> None:
    """connect(good), connect(AF_UNSPEC), listen(): the stamp that children inherit is for `good` alone."""

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HERE, 6003))
        sock.connect((good.address4, 7))
        ask(sock)
        unspecify(sock)

    with guard.workload(*rules(good)) as w:
        w.told()
        assert call_back(bed, w.cgroup, 6003, prepare) == ["TIMEOUT", "TIMEOUT"]
        assert w.reasons() == [ALLOWED_TCP, dropped(Reason.ADDRESS_NOT_ALLOWED)]
        assert wire.toward(STRANGER).frames == 0


@pytest.mark.parametrize("was_connected", [False, True])
def test_a_caller_under_a_tls_rule_hears_nothing_either(
    guard: Guard, bed: Bed, good: Host, wire: Sniffer, was_connected: bool
) -> None:
    """A name is asked for where the workload connects; who dials in gets a handshake and no payload."""

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HERE, 6004))
        if was_connected:
            sock.connect((good.address4, 8443))
            sock.send(hello("good.test"))
            unspecify(sock)

    hello("good.test")
    port = 7004 + was_connected
    tls = rule(STRANGER, good.address4, ports=(port, 8443), hosts=("good.test",), protocol="tls")
    with guard.workload(tls) as w:
        w.told()
        assert call_back(bed, w.cgroup, 6004, prepare, source_port=port) == ["told", "TIMEOUT"]
        assert w.reasons() == [*[ALLOWED_NAME] * was_connected, dropped(Reason.UNVERIFIED_DATA)]
        assert wire.toward(STRANGER, "tcp", port).payload == 0
