"""Frames that a packet socket sends: what they are made of, and what became of them."""

import errno
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from bed.network import CLIENT4, CLIENT6, UPLINK_MAC, WIRE_MAC

DATA = b"a secret"
PORT = 5000
NO_MAC = "00:00:00:00:00:00"  # loopback's
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20  # linux/if_packet.h
AF_XDP, SOL_XDP, XDP_UMEM_REG = 44, 283, 4  # linux/if_xdp.h


def frame_to(
    address: str, *, port: int = PORT, to: str = WIRE_MAC, by: str = UPLINK_MAC, source: str | None = None
) -> bytes:
    """A datagram, with all that a card sends. `source`: as if it came from there."""
    destination = ip_address(address)
    sender = ip_address(source or (CLIENT4 if destination.version == 4 else CLIENT6)).packed
    ends, size = sender + destination.packed, 8 + len(DATA)
    ports = struct.pack("!HHH", 4000, port, size)
    total = _sum(ends + struct.pack("!LL", size, socket.IPPROTO_UDP) + ports + DATA)
    body = ports + struct.pack("!H", total or 0xFFFF) + DATA
    if destination.version == 4:
        head = struct.pack("!BBHHHBB", 0x45, 0, 20 + size, 7, 0, 64, socket.IPPROTO_UDP)
        packet, kind = head + struct.pack("!H", _sum(head + ends)) + ends, b"\x08\0"
    else:
        packet, kind = struct.pack("!LHBB", 6 << 28, size, socket.IPPROTO_UDP, 64) + ends, b"\x86\xdd"
    return bytes.fromhex(to.replace(":", "") + by.replace(":", "")) + kind + packet + body


def send_frame(
    frame: bytes, device: str = "uplink", *, before: Callable[[socket.socket], object] = lambda sock: None
) -> str:
    """By AF_PACKET, which no hook of a cgroup sees: "sent", or the name of the errno. `before`: on the new socket."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((device, 0))
            before(sock)
            return "sent" if sock.send(frame) == len(frame) else "cut"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))


def pass_the_queue(sock: socket.socket) -> None:
    """From now on its frames pass neither tc nor a queue."""
    sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)


def pass_the_queue_from(elsewhere: Path, own: Path) -> Callable[[socket.socket], None]:
    """The same by a process that goes to another cgroup for that, and comes back."""

    def act(sock: socket.socket) -> None:
        (elsewhere / "cgroup.procs").write_text(str(os.getpid()))
        pass_the_queue(sock)
        (own / "cgroup.procs").write_text(str(os.getpid()))

    return act


def register_umem() -> str:
    """The first step with AF_XDP: the name of the errno, as it gives no memory."""
    try:
        with socket.socket(AF_XDP, socket.SOCK_RAW) as sock:
            sock.setsockopt(SOL_XDP, XDP_UMEM_REG, bytes(24))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return "registered"


def _sum(data: bytes) -> int:
    """The Internet's checksum, of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
