"""Resolve, then connect at once, a thousand times in parallel: the grant is always there before the answer."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest

from bed import Bed, Host
from e2e.escapes import got, hello
from e2e.gatekeeper import PLENTY_S, SOMEBODY, ask_dns, fresh_resolver, keep_gate
from e2e.guard import Guard, rule
from exeat.model.policy import DnsSettings, Tunnel
from exeat.model.verdicts import Reason, Verdict

TIMES = 1000
PROCESSES, THREADS = 4, 25
FIRST = int(IPv6Address("2001:db8:2::1:0"))  # behind the bed's hosts; all of the network is theirs
PORT = 7443
LIMIT_S = 60.0  # it takes three on two idle cores


@pytest.fixture(scope="module")
def door(bed: Bed) -> Iterator[list[str]]:
    """A server at every address of the hosts: it says one byte to whoever said something, and notes the address."""
    server = bed.network.hosts.call(lambda: socket.create_server(("::", PORT), family=socket.AF_INET6, backlog=4096))
    reached: list[str] = []

    def serve() -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(PLENTY_S)
                if got(lambda sock=sock: sock.recv(1)) != b"":
                    reached.append(sock.getsockname()[0])
                    got(lambda sock=sock: sock.send(b"."))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield reached
    server.shutdown(socket.SHUT_RDWR)  # close() alone would leave accept() waiting
    server.close()
    thread.join()


def address_of(number: int) -> str:
    """Each name has an address of its own, or one grant would open the way for all."""
    return str(IPv6Address(FIRST + number))


def visit(number: int) -> Any:
    """Asks for a name's address, and connects before anything else can happen; odd ones over TCP."""
    name = f"n{number}.good.test"
    transport = "tcp" if number % 8 == 7 else "udp"

    def do() -> Any:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.settimeout(PLENTY_S)
            said = ask_dns(name, "AAAA", SOMEBODY, transport)
            sock.connect((said.addresses[0], PORT))
            sock.sendall(hello(name))
            return sock.recv(1)

    return got(do)


def crowd(numbers: range) -> dict[Any, int]:
    """Every process a part, and in each of them many threads at a time: how often each outcome was seen."""
    pipes = []
    for part in range(PROCESSES):
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                with ThreadPool(THREADS) as pool:
                    outcomes = pool.map(visit, numbers[part::PROCESSES], chunksize=1)
                os.write(writer, "\n".join(map(str, outcomes)).encode())
            finally:
                os._exit(0)
        os.close(writer)
        pipes.append(reader)
    seen: dict[Any, int] = {}
    for reader in pipes:
        with os.fdopen(reader) as pipe:
            for outcome in pipe.read().split("\n"):
                seen[outcome] = seen.get(outcome, 0) + 1
        os.wait()
    return seen


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """It takes no longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_a_thousand_that_resolve_and_connect_at_once_are_all_let_through(
    guard: Guard, bed: Bed, good: Host, door: list[str]
) -> None:
    """None denied, by no hook: each name new, each address new, the hello's name judged by the grant as well."""
    del door[:]
    resolver = fresh_resolver(bed, {f"n{number}.good.test": [address_of(number)] for number in range(TIMES)})
    allowed = rule(hosts=("*.good.test",), ports=(PORT,), protocol="tls")
    with keep_gate(guard, bed, resolver, allowed, dns=DnsSettings(tunnel=Tunnel.OFF)) as kept:
        denied_before = kept.workload.reasons()
        with within(LIMIT_S):
            seen = kept.run(lambda: crowd(range(TIMES)), timeout=2 * LIMIT_S)
        assert seen == {"b'.'": TIMES}
        told = kept.workload.reasons()
        assert denied_before == []
        assert {one: told.count(one) for one in set(told)} == {(Verdict.FORWARDED, Reason.NAME_ALLOWED): TIMES}
        assert set(kept.reasons()) == {(Verdict.FORWARDED, Reason.RESOLVED)}
        assert kept.gatehouse.counts[Verdict.FORWARDED] == TIMES
    assert sorted(door) == sorted(address_of(number) for number in range(TIMES))


def test_who_connects_without_resolving_is_not_let_through_by_the_crowd(
    guard: Guard, bed: Bed, good: Host, door: list[str]
) -> None:
    """The same addresses a moment earlier are shut: the race is not won because nothing is judged."""
    del door[:]
    resolver = fresh_resolver(bed, {"*.good.test": [address_of(0)]})

    def knock(number: int) -> Any:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.settimeout(PLENTY_S)
            return got(lambda: sock.connect((address_of(number), PORT)))

    allowed = rule(hosts=("*.good.test",), ports=(PORT,), protocol="tls")
    with keep_gate(guard, bed, resolver, allowed) as kept:
        assert kept.run(lambda: [knock(1), visit(0), knock(2), knock(0)]) == ["EPERM", b".", "EPERM", None]
        assert kept.workload.reasons().count((Verdict.DROPPED, Reason.NOT_RESOLVED)) == 2
    assert door == [address_of(0)]


def test_many_that_ask_for_one_name_at_the_same_moment_are_all_let_through(
    guard: Guard, bed: Bed, good: Host, door: list[str]
) -> None:
    """They share one question upstream, one answer and one grant, which is there before the first of them knows."""
    del door[:]
    resolver = fresh_resolver(bed, {"n0.good.test": [address_of(0)]})
    allowed = rule(hosts=("*.good.test",), ports=(PORT,), protocol="tls")

    def together() -> list[Any]:
        with ThreadPool(THREADS) as pool:
            return pool.map(visit, [0] * THREADS, chunksize=1)

    with keep_gate(guard, bed, resolver, allowed) as kept:
        assert kept.run(together) == [b"."] * THREADS
        assert set(kept.workload.reasons()) == {(Verdict.FORWARDED, Reason.NAME_ALLOWED)}
    # Once; a second time if it took the busy resolver longer than the gate is patient.
    assert 1 <= len(resolver.questions()) <= 2
    assert len(door) == THREADS
