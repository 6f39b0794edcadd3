"""Escapes, continued: past port 53, through gates, by grants, beyond limits."""

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bed import call_in
from e2e.escape_ways import SECRET, Scene, way
from e2e.escape_ways_of_state import WAYS
from e2e.escapes import ask, dial, got, rules, tcp, udp
from e2e.gatekeeper import SOMEBODY, fresh_resolver, keep_gate
from e2e.guard import rule
from e2e.limit_words import limit, open_connections
from exeat.kernel.entries import GATE_PRIORITY
from exeat.model.policy import ALL_PORTS, OnUndeclared, Then

__all__ = ["DOORS", "GATES", "WAYS"]

DOORS = ("closed ports", "question", "undeclared")  # undeclared: "closing" would hide it
GATES = ("device", "gate port", "gates", "ungranted", "grant end", "limit", "closing")


def _tell(scene: Scene, port: int) -> bool:
    every_port = replace(rule(scene.evil.address4, protocol="udp"), ports=(ALL_PORTS,))
    with scene.guard.workload(every_port) as w:
        call_in(scene.bed, lambda: got(lambda: udp().sendto(SECRET, (scene.evil.address4, port))), cgroup=w.cgroup)
    return scene.wire.saw(SECRET)


@way(*DOORS)
def asked_a_resolver_of_its_choice(scene: Scene) -> bool:
    """A rule opens all ports there."""
    return _tell(scene, 53)


@way(*DOORS)
def asked_over_another_port(scene: Scene) -> bool:
    """The same, DNS over QUIC."""
    return _tell(scene, 853)


@way(*DOORS)
def went_on_after_a_try(scene: Scene) -> bool:
    """One undeclared destination should have been the end."""
    with scene.guard.workload(*rules(scene.good), on_undeclared=OnUndeclared.QUARANTINE) as w:
        call_in(scene.bed, lambda: [dial(scene.evil.address4), dial(scene.good.address4)], cgroup=w.cgroup)
    return scene.good.count().bytes > 0


@way(*GATES)
def own_loopback_on_a_wire(scene: Scene) -> bool:
    """A datagram to a socket of its own, by a device."""

    def client() -> Any:
        own, sock = udp(), udp()
        own.bind(("127.0.0.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"uplink")
        return sock.sendto(SECRET, own.getsockname())

    scene.run(lambda: got(client))
    return scene.wire.saw(SECRET)


@way(*GATES)
def a_stranger_at_the_gates_port(scene: Scene) -> bool:
    """The gate has died; the kernel still leads port 53 there."""
    allowed = rule(scene.good.address4, ports=(7,))
    with keep_gate(scene.guard, scene.bed, fresh_resolver(scene.bed, {}), allowed) as kept:
        address = ("127.0.0.1", kept.listeners.port)
        kept.thread.finish()
        with scene.bed.network.client.call(lambda: socket.create_server(address)) as stranger:
            kept.run(lambda: got(lambda: tcp("").connect((SOMEBODY, 53))))
            stranger.settimeout(0.2)
            return isinstance(got(stranger.accept), tuple)


@way(*GATES)
def anothers_gate(scene: Scene) -> bool:
    """A rule opens its port on loopback."""
    with scene.bed.network.client.call(udp) as gate:
        gate.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, GATE_PRIORITY)
        gate.bind(("127.0.0.1", 0))
        there = gate.getsockname()
        with scene.guard.workload(rule("127.0.0.1/32", ports=(there[1],), protocol="udp")) as w:
            call_in(scene.bed, lambda: got(lambda: udp().sendto(SECRET, there)), cgroup=w.cgroup)
        return bool(got(lambda: gate.recv(100)) == SECRET)


def _by_name(scene: Scene, client: Callable[[], Any], granted_s: float | None) -> None:
    allowed = rule(hosts=("good.test",), ports=(7,))
    with keep_gate(scene.guard, scene.bed, fresh_resolver(scene.bed, {}), allowed) as kept:
        if granted_s is not None:
            kept.write_grant("good.test", scene.good.address4, lasts_s=granted_s)
        kept.run(client)


@way(*GATES)
def nobody_had_resolved_it(scene: Scene) -> bool:
    """An address of the program's own, under a rule for a name."""
    _by_name(scene, lambda: dial(scene.evil.address4), None)
    return scene.evil.count().bytes > 0


@way(*GATES)
def its_grant_was_over(scene: Scene) -> bool:
    """An address that was the name's a moment ago."""
    _by_name(scene, lambda: dial(scene.good.address4), 0)
    return scene.good.count().bytes > 0


@way(*GATES)
def one_more_than_the_limit(scene: Scene) -> bool:
    """Connections."""
    with scene.guard.workload(*rules(scene.good), limits=limit("connections", 2)) as w:
        call_in(scene.bed, lambda: open_connections(scene.good.address4, 3), cgroup=w.cgroup)
    return scene.good.count().connections > 2


@way(*GATES)
def went_on_beyond_a_limit(scene: Scene) -> bool:
    """On an open connection, after others that should have been the end."""

    def client() -> Any:
        sock = tcp("")
        sock.connect((scene.good.address4, 7))
        open_connections(scene.good.address4, 3)
        return ask(sock, SECRET)

    with scene.guard.workload(*rules(scene.good), limits=limit("connections", 1, Then.QUARANTINE)) as w:
        call_in(scene.bed, client, cgroup=w.cgroup)
    return scene.good.received(0) == SECRET
