"""What the tests of limits are made of: clients that use something up, a piece at a time, and what that counts."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bed import Bed, Host, call_in
from bed.network import CLIENT4, WIRE4, WIRE6
from e2e.escapes import dial, got, post, tcp, udp
from e2e.guard import Workload, rule
from exeat.model.policy import ALL_PORTS, Limit, Limits, Rule, Then

HOUR_S = 3600
DATAGRAM = b"d" * 972  # with its headers, IPv4 makes 1000 bytes of it
DATAGRAM_BYTES = 1000
MANY4 = tuple(f"203.0.113.{number}" for number in range(200, 212))
MANY6 = tuple(f"2001:db8:2::{number}" for number in range(200, 204))
PEERS = (WIRE4, WIRE6)  # who dials in comes from there


def limit(what: str, most: int, then: Then = Then.DENY, per_s: int = HOUR_S) -> Limits:
    """One limit, no others."""
    return replace(Limits(), **{what: Limit(most, per_s, then)})


def many(bed: Bed) -> Host:
    """A host at many addresses."""
    try:
        return bed.host("many.test")
    except KeyError:
        from bed import Tcp, Udp

        return bed.add("many.test", Tcp(7, "echo"), Udp(5000), also=(*MANY4, *MANY6))


def many_rules() -> tuple[Rule, ...]:
    """All its addresses, by TCP and UDP."""
    return rule(*MANY4, *MANY6, ports=(7,)), rule(*MANY4, *MANY6, ports=(5000,), protocol="udp")


def peer_rule() -> Rule:
    """Who dials in may be answered, whatever its port."""
    return replace(rule(*PEERS), ports=(ALL_PORTS,))


def send_datagrams(address: str, count: int) -> list[Any]:
    """So many, of 1000 bytes each, on one connected socket: bytes."""
    sock = udp(address)
    sock.connect((address, 5000))
    return [got(lambda: sock.send(DATAGRAM)) for _ in range(count)]


def open_connections(address: str, count: int) -> list[Any]:
    """So many, one after the other: connections."""
    return [dial(address) for _ in range(count)]


def reach(addresses: Sequence[str]) -> list[Any]:
    """A datagram to each, which names it, on one unconnected socket: destinations."""
    sock = udp(addresses[0])
    return [post(address, data=address.encode(), sock=sock) for address in addresses]


def hold_connections(address: str, count: int) -> list[Any]:
    """So many, without a byte, and open at the same time."""
    held = [tcp(address) for _ in range(count)]
    return [got(lambda sock=sock: sock.connect((address, 7))) for sock in held]


def refusals(results: Sequence[Any]) -> int:
    """How often EPERM came out."""
    return sum(result == "EPERM" for result in results)


def counts(workload: Workload) -> tuple[int, int, int]:
    """What the kernel has counted: bytes, connections, destinations."""
    usage = workload.guard.tables.usage(workload.id)
    return usage.bytes.count, usage.connections.count, usage.destinations.count


def in_parallel(*functions: Callable[[], Any]) -> None:
    """Runs each in a process of its own, all at once. For use inside call_in."""
    hold, go = os.pipe()
    children = []
    for function in functions:
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(hold, 1)  # until all are there
            function()
            os._exit(0)
        children.append(child)
    os.close(go)
    for child in children:
        os.waitpid(child, 0)
    os.close(hold)


@contextmanager
def serving(
    bed: Bed, cgroup: Path, home: Path, before: Callable[[socket.socket], Any] = lambda _: None
) -> Iterator[int]:
    """A server in the workload that says a line to everybody who dials in. Yields its port."""
    sign = home / "serving"

    def run() -> None:
        listener = tcp(CLIENT4)
        before(listener)
        listener.bind((CLIENT4, 0))
        listener.listen(8)
        sign.with_suffix(".new").write_text(str(listener.getsockname()[1]))
        sign.with_suffix(".new").rename(sign)
        listener.settimeout(0.02)
        held = []
        while sign.exists():
            if isinstance(accepted := got(listener.accept), tuple):
                held.append(accepted[0])
                got(lambda: held[-1].send(b"inbound"))

    server = threading.Thread(target=lambda: call_in(bed, run, cgroup=cgroup))
    server.start()
    try:
        for _ in range(500):
            if sign.exists():
                break
            time.sleep(0.01)
        yield int(sign.read_text())
    finally:
        sign.unlink()
        server.join()


def call_up(bed: Bed, port: int, count: int) -> list[Any]:
    """Strangers dial in from the other side of the wire, so many at once; what each hears."""

    def run() -> list[Any]:
        socks = [tcp(CLIENT4) for _ in range(count)]
        dialled = [got(lambda sock=sock: sock.connect((CLIENT4, port))) for sock in socks]
        return [no or got(lambda sock=sock: sock.recv(100)) for no, sock in zip(dialled, socks, strict=True)]

    return call_in(bed, run, at=bed.network.hosts)
