"""Who a guest says it is, whom it talks to on its line, and what else than IP it sends there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from bed import Host, Udp
from e2e.guard import rule
from exeat.kernel.guest_abi import LEARNT_V6_MAX
from exeat.kernel.guests import Learnt
from exeat.model.networks import mapped
from exeat.model.verdicts import Reason, Verdict
from guest.link_frames import (
    ALL_STATIONS,
    IP,
    Arp,
    Line,
    Packet,
    dhcp_message,
    ether,
    icmp_message,
    is_a,
    run_out,
    told_soon,
    udp_datagram,
)
from guest.stage import Guest, GuestWorkload, Stage

PASSED, DROPPED = 0xFFFFFFFF, 2
OTHER_MAC = bytes.fromhex("02005e0053ee")
FAMILIES = pytest.mark.parametrize("version", [4, 6])
OPEN = "203.0.113.0/24", "2001:db8:2::/64"
PORT = 5000


@pytest.fixture(scope="module")
def server(stage: Stage) -> Host:
    """Counts datagrams."""
    return stage.add("link.test", Udp(PORT, answers=False))


@pytest.fixture
def line(judging: Stage, server: Host) -> Line:
    """Guest 0's end."""
    server.reset()
    return Line.of(judging.guests[0])


@contextmanager
def judged(stage: Stage, guest: Guest | None = None, **changes: Any) -> Iterator[GuestWorkload]:
    """A guest that may send to every server's port 5000, and of which the agent says this."""
    guest = guest or stage.guests[0]
    with stage.judged(rule(*OPEN, ports=(PORT,), protocol="udp"), guest=guest) as workload:
        assert stage.guard
        stage.guard.guests.put(guest.index, replace(guest.place(), **changes))
        yield workload


def learning(guest: Guest, **more: Any) -> dict[str, Any]:
    """It may have any address of its network."""
    networks = ip_network(f"{guest.address4(0)}/27"), ip_network(f"{guest.address6(0)}/64")
    return {"guest_mac": None, "addresses": (), "learn": networks, **more}


def to_server(server: Host, source: str, data: bytes = b"hello") -> Packet:
    """What is allowed, if it comes from the guest's address."""
    return udp_datagram(source, server.address6 if ":" in source else server.address4, 4000, PORT, data)


def refused(reason: Reason) -> list[tuple[Verdict, Reason]]:
    """One verdict."""
    return [(Verdict.DROPPED, reason)]


def learnt(stage: Stage, guest: Guest) -> Learnt:
    """What the programs learnt of it; the addresses as text."""
    assert stage.guard
    found = stage.guard.guests.learnt(guest.index)
    texts = (str(ip_address(one[12:]) if one.startswith(mapped(ip_address("0.0.0.0"))[:12]) else ip_address(one))
             for one in found.addresses)  # fmt: skip
    return Learnt(found.mac, tuple(sorted(texts)))  # type: ignore[arg-type]


# Its own address on the link


@FAMILIES
@pytest.mark.parametrize(
    "mac",
    [OTHER_MAC, bytes(6), ALL_STATIONS, bytes.fromhex("03005e005310"), bytes.fromhex("01005e000001"), None],
    ids=["another", "zeros", "all", "its own with the bit of many", "a group", "the gateway's"],
)
def test_a_frame_from_another_mac_is_dropped(
    judging: Stage, line: Line, server: Host, version: int, mac: bytes | None
) -> None:
    """The same packet from the guest's own arrives."""
    packet = to_server(server, line.address(version))
    to = line.guest.gateway_mac
    with judged(judging) as workload:
        line.send(ether(mac or to, to, packet.kind, packet.bytes()))
        assert told_soon(workload) == refused(Reason.SPOOFED)
        assert server.count().is_untouched
        line.send(line.ip(packet))
        assert server.count().datagrams == 1


def test_the_first_mac_is_the_guests_and_stays_so(judging: Stage, line: Line, server: Host) -> None:
    """Where the agent was told none. The next guest on the interface may have another, when the first was forgotten."""
    packet = to_server(server, line.address(4))
    other = ether(OTHER_MAC, line.guest.gateway_mac, IP, packet.bytes())
    with judged(judging, guest_mac=None) as workload:
        line.send(line.ip(packet), other)
        assert told_soon(workload, 2) == [(Verdict.FORWARDED, Reason.NETWORK_ALLOWED), *refused(Reason.SPOOFED)]
        assert server.count().datagrams == 1
        assert learnt(judging, line.guest).mac == line.guest.mac
    server.reset()
    with judged(judging, guest_mac=None):
        line.send(other)
        assert server.count().datagrams == 1
        assert learnt(judging, line.guest).mac == OTHER_MAC


@pytest.mark.parametrize("mac", [bytes(6), ALL_STATIONS, bytes.fromhex("01005e000001")])
def test_what_nobody_can_be_called_is_not_learnt(judging: Stage, line: Line, server: Host, mac: bytes) -> None:
    """The guest's right one is learnt after it."""
    packet = to_server(server, line.address(4))
    with judged(judging, guest_mac=None):
        line.send(ether(mac, line.guest.gateway_mac, IP, packet.bytes()))
        assert server.count().is_untouched
        assert learnt(judging, line.guest).mac is None
        line.send(line.ip(packet))
        assert server.count().datagrams == 1


# Its own addresses


SPOOFED4 = ["198.51.100.20", "198.51.100.0", "198.51.100.31", "198.51.100.1", "198.51.100.42", "203.0.113.10",
            "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "8.8.8.8"]  # fmt: skip
SPOOFED6 = ["2001:db8:1::20", "2001:db8:1::", "2001:db8:1::1", "2001:db8:1:1::a", "2001:db8:2::a", "::", "::1",
            "ff02::1", "ff0e::1", "fe80::1", "::198.51.100.10", "64:ff9b::c633:640a", "2002:c633:640a::1"]  # fmt: skip


@pytest.mark.parametrize("source", SPOOFED4 + SPOOFED6)
def test_a_packet_from_another_address_is_dropped(judging: Stage, line: Line, server: Host, source: str) -> None:
    """Of the network, of the host, of another guest, or none that anybody can have; its twin arrives."""
    with judged(judging) as workload:
        if source == "fe80::1":  # the guest may have one of these: another one is taken
            line.send(line.ip(to_server(server, "fe80::2")))
            told_soon(workload)
        line.send(line.ip(to_server(server, source)))
        assert told_soon(workload) == refused(Reason.SPOOFED)
        assert server.count().is_untouched
        line.send(line.ip(to_server(server, line.address(6 if ":" in source else 4))))
        assert server.count().datagrams == 1


@FAMILIES
def test_an_address_that_nobody_has_is_the_guests_from_its_first_packet_on(
    judging: Stage, line: Line, server: Host, version: int
) -> None:
    """And no second one of IPv4; of IPv6 four, for hosts change theirs."""
    most = LEARNT_V6_MAX if version == 6 else 1
    own = [line.address(version, place) for place in range(10, 16)]
    with judged(judging, **learning(line.guest)) as workload:
        for address in own:
            line.send(line.ip(to_server(server, address)))
        assert told_soon(workload, 6).count((Verdict.DROPPED, Reason.SPOOFED)) == 6 - most
        assert server.count().datagrams == most
        assert learnt(judging, line.guest) == Learnt(line.guest.mac, tuple(sorted(own[:most])))  # type: ignore[arg-type]
        line.send(line.ip(to_server(server, own[0])))
        assert server.count().datagrams == most + 1


@pytest.mark.parametrize(
    "address", ["198.51.100.0", "198.51.100.31", "198.51.100.1", "198.51.100.32", "2001:db8:1::1", "2001:db8:1:1::10"]
)
def test_nothing_else_is_learnt(judging: Stage, line: Line, server: Host, address: str) -> None:
    """Neither the network's first nor last, nor the gateway's, nor what is of another network."""
    with judged(judging, **learning(line.guest)) as workload:
        line.send(line.ip(to_server(server, address)))
        assert told_soon(workload) == refused(Reason.SPOOFED)
        assert learnt(judging, line.guest).addresses == ()
        assert server.count().is_untouched
        line.send(line.ip(to_server(server, line.address(6 if ":" in address else 4))))
        assert server.count().datagrams == 1


@FAMILIES
@pytest.mark.parametrize("is_said", [True, False])
def test_what_is_one_guests_is_no_others(judging: Stage, line: Line, server: Host, version: int, is_said: bool) -> None:
    """Whether the agent said it or it was learnt; it is free when the first guest has gone."""
    other = Line.of(judging.guests[1])
    of_both = line.address(version)
    others = learning(other.guest, learn=learning(line.guest)["learn"])
    firsts = {} if is_said else learning(line.guest)
    with judged(judging, other.guest, **others) as later:
        with judged(judging, **firsts) as first:
            line.send(line.ip(to_server(server, of_both)))
            assert told_soon(first) == [(Verdict.FORWARDED, Reason.NETWORK_ALLOWED)]
            other.send(other.ip(to_server(server, of_both)))
            assert told_soon(later) == refused(Reason.SPOOFED)
            assert server.count().datagrams == 1
        other.send(other.ip(to_server(server, of_both)))
        assert server.count().datagrams == 2
        assert learnt(judging, other.guest).addresses == (of_both,)


@pytest.mark.parametrize("is_probe", [True, False])
def test_an_address_is_learnt_from_arp(judging: Stage, line: Line, server: Host, is_probe: bool) -> None:
    """From the question of who looks for the gateway, and from the one whether it is free."""
    own, mac = line.address(4), line.guest.mac
    message = Arp(mac, "0.0.0.0", own) if is_probe else Arp(mac, own, line.guest.address4(1))
    with judged(judging, **learning(line.guest)):
        line.send(line.arp(message))
        assert learnt(judging, line.guest) == Learnt(mac, (own,))  # type: ignore[arg-type]
        line.send(line.ip(to_server(server, line.address(4, 11))), line.ip(to_server(server, own)))
        assert server.count().datagrams == 1


def test_looking_for_somebody_makes_nobodys_address_ones_own(judging: Stage, line: Line, server: Host) -> None:
    """Or a guest could take its neighbours' before they come; and what it asks for does not pass."""
    own, others = line.address(4), line.address(4, 15)
    with judged(judging, **learning(line.guest)) as workload:
        line.send(line.arp(Arp(line.guest.mac, own, others)))
        assert told_soon(workload) == refused(Reason.NEIGHBOUR)
        assert learnt(judging, line.guest).addresses == (own,)
        line.send(line.ip(to_server(server, own)))
        assert server.count().datagrams == 1


# DHCP


@contextmanager
def dhcp_server(stage: Stage, guest: Guest) -> Iterator[socket.socket]:
    """On the host's end of the line, as a real one."""

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, guest.tap.encode())
        sock.bind(("0.0.0.0", 67))
        sock.setblocking(False)
        return sock

    with stage.network.router.call(listen) as sock:
        yield sock


def received(sock: socket.socket) -> list[bytes]:
    """All that it has."""
    found: list[bytes] = []
    while True:
        try:
            found.append(sock.recv(2000))
        except BlockingIOError:
            return found


DISCOVER, REQUEST, ACK = 1, 3, 5


@pytest.mark.parametrize("kind", [DISCOVER, REQUEST])
def test_a_guest_asks_for_an_address_and_has_the_one_that_it_is_given(
    judging: Stage, line: Line, server: Host, kind: int
) -> None:
    """Both messages reach the server; from its ACK on, that address and no other is the guest's."""
    given, mac = line.address(4, 13), line.guest.mac
    with dhcp_server(judging, line.guest) as offers, judged(judging, **learning(line.guest, allows_dhcp=True)):
        line.send(line.ip(dhcp_message(kind, mac)))
        (message,) = received(offers)
        assert message[28:34] == mac
        assert learnt(judging, line.guest) == Learnt(mac, ())
        sender = line.guest.address4(1)
        ack = dhcp_message(ACK, mac, given=given, sender=sender, destination=given).payload[8:]
        offers.sendto(ack, (given, 68))
        assert line.arrivals(is_a(17, source=sender, port=68))
        assert learnt(judging, line.guest).addresses == (given,)  # type: ignore[comparison-overlap]
        line.send(line.ip(to_server(server, line.address(4))), line.ip(to_server(server, given)))
        assert server.count().datagrams == 1


def test_a_lease_of_another_client_is_not_the_guests(judging: Stage, line: Line) -> None:
    """As a server may broadcast it; the guest's own after it counts."""
    given, sender = line.address(4, 13), line.guest.address4(1)
    with dhcp_server(judging, line.guest) as offers, judged(judging, **learning(line.guest, allows_dhcp=True)):
        line.send(line.ip(dhcp_message(REQUEST, line.guest.mac)))
        for mac, of_it in ((OTHER_MAC, ()), (line.guest.mac, (given,))):
            line.link.others.clear()
            ack = dhcp_message(ACK, mac, given=given, sender=sender, destination=given).payload[8:]
            offers.sendto(ack, (given, 68))
            assert line.arrivals(is_a(17, source=sender, port=68))
            assert learnt(judging, line.guest).addresses == of_it


def with_other_byte(packet: Packet, at: int, value: int) -> Packet:
    """A byte of the DHCP message is another one."""
    body = packet.payload
    return replace(packet, payload=body[: 8 + at] + bytes((value,)) + body[9 + at :])


def dhcp_cases(line: Line) -> dict[str, tuple[Packet, Reason]]:
    """What looks like a question to a DHCP server, and is none of this guest's."""
    mine = line.guest.mac
    right = dhcp_message(DISCOVER, mine)
    gateway = line.guest.address4(1)
    return {
        "of another client": (dhcp_message(DISCOVER, OTHER_MAC), Reason.SPOOFED),
        "an answer": (with_other_byte(right, 0, 2), Reason.NEIGHBOUR),
        "cut off": (replace(right, payload=transport_cut(right, 20)), Reason.NEIGHBOUR),
        "from another address": (dhcp_message(REQUEST, mine, "198.51.100.20"), Reason.SPOOFED),
        "to nobody in particular": (dhcp_message(REQUEST, mine, destination="203.0.113.9"), Reason.NEIGHBOUR),
        "as if from a server": (
            udp_datagram(line.address(4), "255.255.255.255", 67, 68, bytes(300)),
            Reason.ADDRESS_NOT_ALLOWED,
        ),
        "from another port": (udp_datagram(line.address(4), gateway, 4000, 67, bytes(300)), Reason.ADDRESS_NOT_ALLOWED),
    }


def transport_cut(packet: Packet, size: int) -> bytes:
    """Its datagram with so many bytes."""
    return udp_datagram(packet.source, packet.destination, 68, 67, packet.payload[8 : 8 + size]).payload


@pytest.mark.parametrize("case", list(dhcp_cases(Line(Guest(0, None), None))))  # type: ignore[arg-type]
def test_what_is_no_question_of_this_guest_reaches_no_dhcp_server(judging: Stage, line: Line, case: str) -> None:
    """Its own, after it, does."""
    packet, reason = dhcp_cases(line)[case]
    with dhcp_server(judging, line.guest) as offers, judged(judging, allows_dhcp=True) as workload:
        line.send(line.ip(packet))
        assert told_soon(workload) == refused(reason)
        assert received(offers) == []
        line.send(line.ip(dhcp_message(DISCOVER, line.guest.mac)))
        assert len(received(offers)) == 1


def test_where_addresses_are_said_nobody_is_asked_for_one(judging: Stage, line: Line) -> None:
    """By IPv4 and by IPv6; the twin where it is allowed."""
    packets = (
        dhcp_message(DISCOVER, line.guest.mac),
        udp_datagram("fe80::10", "ff02::1:2", 546, 547, bytes(40)),
    )
    for is_allowed in (False, True):
        with dhcp_server(judging, line.guest) as offers, judged(judging, allows_dhcp=is_allowed) as workload:
            for packet in packets:
                line.send(line.ip(packet))
                assert told_soon(workload, not is_allowed) == ([] if is_allowed else refused(Reason.NEIGHBOUR))
                assert run_out(judging, line.guest, line.ip(packet))[0] == (PASSED if is_allowed else DROPPED)
                workload.told()
            assert len(received(offers)) == is_allowed


def test_an_interface_that_nobody_described_lets_nothing_through(judging: Stage, line: Line, server: Host) -> None:
    """Before the agent has said what it knows; and afterwards the same packet arrives."""
    frame = line.ip(to_server(server, line.address(4)))
    ping = line.ip(icmp_message(line.address(4), line.guest.address4(1), 8))
    guard = judging.guard
    assert guard
    before = guard.tables.counter(Verdict.ERROR, Reason.STAMP_MISSING)
    with judged(judging):
        guard.guests.forget(line.guest.index)
        line.send(frame, ping, line.arp(Arp(line.guest.mac, line.address(4), line.guest.address4(1))))
        assert guard.tables.counter(Verdict.ERROR, Reason.STAMP_MISSING) == before + 3
        assert server.count().is_untouched
        guard.guests.put(line.guest.index, line.guest.place())
        line.send(frame)
        assert server.count().datagrams == 1
