"""Loopback: a workload's own sockets, and nobody else's."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bed import Bed, Host, call_in
from e2e.escapes import Steps, dial, dropped, got, judged, post, rules, tcp, udp
from e2e.guard import Guard, rule
from exeat.model.verdicts import Reason, Verdict

FOREIGN = b"I am the host's own service"
EVERYWHERE = {"127.0.0.1": "127.0.0.1", "127.9.9.9": "127.9.9.9", "0.0.0.0": "127.0.0.1", "::1": "::1", "::": "::1"}
OWN = (Verdict.FORWARDED, Reason.OWN_LOOPBACK)


def talk_to_oneself(address: str, bound: str) -> Any:
    """Listens, connects to itself, and speaks both ways; what was heard."""
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family) as listener:
        client = tcp(address)
        client.connect((address, listener.getsockname()[1]))
        server, _ = listener.accept()
        server.settimeout(1)
        client.sendall(b"to the server" * 1000)
        heard = b""
        while len(heard) < 13000:
            heard += server.recv(1 << 16)
        server.sendall(b"to the client")
        return heard[:13], client.recv(100)


def post_to_oneself(address: str, bound: str) -> Any:
    """The same with datagrams."""
    server, client = udp(bound), udp(bound)
    server.bind((bound, 0))
    client.sendto(b"question", (address, server.getsockname()[1]))
    data, sender = server.recvfrom(100)
    server.sendto(b"answer", sender)
    return data, client.recv(100)


@contextmanager
def service_of_the_host(bed: Bed, bound: str, type_: int) -> Iterator[int]:
    """A listener in the client's namespace that belongs to no workload; its port."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in bound else socket.AF_INET, type_)
        sock.bind((bound, 0))
        if type_ == socket.SOCK_STREAM:
            sock.listen()
        sock.settimeout(10)
        return sock

    sock = bed.network.client.call(make)
    heard: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                if type_ == socket.SOCK_STREAM:
                    connection, _ = sock.accept()
                    with connection:
                        connection.settimeout(1)
                        heard.append(connection.recv(100))
                        connection.sendall(FOREIGN)
                else:
                    data, sender = sock.recvfrom(100)
                    heard.append(data)
                    if data == b"end":
                        return
                    sock.sendto(FOREIGN, sender)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        if type_ == socket.SOCK_STREAM:
            sock.shutdown(socket.SHUT_RDWR)
        else:
            port = sock.getsockname()[1]
            bed.network.client.call(lambda: udp(bound).sendto(b"end", (bound, port)))
        thread.join()
        sock.close()


@pytest.mark.parametrize("address", EVERYWHERE)
def test_a_workload_talks_to_itself(guard: Guard, bed: Bed, good: Host, address: str) -> None:
    """TCP and UDP, both ways, without a rule and without a word; it is only counted."""
    bound = EVERYWHERE[address]
    with guard.workload(*rules(good)) as w:
        before = guard.tables.counter(*OWN)
        with judged(w):
            heard = call_in(bed, lambda: talk_to_oneself(address, bound), cgroup=w.cgroup)
            assert heard == (b"to the server", b"to the client")
            assert call_in(bed, lambda: post_to_oneself(address, bound), cgroup=w.cgroup) == (b"question", b"answer")
        assert guard.tables.counter(*OWN) > before


@pytest.mark.parametrize("address", EVERYWHERE)
@pytest.mark.parametrize("type_", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_service_of_the_host_needs_a_rule(guard: Guard, bed: Bed, good: Host, address: str, type_: int) -> None:
    """By whatever name loopback has. With a rule the same client reaches it."""
    bound = EVERYWHERE[address]
    with service_of_the_host(bed, bound, type_) as port:

        def go() -> Any:
            return dial(address, port) if type_ == socket.SOCK_STREAM else post(address, port)

        assert call_in(bed, go, cgroup=guard.top) == FOREIGN
        with guard.workload(*rules(good)) as w:
            with judged(w, dropped(Reason.LOOPBACK_NOT_OWN)):
                assert call_in(bed, go, cgroup=w.cgroup) == "EPERM"
            protocol = "tcp" if type_ == socket.SOCK_STREAM else "udp"
            w.switch(rule(bound, ports=(port,), protocol=protocol))
            if protocol == "tcp":
                assert call_in(bed, go, cgroup=w.cgroup) == FOREIGN


def test_another_workloads_service_is_a_foreign_one(guard: Guard, bed: Bed, good: Host) -> None:
    """Two workloads under the same rules do not meet on loopback."""

    def serve(pause: Any) -> Any:
        listener = socket.create_server(("127.0.0.1", 3999))
        listener.settimeout(0.3)
        pause()
        return got(lambda: listener.accept()[0].recv(100))

    with guard.workload(*rules(good)) as one, guard.workload(*rules(good)) as other:
        with Steps(bed, serve, other.cgroup) as steps:
            with judged(one, dropped(Reason.LOOPBACK_NOT_OWN)):
                assert call_in(bed, lambda: dial("127.0.0.1", 3999), cgroup=one.cgroup) == "EPERM"
            steps.go_on()
        assert steps.result == "TIMEOUT"
        with Steps(bed, serve, one.cgroup) as steps:
            call_in(bed, lambda: tcp("127.0.0.1").connect(("127.0.0.1", 3999)), cgroup=one.cgroup)
            steps.go_on()
        assert steps.result == b""


@pytest.mark.parametrize("address", EVERYWHERE)
def test_where_nobody_listens_the_answer_is_the_usual_one(guard: Guard, bed: Bed, good: Host, address: str) -> None:
    """ECONNREFUSED, as without us: a client that waits for its own server goes on to wait."""
    with guard.workload(*rules(good)) as w, judged(w, dropped(Reason.LOOPBACK_NOBODY)):
        assert call_in(bed, lambda: dial(address, 3998), cgroup=w.cgroup) == "ECONNREFUSED"
    assert call_in(bed, lambda: dial(address, 3998), cgroup=guard.top) == "ECONNREFUSED"


def test_the_machines_own_address_is_no_loopback(guard: Guard, bed: Bed, good: Host) -> None:
    """198.51.100.1 is the client's own, and its packets go over lo: it needs a rule all the same."""
    with guard.workload(*rules(good)) as w:
        with judged(w, dropped(Reason.ADDRESS_NOT_ALLOWED)):
            assert call_in(bed, lambda: dial("198.51.100.1", 3998), cgroup=w.cgroup) == "EPERM"
        w.switch(rule("198.51.100.1", ports=(3998,)))
        assert call_in(bed, lambda: dial("198.51.100.1", 3998), cgroup=w.cgroup) == "ECONNREFUSED"


def test_a_datagram_to_a_foreign_service_is_not_carried_by_a_connected_socket(
    guard: Guard, bed: Bed, good: Host
) -> None:
    """Own at connect(), foreign when it is sent: each datagram is judged by who would receive it."""
    with service_of_the_host(bed, "127.0.0.1", socket.SOCK_DGRAM) as port:

        def run() -> Any:
            own, client = udp("127.0.0.1"), udp("127.0.0.1")
            own.bind(("127.0.0.1", 0))
            client.connect(("127.0.0.1", own.getsockname()[1]))
            client.send(b"mine")
            return own.recv(10), got(lambda: client.sendto(b"theirs", ("127.0.0.1", port)))

        with guard.workload(*rules(good)) as w, judged(w, dropped(Reason.LOOPBACK_NOT_OWN)):
            assert call_in(bed, run, cgroup=w.cgroup) == (b"mine", "EPERM")
