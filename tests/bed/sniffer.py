"""What really arrived on the wire: an AF_PACKET socket that the test reads, whether or not a server listened.

The kernel queues the frames; they are parsed only when a test asks, so the sniffer costs the servers nothing. It sees
what comes from the client, not the replies. If its queue overflows, `lost` says so and the counts raise: a proof that
nothing arrived must not rest on frames that were thrown away.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from types import TracebackType

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23  # linux/if_packet.h; the last since 4.20
QUEUE_BYTES = 64 << 20
EXTENSION_HEADERS = {0, 43, 60, 135, 139, 140}  # hop-by-hop, routing, destination options, mobility, HIP, shim6
FRAGMENT, AUTHENTICATION = 44, 51
NAMES = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp", 136: "udplite"}
HEADERS = {6: 20, 17: 8, 132: 12, 136: 8}  # the least size of those whose third and fourth byte are the port


@dataclass(frozen=True)
class Toward:
    """Where frames went: `protocol` is "tcp", "udp", "icmp" ... or the number; port 0 where there is none to read."""

    address: str
    protocol: str
    port: int


@dataclass(frozen=True)
class Tally:
    """How much arrived. `payload` is what follows the transport header: 0 for a bare SYN or ACK."""

    frames: int = 0
    payload: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.frames + other.frames, self.payload + other.payload)


class Sniffer:
    """Records frames from its making to close(). Made by Network.sniff() or Bed.sniff()."""

    def __init__(self, interface: str, queue_bytes: int = QUEUE_BYTES) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        SO_RCVBUFFORCE = 33  # noqa: N806  # asm-generic/socket.h; Python has no name for it
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, queue_bytes)
        self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self._socket.bind((interface, ETH_P_ALL))
        self._socket.setblocking(False)
        self._frames: list[bytes] = []
        self._buffer = memoryview(bytearray(1 << 20))  # larger than any GSO frame
        self.lost = 0

    def frames(self) -> list[bytes]:
        """Every frame so far, whole, in order of arrival. Raises if the kernel had to drop some."""
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                break
            self._frames.append(bytes(self._buffer[:size]))
        _packets, dropped = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.lost += dropped  # the kernel's counter starts again at each reading
        if self.lost:
            raise RuntimeError(f"the sniffer lost {self.lost} frames, so it proves nothing; use it for less traffic")
        return self._frames

    def counts(self) -> dict[Toward, Tally]:
        """All that arrived, by destination address, protocol and destination port."""
        counts: dict[Toward, Tally] = {}
        for frame in self.frames():
            toward, payload = read_frame(frame)
            counts[toward] = counts.get(toward, Tally()) + Tally(1, payload)
        return counts

    def toward(self, address: str, protocol: str | None = None, port: int | None = None) -> Tally:
        """The sum of what arrived for an address, of one protocol and port if given. Tally(0, 0) means nothing.

        To prove that nothing arrived give neither: fragments and malformed packets have port 0.
        """
        wanted = str(ipaddress.ip_address(address))
        total = Tally()
        for toward, tally in self.counts().items():
            if toward.address == wanted and protocol in (None, toward.protocol) and port in (None, toward.port):
                total += tally
        return total

    def saw(self, token: bytes) -> bool:
        """Whether the bytes stand in any one frame, headers included."""
        return any(token in frame for frame in self.frames())

    def clear(self) -> None:
        """Forget what arrived until now."""
        self.frames().clear()

    def close(self) -> None:
        """Stop. May be called twice."""
        self._socket.close()

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_frame(frame: bytes) -> tuple[Toward, int]:
    """Where an Ethernet frame goes and how many payload bytes it carries.

    What cannot be read leaves port 0, but never hides the address: a proof of silence asks for the address alone. A
    frame that is no IP has its ethertype for a protocol.
    """
    ethertype, packet = int.from_bytes(frame[12:14], "big"), frame[14:]
    if ethertype == ETH_P_IP and len(packet) >= 20:
        return _read_ipv4(packet)
    if ethertype == ETH_P_IPV6 and len(packet) >= 40:
        return _read_ipv6(packet)
    return Toward("", f"ethertype {ethertype:#06x}", 0), len(packet)


def _read_ipv4(packet: bytes) -> tuple[Toward, int]:
    header = (packet[0] & 0x0F) * 4
    total = int.from_bytes(packet[2:4], "big") or len(packet)  # 0 in a BIG TCP frame
    is_first = int.from_bytes(packet[6:8], "big") & 0x1FFF == 0
    address = str(ipaddress.IPv4Address(packet[16:20]))
    return _read_transport(address, packet[9], packet[header:total], is_first)


def _read_ipv6(packet: bytes) -> tuple[Toward, int]:
    length = int.from_bytes(packet[4:6], "big")
    address = str(ipaddress.IPv6Address(packet[24:40]))
    rest = packet[40 : 40 + length] if length else packet[40:]
    following, is_first = packet[6], True
    while is_first and len(rest) >= 8 and following in EXTENSION_HEADERS | {FRAGMENT, AUTHENTICATION}:
        if following == FRAGMENT:
            is_first = int.from_bytes(rest[2:4], "big") & 0xFFF8 == 0
            size = 8
        else:
            size = (rest[1] + 2) * 4 if following == AUTHENTICATION else (rest[1] + 1) * 8
        following, rest = rest[0], rest[size:]
    return _read_transport(address, following, rest, is_first)


def _read_transport(address: str, number: int, segment: bytes, is_first: bool) -> tuple[Toward, int]:
    protocol = NAMES.get(number, str(number))
    least = HEADERS.get(number)
    if least is None or not is_first or len(segment) < least:
        return Toward(address, protocol, 0), len(segment)
    header = (segment[12] >> 4) * 4 if protocol == "tcp" else least
    return Toward(address, protocol, int.from_bytes(segment[2:4], "big")), max(0, len(segment) - header)
