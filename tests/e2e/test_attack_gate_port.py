"""The gate's port once somebody else has it, or by a device: each of these is stopped in one place only."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from bed import Bed, Host
from e2e.bypasses import question
from e2e.escapes import Steps, family_of, got, tcp, udp
from e2e.gatekeeper import SOMEBODY, Said, ask_dns, fresh_resolver, keep_gate
from e2e.guard import Guard, rule
from exeat.kernel.entries import GATE_PRIORITY
from exeat.kernel.grants import GateTables
from exeat.model.verdicts import Reason, Verdict

NO_GATE = (Verdict.ERROR, Reason.NO_GATE)
LOOPBACK = {"192.0.2.53": "127.0.0.1", "2001:db8:53::53": "::1"}  # who is meant, and where the gate is


@pytest.mark.parametrize("server", LOOPBACK)
def test_a_stranger_at_the_port_of_a_gate_that_died_is_not_connected_to(
    guard: Guard, bed: Bed, good: Host, server: str
) -> None:
    """The kernel still leads port 53 there. A datagram is judged again as it leaves, a handshake is not."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        port = kept.listeners.port

        def ask() -> Any:
            return got(lambda: list(ask_dns("good.test", server=server, transport="tcp")))

        assert Said(*kept.run(ask)).addresses == [good.address4]
        kept.thread.finish()
        with bed.network.client.call(lambda: tcp(LOOPBACK[server])) as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the answered connection is in TIME_WAIT
            stranger.bind((LOOPBACK[server], port))
            stranger.listen()
            assert kept.run(ask) == "EPERM"
            stranger.setblocking(False)
            assert got(stranger.accept) == "EAGAIN"
        assert kept.workload.reasons() == [NO_GATE]


@pytest.mark.parametrize("server", LOOPBACK)
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_question_by_a_device_is_refused_at_once(guard: Guard, bed: Bed, good: Host, kind: str, server: str) -> None:
    """No gate is on that wire. Were it led to one, its packets would be dropped, and the program would wait."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})

    def ask(device: bytes) -> Any:
        with (udp if kind == "udp" else tcp)("", family_of(server)) as sock:
            if device:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            return got(lambda: sock.connect((server, 53)))

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        assert kept.run(lambda: ask(b"uplink")) == "EPERM"
        assert kept.workload.reasons() == [NO_GATE]
        assert kept.run(lambda: ask(b"")) is None
        assert kept.workload.reasons() == []


@pytest.mark.parametrize("is_own", [True, False], ids=["its own again", "another's"])
def test_a_gate_at_the_port_of_ones_own_that_moved_is_reached_by_nobody(
    guard: Guard, bed: Bed, good: Host, is_own: bool
) -> None:
    """Sockets remember that port; whose gate is there is what the agent says now."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})

    def run(pause: Callable[[], None]) -> list[Any]:
        kept.listeners.close()  # this process's own copies, inherited by fork()
        with udp() as aimed, udp() as connected:
            connected.connect((SOMEBODY, 53))
            aimed.sendto(question("good.test"), (SOMEBODY, 53))
            connected.send(question("good.test"))
            heard = [len(aimed.recv(4096)) > 0, len(connected.recv(4096)) > 0]
            pause()
            sent = [got(lambda: aimed.sendto(b"aimed", ("127.0.0.1", port))), got(lambda: connected.send(b"connected"))]
        return [heard, sent]

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        port, network = kept.listeners.port, kept.listeners.network
        with Steps(bed, run, kept.workload.cgroup) as steps:
            kept.thread.finish()
            if not is_own:
                GateTables(guard.instance, kept.workload.id).close(network)
            with bed.network.client.call(udp) as gate:
                gate.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, GATE_PRIORITY)
                gate.bind(("127.0.0.1", port))
                steps.go_on()
                gate.setblocking(False)
                heard = [got(lambda: gate.recv(4096)) for _ in range(2)]
        assert steps.result[0] == [True, True]
        assert heard == ([b"aimed", b"connected"] if is_own else ["EAGAIN", "EAGAIN"])
        assert steps.result[1] == ([5, 9] if is_own else ["EPERM", "EPERM"])
