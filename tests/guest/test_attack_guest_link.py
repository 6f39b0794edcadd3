"""What a guest says on its link to deceive the others there: neighbours, DHCP, and messages that nobody counts."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address

import pytest

from e2e.guard import rule
from exeat.model.verdicts import Verdict
from guest.packets import VNET, checksum
from guest.stage import Guest, GuestWorkload, Stage

PLAIN = VNET.pack(0, 0, 0, 0, 0, 0)
OTHER_MAC = bytes.fromhex("02005e005377")
SOLICITATION, ADVERTISEMENT, ROUTER = 135, 136, 133
SOURCE_LINK, TARGET_LINK = 1, 2
GROUP, ALL = "239.1.2.3", "255.255.255.255"


@pytest.fixture(scope="module")
def judged(judging: Stage) -> Iterator[GuestWorkload]:
    """Guest 0; what it may do elsewhere does not matter."""
    with judging.judged(rule("203.0.113.250", ports=(7,))) as workload:
        yield workload


def icmpv6_frame(guest: Guest, destination: str, mac: bytes, body: bytes) -> bytes:
    """A message among neighbours, with its checksum."""
    ends = ip_address(guest.address6(10)).packed + ip_address(destination).packed
    total = checksum(ends + struct.pack("!II", len(body), 58) + body) ^ 0xFFFF
    body = body[:2] + struct.pack("!H", total) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + ends
    return PLAIN + mac + guest.mac + b"\x86\xdd" + head + body


def about(kind: int, flags: int, target: str, option: int, mac: bytes) -> bytes:
    """Its body, with a link address."""
    fixed = b"" if kind == ROUTER else ip_address(target).packed
    return struct.pack("!BBHI", kind, 0, 0, flags) + fixed + bytes((option, 1)) + mac


@contextmanager
def heard_by_the_host(stage: Stage, guest: Guest) -> Iterator[list[bytes]]:
    """What passes to the host: its answers would not show what it believes."""
    frames: list[bytes] = []
    before = stage.network.router.call(lambda: received(58))
    yield frames
    frames.extend([b""] * (stage.network.router.call(lambda: received(58)) - before))


def received(protocol: int) -> int:
    """How many messages of ICMPv6 this namespace's kernel has taken in."""
    with open("/proc/thread-self/net/snmp6") as numbers:
        return next(int(line.split()[1]) for line in numbers if line.startswith("Icmp6InMsgs"))


@pytest.mark.parametrize("kind", [SOLICITATION, ADVERTISEMENT, ROUTER])
def test_a_neighbour_message_names_no_link_address_but_the_guests(
    stage: Stage, judged: GuestWorkload, kind: int
) -> None:
    """As with ARP: the host would send the guest's packets to another one."""
    guest = stage.guests[0]
    assert guest.link
    gateway, option = guest.address6(1), TARGET_LINK if kind == ADVERTISEMENT else SOURCE_LINK
    target = guest.address6(10) if kind == ADVERTISEMENT else gateway
    for mac, arrives in ((guest.mac, 1), (OTHER_MAC, 0)):
        judged.told()
        with heard_by_the_host(stage, guest) as heard:
            guest.link.send(
                icmpv6_frame(guest, gateway, guest.gateway_mac, about(kind, 0x60000000, target, option, mac))
            )
        assert len(heard) == arrives, mac
        told = [verdict for verdict, _ in judged.reasons()]
        assert told == ([] if arrives else [Verdict.DROPPED])


def dhcp_frame(guest: Guest, destination: str, mac: bytes) -> bytes:
    """A question, as far as anybody looks at it."""
    body = struct.pack("!BBBBI", 1, 1, 6, 0, 7) + bytes(20) + guest.mac + bytes(10 + 192) + b"\x63\x82\x53\x63\xff"
    udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0)
    head += bytes(4) + ip_address(destination).packed
    head = head[:10] + struct.pack("!H", checksum(head) ^ 0xFFFF) + head[12:]
    return PLAIN + mac + guest.mac + b"\x08\x00" + head + udp


def test_a_question_for_an_address_goes_to_no_group(stage: Stage, judged: GuestWorkload) -> None:
    """A router may carry it to a network that the policy closes."""
    guest = stage.guests[0]
    assert guest.link
    assert stage.guard

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, guest.tap.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        member = ip_address(GROUP).packed + ip_address(guest.address4(1)).packed
        sock.bind(("", 67))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sock.settimeout(0.1)
        return sock

    stage.guard.guests.put(guest.index, replace(guest.place(), allows_dhcp=True))
    sock = stage.network.router.call(listen)
    try:
        guest.link.send(dhcp_frame(guest, ALL, b"\xff" * 6))
        assert sock.recv(2000)[:2] == b"\x01\x01"
        guest.link.send(dhcp_frame(guest, GROUP, bytes.fromhex("01005e010203")))
        with pytest.raises(TimeoutError):
            sock.recv(2000)
    finally:
        sock.close()
        stage.guard.guests.put(guest.index, guest.place())
