"""Sockets that are older than the policy, or were made by somebody else."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, Host, call_in
from e2e.escapes import (
    ALLOWED_NAME,
    ALLOWED_TCP,
    Steps,
    ask,
    dial,
    dropped,
    got,
    hello,
    judged,
    later_managed,
    post,
    rules,
    says,
    tcp,
    udp,
)
from e2e.guard import Guard, Workload, rule
from exeat.model.verdicts import Reason

ALLOWED = ALLOWED_TCP
ADDRESS = dropped(Reason.ADDRESS_NOT_ALLOWED)


def connected_before(address: str, port: int, then: bytes) -> Callable[[Callable[[], None]], list[Any]]:
    """Connects and talks while nobody is in charge, and goes on once somebody is."""

    def run(pause: Callable[[], None]) -> list[Any]:
        sock = tcp(address)
        sock.connect((address, port))
        before = ask(sock, b"before")
        pause()
        return [before, ask(sock, then)]

    return run


def test_a_connection_older_than_the_policy_is_judged_by_it(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """To the allowed host it goes on; to another its next packet does not leave."""
    with later_managed(guard) as w, Steps(bed, connected_before(evil.address4, 7, b"after"), w.cgroup) as steps:
        w.switch(*rules(good))
        with judged(w, ADDRESS):
            steps.go_on()
        assert steps.result == [says(evil, b"before"), "TIMEOUT"]
        assert evil.count().bytes == len(b"before")
    with later_managed(guard) as w, Steps(bed, connected_before(good.address4, 7, b"after"), w.cgroup) as steps:
        w.switch(*rules(good))
        with judged(w, ALLOWED):
            steps.go_on()
        assert steps.result == [says(good, b"before"), b"after"]


def test_under_a_tls_rule_an_older_connection_is_over(guard: Guard, bed: Bed, good: Host) -> None:
    """Its hello was never read. A new connection of the same process, to the same server, is fine."""
    ours = hello("good.test")

    def run(pause: Callable[[], None]) -> list[Any]:
        sock = tcp(good.address4)
        sock.connect((good.address4, 8443))
        pause()
        old = ask(sock, ours)
        new = tcp(good.address4)
        new.connect((good.address4, 8443))
        return [old, new.send(ours)]

    with later_managed(guard) as w, Steps(bed, run, w.cgroup) as steps:
        w.switch(*rules(good))
        with judged(w, dropped(Reason.UNVERIFIED_DATA), ALLOWED_NAME):
            steps.go_on()
        assert steps.result == ["TIMEOUT", len(ours)]
        assert good.received(0) == b""
        assert good.received(1) == ours


def test_a_udp_socket_older_than_the_policy_reaches_nobody_new(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Connected to the denied host: its datagrams stop. A new socket reaches the allowed one."""

    def run(pause: Callable[[], None]) -> list[Any]:
        sock = udp()
        sock.connect((evil.address4, 5000))
        before = ask(sock)
        pause()
        return [before, ask(sock), post(evil.address4, sock=udp()), post(good.address4)]

    with later_managed(guard) as w, Steps(bed, run, w.cgroup) as steps:
        w.switch(*rules(good))
        with judged(w, ADDRESS, ADDRESS, ALLOWED):
            steps.go_on()
        assert steps.result == [says(evil), "EPERM", "EPERM", says(good)]
    assert evil.count().datagrams == 1


def test_a_connected_udp_socket_older_than_the_policy_goes_on_to_the_allowed_host(
    guard: Guard, bed: Bed, good: Host
) -> None:
    """The twin: the same socket, the host that is allowed."""

    def run(pause: Callable[[], None]) -> list[Any]:
        sock = udp()
        sock.connect((good.address4, 5000))
        pause()
        return [ask(sock)]

    with later_managed(guard) as w, Steps(bed, run, w.cgroup) as steps:
        w.switch(*rules(good))
        with judged(w):
            steps.go_on()
        assert steps.result == [says(good)]


@pytest.mark.parametrize("is_allowed", [False, True])
def test_a_listener_older_than_the_policy_answers_whom_it_may(
    guard: Guard, bed: Bed, good: Host, is_allowed: bool
) -> None:
    """Its SYN-ACK is a packet like any other."""

    def run(pause: Callable[[], None]) -> Any:
        listener = socket.create_server(("198.51.100.1", 6200))
        listener.settimeout(1)
        pause()

        def answer() -> str:
            connection, _ = listener.accept()
            connection.send(b"secret")
            connection.recv(1)
            return "told"

        return got(answer)

    def stranger() -> Any:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("198.51.100.2", 7200))
        sock.settimeout(0.5)
        return got(lambda: sock.connect(("198.51.100.1", 6200))) or got(lambda: sock.recv(100))

    with later_managed(guard) as w, Steps(bed, run, w.cgroup) as steps:
        w.switch(rule("198.51.100.2", ports=(7200 if is_allowed else 7201,)))
        with judged(w, *([ALLOWED, ALLOWED] if is_allowed else [dropped(Reason.PORT_NOT_ALLOWED)])):
            thread = threading.Thread(target=steps.go_on)
            thread.start()
            heard = call_in(bed, stranger, at=bed.network.hosts)
            thread.join()
        assert heard == (b"secret" if is_allowed else "TIMEOUT")
        assert steps.result == ("told" if is_allowed else "TIMEOUT")


def four_sockets(bed: Bed, good: Host, evil: Host, where: Path | None, w: Workload) -> list[Any]:
    """Made elsewhere, handed over a UNIX socket, used by the workload; then a socket of its own."""
    ours, theirs = socket.socketpair()

    def give() -> None:
        made = [tcp(good.address4), tcp(good.address4), udp(), udp()]
        socket.send_fds(ours, [b"."], [sock.fileno() for sock in made])

    def use() -> list[Any]:
        _, fds, _, _ = socket.recv_fds(theirs, 1, 4)
        one, two, three, four = (socket.socket(fileno=fd) for fd in fds)
        for sock in (one, two, three, four):
            sock.settimeout(0.4)
        return [
            dial(evil.address4, sock=one),
            dial(good.address4, sock=two),
            post(evil.address4, sock=three),
            post(good.address4, sock=four),
            dial(good.address4),
        ]

    with ours, theirs:
        call_in(bed, give, cgroup=where)
        return call_in(bed, use, cgroup=w.cgroup)


def test_somebody_elses_socket_does_not_connect_for_a_workload(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """No hook saw it being made for this workload, so none could judge its packets. Not even to the allowed host."""
    with guard.workload(*rules(good)) as w:
        with judged(w, *[dropped(Reason.FOREIGN_SOCKET)] * 4, ALLOWED):
            answers = four_sockets(bed, good, evil, guard.top, w)
            assert answers == ["EPERM"] * 4 + [says(good, b"hello")]
        assert evil.count().is_untouched


@pytest.mark.xfail(strict=True, reason="no program of ours runs for a socket of a cgroup beside the attached one")
def test_a_socket_made_outside_of_the_attached_cgroup_does_not_connect(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """Known limit (docs/limits.md, "Sockets that others hand in"): only a guard on the device could see it."""
    with guard.workload(*rules(good)) as w:
        assert four_sockets(bed, good, evil, None, w)[0] == "EPERM"


def test_a_connection_that_somebody_else_made_is_judged_for_him(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Between workloads it is safe: the socket keeps its maker's policy, whoever writes to it."""
    ours, theirs = socket.socketpair()

    def give(pause: Callable[[], None]) -> None:
        sock = tcp(good.address4)
        sock.connect((good.address4, 7))
        socket.send_fds(ours, [b"."], [sock.fileno()])
        pause()

    def use() -> Any:
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        sock = socket.socket(fileno=fds[0])
        sock.settimeout(0.4)
        return ask(sock, b"deputy")

    with (
        guard.workload(*rules(good)) as maker,
        guard.workload(*rules(evil)) as user,
        Steps(bed, give, maker.cgroup),
    ):
        maker.switch(*rules(evil))
        with judged(maker, dropped(Reason.REVOKED)):
            assert call_in(bed, use, cgroup=user.cgroup) == "TIMEOUT"
    assert good.count().bytes == 0
