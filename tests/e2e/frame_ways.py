"""Ways to hand a frame to the kernel, each by a packet socket."""

import ctypes
import errno
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable

from bed.frames import SOL_PACKET
from e2e import uring
from e2e.escapes import got

PACKET_VERSION, PACKET_TX_RING, PACKET_VNET_HDR = 10, 13, 15  # linux/if_packet.h
V1, V2, V3 = 0, 1, 2  # of such rings
SOCK_PACKET, ETH_P_IP = 10, 0x0800  # linux/net.h, linux/if_ether.h
SO_TXTIME, MSG_ZEROCOPY = 61, 0x4000000  # asm-generic/socket.h
BLOCK = 4096

Way = Callable[[bytes, str], object]  # sends a frame by a device, or raises OSError
_libc = ctypes.CDLL(None, use_errno=True)


def opened(device: str, kind: int = socket.SOCK_RAW) -> socket.socket:
    """A packet socket."""
    sock = socket.socket(socket.AF_PACKET, kind)
    sock.bind((device, 0))
    return sock


def checked(result: int) -> int:
    """Of a call into the C library."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def by_ring(version: int) -> Way:
    """PACKET_TX_RING: the frame stands in memory that the kernel shares."""
    frame_at, length_at, status_at = {V1: (32, 8, 0), V2: (32, 4, 0), V3: (48, 16, 20)}[version]

    def send(frame: bytes, device: str) -> None:
        sock = opened(device)
        sock.setsockopt(SOL_PACKET, PACKET_VERSION, version)
        request = struct.pack("=7I", BLOCK, 1, BLOCK, 1, 0, 0, 0)
        sock.setsockopt(SOL_PACKET, PACKET_TX_RING, request if version == V3 else request[:16])
        ring = mmap.mmap(sock.fileno(), BLOCK, mmap.MAP_SHARED)
        ring[frame_at : frame_at + len(frame)] = frame
        struct.pack_into("=I", ring, length_at, len(frame))
        struct.pack_into("=I", ring, status_at, 1)
        sock.send(b"")

    return send


def with_a_card_header(frame: bytes, device: str) -> None:
    """PACKET_VNET_HDR, which asks for nothing."""
    sock = opened(device)
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.send(bytes(10) + frame)


def cooked(frame: bytes, device: str) -> None:
    """SOCK_DGRAM: the kernel writes the link's header."""
    with opened(device, socket.SOCK_DGRAM) as sock:
        sock.sendto(frame[14:], (device, int.from_bytes(frame[12:14], "big"), 0, 0, frame[:6]))


def spoken_of_old(frame: bytes, device: str) -> None:
    """SOCK_PACKET, which is asked for as one of AF_INET."""
    sock = socket.socket(socket.AF_INET, SOCK_PACKET, socket.htons(ETH_P_IP))
    to = struct.pack("=H14s", socket.AF_INET, device.encode()) + frame[12:14]
    checked(_libc.sendto(sock.fileno(), frame, len(frame), 0, to, len(to)))


def many_at_once(frame: bytes, device: str) -> None:
    """sendmmsg()."""
    buffer = ctypes.create_string_buffer(frame, len(frame))
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(buffer), len(frame)), 16)
    message = struct.pack("=QI4xQQQQi4xI4x", 0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0)
    with opened(device) as sock:
        checked(_libc.sendmmsg(sock.fileno(), message, 1, 0))


def in_parts(frame: bytes, device: str) -> None:
    """sendmsg() of two parts, with MSG_ZEROCOPY."""
    opened(device).sendmsg([frame[:20], frame[20:]], [], MSG_ZEROCOPY)


def spliced(frame: bytes, device: str) -> None:
    """Out of a pipe."""
    reader, writer = os.pipe()
    os.write(writer, frame)
    with opened(device) as sock:
        os.splice(reader, sock.fileno(), len(frame))


def from_a_file(frame: bytes, device: str) -> None:
    """sendfile()."""
    file = os.memfd_create("frame")
    os.write(file, frame)
    with opened(device) as sock:
        os.sendfile(sock.fileno(), file, 0, len(frame))


def lent(frame: bytes, device: str) -> None:
    """vmsplice(): the pages are the program's."""
    reader, writer = os.pipe()
    pages = mmap.mmap(-1, BLOCK)
    pages.write(frame)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    checked(_libc.vmsplice(writer, struct.pack("=QQ", start, len(frame)), 1, 0))
    with opened(device) as sock:
        os.splice(reader, sock.fileno(), len(frame))


def by_io_uring(frame: bytes, device: str) -> None:
    """No system call but io_uring_enter sends."""
    with opened(device) as sock:
        result = uring.Ring().send(sock.fileno(), frame)
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def marked(frame: bytes, device: str) -> None:
    """With a mark, a priority, a device and a time to be sent at."""
    sock = opened(device)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x7FFFFFFF)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 7)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    sock.setsockopt(socket.SOL_SOCKET, SO_TXTIME, struct.pack("=iI", time.CLOCK_MONOTONIC, 0))
    sock.sendmsg([frame], [(socket.SOL_SOCKET, SO_TXTIME, struct.pack("=Q", time.monotonic_ns()))])


def tagged(frame: bytes, device: str) -> None:
    """With a VLAN tag that has a priority only."""
    opened(device).send(frame[:12] + b"\x81\0\xe0\0" + frame[12:])


def by_a_child(frame: bytes, device: str) -> None:
    """On a socket that it got from its parent."""
    sock = opened(device)
    child = os.fork()
    if child == 0:
        os._exit(0 if got(lambda: sock.send(frame)) == len(frame) else 1)
    if os.waitpid(child, 0)[1]:
        raise OSError(errno.ENOBUFS, "the child could not")


WAYS: dict[str, Way] = {
    "ring-v1": by_ring(V1), "ring-v2": by_ring(V2), "ring-v3": by_ring(V3), "vnet-header": with_a_card_header,
    "cooked": cooked, "sock-packet": spoken_of_old, "sendmmsg": many_at_once, "parts": in_parts, "splice": spliced,
    "sendfile": from_a_file, "vmsplice": lent, "io-uring": by_io_uring, "marked": marked, "tagged": tagged,
    "child": by_a_child,
}  # fmt: skip
ANSWERS = {"sock-packet": None}  # the kernel says nothing there
