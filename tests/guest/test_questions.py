"""Port 53 of whomever: a guest's question comes to its gate, and its answer back from whom it asked; all sums right."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from bed import Host, Udp, call_in
from e2e.guard import rule
from exeat.dns.listeners import Listeners, open_listeners
from exeat.interface_settings import GATE_ADDRESSES
from exeat.kernel import libbpf
from exeat.kernel.entries import GATE_PRIORITY
from exeat.kernel.grants import GateTables
from exeat.kernel.guest_abi import GUEST_ASKED, AskedKey
from exeat.model.networks import mapped
from exeat.model.policy import ALL_PORTS
from exeat.model.verdicts import Reason, Verdict
from guest.link_frames import (
    ICMP,
    ICMP6,
    PLAIN,
    TCP,
    UDP,
    Line,
    body_of,
    ends_of,
    is_a,
    left_to_the_device,
    ports_of,
    pseudo,
    run_frames,
    run_out,
    sums_are_right,
    told_soon,
    transport_of,
    udp_datagram,
)
from guest.packets import NEEDS_CSUM, VNET, Offload, RawClient, Segment, checksum
from guest.stage import Guest, GuestWorkload, Stage
from guest.test_flows import dial

pytestmark = pytest.mark.usefixtures("gate_addresses")
PASSED = 0xFFFFFFFF
NOBODY = {4: "8.8.8.8", 6: "2001:db8:53::53"}
FAMILIES = pytest.mark.parametrize("version", [4, 6])
GSO_UDP_L4 = 5  # linux/virtio_net.h
AT_ONCE_S, SILENCE_S = 0.05, 0.03
OTHER_MAC = bytes.fromhex("02005e0053ee")


@dataclass
class Gate:
    """The sockets of one guest's gate."""

    listeners: Listeners
    guest: Guest
    workload: GuestWorkload

    def tcp(self, version: int) -> socket.socket:
        """Of a family."""
        return self.listeners.tcp[version == 6]

    def asked(self, version: int) -> list[tuple[bytes, str, int]]:
        """What was asked, and from where, as the sockets have it."""
        found = []
        while True:
            try:
                data, peer = self.listeners.udp[version == 6].recvfrom(1 << 16)
            except BlockingIOError:
                return found
            found.append((data, peer[0], peer[1]))

    def answer(self, version: int, data: bytes, to: str, port: int) -> None:
        """Says something to a guest."""
        self.listeners.udp[version == 6].sendto(data, (to, port))


@pytest.fixture(scope="module")
def server(stage: Stage) -> Host:
    """A resolver that nobody shall reach."""
    return stage.add("questions.test", Udp(53), Udp(5000))


@pytest.fixture
def line(judging: Stage, server: Host) -> Line:
    """Guest 0's end."""
    server.reset()
    return Line.of(judging.guests[0])


@contextmanager
def gated(stage: Stage, guest: Guest | None = None, priority: int = GATE_PRIORITY, **more: object) -> Iterator[Gate]:
    """A guest that may send everything everywhere, and its gate."""
    guest, guard = guest or stage.guests[0], stage.guard
    assert guard
    everywhere = replace(rule("0.0.0.0/0", "::/0", protocol="udp"), ports=(ALL_PORTS,))
    listeners = stage.network.router.call(lambda: open_listeners(priority, addresses=GATE_ADDRESSES))
    gates = GateTables(guard.instance, guest.workload)
    try:
        with stage.judged(everywhere, rule("0.0.0.0/0", "::/0", ports=(53,)), guest=guest) as workload:
            addresses = tuple(mapped(one) for one in GATE_ADDRESSES)
            place = replace(guest.place(), **{"network": listeners.network, "gate": addresses, **more})
            guard.guests.put(guest.index, place)
            gates.open(listeners.network, listeners.port)
            yield Gate(listeners, guest, workload)
    finally:
        gates.close(listeners.network)
        listeners.close()


def question(line: Line, version: int, data: bytes = b"who is", port: int = 4000, to: str = "") -> bytes:
    """A datagram to port 53."""
    return line.ip(udp_datagram(line.address(version), to or NOBODY[version], port, 53, data))


def run_all(stage: Stage, gate: Gate, frames: list[bytes]) -> list[tuple[int, bytes]]:
    """What on_guest_out makes of frames, without a line."""
    program = gate.workload.guard.instance.program("on_guest_out")
    return stage.network.router.call(lambda: run_frames(program, gate.guest.index, frames))


# Datagrams


def asked_at(line: Line, server: Host) -> dict[str, str]:
    """Whom a guest may ask."""
    return {
        "nobody": NOBODY[4], "nobody by IPv6": NOBODY[6], "a server": server.address4, "by IPv6": server.address6,
        "its gateway": line.guest.address4(1), "its gateway by IPv6": line.guest.address6(1), "loopback": "127.0.0.53",
        "the gate": str(GATE_ADDRESSES[0]), "the gate by IPv6": str(GATE_ADDRESSES[1]), "itself": line.address(4, 11),
        "another guest": "198.51.100.34", "the cloud": "169.254.169.254", "everybody": "255.255.255.255",
        "a group": "224.0.0.251", "a group of IPv6": "ff02::fb",
    }  # fmt: skip


WHOM = list(asked_at(Line(Guest(0, None), None), Host("", "", "", (), None)))  # type: ignore[arg-type]


@pytest.mark.parametrize("whom", WHOM)
def test_a_question_to_whomever_comes_to_the_gate_and_its_answer_back(
    judging: Stage, server: Host, line: Line, whom: str
) -> None:
    """The gate sees who asks, and the guest hears from whom it asked; who was asked hears nothing."""
    to = asked_at(line, server)[whom]
    version = 6 if ":" in to else 4
    with gated(judging) as gate, judging.sniff() as wire:
        line.send(question(line, version, to=to))
        assert gate.asked(version) == [(b"who is", line.address(version), 4000)]
        gate.answer(version, b"it is", line.address(version), 4000)
        (came,) = line.arrivals(is_a(UDP, port=4000))
        assert ends_of(came) == (to, line.address(version))
        assert ports_of(came) == (53, 4000)
        assert body_of(came)[8:] == b"it is"
        assert came[:12] == line.guest.mac + line.guest.gateway_mac
        assert wire.frames() == []
        assert server.count().is_untouched
        assert gate.workload.reasons() == []
        assert gate.workload.guard.tables.traffic(gate.workload.id).packets_out == 1


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 2, 3, 511, 1400])
@pytest.mark.parametrize("is_left", [False, True], ids=["whole", "left to the card"])
def test_a_question_keeps_its_bytes_and_a_right_sum(
    judging: Stage, line: Line, version: int, size: int, is_left: bool
) -> None:
    """The gate's kernel takes it, and what leaves the program has the sums of an independent reader."""
    data = (bytes(range(256)) * 6)[:size]
    frame = question(line, version, data)
    with gated(judging) as gate:
        vnet, sent = left_to_the_device(frame) if is_left else (PLAIN, frame)
        line.send(sent, vnet=vnet)
        assert gate.asked(version) == [(data, line.address(version), 4000)]
        code, out = run_out(judging, line.guest, frame)
        assert code == PASSED
        assert sums_are_right(frame)
        assert sums_are_right(out)
        assert ends_of(out) == (line.address(version), str(GATE_ADDRESSES[version == 6]))
        assert ports_of(out) == (4000, gate.listeners.port)
        assert body_of(out)[8:] == data
        at, _ = transport_of(frame)
        assert (out[:14], out[at + 4 : at + 6]) == (frame[:14], frame[at + 4 : at + 6])


@FAMILIES
@pytest.mark.parametrize("is_offloaded", [False, True], ids=["whole", "left to the card"])
def test_an_answer_has_a_right_sum(judging: Stage, line: Line, version: int, is_offloaded: bool) -> None:
    """Also where the host leaves it to the guest's card: then the sum of both ends stands there."""
    judging.offload(judging.network.router, line.guest.tap, is_offloaded)
    try:
        with gated(judging) as gate:
            for size in (0, 1, 2, 3, 511, 1400):
                line.link.others.clear()
                line.send(question(line, version))
                gate.answer(version, bytes(range(256))[:1] * size, line.address(version), 4000)
                (came,) = line.arrivals(is_a(UDP, port=4000))
                assert ends_of(came)[0] == NOBODY[version]
                if is_offloaded:
                    body = body_of(came)
                    half = checksum(pseudo(*ends_of(came), UDP, len(body)))
                    assert int.from_bytes(body[6:8], "big") == half
                else:
                    assert sums_are_right(came)
                    assert body_of(came)[6:8] != bytes(2)
    finally:
        judging.offload(judging.network.router, line.guest.tap, True)


def test_who_leaves_out_the_sum_goes_without_one(judging: Stage, line: Line) -> None:
    """IPv4 allows it; it is not made up, and every sum that would come out as none is written as the other zero."""
    with gated(judging) as gate:
        frame = question(line, 4)
        bare = frame[:40] + bytes(2) + frame[42:]
        line.send(bare)
        assert gate.asked(4) == [(b"who is", line.address(4), 4000)]
        assert run_out(judging, line.guest, bare)[1][40:42] == bytes(2)
        ran = run_all(judging, gate, [question(line, 4, struct.pack("!H", number)) for number in range(65536)])
        assert {code for code, _ in ran} == {PASSED}
        assert sum(out[40:42] == b"\xff\xff" for _, out in ran) >= 1
        assert not any(out[40:42] == bytes(2) for _, out in ran)
        assert all(sums_are_right(out) for _, out in ran[::64])


def test_without_a_sum_ipv6_is_not_taken(judging: Stage, line: Line) -> None:
    """RFC 8200 8.1; with one it is."""
    with gated(judging) as gate:
        frame = question(line, 6)
        line.send(frame[:60] + bytes(2) + frame[62:])
        assert gate.asked(6) == []
        line.send(frame)
        assert len(gate.asked(6)) == 1


@FAMILIES
def test_a_wrong_sum_stays_wrong(judging: Stage, line: Line, version: int) -> None:
    """What was damaged on its way is not mended by being led to the gate."""
    with gated(judging) as gate:
        frame = question(line, version)
        at = transport_of(frame)[0] + 6
        broken = frame[:at] + struct.pack("!H", int.from_bytes(frame[at : at + 2], "big") ^ 0x0100) + frame[at + 2 :]
        assert not sums_are_right(run_out(judging, line.guest, broken)[1])
        line.send(broken)
        assert gate.asked(version) == []
        line.send(frame)
        assert len(gate.asked(version)) == 1


@FAMILIES
def test_questions_that_the_card_cuts_up_come_one_by_one(judging: Stage, line: Line, version: int) -> None:
    """UDP segmentation: one frame of three datagrams, to the gate and to a server."""
    data = b"".join(bytes((letter,)) * 100 for letter in b"abc")
    with gated(judging) as gate:
        vnet, frame = left_to_the_device(question(line, version, data))
        _, _, _, _, start, at = VNET.unpack(vnet)
        line.send(frame, vnet=VNET.pack(NEEDS_CSUM, GSO_UDP_L4, start + 8, 100, start, at))
        assert [one for one, _, _ in gate.asked(version)] == [b"a" * 100, b"b" * 100, b"c" * 100]


def test_a_frame_for_a_router_beyond_the_bridge_comes_to_the_host(judging: Stage, line: Line) -> None:
    """The guest's gateway is another machine; the gate is here."""
    with gated(judging, gateway_macs=(line.guest.gateway_mac, OTHER_MAC)) as gate:
        frame = question(line, 4)
        line.send(OTHER_MAC + frame[6:])
        assert gate.asked(4) == [(b"who is", line.address(4), 4000)]
        assert run_out(judging, line.guest, OTHER_MAC + frame[6:])[1][:6] == line.guest.gateway_mac


# Streams


@FAMILIES
@pytest.mark.parametrize("offload", Offload, ids=lambda one: one.name.lower())
@pytest.mark.parametrize("is_offloaded", [False, True], ids=["sums by the host", "sums by the card"])
def test_a_stream_to_port_53_comes_to_the_gate(
    judging: Stage, line: Line, version: int, offload: Offload, is_offloaded: bool
) -> None:
    """Both ways, large frames too, with right sums; and it ends as streams end."""
    judging.offload(judging.network.router, line.guest.tap, is_offloaded)
    try:
        with gated(judging) as gate, judging.sniff() as wire:
            client = RawClient(line.link, line.address(version), NOBODY[version], 53, offload=offload)
            assert client.connect()
            ask, answer = bytes(range(256)) * 20, bytes(range(255, -1, -1)) * 20
            assert client.push(ask, piece=1000)
            sock, peer = gate.tcp(version).accept()
            with sock:
                assert peer[:2] == (line.address(version), client.source_port)
                assert read(sock, len(ask)) == ask
                sock.sendall(answer)
                assert line.link.wait(lambda: len(client.got) == len(answer))
                assert client.got == answer
                client.acknowledge()
                sock.shutdown(socket.SHUT_WR)
                assert line.link.wait(lambda: client.has_fin)
            assert all(one.source == NOBODY[version] and one.source_port == 53 for one in client.arrived)
            if not is_offloaded:
                assert all(one.is_sound for one in client.arrived)
            assert not client.resets
            assert wire.frames() == []
            assert gate.workload.reasons() == []
    finally:
        judging.offload(judging.network.router, line.guest.tap, True)


def read(sock: socket.socket, count: int) -> bytes:
    """So many bytes."""
    sock.settimeout(1)
    found = b""
    while len(found) < count:
        found += sock.recv(1 << 16)
    return found


@FAMILIES
def test_a_stream_that_nobody_saw_begin_is_reset(judging: Stage, line: Line, version: int) -> None:
    """Nothing of it comes to the gate, nor to whom it was for."""
    with gated(judging) as gate, judging.sniff() as wire:
        client = RawClient(line.link, line.address(version), NOBODY[version], 53)
        client.peer_isn = 7
        client.send(Segment(b"\x00\x05hello"))
        assert client.wait_reset()
        assert told_soon(gate.workload) == [(Verdict.DROPPED, Reason.NO_FLOW)]
        assert wire.frames() == []
        assert RawClient(line.link, line.address(version), NOBODY[version], 53).connect()


# Where there is no gate


@FAMILIES
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
@pytest.mark.parametrize("why", ["none opened", "its sockets closed", "nowhere to listen", "somebody else there"])
def test_without_a_gate_a_question_is_refused_at_once(
    judging: Stage, server: Host, line: Line, version: int, kind: socket.SocketKind, why: str
) -> None:
    """Whatever the reason; and whoever took its port hears nothing."""
    refusal = "ECONNREFUSED" if kind is socket.SOCK_STREAM else "EACCES" if version == 6 else "EHOSTUNREACH"
    priority = 0 if why == "somebody else there" else GATE_PRIORITY
    with gated(judging, priority=priority, **({"gate": ()} if why == "nowhere to listen" else {})) as gate:
        guard = gate.workload.guard
        if why == "none opened":
            GateTables(guard.instance, line.guest.workload).close(gate.listeners.network)
        elif why == "its sockets closed":
            gate.listeners.close()
        error, took = call_in(judging, lambda: dial(NOBODY[version], 53, b"who is", kind))
        assert (error, took < AT_ONCE_S) == (refusal, True)
        assert told_soon(gate.workload)[:1] == [(Verdict.ERROR, Reason.NO_GATE)]
        if why != "its sockets closed":
            assert gate.asked(version) == []
            with pytest.raises(BlockingIOError):
                gate.tcp(version).accept()
        address = server.address6 if version == 6 else server.address4
        error, took = call_in(judging, lambda: dial(address, 53, b"who is", kind))
        assert (error, took < AT_ONCE_S) == (refusal, True)
        assert server.count().is_untouched


@FAMILIES
@pytest.mark.parametrize("protocol", [UDP, TCP])
def test_the_gates_own_port_is_not_to_be_had_directly(judging: Stage, line: Line, version: int, protocol: int) -> None:
    """Though rules cover its address: neither a guest's own gate nor another's, nor any other port there."""
    address = str(GATE_ADDRESSES[version == 6])
    other = judging.guests[1]
    with gated(judging) as gate, gated(judging, other) as others:
        for port in (80, others.listeners.port, gate.listeners.port):
            if protocol == UDP:
                line.send(line.ip(udp_datagram(line.address(version), address, 4000, port, b"let me in")))
                assert line.arrivals(is_a(ICMP6 if version == 6 else ICMP, source=address))
                line.link.others.clear()
            else:
                client = RawClient(line.link, line.address(version), address, port)
                assert not client.connect()
                assert client.is_reset
            assert told_soon(gate.workload) == [(Verdict.DROPPED, Reason.GATE_NOT_OWN)]
        assert gate.asked(version) == others.asked(version) == []
        for one in (gate, others):
            with pytest.raises(BlockingIOError):
                one.tcp(version).accept()
        line.send(question(line, version))
        assert len(gate.asked(version)) == 1


# Whose answers


@FAMILIES
def test_what_was_not_asked_is_not_answered(judging: Stage, line: Line, version: int) -> None:
    """From the gate's port a guest hears answers only, each at the port that it asked from."""
    with gated(judging) as gate:
        line.send(question(line, version, port=4000))
        for port in (4001, 5000):
            gate.answer(version, b"surprise", line.address(version), port)
        gate.answer(version, b"surprise", line.address(version, 11), 4000)
        assert not line.arrivals(is_a(UDP), SILENCE_S)
        gate.answer(version, b"it is", line.address(version), 4000)
        (came,) = line.arrivals(is_a(UDP))
        assert (ports_of(came)[1], body_of(came)[8:]) == (4000, b"it is")


@FAMILIES
def test_two_guests_that_ask_alike_hear_their_own_answers(judging: Stage, line: Line, version: int) -> None:
    """From the same port, whom they like; each has its gate."""
    other = Line.of(judging.guests[1])
    with gated(judging) as gate, gated(judging, other.guest) as others:
        line.send(question(line, version, b"mine"))
        other.send(question(other, version, b"yours"))
        assert gate.asked(version) == [(b"mine", line.address(version), 4000)]
        assert others.asked(version) == [(b"yours", other.address(version), 4000)]
        others.answer(version, b"to you", other.address(version), 4000)
        assert not line.arrivals(is_a(UDP), SILENCE_S)
        gate.answer(version, b"to me", line.address(version), 4000)
        for one, said in ((line, b"to me"), (other, b"to you")):
            (came,) = one.arrivals(is_a(UDP))
            assert (body_of(came)[8:], ends_of(came)[0]) == (said, NOBODY[version])


def asked_of(workload: GuestWorkload) -> dict[int, str]:
    """Whom a guest asks, by the port that it asks from."""
    table, found = workload.guard.instance.map("asked"), {}
    for raw, address in libbpf.entries(table, ctypes.sizeof(AskedKey), 16):
        key = AskedKey.from_buffer_copy(raw)
        if key.workload == workload.id:
            found[int.from_bytes(bytes(key.port), "big")] = str(ip_address(address))
    return found


def test_a_flood_of_questions_costs_nobody_else_anything(judging: Stage, line: Line) -> None:
    """From 10,000 ports: so many are remembered, of them the last; another guest is answered all the while."""
    other, ports = Line.of(judging.guests[1]), range(10_000, 20_000)
    with gated(judging) as gate, gated(judging, other.guest) as others:
        other.send(question(other, 4, b"before"))
        ran = run_all(judging, gate, [question(line, 4, port=port) for port in ports])
        assert {code for code, _ in ran} == {PASSED}
        assert sorted(asked_of(gate.workload)) == list(ports[-GUEST_ASKED:])
        assert asked_of(others.workload).keys() == {4000}
        others.answer(4, b"to you", other.address(4), 4000)
        assert len(other.arrivals(is_a(UDP))) == 1
        gate.answer(4, b"too late", line.address(4), ports[0])
        assert not line.arrivals(is_a(UDP), SILENCE_S)
        gate.answer(4, b"in time", line.address(4), ports[-1])
        assert len(line.arrivals(is_a(UDP))) == 1
        line.send(question(line, 4, b"again", port=ports[0]))
        assert gate.asked(4)[-1:] == [(b"again", line.address(4), ports[0])]


def test_a_port_that_asks_another_hears_from_that_one(judging: Stage, line: Line) -> None:
    """As a resolver that goes on to the next server."""
    with gated(judging) as gate:
        for server in ("8.8.8.8", "9.9.9.9"):
            line.link.others.clear()
            line.send(question(line, 4, to=server))
            gate.answer(4, b"it is", line.address(4), 4000)
            (came,) = line.arrivals(is_a(UDP))
            assert ends_of(came)[0] == server


def test_a_guest_that_is_forgotten_asks_nobody(judging: Stage, line: Line) -> None:
    """Nothing is left of its questions, and a new one under the same index begins with none."""
    with gated(judging) as gate:
        line.send(question(line, 4))
        assert asked_of(gate.workload).keys() == {4000}
        gate.workload.guard.guests.forget(line.guest.index)
        assert asked_of(gate.workload) == {}
        gate.answer(4, b"it is", line.address(4), 4000)
        line.send(question(line, 4))
        assert len(gate.asked(4)) == 1
