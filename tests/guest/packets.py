"""A TCP end of our own: it sends any segment that can be written, and tells what came back.

    client = RawClient(link, "198.51.100.10", "203.0.113.10", 443)
    client.connect()
    client.send(Segment(fake, ttl=1), Segment(real))
    client.push(real)                 # in order, again and again, as every TCP does
    assert client.resets == []

It runs on AF_PACKET with an address that the guest's kernel does not have, so that no kernel answers in its place.
Frames go out with a whole checksum, with one that the card shall complete (as from virtio), or as a large one that it
shall cut up (GSO).
"""

from __future__ import annotations

import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address, ip_address

from bed.namespace import Namespace

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23  # linux/if_packet.h
VNET = struct.Struct("=BBHHHH")  # linux/virtio_net.h: flags, kind of GSO, header, size of a piece, checksum from, to
NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6 = 1, 0, 1, 4
QUEUE_BYTES = 32 << 20
SO_RCVBUFFORCE = 33
PATIENCE_S = 0.5
MOD = 1 << 32


class Offload(Enum):
    """Who completes a frame: its sender, or the card for one segment or many."""

    NONE = 0
    CHECKSUM = 1
    SEGMENTS = 2


def checksum(data: bytes, start: int = 0) -> int:
    """The Internet's checksum, not yet inverted."""
    total = start + sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) & 1:
        total += data[-1] << 8
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment, by what is special about it. `at`: where its data stand in the stream."""

    data: bytes = b""
    at: int = 0
    flags: int = ACK | PSH
    ack: int = 0  # added to the right acknowledgement
    stamp: int = 0  # added to the right timestamp
    options: bytes | None = None  # instead of a timestamp
    ttl: int = 64
    urgent: int = 0
    window: int = 0xFFFF
    tcp_sum: int = 0  # added to the right checksum
    ip_sum: int = 0
    offload: Offload = Offload.NONE
    piece: int = 1400  # of what the card cuts up


@dataclass(frozen=True, slots=True)
class Arrived:
    """One TCP segment as it came to us."""

    source: str
    destination: str
    source_port: int
    port: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    data: bytes
    ttl: int
    is_sound: bool  # its checksums are right, or left to the card

    @property
    def is_reset(self) -> bool:
        """The other end, or who speaks in its name, ends the connection."""
        return bool(self.flags & RST)


@dataclass(frozen=True, slots=True)
class Ends:
    """Where frames go from and to."""

    source_mac: bytes
    mac: bytes
    source: str
    destination: str
    source_port: int
    port: int


def tcp_frame(ends: Ends, seq: int, ack: int, options: bytes, segment: Segment) -> bytes:
    """A whole Ethernet frame, behind the header that tells the card what is left to do."""
    source, destination = ip_address(ends.source), ip_address(ends.destination)
    options += b"\x01" * (-len(options) % 4)
    words = 5 + len(options) // 4
    head = struct.pack(
        "!HHIIBBHHH", ends.source_port, ends.port, seq % MOD, ack % MOD, words << 4, segment.flags, segment.window, 0,
        segment.urgent,
    )  # fmt: skip
    size = len(head) + len(options) + len(segment.data)
    pseudo = source.packed + destination.packed + struct.pack("!II", size, socket.IPPROTO_TCP)
    if segment.offload is Offload.NONE:
        total = checksum(pseudo + head + options + segment.data) ^ 0xFFFF
    else:
        total = checksum(pseudo)
    total = (total + segment.tcp_sum) & 0xFFFF
    head = head[:16] + struct.pack("!H", total) + head[18:]
    if isinstance(source, IPv6Address):
        kind, gso = ETH_P_IPV6, GSO_TCPV6
        ip = struct.pack("!IHBB", 6 << 28, size, socket.IPPROTO_TCP, segment.ttl) + pseudo[:32]
    else:
        kind, gso = ETH_P_IP, GSO_TCPV4
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 7, 0x4000, segment.ttl, socket.IPPROTO_TCP, 0) + pseudo[:8]
        own = ((checksum(ip) ^ 0xFFFF) + segment.ip_sum) & 0xFFFF
        ip = ip[:10] + struct.pack("!H", own) + ip[12:]
    frame = ends.mac + ends.source_mac + struct.pack("!H", kind) + ip + head + options + segment.data
    start = 14 + len(ip)
    if segment.offload is Offload.NONE:
        return VNET.pack(0, GSO_NONE, 0, 0, 0, 0) + frame
    if segment.offload is Offload.CHECKSUM or len(segment.data) <= segment.piece:
        return VNET.pack(NEEDS_CSUM, GSO_NONE, 0, 0, start, 16) + frame
    return VNET.pack(NEEDS_CSUM, gso, start + words * 4, segment.piece, start, 16) + frame


def read_tcp(vnet: bytes, frame: bytes) -> Arrived | None:
    """The segment in a frame; None if it holds none."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETH_P_IP and frame[23] == socket.IPPROTO_TCP:
        length = (frame[14] & 15) * 4
        ip, body = frame[14 : 14 + length], frame[14 + length : 14 + int.from_bytes(frame[16:18], "big")]
        addresses, ttl, is_sound = ip[12:20], ip[8], checksum(ip) == 0xFFFF
    elif kind == ETH_P_IPV6 and frame[20] == socket.IPPROTO_TCP:
        ip, body = frame[14:54], frame[54 : 54 + int.from_bytes(frame[18:20], "big")]
        addresses, ttl, is_sound = ip[8:40], ip[7], True
    else:
        return None
    half = len(addresses) // 2
    source_port, port, seq, ack, words, flags, window = struct.unpack_from("!HHIIBBH", body)
    if not VNET.unpack(vnet)[0] & NEEDS_CSUM:
        is_sound &= checksum(addresses + struct.pack("!II", len(body), socket.IPPROTO_TCP) + body) == 0xFFFF
    header = (words >> 4) * 4
    return Arrived(
        str(ip_address(addresses[:half])), str(ip_address(addresses[half:])), source_port, port, seq, ack, flags,
        window, body[20:header], body[header:], ttl, is_sound,
    )  # fmt: skip


def timestamps_of(options: bytes) -> tuple[int, int] | None:
    """TSval and TSecr of a segment that has them."""
    at = 0
    while at < len(options) and options[at]:
        if options[at] == 1:
            at += 1
            continue
        if at + 1 >= len(options) or options[at + 1] < 2:
            return None
        if options[at] == 8:
            return struct.unpack_from("!II", options, at + 2)
        at += options[at + 1]
    return None


class RawLink:
    """A device to send any frame from; what comes is handed to the clients whose it is."""

    def __init__(self, namespace: Namespace, device: str, mac: bytes, gateway_mac: bytes) -> None:
        self.mac, self.gateway_mac = mac, gateway_mac

        def open_socket() -> socket.socket:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
            sock.bind((device, ETH_P_ALL))
            sock.setblocking(False)
            return sock

        self.socket = namespace.call(open_socket)
        self.clients: dict[tuple[str, int], RawClient] = {}
        self.others: list[bytes] = []  # frames that were nobody's

    def send(self, frame: bytes) -> None:
        """With VNET's header in front."""
        self.socket.send(frame)

    def read(self) -> int:
        """Hands out what has come; how much that was."""
        count = 0
        while True:
            try:
                data = self.socket.recv(1 << 17)
            except BlockingIOError:
                return count
            count += 1
            arrived = read_tcp(data[: VNET.size], data[VNET.size :])
            client = self.clients.get((arrived.destination, arrived.port)) if arrived else None
            if arrived and client:
                client.hear(arrived)
            else:
                self.others.append(data[VNET.size :])

    def wait(self, is_done: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
        """Reads until it is done, or the patience has ended; whether it is done."""
        deadline = time.monotonic() + patience_s
        while True:
            self.read()
            if is_done():
                return True
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                self.read()
                return is_done()

    def close(self) -> None:
        """No more."""
        self.socket.close()


_PORTS = iter(random.Random().sample(range(10000, 60000), 50000))


@dataclass
class RawClient:
    """One end of one connection. All offsets are in the stream: 0 is the first byte after the SYN."""

    link: RawLink
    source: str
    destination: str
    port: int
    source_port: int = field(default_factory=lambda: next(_PORTS))
    offload: Offload = Offload.NONE
    has_stamps: bool = True
    isn: int = field(default_factory=lambda: random.getrandbits(32))
    peer_isn: int = -1
    acked: int = 0  # of our stream, by the peer
    got: bytes = b""  # of the peer's stream, in order
    has_fin: bool = False
    resets: list[Arrived] = field(default_factory=list)
    arrived: list[Arrived] = field(default_factory=list)
    clock: int = field(default_factory=lambda: random.getrandbits(30) + (1 << 30))
    echoed: int = 0

    def __post_init__(self) -> None:
        """From now on its segments are heard."""
        self.link.clients[self.source, self.source_port] = self

    def forget(self) -> None:
        """As a program that has been killed: nothing of it is known any more, and the addresses stay."""
        self.isn = random.getrandbits(32)
        self.peer_isn, self.acked, self.got, self.has_fin = -1, 0, b"", False
        self.resets, self.arrived = [], []

    @property
    def is_reset(self) -> bool:
        """A RST has come that this end would believe."""
        return any(self.peer_isn < 0 or reset.seq == self.expected for reset in self.resets)

    @property
    def expected(self) -> int:
        """The sequence number that the peer's next byte has."""
        return (self.peer_isn + 1 + len(self.got) + self.has_fin) % MOD

    @property
    def ends(self) -> Ends:
        """Both ends of it."""
        return Ends(self.link.mac, self.link.gateway_mac, self.source, self.destination, self.source_port, self.port)

    def connect(
        self, mss: int = 1460, extra: bytes = b"", data: bytes = b"", tries: int = 1, patience_s: float = PATIENCE_S
    ) -> bool:
        """A handshake; whether it came about. `data` rides in the SYN, `extra` are more options."""
        options = struct.pack("!BBH", 2, 4, mss) + (self._stamp_option(0) if self.has_stamps else b"") + extra
        for _ in range(tries):
            segment = Segment(data, flags=SYN, offload=self._offload(Segment()))
            self.link.send(tcp_frame(self.ends, self.isn, 0, options, segment))
            if self.link.wait(lambda: self.peer_isn >= 0 or bool(self.resets), patience_s):
                break
        if self.peer_isn < 0 or self.resets:
            return False
        self.send(Segment(flags=ACK))
        return True

    def send(self, *segments: Segment) -> None:
        """One after the other, then reads what is there."""
        for segment in segments:
            self.link.send(self.frame(segment))
            self.link.read()

    def frame(self, segment: Segment) -> bytes:
        """The frame of a segment of this connection."""
        if segment.options is not None:
            options = segment.options
        else:
            options = self._stamp_option(segment.stamp) if self.has_stamps else b""
        has_ack = bool(segment.flags & ACK)
        ack = self.expected + segment.ack if has_ack else segment.ack
        offload = self._offload(segment)
        if offload is not segment.offload:
            segment = _with_offload(segment, offload)
        return tcp_frame(self.ends, self.isn + 1 + segment.at, ack, options, segment)

    def _offload(self, segment: Segment) -> Offload:
        """What is special about checksums is written by the sender itself."""
        if segment.tcp_sum or segment.offload is not Offload.NONE:
            return segment.offload
        return self.offload

    def _stamp_option(self, shift: int) -> bytes:
        if shift == 0:
            self.clock += 1
        return b"\x01\x01" + struct.pack("!BBII", 8, 10, (self.clock + shift) % MOD, self.echoed)

    def hear(self, arrived: Arrived) -> None:
        """Takes a segment of the peer; data in order is kept."""
        self.arrived.append(arrived)
        if arrived.is_reset:
            self.resets.append(arrived)
            return
        if stamps := timestamps_of(arrived.options):
            self.echoed = stamps[0]
        if arrived.flags & SYN:
            if arrived.flags & ACK and (arrived.ack - self.isn - 1) % MOD == 0:
                self.peer_isn = arrived.seq
            return
        if self.peer_isn < 0:
            return
        acked = (arrived.ack - self.isn - 1) % MOD
        if arrived.flags & ACK and acked < MOD // 2:
            self.acked = max(self.acked, acked)
        skip = (self.expected - arrived.seq) % MOD
        if arrived.data and skip < len(arrived.data):
            self.got += arrived.data[skip:]
        if arrived.flags & FIN and (arrived.seq + len(arrived.data)) % MOD == self.expected:
            self.has_fin = True

    def push(self, stream: bytes, piece: int = 1400, tries: int = 3, patience_s: float = 0.06) -> bool:
        """Sends in order what the peer has not acknowledged, and again; whether it has acknowledged all."""
        for _ in range(tries):
            if self.acked >= len(stream) or self.is_reset:
                break
            start = self.acked
            step = len(stream) if self.offload is Offload.SEGMENTS else piece
            for at in range(start, len(stream), step):
                self.send(Segment(stream[at : at + step], at=at, piece=piece))
                if self.is_reset:
                    break
            self.link.wait(lambda: self.acked >= len(stream) or self.is_reset, patience_s)
        return self.acked >= len(stream)

    def acknowledge(self) -> None:
        """What came is acknowledged."""
        self.send(Segment(flags=ACK, at=self.acked))

    def finish(self, at: int, look: Callable[[], object]) -> bool:
        """Closes this side, behind so many bytes; whether both sides have closed then. `look`: the server reads."""
        self.send(Segment(flags=FIN | ACK, at=at))
        look()
        self.link.wait(lambda: self.has_fin or self.is_reset)
        self.send(Segment(flags=ACK, at=at + 1))
        return self.has_fin

    def wait_reset(self, patience_s: float = PATIENCE_S) -> bool:
        """Whether the connection is ended by a RST in time."""
        return self.link.wait(lambda: self.is_reset, patience_s)


def _with_offload(segment: Segment, offload: Offload) -> Segment:
    values = {name: getattr(segment, name) for name in Segment.__slots__}
    return Segment(**(values | {"offload": offload}))


def left_to_the_card(client: RawClient, segment: Segment, instead: bytes, sum_from: int, sum_at: int) -> bytes:
    """A segment's frame with other data, into which the card shall write their checksum: offsets in the data.

    The segment's own checksum is there, and right when the card has written.
    """
    frame = client.frame(segment)[: -len(segment.data)]
    start = len(frame) - VNET.size
    return VNET.pack(NEEDS_CSUM, GSO_NONE, 0, 0, start + sum_from, sum_at - sum_from) + frame[VNET.size :] + instead


def tuned(data: bytes, place: int, wanted: bytes) -> bytes:
    """Data with two other bytes at an even place, so that their checksum is what is wanted."""
    bare = data[:place] + bytes(2) + data[place + 2 :]
    missing = ((int.from_bytes(wanted, "big") ^ 0xFFFF) - checksum(bare)) % 0xFFFF
    return data[:place] + missing.to_bytes(2, "big") + data[place + 2 :]


def spread(data: bytes, points: Iterable[int], at: int = 0) -> list[Segment]:
    """Bytes as segments, cut at these points."""
    edges = sorted({0, len(data), *(point for point in points if 0 < point < len(data))})
    return [Segment(data[a:b], at=at + a) for a, b in zip(edges, edges[1:], strict=False)]
