"""ARP and IPv6's messages among neighbours: what a guest needs to find its gateway, and nothing else of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv6Network
from typing import Any

import pytest

from e2e.guard import rule
from exeat.model.networks import mapped
from exeat.model.verdicts import Reason, Verdict
from guest.link_frames import (
    ALL_NODES,
    ALL_ROUTERS,
    ALL_STATIONS,
    ARP,
    ICMP6,
    Arp,
    Line,
    Packet,
    body_of,
    ends_of,
    ether,
    held_back,
    icmp_message,
    is_a,
    link_option,
    neighbour_message,
    run_out,
    solicited,
    told_soon,
)
from guest.stage import GuestWorkload, Stage

PASSED = 0xFFFFFFFF
OTHER_MAC = bytes.fromhex("02005e0053ee")
ROUTER_ASKED, ROUTER, ASKED, TOLD, REDIRECT = 133, 134, 135, 136, 137
ALIKE = "198.51.100.20", "2001:db8:1::20"  # of the guest's network, and nobody's
HERE = Line.of


@contextmanager
def judged(stage: Stage, number: int, **changes: Any) -> Iterator[GuestWorkload]:
    """A guest that may reach nothing: what passes here passes for its own sake."""
    guest = stage.guests[number]
    with stage.judged(rule("203.0.113.9", protocol="udp", ports=(9,)), guest=guest) as workload:
        assert stage.guard
        stage.guard.guests.put(guest.index, replace(guest.place(), **changes))
        yield workload


@pytest.fixture(scope="module")
def _place(stage: Stage, guard: Any) -> Iterator[GuestWorkload]:
    stage.guard = guard
    with judged(stage, 0) as workload:
        yield workload


@pytest.fixture
def known(_place: GuestWorkload, judging: Stage) -> GuestWorkload:
    """Guest 0, whose addresses the agent has said; its kernel says nothing by itself."""
    _place.told()
    return _place


@pytest.fixture
def line(judging: Stage) -> Line:
    """Guest 0's end."""
    return Line.of(judging.guests[0])


# ARP


def questions(line: Line) -> dict[str, bytes]:
    """What a guest may say by ARP."""
    mac, own, gateway = line.guest.mac, line.address(4), line.guest.address4(1)
    asks = Arp(mac, own, gateway)
    return {
        "who is the gateway": line.arp(asks),
        "the same, of the gateway itself": line.arp(asks, line.guest.gateway_mac),
        "the same, with all ones as its address": line.arp(replace(asks, target_mac=ALL_STATIONS)),
        "an answer to the gateway": line.arp(
            Arp(mac, own, gateway, line.guest.gateway_mac, operation=2), line.guest.gateway_mac
        ),
        "is my address free": line.arp(Arp(mac, "0.0.0.0", own)),
        "I am here": line.arp(Arp(mac, own, own)),
        "I am here, as an answer": line.arp(Arp(mac, own, own, operation=2)),
        "I am here, to myself": line.arp(Arp(mac, own, own, mac)),
    }


def strange_arps(line: Line) -> dict[str, tuple[bytes, Reason]]:
    """What it may not."""
    mac, own, gateway, host = line.guest.mac, line.address(4), line.guest.address4(1), line.guest.gateway_mac
    other = line.guest.address4(20)
    asks = Arp(mac, own, gateway)
    odd = {
        "hardware": replace(asks, hardware=6),
        "a protocol": replace(asks, protocol=0x86DD),
        "a link address of 8": replace(asks, sizes=(8, 4)),
        "an address of 16": replace(asks, sizes=(6, 16)),
        "no operation": replace(asks, operation=0),
        "a reverse question": replace(asks, operation=3),
        "a reverse answer": replace(asks, operation=4),
        "an inverse question": replace(asks, operation=8),
        "a refusal": replace(asks, operation=10),
        "high bits in the operation": replace(asks, operation=0x0101),
    }
    whose = {
        "who is another": (line.arp(replace(asks, target=other)), Reason.NEIGHBOUR),
        "who is another guest": (line.arp(replace(asks, target="198.51.100.42")), Reason.NEIGHBOUR),
        "who is nobody": (line.arp(replace(asks, target="0.0.0.0")), Reason.NEIGHBOUR),
        "an answer to another": (line.arp(Arp(mac, own, other, operation=2)), Reason.NEIGHBOUR),
        "the gateway is here": (line.arp(Arp(mac, gateway, gateway)), Reason.SPOOFED),
        "the gateway is here, as an answer": (line.arp(Arp(mac, gateway, other, operation=2)), Reason.SPOOFED),
        "another is here": (line.arp(Arp(mac, other, other)), Reason.SPOOFED),
        "another asks": (line.arp(Arp(mac, other, gateway)), Reason.SPOOFED),
        "all ask": (line.arp(Arp(mac, "255.255.255.255", gateway)), Reason.SPOOFED),
        "is another's address free": (line.arp(Arp(mac, "0.0.0.0", other)), Reason.SPOOFED),
        "is the gateway's address free": (line.arp(Arp(mac, "0.0.0.0", gateway)), Reason.SPOOFED),
        "I have another card": (line.arp(Arp(OTHER_MAC, own, gateway)), Reason.SPOOFED),
        "I am all cards": (line.arp(Arp(ALL_STATIONS, own, own, operation=2)), Reason.SPOOFED),
        "I am the gateway's card": (line.arp(Arp(host, own, own, operation=2)), Reason.SPOOFED),
        "to another card": (line.arp(asks, OTHER_MAC), Reason.NEIGHBOUR),
        "to a group": (line.arp(asks, bytes.fromhex("01005e000001")), Reason.NEIGHBOUR),
        "about another card": (line.arp(replace(asks, target_mac=OTHER_MAC)), Reason.NEIGHBOUR),
        "from another card": (ether(OTHER_MAC, ALL_STATIONS, ARP, asks.bytes()), Reason.SPOOFED),
        "cut off": (line.arp(asks)[:-1], Reason.MALFORMED_PACKET),
        "nothing": (line.arp(asks)[:14], Reason.MALFORMED_PACKET),
        "with much behind it": (line.arp(asks) + bytes(19), Reason.MALFORMED_PACKET),
        "with very much behind it": (line.arp(asks) + bytes(1400), Reason.MALFORMED_PACKET),
    }
    return whose | {f"odd: {name}": (line.arp(message), Reason.NEIGHBOUR) for name, message in odd.items()}


def cases(of: Any) -> list[str]:
    """The names of a table's rows, known before there is any guest."""
    from guest.stage import Guest

    return list(of(Line(Guest(0, None), None)))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", cases(questions))
def test_what_a_guest_needs_of_arp_passes_unchanged(
    judging: Stage, known: GuestWorkload, line: Line, case: str
) -> None:
    """With what its card fills it up with taken away."""
    frame = questions(line)[case]
    assert run_out(judging, line.guest, frame) == (PASSED, frame)
    assert run_out(judging, line.guest, frame + bytes(18)) == (PASSED, frame)
    assert known.reasons() == []


@pytest.mark.parametrize("case", ["who is the gateway", "the same, of the gateway itself"])
def test_the_hosts_kernel_answers_who_looks_for_it(known: GuestWorkload, line: Line, case: str) -> None:
    """Over the line; and nobody, who looks for another."""

    def is_answer(frame: bytes) -> bool:
        return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02"

    line.send(strange_arps(line)["who is another"][0])
    assert not line.arrivals(is_answer, 0.02)
    line.send(questions(line)[case])
    (answer,) = line.arrivals(is_answer)
    assert answer[22:32] == line.guest.gateway_mac + bytes(map(int, line.guest.address4(1).split(".")))


@pytest.mark.parametrize("case", cases(strange_arps))
def test_nothing_else_of_arp_passes(known: GuestWorkload, judging: Stage, line: Line, case: str) -> None:
    """Each with its reason, told once; what it needs passes after it."""
    frame, reason = strange_arps(line)[case]
    assert run_out(judging, line.guest, frame)[0] == 2
    assert told_soon(known) == [(Verdict.DROPPED, reason)]
    good = questions(line)["who is the gateway"]
    assert run_out(judging, line.guest, good) == (PASSED, good)


# IPv6


def messages(line: Line) -> dict[str, Packet]:
    """What a guest may say by IPv6 among neighbours."""
    own, gateway = line.address(6), line.guest.address6(1)
    mine, its = link_option(1, line.guest.mac), link_option(2, line.guest.mac)
    nonce = b"\x0e\x01" + b"nonce!"
    return {
        "who is the gateway": neighbour_message(own, solicited(gateway), ASKED, gateway, mine),
        "are you still there": neighbour_message(own, gateway, ASKED, gateway, mine),
        "the same without a link address": neighbour_message(own, gateway, ASKED, gateway),
        "from the link's own": neighbour_message("fe80::10", solicited(gateway), ASKED, gateway, mine),
        "is my address free": neighbour_message("::", solicited(own), ASKED, own),
        "is my address free, with a nonce": neighbour_message("::", solicited(own), ASKED, own, nonce),
        "is the link's own free": neighbour_message("::", solicited("fe80::10"), ASKED, "fe80::10"),
        "I am here": neighbour_message(own, ALL_NODES, TOLD, own, its),
        "I am here, to the gateway": neighbour_message(own, gateway, TOLD, own, its),
        "is there a router": neighbour_message("::", ALL_ROUTERS, ROUTER_ASKED),
        "is there a router for me": neighbour_message("fe80::10", ALL_ROUTERS, ROUTER_ASKED, "", mine),
    }


def strange_messages(line: Line) -> dict[str, tuple[Packet, Reason]]:
    """What it may not."""
    own, gateway, other = line.address(6), line.guest.address6(1), line.guest.address6(0x20)
    mine, its = link_option(1, line.guest.mac), link_option(2, line.guest.mac)
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0) + IPv6Network("2001:db8:7::/64")[0].packed
    asks, tells = (
        neighbour_message(own, solicited(gateway), ASKED, gateway, mine),
        neighbour_message(own, ALL_NODES, TOLD, own, its),
    )
    return {
        "I am a router": (neighbour_message("fe80::10", ALL_NODES, ROUTER, "", bytes(8) + prefix), Reason.NEIGHBOUR),
        "I am a router, in few words": (
            neighbour_message("fe80::10", ALL_NODES, ROUTER, "", bytes(8)),
            Reason.NEIGHBOUR,
        ),
        "take another way": (neighbour_message(own, gateway, REDIRECT, gateway, bytes(16)), Reason.NEIGHBOUR),
        "who is another": (neighbour_message(own, solicited(other), ASKED, other, mine), Reason.NEIGHBOUR),
        "who is another guest": (
            neighbour_message(own, solicited("2001:db8:1:1::2"), ASKED, "2001:db8:1:1::2", mine),
            Reason.NEIGHBOUR,
        ),
        "is another's address free": (neighbour_message("::", solicited(other), ASKED, other), Reason.NEIGHBOUR),
        "another is here": (neighbour_message(own, ALL_NODES, TOLD, other, its), Reason.SPOOFED),
        "the gateway is here": (neighbour_message(own, ALL_NODES, TOLD, gateway, its), Reason.SPOOFED),
        "another says that I am here": (neighbour_message(other, ALL_NODES, TOLD, own, its), Reason.SPOOFED),
        "another asks": (neighbour_message(other, solicited(gateway), ASKED, gateway, mine), Reason.SPOOFED),
        "another looks for a router": (neighbour_message(other, ALL_ROUTERS, ROUTER_ASKED), Reason.SPOOFED),
        "nobody is here": (neighbour_message("::", ALL_NODES, TOLD, own, its), Reason.NEIGHBOUR),
        "nobody is there": (neighbour_message(own, ALL_NODES, TOLD, "::", its), Reason.SPOOFED),
        "asked from afar": (replace(asks, hops=254), Reason.NEIGHBOUR),
        "told from afar": (replace(tells, hops=64), Reason.NEIGHBOUR),
        "with a code": (icmp_message(own, gateway, ASKED, 1, asks.payload[4:], hops=255), Reason.NEIGHBOUR),
        "cut off": (replace(asks, payload=asks.payload[:20]), Reason.NEIGHBOUR),
        "with much behind it": (
            neighbour_message(own, solicited(gateway), ASKED, gateway, mine + bytes(24)),
            Reason.NEIGHBOUR,
        ),
        "to another": (neighbour_message(own, other, ASKED, gateway, mine), Reason.NEIGHBOUR),
        "to a server": (neighbour_message(own, "2001:db8:2::a", ASKED, gateway, mine), Reason.NEIGHBOUR),
        "a router is looked for at a server": (neighbour_message(own, "2001:db8:2::a", ROUTER_ASKED), Reason.NEIGHBOUR),
        "who listens": (icmp_message("fe80::10", ALL_NODES, 130, 0, bytes(20), hops=255), Reason.NEIGHBOUR),
        "renumber": (icmp_message(own, gateway, 138, 0, bytes(12), hops=255), Reason.NEIGHBOUR),
        "who are you": (icmp_message(own, gateway, 139, 0, bytes(28), hops=255), Reason.NEIGHBOUR),
        "inverse question": (icmp_message(own, ALL_NODES, 141, 0, bytes(20), hops=255), Reason.NEIGHBOUR),
        "a proxy": (icmp_message(own, gateway, 154, 0, bytes(20), hops=255), Reason.NEIGHBOUR),
        "with another's link address": (
            neighbour_message(own, solicited(gateway), ASKED, gateway, link_option(1, OTHER_MAC)),
            Reason.SPOOFED,
        ),
        "told with another's link address": (
            neighbour_message(own, ALL_NODES, TOLD, own, link_option(2, OTHER_MAC)),
            Reason.SPOOFED,
        ),
        "told with everybody's link address": (
            neighbour_message(own, gateway, TOLD, own, link_option(2, ALL_STATIONS)),
            Reason.SPOOFED,
        ),
        "a router is looked for with another's link address": (
            neighbour_message("fe80::10", ALL_ROUTERS, ROUTER_ASKED, "", link_option(1, OTHER_MAC)),
            Reason.SPOOFED,
        ),
    }


@pytest.mark.parametrize("case", cases(messages))
def test_what_a_guest_needs_among_neighbours_passes_unchanged(
    judging: Stage, known: GuestWorkload, line: Line, case: str
) -> None:
    """Whatever its policy says."""
    frame = line.ip(messages(line)[case])
    assert run_out(judging, line.guest, frame) == (PASSED, frame)
    assert known.reasons() == []


@pytest.mark.parametrize("case", ["who is the gateway", "are you still there"])
def test_the_hosts_kernel_answers_by_ipv6_too(known: GuestWorkload, line: Line, case: str) -> None:
    """Over the line; and nobody, who looks for another."""
    gateway = line.guest.address6(1)
    is_answer = is_a(ICMP6)
    line.send(line.ip(strange_messages(line)["who is another"][0]))
    assert not line.arrivals(is_answer, 0.02)
    line.send(line.ip(messages(line)[case]))
    (answer,) = [frame for frame in line.arrivals(is_answer) if body_of(frame)[0] == TOLD]
    assert ends_of(answer)[1] == line.address(6)
    assert body_of(answer)[8:24] == mapped_six(gateway)
    assert answer[6:12] == line.guest.gateway_mac


def mapped_six(address: str) -> bytes:
    """An address as it stands in a packet."""
    from ipaddress import ip_address

    return mapped(ip_address(address))


@pytest.mark.parametrize("case", cases(strange_messages))
def test_nothing_else_passes_among_neighbours(known: GuestWorkload, judging: Stage, line: Line, case: str) -> None:
    """Each with its reason, told once; what it needs passes after it."""
    packet, reason = strange_messages(line)[case]
    assert run_out(judging, line.guest, line.ip(packet))[0] == 2
    assert told_soon(known) == [(Verdict.DROPPED, reason)]
    good = line.ip(messages(line)["who is the gateway"])
    assert run_out(judging, line.guest, good) == (PASSED, good)


def test_an_address_is_learnt_when_it_is_asked_whether_it_is_free(judging: Stage) -> None:
    """And when it is told; not by who looks for another's, which stays free for who comes."""
    guest, guard = judging.guests[1], judging.guard
    line = Line.of(guest)
    assert guard
    probed, told, looked_for = (guest.address6(place) for place in (0x10, 0x11, 0x12))
    learn = (IPv6Network(f"{guest.address6(0)}/64"),)
    with judged(judging, 1, addresses=(), learn=learn):
        for packet in (
            neighbour_message("::", solicited(probed), ASKED, probed),
            neighbour_message(told, ALL_NODES, TOLD, told, link_option(2, guest.mac)),
        ):
            frame = line.ip(packet)
            assert run_out(judging, guest, frame) == (PASSED, frame)
        expected = tuple(sorted(map(mapped_six, (probed, told))))
        assert guard.guests.learnt(guest.index).addresses == expected
        asks = neighbour_message(probed, solicited(looked_for), ASKED, looked_for, link_option(1, guest.mac))
        assert run_out(judging, guest, line.ip(asks))[0] == 2
        assert guard.guests.learnt(guest.index).addresses == expected


def test_a_link_address_of_its_own_is_learnt_once(judging: Stage) -> None:
    """Of those that are on every link a guest has one; its gateway's is not to be had."""
    line, gateway = Line.of(judging.guests[1]), "fe80::1"
    place = line.guest.place()
    with judged(judging, 1, gateways=(*place.gateways, mapped_six(gateway))):
        for address, outcome in ((gateway, 2), ("fe80::10", PASSED), ("fe80::11", 2), ("fe80::10", PASSED)):
            free = neighbour_message("::", solicited(address), ASKED, address)
            asks = neighbour_message(address, solicited(gateway), ASKED, gateway, link_option(1, line.guest.mac))
            assert run_out(judging, line.guest, line.ip(asks))[0] == outcome, address
            if address != gateway:  # to look whether it is there is no more than to look for it
                assert run_out(judging, line.guest, line.ip(free))[0] == outcome, address


# What every kernel says by itself


@pytest.mark.parametrize("family", [4, 6])
def test_membership_reports_are_counted_and_not_told(
    known: GuestWorkload, judging: Stage, line: Line, family: int
) -> None:
    """IGMP and MLD with the option that routers shall look at them; the same to a server is told."""
    alert4, alert6 = b"\x94\x04\x00\x00", b"\x3a\x00\x05\x02\x00\x00\x01\x00"
    if family == 4:
        report = b"\x22\x00\xf9\x02\x00\x00\x00\x01\x04\x00\x00\x00\xe0\x00\x00\xfb"
        packets = [
            Packet(line.address(4), "224.0.0.22", 2, report, hops=1, options=alert4),
            Packet(line.address(4), "224.0.0.22", 2, report, hops=1),
            Packet("0.0.0.0", "224.0.0.22", 2, report, hops=1, options=alert4),
        ]
        reason, to = Reason.IP_OPTIONS_PRESENT, "203.0.113.10"
    else:
        report = icmp_message("fe80::10", "ff02::16", 143, 0, b"\x00\x00\x00\x01\x04\x00\x00\x00" + bytes(16)).payload
        packets = [Packet(own, "ff02::16", 0, alert6 + report, hops=1) for own in ("fe80::10", "::", line.address(6))]
        reason, to = Reason.EXTENSION_HEADER, "2001:db8:2::a"
    reasons = Reason.IP_OPTIONS_PRESENT, Reason.EXTENSION_HEADER, Reason.PACKET_PROTOCOL
    before = held_back(known, *reasons)
    for packet in packets:
        assert run_out(judging, line.guest, line.ip(packet))[0] == 2
    assert known.reasons() == []
    assert held_back(known, *reasons) == before + len(packets)
    assert run_out(judging, line.guest, line.ip(packets[0], destination=to, source=line.address(family)))[0] == 2
    assert told_soon(known) == [(Verdict.DROPPED, reason)]
