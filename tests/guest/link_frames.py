"""Frames as a guest may write them, right in everything but what is said, and what came out of them on the other side.

line = Line.of(guest)
line.send(line.ip(udp_datagram(line.v4, server, 4000, 5000, b"hello")))
assert sums_are_right(wire.frames()[0])
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from exeat.kernel import libbpf
from exeat.model.verdicts import Reason, Verdict
from guest.packets import GSO_NONE, NEEDS_CSUM, VNET, RawLink, checksum
from guest.stage import Guest, GuestWorkload, Stage

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
ARP, IP, IP6 = 0x0806, 0x0800, 0x86DD
ALL_STATIONS, ALL_NODES, ALL_ROUTERS = b"\xff" * 6, "ff02::1", "ff02::2"
PLAIN = VNET.pack(0, GSO_NONE, 0, 0, 0, 0)
ARRIVAL_S = 0.5
_PLACE_OF_SUM = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}


def ether(source: bytes, to: bytes, kind: int, payload: bytes) -> bytes:
    """An Ethernet frame."""
    return to + source + struct.pack("!H", kind) + payload


def many(address: str) -> bytes:
    """The link's address of a multicast group, or of everybody."""
    packed = ip_address(address).packed
    if len(packed) == 16:
        return b"\x33\x33" + packed[12:]
    return ALL_STATIONS if address == "255.255.255.255" else b"\x01\x00\x5e" + bytes((packed[1] & 0x7F,)) + packed[2:]


def pseudo(source: str, destination: str, protocol: int, size: int) -> bytes:
    """What transport checksums cover beside the packet's own bytes."""
    return ip_address(source).packed + ip_address(destination).packed + struct.pack("!II", size, protocol)


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet, field by field. None: what is right."""

    source: str
    destination: str
    protocol: int
    payload: bytes
    hops: int = 64
    version: int | None = None
    # of IPv4
    words: int | None = None  # the header's length
    length: int | None = None  # of all, or of IPv6 the payload's
    bits: int = 0x4000  # flags, and the fragment's place
    ip_sum: int = 0  # added to the right one
    options: bytes = b""
    # of IPv6
    first_word: int = 0  # traffic class and flow label
    behind: bytes = b""  # after the packet's end

    def bytes(self) -> bytes:
        """As it goes over the line."""
        source, destination = ip_address(self.source).packed, ip_address(self.destination).packed
        if len(source) == 16:
            size = len(self.payload) if self.length is None else self.length
            first = (6 if self.version is None else self.version) << 28 | self.first_word
            head = struct.pack("!IHBB", first, size, self.protocol, self.hops) + source + destination
            return head + self.payload + self.behind
        words = 5 + len(self.options) // 4 if self.words is None else self.words
        size = 20 + len(self.options) + len(self.payload) if self.length is None else self.length
        first_byte = (4 if self.version is None else self.version) << 4 | words
        head = struct.pack("!BBHHHBBH", first_byte, 0, size, 7, self.bits, self.hops, self.protocol, 0)
        head += source + destination + self.options
        covered = head[: words * 4] if words >= 5 else head
        right = (checksum(covered) ^ 0xFFFF) + self.ip_sum & 0xFFFF
        return head[:10] + struct.pack("!H", right) + head[12:] + self.payload + self.behind

    @property
    def kind(self) -> int:
        """The ethertype that says what it is."""
        return IP6 if ":" in self.source else IP


def transport_sum(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    """A transport header and its payload, with the right checksum in its place."""
    at = _PLACE_OF_SUM[protocol]
    bare = body[:at] + bytes(2) + body[at + 2 :]
    start = b"" if protocol == ICMP else pseudo(source, destination, protocol, len(bare))
    total = checksum(start + bare) ^ 0xFFFF
    if protocol == UDP and total == 0:
        total = 0xFFFF
    return bare[:at] + struct.pack("!H", total) + bare[at + 2 :]


def udp_datagram(source: str, destination: str, source_port: int, port: int, data: bytes, **fields: Any) -> Packet:
    """A datagram."""
    body = struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data
    return Packet(source, destination, UDP, transport_sum(source, destination, UDP, body), **fields)


def icmp_message(
    source: str, destination: str, kind: int, code: int = 0, rest: bytes = bytes(4), **more: Any
) -> Packet:
    """An ICMP message of either family."""
    protocol = ICMP6 if ":" in source else ICMP
    body = bytes((kind, code, 0, 0)) + rest
    return Packet(source, destination, protocol, transport_sum(source, destination, protocol, body), **more)


def neighbour_message(source: str, destination: str, kind: int, target: str = "", options: bytes = b"") -> Packet:
    """One of IPv6's messages on the link."""
    rest = bytes(4) + (ip_address(target).packed if target else b"") + options
    return icmp_message(source, destination, kind, 0, rest, hops=255)


def link_option(kind: int, mac: bytes) -> bytes:
    """The link's address of who sends (1) or of whom it tells (2)."""
    return bytes((kind, 1)) + mac


def solicited(address: str) -> str:
    """The group in which the owner of an address is looked for."""
    return str(IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + ip_address(address).packed[13:]))


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP message, field by field."""

    sender_mac: bytes
    sender: str
    target: str
    target_mac: bytes = bytes(6)
    operation: int = 1
    hardware: int = 1
    protocol: int = IP
    sizes: tuple[int, int] = (6, 4)

    def bytes(self) -> bytes:
        """As it goes over the line."""
        head = struct.pack("!HHBBH", self.hardware, self.protocol, *self.sizes, self.operation)
        return head + self.sender_mac + _four(self.sender) + self.target_mac + _four(self.target)


def _four(address: str) -> bytes:
    return IPv4Address(address).packed


def dhcp_message(kind: int, mac: bytes, source: str = "0.0.0.0", given: str = "0.0.0.0", **more: Any) -> Packet:
    """What a client sends (operation 1), or a server (2), as RFC 2131 has it: 300 bytes at least."""
    operation = 2 if kind in (2, 5, 6) else 1
    body = struct.pack("!BBBBIHH4s4s4s4s16s", operation, 1, 6, 0, 0x1234, 0, 0, _four(source), _four(given), bytes(4),
                       bytes(4), mac.ljust(16, b"\0"))  # fmt: skip
    body += bytes(192) + b"\x63\x82\x53\x63" + bytes((53, 1, kind)) + b"\x37\x03\x01\x03\x06\xff"
    ports = (67, 68) if operation == 2 else (68, 67)
    destination = more.pop("destination", "255.255.255.255")
    return udp_datagram(more.pop("sender", source), destination, *ports, body.ljust(300, b"\0"), **more)


@dataclass
class Line:
    """A guest's end of its line. `v4`, `v6`: an address of its own that no kernel answers at."""

    guest: Guest
    link: RawLink

    @classmethod
    def of(cls, guest: Guest) -> Line:
        """The guest's."""
        assert guest.link
        return cls(guest, guest.link)

    def address(self, version: int, place: int = 10) -> str:
        """One of its own."""
        return self.guest.address6(place) if version == 6 else self.guest.address4(place)

    def ip(self, packet: Packet, **changes: Any) -> bytes:
        """A packet's frame, to the gateway; to many, if that is what its address says."""
        packet = replace(packet, **changes)
        return ether(self.guest.mac, self.link_of(packet.destination), packet.kind, packet.bytes())

    def link_of(self, destination: str) -> bytes:
        """To whom on the link."""
        is_to_many = ip_address(destination).is_multicast or destination == "255.255.255.255"
        return many(destination) if is_to_many else self.guest.gateway_mac

    def arp(self, message: Arp, to: bytes = ALL_STATIONS) -> bytes:
        """An ARP message's frame."""
        return ether(self.guest.mac, to, ARP, message.bytes())

    def send(self, *frames: bytes, vnet: bytes = PLAIN) -> None:
        """Puts them on the line."""
        for frame in frames:
            self.link.send(vnet + frame)

    def arrivals(self, is_wanted: Callable[[bytes], bool], patience_s: float = ARRIVAL_S) -> list[bytes]:
        """What came to the guest of a kind; waits until something did."""
        self.link.wait(lambda: any(map(is_wanted, self.link.others)), patience_s)
        return [frame for frame in self.link.others if is_wanted(frame)]


def left_to_the_device(frame: bytes) -> tuple[bytes, bytes]:
    """The same with its transport checksum left to be completed; behind the header that says so."""
    at, protocol = transport_of(frame)
    start = at + _PLACE_OF_SUM[protocol]
    source, destination = ends_of(frame)
    half = checksum(pseudo(source, destination, protocol, len(frame) - at))
    return VNET.pack(NEEDS_CSUM, GSO_NONE, 0, 0, at, start - at), frame[:start] + struct.pack("!H", half) + frame[
        start + 2 :
    ]


def transport_of(frame: bytes) -> tuple[int, int]:
    """Where the transport header of a plain packet begins, and whose it is."""
    return (54, frame[20]) if frame[12:14] == b"\x86\xdd" else (14 + (frame[14] & 15) * 4, frame[23])


def ends_of(frame: bytes) -> tuple[str, str]:
    """From where and to where a packet goes."""
    raw = frame[22:54] if frame[12:14] == b"\x86\xdd" else frame[26:34]
    half = len(raw) // 2
    return str(ip_address(raw[:half])), str(ip_address(raw[half:]))


def ports_of(frame: bytes) -> tuple[int, int]:
    """Both ports."""
    at, _ = transport_of(frame)
    source, destination = struct.unpack_from("!HH", frame, at)
    return source, destination


def body_of(frame: bytes) -> bytes:
    """The transport header and what is behind it, as long as the IP header says."""
    at, _ = transport_of(frame)
    is_v6 = frame[12:14] == b"\x86\xdd"
    end = 54 + int.from_bytes(frame[18:20], "big") if is_v6 else 14 + int.from_bytes(frame[16:18], "big")
    return frame[at:end]


def sums_are_right(frame: bytes) -> bool:
    """Whether a receiver believes it: the header's checksum and the transport's."""
    at, protocol = transport_of(frame)
    if frame[12:14] == b"\x08\x00" and checksum(frame[14:at]) != 0xFFFF:
        return False
    body = body_of(frame)
    if protocol == UDP and body[6:8] == bytes(2):
        return frame[12:14] == b"\x08\x00"
    source, destination = ends_of(frame)
    start = b"" if protocol == ICMP else pseudo(source, destination, protocol, len(body))
    return checksum(start + body) == 0xFFFF


def is_a(protocol: int, *, source: str = "", port: int | None = None) -> Callable[[bytes], bool]:
    """A question to a frame: is it of this protocol, from there, to that port of the guest's?"""

    def answer(frame: bytes) -> bool:
        if frame[12:14] not in (b"\x08\x00", b"\x86\xdd") or transport_of(frame)[1] != protocol:
            return False
        if source and ends_of(frame)[0] != source:
            return False
        return port is None or ports_of(frame)[1] == port

    return answer


def told_soon(workload: GuestWorkload, count: int = 1) -> list[tuple[Verdict, Reason]]:
    """The verdicts until there are so many, and no more come."""
    deadline, told = time.monotonic() + ARRIVAL_S, workload.reasons()
    while len(told) < count and time.monotonic() < deadline:
        time.sleep(0.002)
        told += workload.reasons()
    return told + workload.reasons()


def held_back(workload: GuestWorkload, *reasons: Reason) -> int:
    """How many frames were dropped for these reasons without a verdict."""
    return sum(workload.guard.tables._count(reason) for reason in reasons)


def run_out(stage: Stage, guest: Guest, frame: bytes) -> tuple[int, bytes]:
    """What on_guest_out makes of a frame, without a line: its return value, and the frame as it leaves it."""
    assert stage.guard
    program = stage.guard.instance.program("on_guest_out")
    return stage.network.router.call(lambda: run_frames(program, guest.index, [frame])[0])


def run_frames(program: int, index: int, frames: Iterable[bytes], repeat: int = 1) -> list[tuple[int, bytes]]:
    """The same of many, each so often, in this thread's network namespace."""
    context = ctypes.create_string_buffer(_CONTEXT_BYTES)
    struct.pack_into("=I", context, _CONTEXT_IFINDEX_AT, index)
    ran = []
    for frame in frames:
        given, out = ctypes.create_string_buffer(frame, len(frame)), ctypes.create_string_buffer(len(frame) + 256)
        options = libbpf._TestRunOptions(
            sz=ctypes.sizeof(libbpf._TestRunOptions), data_in=ctypes.addressof(given), data_out=ctypes.addressof(out),
            data_size_in=len(frame), data_size_out=len(out), repeat=repeat, ctx_in=ctypes.addressof(context),
            ctx_size_in=len(context),
        )  # fmt: skip
        libbpf._check(libbpf._LIB.bpf_prog_test_run_opts(program, ctypes.byref(options)), "cannot run on_guest_out")
        ran.append((options.retval, out.raw[: options.data_size_out]))
    return ran


_CONTEXT_BYTES, _CONTEXT_IFINDEX_AT = 192, 40  # struct __sk_buff, linux/bpf.h
