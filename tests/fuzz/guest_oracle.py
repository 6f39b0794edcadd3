"""A reader of a guest's frames that knows what may pass, written from the rules and not from the programs.

It says of a frame that passed which rule it breaks, and nothing of one that was dropped. `frames` makes some: right
ones, and right ones that were changed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from bed import Host
from guest.link_frames import (
    ALL_NODES,
    Arp,
    Line,
    Packet,
    icmp_message,
    link_option,
    neighbour_message,
    solicited,
    transport_sum,
    udp_datagram,
)
from guest.packets import checksum

PASSED, DROPPED, ANSWERED = 0xFFFFFFFF, 2, 7
STREAM = 7
PING4, PING6 = {0, 3, 8, 11}, {1, 2, 3, 4, 128, 129}
COMPLAINTS = {
    "kind", "sender's card", "card", "arp", "length", "version", "options", "checksum", "fragment", "sender",
    "protocol", "server", "port", "segment", "icmp", "neighbour", "mapped",
}  # fmt: skip


@dataclass
class Oracle:
    """What the agent has said of a guest. It may send datagrams to a port of the servers, segments to 7, and pings."""

    mac: bytes
    gateway_mac: bytes
    own: frozenset[bytes]
    gateways: frozenset[bytes]
    servers: frozenset[bytes]
    port: int
    line: Line
    taken: set[bytes] = field(default_factory=set)  # addresses of the link that it took

    @classmethod
    def of(cls, line: Line, server: Host, port: int) -> Oracle:
        """As the stage says it."""
        place = line.guest.place()

        def packed(addresses: Sequence[bytes]) -> frozenset[bytes]:
            return frozenset(one[12:] if one.startswith(bytes(10) + b"\xff\xff") else one for one in addresses)

        servers = (server.address4, server.address6)
        return cls(
            line.guest.mac, line.guest.gateway_mac, packed(place.addresses), packed(place.gateways),
            frozenset(ip_address(one).packed for one in servers), port, line,
        )  # fmt: skip

    def complaint(self, frame: bytes) -> str | None:
        """Which rule a frame breaks that passed; None: none."""
        kind = frame[12:14]
        if kind not in (b"\x08\x00", b"\x08\x06", b"\x86\xdd"):
            return "kind"
        if frame[6:12] != self.mac:
            return "sender's card"
        if kind == b"\x08\x06":
            return self._of_arp(frame)
        return self._of_v4(frame) if kind == b"\x08\x00" else self._of_v6(frame)

    def _is_own(self, address: bytes) -> bool:
        if address in self.own:
            return True
        if len(address) == 16 and IPv6Address(address).is_link_local:
            self.taken.add(address)
            return len(self.taken) == 1
        return False

    def _of_arp(self, frame: bytes) -> str | None:
        if len(frame) != 42 or frame[14:20] != b"\x00\x01\x08\x00\x06\x04":
            return "arp"
        operation, sender_mac, sender, target_mac, target = struct.unpack("!H6s4s6s4s", frame[20:])
        is_to_whom = frame[:6] in (b"\xff" * 6, self.gateway_mac)
        is_about = target_mac in (bytes(6), b"\xff" * 6, self.gateway_mac, self.mac)
        if operation not in (1, 2) or sender_mac != self.mac or not is_to_whom or not is_about:
            return "arp"
        if sender == bytes(4):
            return None if target in self.own else "arp"
        if sender not in self.own:
            return "arp"
        return None if target == sender or target in self.gateways else "arp"

    def _of_card(self, frame: bytes, destination: bytes) -> str | None:
        address = ip_address(destination)
        is_to_many = address.is_multicast or address == IPv4Address("255.255.255.255")
        if frame[0] & 1:
            return None if is_to_many else "card"
        return None if frame[:6] == self.gateway_mac else "card"

    def _of_v4(self, frame: bytes) -> str | None:
        if len(frame) < 34 or int.from_bytes(frame[16:18], "big") != len(frame) - 14:
            return "length"
        if frame[14] >> 4 != 4 or frame[14] & 15 < 5:
            return "version"
        if frame[14] & 15 > 5:
            return "options"
        if checksum(frame[14:34]) != 0xFFFF:
            return "checksum"
        if int.from_bytes(frame[20:22], "big") & 0x3FFF:
            return "fragment"
        source, destination = frame[26:30], frame[30:34]
        if wrong := self._of_card(frame, destination):
            return wrong
        if source not in self.own:
            return "sender"
        if frame[23] not in (1, 6, 17):
            return "protocol"
        return self._of_transport(frame[23], destination, frame[34:], PING4)

    def _of_v6(self, frame: bytes) -> str | None:
        if len(frame) < 54 or int.from_bytes(frame[18:20], "big") != len(frame) - 54:
            return "length"
        if frame[14] >> 4 != 6:
            return "version"
        source, destination, following = frame[22:38], frame[38:54], frame[20]
        if source.startswith(bytes(10) + b"\xff\xff") or destination.startswith(bytes(10) + b"\xff\xff"):
            return "mapped"
        if wrong := self._of_card(frame, destination):
            return wrong
        if following not in (6, 17, 58):
            return "protocol"
        body = frame[54:]
        if following == 58 and body and 130 <= body[0] <= 161:
            return self._of_neighbours(source, destination, frame[21], body)
        if not self._is_own(source):
            return "sender"
        return self._of_transport(following, destination, body, PING6)

    def _of_transport(self, protocol: int, destination: bytes, body: bytes, pings: set[int]) -> str | None:
        if destination not in self.servers and not (protocol == 6 and len(body) >= 20 and body[13] & 4):
            return "server"
        if protocol == 17:
            if len(body) < 8:
                return "segment"
            return None if int.from_bytes(body[2:4], "big") == self.port else "port"
        if protocol == 6:
            if len(body) < 20 or not 20 <= (body[12] >> 4) * 4 <= len(body):
                return "segment"
            return None if int.from_bytes(body[2:4], "big") == STREAM or body[13] & 4 else "port"
        return None if len(body) >= 8 and body[0] in pings else "icmp"

    def _of_neighbours(self, source: bytes, destination: bytes, hops: int, body: bytes) -> str | None:
        least = {133: 8, 135: 24, 136: 24}.get(body[0])
        if least is None or not least <= len(body) <= least + 24 or hops != 255 or body[1] != 0:
            return "neighbour"
        if destination[0] != 0xFF and destination not in self.gateways:
            return "neighbour"
        is_nobody = source == bytes(16)
        if not is_nobody and not self._is_own(source):
            return "neighbour"
        target = body[8:24]
        if body[0] == 133 or (body[0] == 135 and target in self.gateways):
            return self._of_options(body[least:])
        if is_nobody and body[0] == 136:
            return "neighbour"
        return self._of_options(body[24:]) if self._is_own(target) else "neighbour"

    def _of_options(self, options: bytes) -> str | None:
        """None that gives another card for the guest's."""
        while len(options) >= 8 and options[1]:
            if options[0] in (1, 2) and options[1] == 1 and options[2:8] != self.mac:
                return "neighbour"
            options = options[options[1] * 8 :]
        return None


def wrong_verdicts(
    oracle: Oracle, given: Sequence[bytes], ran: Sequence[tuple[int, bytes]]
) -> list[tuple[str, str, str]]:
    """What was wrong with what the program made of some frames: why, the frame, and what was made of it."""
    wrong = []
    for frame, (code, out) in zip(given, ran, strict=True):
        if code not in (PASSED, DROPPED, ANSWERED):
            wrong.append((f"returned {code}", frame.hex(), out.hex()))
        elif code == PASSED:
            if why := oracle.complaint(out):
                wrong.append((why, frame.hex(), out.hex()))
            elif out != frame[: len(out)]:
                wrong.append(("changed", frame.hex(), out.hex()))
    return wrong


def right_ones(oracle: Oracle) -> list[bytes]:
    """Frames that pass, all of them."""
    line = oracle.line
    mac, gateway4, gateway6 = line.guest.mac, line.guest.address4(1), line.guest.address6(1)
    found: list[bytes] = []
    for server in sorted(oracle.servers):
        to = str(ip_address(server))
        own = line.address(6 if ":" in to else 4)
        syn = struct.pack("!HHIIBBHHH", 4000, STREAM, 1, 0, 0x60, 2, 0xFFFF, 0, 0) + b"\x02\x04\x05\xb4"
        data = struct.pack("!HHIIBBHHH", 4000, STREAM, 2, 1, 0x50, 24, 0xFFFF, 0, 0) + b"some data"
        packets = [udp_datagram(own, to, 4000, oracle.port, data) for data in (b"", b"hello", bytes(200))]
        packets += [Packet(own, to, 6, transport_sum(own, to, 6, one)) for one in (syn, data)]
        packets += [icmp_message(own, to, kind, 0, bytes(60)) for kind in ((128, 129, 1) if ":" in to else (8, 0, 3))]
        found += [line.ip(one) for one in packets]
    own4, own6 = line.address(4), line.address(6)
    found += [
        line.arp(Arp(mac, own4, gateway4)),
        line.arp(Arp(mac, own4, own4)),
        line.arp(Arp(mac, "0.0.0.0", own4)),
        line.arp(Arp(mac, own4, gateway4, line.guest.gateway_mac, operation=2), line.guest.gateway_mac),
        line.ip(neighbour_message(own6, solicited(gateway6), 135, gateway6, link_option(1, mac))),
        line.ip(neighbour_message("::", solicited(own6), 135, own6)),
        line.ip(neighbour_message(own6, ALL_NODES, 136, own6, link_option(2, mac))),
        line.ip(neighbour_message("fe80::10", "ff02::2", 133, "", link_option(1, mac))),
    ]
    return found


_BYTES = (0, 1, 2, 4, 5, 6, 8, 0x11, 0x2B, 0x2C, 0x33, 0x3A, 0x3C, 0x40, 0x45, 0x46, 0x60, 0x7F, 0x80, 0x81, 0x88, 0xFF)


def frames(oracle: Oracle, seed: int, count: int) -> Iterator[bytes]:
    """Right frames, and changed ones; the same for the same seed."""
    dice, right = random.Random(seed), right_ones(oracle)
    addresses = [*sorted(oracle.own)[:4], *sorted(oracle.gateways), *sorted(oracle.servers), bytes(4), bytes(16)]
    addresses.append(bytes(10) + b"\xff\xff" + sorted(oracle.servers)[0][:4])
    for number in range(count):
        frame = bytearray(dice.choice(right))
        if number % 20:
            for _ in range(dice.choice((1, 1, 1, 2, 3))):
                _change(frame, dice, right, addresses)
            if dice.random() < 0.6:
                _mend(frame)
        frame = frame[:1500].ljust(15, b"\0")
        least = 54 if frame[12:14] == b"\x86\xdd" else 34 if frame[12:14] == b"\x08\x00" else 15
        yield bytes(frame).ljust(least, b"\0")  # BPF_PROG_TEST_RUN takes no less


def _change(frame: bytearray, dice: random.Random, right: Sequence[bytes], addresses: Sequence[bytes]) -> None:
    at = min(int(dice.expovariate(1 / 25)), max(len(frame) - 1, 0))
    what = dice.randrange(9)
    if what == 0 and frame:
        frame[at] ^= 1 << dice.randrange(8)
    elif what == 1 and frame:
        frame[at] = dice.choice(_BYTES)
    elif what == 2:
        del frame[dice.randrange(len(frame) + 1) :]
    elif what == 3:
        frame += dice.randbytes(dice.choice((1, 4, 8, 18, 40, 200)))
    elif what == 4:
        frame[at:at] = dice.randbytes(dice.choice((1, 2, 4, 8)))
    elif what == 5:
        del frame[at : at + dice.choice((1, 2, 4, 8, 20))]
    elif what == 6:
        other = dice.choice(right)
        cut = dice.choice((6, 12, 14, 34, 54))
        frame[cut:] = other[cut:]
    elif what == 7:
        place, address = dice.choice((26, 30, 22, 38, 28, 62)), dice.choice(addresses)
        frame[place : place + len(address)] = address
    elif len(frame) > 1:
        struct.pack_into("!H", frame, min(at, len(frame) - 2), dice.randrange(1 << 16))


def _mend(frame: bytearray) -> None:
    """Length and checksum of the IP header as they should be, so that the change is all that is wrong."""
    if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
        struct.pack_into("!H", frame, 16, len(frame) - 14 & 0xFFFF)
        frame[24:26] = bytes(2)
        struct.pack_into("!H", frame, 24, checksum(bytes(frame[14:34])) ^ 0xFFFF)
    elif frame[12:14] == b"\x86\xdd" and len(frame) >= 54:
        struct.pack_into("!H", frame, 18, len(frame) - 54 & 0xFFFF)
