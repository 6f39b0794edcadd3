"""What is neither TCP nor a question: datagrams and pings by rule, and how quickly the others are refused."""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bed import Host, Sniffer, Udp, call_in
from e2e.guard import rule
from e2e.limit_words import limit
from exeat.kernel import libbpf
from exeat.kernel.guest_abi import FlowKey
from exeat.model.policy import ALL_PORTS, Mode, Rule, Then
from exeat.model.verdicts import Reason, Verdict
from guest.link_frames import (
    ICMP,
    ICMP6,
    PLAIN,
    TCP,
    Line,
    Packet,
    body_of,
    ends_of,
    icmp_message,
    is_a,
    left_to_the_device,
    sums_are_right,
    told_soon,
    transport_sum,
    udp_datagram,
)
from guest.stage import WIRE4, Guest, GuestWorkload, Stage

PORT = 5000
AT_ONCE_S = 0.05
SILENCE_S = 0.03
FAMILIES = pytest.mark.parametrize("version", [4, 6])
ALLOWED = (Verdict.FORWARDED, Reason.NETWORK_ALLOWED)
EVERYBODY = "0.0.0.0/0", "::/0"
METADATA = "169.254.169.254"


@pytest.fixture(scope="module")
def server(stage: Stage) -> Host:
    """Answers datagrams; also where no cloud is."""
    stage.network.router.command("ip", "route", "replace", METADATA, "via", WIRE4, "dev", "ways")
    return stage.add("datagrams.test", Udp(PORT), Udp(443), Udp(853), Udp(80), also=(METADATA,))


@pytest.fixture
def line(judging: Stage, server: Host) -> Line:
    """Guest 0's end."""
    server.reset()
    return Line.of(judging.guests[0])


def address_of(server: Host, version: int) -> str:
    """Of a family."""
    return server.address6 if version == 6 else server.address4


def may(server: Host, *ports: int) -> Rule:
    """Datagrams to these ports of it."""
    return rule(server.address4, server.address6, protocol="udp", ports=ports or (PORT,))


def everything() -> tuple[Rule, ...]:
    """All that rules can allow: what is refused then is refused for its own sake."""
    open_ = replace(rule(*EVERYBODY, protocol="udp"), ports=(ALL_PORTS,))
    return open_, replace(open_, name="tcp", protocol=type(open_.protocol)("tcp")), rule(*EVERYBODY, protocol="icmp")


def say(address: str, port: int, *, connected: bool = True) -> tuple[str, float]:
    """By the guest's own kernel: what the server answers or the error's name, and how long that took."""
    began = time.monotonic()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        try:
            if connected:
                sock.connect((address, port))
                sock.send(b"hello")
            else:
                sock.sendto(b"hello", (address, port))
                sock.settimeout(SILENCE_S)
            return sock.recv(100).decode().strip(), time.monotonic() - began
        except TimeoutError:
            return "TIMEOUT", time.monotonic() - began
        except OSError as error:
            return errno.errorcode[error.errno or 0], time.monotonic() - began


# By rule


@FAMILIES
def test_datagrams_go_by_rule(judging: Stage, server: Host, version: int, line: Line) -> None:
    """To one port of a server; the answer comes back. Any other port is refused within the time of a blink."""
    address = address_of(server, version)
    with judging.judged(may(server)) as workload:
        assert call_in(judging, lambda: say(address, PORT))[0] == "I am datagrams.test"
        assert workload.reasons() == [ALLOWED]
        server.reset()
        error, took = call_in(judging, lambda: say(address, 80))
        assert (error, took < AT_ONCE_S) == ("EACCES" if version == 6 else "EHOSTUNREACH", True)
        assert workload.reasons() == [(Verdict.DROPPED, Reason.PORT_NOT_ALLOWED)]
        assert server.count().is_untouched


@FAMILIES
def test_quic_is_refused_at_once(judging: Stage, server: Host, version: int, line: Line) -> None:
    """So that a browser goes on by TCP. The rule that allows TLS to the same address does not allow it."""
    address = address_of(server, version)
    tls = rule(server.address4, server.address6, hosts=("good.test",), protocol="tls")
    with judging.judged(tls) as workload, judging.sniff() as wire:
        error, took = call_in(judging, lambda: say(address, 443))
        assert (error, took < AT_ONCE_S) == ("EACCES" if version == 6 else "EHOSTUNREACH", True)
        assert workload.reasons() == [(Verdict.DROPPED, Reason.PORT_NOT_ALLOWED)]
        assert wire.toward(address).frames == 0
        assert server.count().is_untouched
    with judging.judged(may(server, 443)):
        assert call_in(judging, lambda: say(address, 443))[0] == "I am datagrams.test"


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1200, 1400])
@pytest.mark.parametrize("is_left", [False, True], ids=["whole", "left to the card"])
@pytest.mark.parametrize("is_offloaded", [True, False], ids=["to a card", "to none"])
def test_the_refusal_is_exact(
    judging: Stage, server: Host, line: Line, version: int, size: int, is_left: bool, is_offloaded: bool
) -> None:
    """From the server's address, about this very datagram, with right checksums, whoever was to compute them."""
    guest, address = line.guest, address_of(server, version)
    data = (bytes(range(256)) * 6)[:size]
    frame = line.ip(udp_datagram(line.address(version), address, 4321, 443, data))
    vnet, sent = left_to_the_device(frame) if is_left else (PLAIN, frame)
    judging.offload(judging.network.router, guest.tap, is_offloaded)
    try:
        with judging.judged(may(server)):
            line.send(sent, vnet=vnet)
            (came,) = line.arrivals(is_a(ICMP6 if version == 6 else ICMP, source=address))
    finally:
        judging.offload(judging.network.router, guest.tap, True)
    body = body_of(came)
    assert body[:2] == (b"\x01\x01" if version == 6 else b"\x03\x0d")
    assert body[8:] == sent[14:][: 48 if version == 6 else 28]
    assert ends_of(came) == (address, line.address(version))
    assert came[:12] == guest.mac + guest.gateway_mac
    assert sums_are_right(came)
    assert server.count().is_untouched


@FAMILIES
@pytest.mark.parametrize(
    "options", [b"", b"\x02\x04\x05\xb4", bytes(40)], ids=["bare", "with a size", "with all options"]
)
def test_a_refusal_is_not_a_byte_too_long(
    judging: Stage, server: Host, line: Line, version: int, options: bytes
) -> None:
    """A reset and an ICMP message end where their headers say, whatever was refused."""
    address, own = address_of(server, version), line.address(version)
    head = struct.pack("!HHIIBBHHH", 4321, 444, 7, 0, (5 + len(options) // 4) << 4, 2, 0xFFFF, 0, 0) + options
    with judging.judged(may(server)):
        line.send(line.ip(Packet(own, address, TCP, transport_sum(own, address, TCP, head))))
        line.send(line.ip(udp_datagram(own, address, 4321, 443, options)))
        (reset,) = line.arrivals(is_a(TCP, source=address))
        (message,) = line.arrivals(is_a(ICMP6 if version == 6 else ICMP, source=address))
    for came, size in ((reset, 20), (message, 56 if version == 6 else 36)):
        assert len(came) == (54 if version == 6 else 34) + size
        assert len(body_of(came)) == size
        assert sums_are_right(came)


MANY = {
    "224.0.0.251": Reason.MULTICAST_DNS, "239.255.255.250": Reason.ADDRESS_NOT_ALLOWED,
    "255.255.255.255": Reason.ADDRESS_NOT_ALLOWED, "ff02::fb": Reason.MULTICAST_DNS,
    "ff0e::1": Reason.ADDRESS_NOT_ALLOWED,
}  # fmt: skip


@pytest.mark.parametrize("address", MANY)
def test_nobody_is_told_about_what_was_sent_to_many(judging: Stage, server: Host, line: Line, address: str) -> None:
    """RFC 1122 3.2.2. It is denied all the same."""
    version = 6 if ":" in address else 4
    port = 5353 if MANY[address] is Reason.MULTICAST_DNS else PORT
    with judging.judged(may(server)) as workload:
        line.send(line.ip(udp_datagram(line.address(version), address, 4321, port, b"anybody there?")))
        assert told_soon(workload) == [(Verdict.DROPPED, MANY[address])]
        assert not line.arrivals(is_a(ICMP6 if version == 6 else ICMP), SILENCE_S)
        line.send(line.ip(udp_datagram(line.address(version), address_of(server, version), 4321, 443, b"hello")))
        assert line.arrivals(is_a(ICMP6 if version == 6 else ICMP))


@FAMILIES
@pytest.mark.parametrize(
    ("port", "reason"),
    [(137, Reason.NETBIOS), (853, Reason.DNS_OVER_TLS), (5353, Reason.MULTICAST_DNS), (5355, Reason.LLMNR)],
)
def test_names_are_asked_at_the_gate_alone(
    judging: Stage, server: Host, line: Line, version: int, port: int, reason: Reason
) -> None:
    """Where rules allow everything; each by its own word, and its twin to the next port arrives."""
    address = address_of(server, version)
    with judging.judged(*everything()) as workload, judging.sniff() as wire:
        line.send(line.ip(udp_datagram(line.address(version), address, 4321, port, b"who is")))
        assert told_soon(workload) == [(Verdict.DROPPED, reason)]
        assert wire.toward(address).frames == 0
        line.send(line.ip(udp_datagram(line.address(version), address, 4321, PORT, b"hello")))
        assert server.datagrams() == [b"hello"]


def test_the_clouds_metadata_are_not_to_be_had(judging: Stage, server: Host, line: Line) -> None:
    """Nobody named them; who does has them."""
    with judging.judged(rule("203.0.113.0/24", protocol="udp", ports=(80,))) as workload:
        error, took = call_in(judging, lambda: say(METADATA, 80))
        assert (error, took < AT_ONCE_S) == ("EHOSTUNREACH", True)
        assert workload.reasons() == [(Verdict.DROPPED, Reason.ADDRESS_NOT_ALLOWED)]
        assert server.count().is_untouched
    with judging.judged(rule(METADATA, protocol="udp", ports=(80,))):
        assert call_in(judging, lambda: say(METADATA, 80))[0] == "I am datagrams.test"


TUNNELS = {4: "ipip", 41: "6in4", 47: "gre", 50: "esp", 51: "ah", 97: "etherip", 115: "l2tp", 132: "sctp",
           136: "udp-lite", 33: "dccp", 94: "ipip again", 98: "encap"}  # fmt: skip


@FAMILIES
@pytest.mark.parametrize("protocol", TUNNELS, ids=TUNNELS.get)
def test_tunnels_and_other_transports_are_refused(
    judging: Stage, server: Host, line: Line, version: int, protocol: int
) -> None:
    """Where rules allow everything. What is inside would be allowed."""
    address, own = address_of(server, version), line.address(version)
    inside = udp_datagram(own, address, 4321, PORT, b"smuggled")
    reason = Reason.EXTENSION_HEADER if (protocol, version) == (51, 6) else Reason.PACKET_PROTOCOL
    with judging.judged(*everything()) as workload, judging.sniff() as wire:
        head = bytes.fromhex("00000800") if protocol == 47 else b""
        line.send(line.ip(Packet(own, address, protocol, head + inside.bytes())))
        assert told_soon(workload) == [(Verdict.DROPPED, reason)]
        assert wire.frames() == []
        line.send(line.ip(inside))
        assert server.datagrams() == [b"smuggled"]


# Pings


@pytest.fixture
def wire(judging: Stage) -> Iterator[Sniffer]:
    """What leaves the host."""
    with judging.sniff() as sniffer:
        yield sniffer


@FAMILIES
def test_pings_go_by_rule(judging: Stage, server: Host, line: Line, wire: Sniffer, version: int) -> None:
    """Its answer comes back; without a rule not a frame leaves, and datagrams are another matter."""
    address, own = address_of(server, version), line.address(version)
    kind, protocol = (128, ICMP6) if version == 6 else (8, ICMP)
    ping = line.ip(icmp_message(own, address, kind, 0, b"\x00\x01\x00\x01" + bytes(56)))
    with judging.judged(may(server)) as workload:
        line.send(ping)
        assert told_soon(workload) == [(Verdict.DROPPED, Reason.PORT_NOT_ALLOWED)]
        assert wire.frames() == []
        assert not line.arrivals(is_a(protocol), SILENCE_S)
    with judging.judged(rule(address, protocol="icmp")) as workload:
        line.send(ping, ping, ping)
        assert len(wire.frames()) == 3
        (answer, *_) = line.arrivals(is_a(protocol, source=address))
        assert body_of(answer)[4:] == body_of(ping)[4:]
        assert told_soon(workload) == [ALLOWED]


OTHERS4 = (4, 5, 6, 9, 10, 12, 13, 14, 15, 16, 17, 18, 30, 37, 40, 41, 128, 253, 255)
OTHERS6 = (0, 5, 100, 101, 127, 162, 200, 201, 255)


@pytest.mark.parametrize(("version", "kind"), [*((4, kind) for kind in OTHERS4), *((6, kind) for kind in OTHERS6)])
@pytest.mark.parametrize("is_after", [False, True], ids=["first", "after a ping"])
def test_what_is_no_ping_is_refused_whatever_rule_there_is(
    judging: Stage, server: Host, line: Line, wire: Sniffer, version: int, kind: int, is_after: bool
) -> None:
    """Redirects, masks, clocks: they change something at whom they reach, or carry something away."""
    address, own = address_of(server, version), line.address(version)
    ping = line.ip(icmp_message(own, address, 128 if version == 6 else 8, 0, bytes(60)))
    with judging.judged(*everything()) as workload:
        if is_after:
            line.send(ping)
            assert told_soon(workload) == [ALLOWED]
            assert len(wire.frames()) == 1
            wire.clear()
        line.send(line.ip(icmp_message(own, address, kind, 0, bytes(60))))
        assert told_soon(workload) == [(Verdict.DROPPED, Reason.PACKET_PROTOCOL)]
        assert wire.frames() == []
        line.send(ping)
        assert len(wire.frames()) == 1


@pytest.mark.parametrize(("version", "kind"), [(4, 3), (4, 11), (6, 1), (6, 2), (6, 3), (6, 4)])
def test_errors_that_make_the_net_work_go_by_rule(
    judging: Stage, server: Host, line: Line, wire: Sniffer, version: int, kind: int
) -> None:
    """With a rule for pings they pass, without one they do not."""
    address, own = address_of(server, version), line.address(version)
    message = line.ip(icmp_message(own, address, kind, 0, bytes(4) + udp_datagram(own, address, 1, 2, b"").bytes()))
    for rules, passes in (((may(server),), 0), ((rule(address, protocol="icmp"),), 1)):
        with judging.judged(*rules):
            wire.clear()
            line.send(message)
            assert len(wire.frames()) == passes


# Flows


def flows_of(guest: Guest, workload: GuestWorkload) -> list[FlowKey]:
    """What is known of a guest's."""
    table = workload.guard.instance.map("flows")
    found = [FlowKey.from_buffer_copy(key) for key in libbpf.keys(table, ctypes.sizeof(FlowKey))]
    return [one for one in found if one.workload == guest.workload]


@FAMILIES
def test_one_flow_is_told_once(judging: Stage, server: Host, line: Line, version: int) -> None:
    """Each pair of ends is a flow and a verdict; what follows is counted."""
    address, own = address_of(server, version), line.address(version)
    with judging.judged(may(server)) as workload:
        for port in (4001, 4002):
            line.send(*[line.ip(udp_datagram(own, address, port, PORT, b"x" * size)) for size in (1, 100, 1000)])
        assert told_soon(workload, 2) == [ALLOWED, ALLOWED]
        assert server.count().datagrams == 6
        ports = {int.from_bytes(bytes(one.guest_port), "big") for one in flows_of(line.guest, workload)}
        assert ports == {4001, 4002}
        traffic = workload.guard.tables.traffic(workload.id)
        headers = 48 if version == 6 else 28
        assert (traffic.packets_out, traffic.bytes_out) == (6, 2 * (1101 + 3 * headers))
        assert traffic.verdicts[Verdict.FORWARDED] == 2


def test_a_new_policy_is_asked_at_the_next_datagram(judging: Stage, server: Host, line: Line) -> None:
    """The flow was open; now it is refused, and opens again when it may."""
    packet = line.ip(udp_datagram(line.address(4), server.address4, 4001, PORT, b"hello"))
    with judging.judged(may(server)) as workload:
        line.send(packet)
        assert server.count().datagrams == 1
        workload.told()
        workload.switch(may(server, 443))
        line.send(packet)
        assert told_soon(workload) == [(Verdict.DROPPED, Reason.PORT_NOT_ALLOWED)]
        assert line.arrivals(is_a(ICMP, source=server.address4))
        assert server.count().datagrams == 1
        workload.switch(may(server))
        line.send(packet)
        assert server.count().datagrams == 2


@pytest.mark.parametrize("mode", [Mode.MONITOR, Mode.OPEN])
def test_who_only_watches_lets_them_pass(judging: Stage, server: Host, line: Line, mode: Mode) -> None:
    """And tells what it would have denied."""
    expected = (
        (Verdict.AUDIT, Reason.PORT_NOT_ALLOWED) if mode is Mode.MONITOR else (Verdict.FORWARDED, Reason.OPEN_MODE)
    )
    with judging.judged(may(server), mode=mode) as workload:
        assert call_in(judging, lambda: say(server.address4, 443))[0] == "I am datagrams.test"
        assert told_soon(workload) == [expected]


# Limits


def test_bytes_beyond_their_limit_do_not_leave(judging: Stage, server: Host, line: Line) -> None:
    """Of one flow that is open; what is dropped counts nowhere."""
    packet = line.ip(udp_datagram(line.address(4), server.address4, 4001, PORT, bytes(972)))
    with judging.judged(may(server), limits=limit("bytes", 5000)) as workload:
        line.send(*[packet] * 8)
        assert server.count().datagrams == 5
        assert told_soon(workload, 2) == [ALLOWED, (Verdict.DROPPED, Reason.LIMIT_BYTES)]
        assert workload.guard.tables.usage(workload.id).bytes.count == 5000


def test_flows_beyond_the_limit_of_connections_are_refused(judging: Stage, server: Host, line: Line) -> None:
    """A flow counts once; those that are open go on."""
    packets = [line.ip(udp_datagram(line.address(4), server.address4, 4001 + n, PORT, b"hello")) for n in range(4)]
    with judging.judged(may(server), limits=limit("connections", 3)) as workload:
        line.send(*packets)
        assert server.count().datagrams == 3
        assert told_soon(workload, 4) == [ALLOWED] * 3 + [(Verdict.DROPPED, Reason.LIMIT_CONNECTIONS)]
        assert line.arrivals(is_a(ICMP, source=server.address4))
        line.send(*packets[:3])
        assert server.count().datagrams == 6


def test_addresses_beyond_their_limit_may_end_it_all(judging: Stage, server: Host, line: Line) -> None:
    """Quarantine: what was open is closed too."""
    first, second = (
        line.ip(udp_datagram(line.address(4), to, 4001, PORT, b"hello")) for to in (server.address4, "203.0.113.250")
    )
    rules = rule("203.0.113.0/24", protocol="udp", ports=(PORT,))
    with judging.judged(rules, limits=limit("destinations", 1, Then.QUARANTINE)) as workload, judging.sniff() as wire:
        line.send(first, first, second)
        assert wire.toward("203.0.113.250").frames == 0
        line.send(first)
        assert server.count().datagrams == 2
        said = told_soon(workload, 3)
        assert said[:2] == [ALLOWED, (Verdict.DROPPED, Reason.LIMIT_DESTINATIONS)]
        assert said[2] == (Verdict.DROPPED, Reason.QUARANTINED)


def test_a_burst_of_refusals_hurts_no_open_flow(judging: Stage, server: Host, line: Line) -> None:
    """Thousands of denied datagrams, and one flow that goes on among them; the count is exact."""
    good = line.ip(udp_datagram(line.address(4), server.address4, 4001, PORT, b"hello"))
    bad = [line.ip(udp_datagram(line.address(4), server.address4, 5000 + n, 443, b"hello")) for n in range(2000)]
    with judging.judged(may(server)) as workload:
        for at in range(0, len(bad), 200):
            line.send(good, *bad[at : at + 200])
            line.link.read()
        assert server.count().datagrams == 10
        dropped = workload.guard.tables.traffic(workload.id).verdicts[Verdict.DROPPED]
        assert dropped == len(bad)
        assert len(line.arrivals(is_a(ICMP))) == len(bad)
        assert len(flows_of(line.guest, workload)) == 1


def test_a_real_guest_hears_by_its_error_queue_who_refused(judging: Stage, server: Host, line: Line) -> None:
    """IP_RECVERR tells origin, kind and code of the message, on a socket that is not connected."""

    def ask() -> tuple[int, ...]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            IP_RECVERR, MSG_ERRQUEUE = 11, 0x2000  # noqa: N806  # linux/in.h, linux/socket.h
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sock.sendto(b"hello", (server.address4, 443))
            select.select([], [], [sock], AT_ONCE_S)
            poll = select.poll()
            poll.register(sock, select.POLLERR)
            assert poll.poll(AT_ONCE_S * 1000)
            _, ancillary, _, _ = sock.recvmsg(100, 512, MSG_ERRQUEUE)
            number, origin, kind, code = struct.unpack_from("=IBBB", ancillary[0][2])
            return number, origin, kind, code

    with judging.judged(may(server)):
        assert call_in(judging, ask) == (errno.EHOSTUNREACH, 2, 3, 13)
