"""Just enough io_uring to connect and send: raw system calls, one request at a time."""

import ctypes
import mmap
import os
import socket
import struct
from ipaddress import ip_address
from pathlib import Path

IO_URING_SETUP, IO_URING_ENTER = 425, 426  # the same on x86-64 and arm64
ENTER_GETEVENTS = 1
OFF_SQ_RING, OFF_CQ_RING, OFF_SQES = 0, 0x8000000, 0x10000000
OP_CONNECT, OP_SEND = 16, 26

_libc = ctypes.CDLL(None, use_errno=True)


def is_disabled() -> bool:
    """Whether the machine's owner has switched io_uring off, or the kernel has none."""
    switch = Path("/proc/sys/kernel/io_uring_disabled")
    return switch.exists() and switch.read_text().strip() != "0"


class Ring:
    """A ring of its own for one process."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self._fd = _libc.syscall(IO_URING_SETUP, 4, parameters)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        submit = struct.unpack_from("=7I", parameters, 40)
        complete = struct.unpack_from("=6I", parameters, 80)
        self._sq = mmap.mmap(self._fd, 4096, mmap.MAP_SHARED, offset=OFF_SQ_RING)
        self._cq = mmap.mmap(self._fd, 4096, mmap.MAP_SHARED, offset=OFF_CQ_RING)
        self._sqes = mmap.mmap(self._fd, 4096, mmap.MAP_SHARED, offset=OFF_SQES)
        self._sq_tail, self._sq_mask, self._sq_array = submit[1], submit[2], submit[6]
        self._cq_head, self._cq_mask, self._cqes = complete[0], complete[2], complete[5]

    def _run(self, opcode: int, fd: int, data: bytes, offset: int, length: int) -> int:
        buffer = ctypes.create_string_buffer(data, len(data))
        entry = struct.pack("=BBHiQQIIQ", opcode, 0, 0, fd, offset, ctypes.addressof(buffer), length, 0, 1)
        tail, mask = self._word(self._sq, self._sq_tail), self._word(self._sq, self._sq_mask)
        at = tail & mask
        self._sqes[at * 64 : at * 64 + 64] = entry.ljust(64, b"\0")
        struct.pack_into("=I", self._sq, self._sq_array + 4 * at, at)
        struct.pack_into("=I", self._sq, self._sq_tail, tail + 1)
        if _libc.syscall(IO_URING_ENTER, self._fd, 1, 1, ENTER_GETEVENTS, None, 0) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        head = self._word(self._cq, self._cq_head)
        at = self._cqes + 16 * (head & self._word(self._cq, self._cq_mask))
        (result,) = struct.unpack_from("=i", self._cq, at + 8)
        struct.pack_into("=I", self._cq, self._cq_head, head + 1)
        return int(result)

    @staticmethod
    def _word(ring: mmap.mmap, at: int) -> int:
        return int(struct.unpack_from("=I", ring, at)[0])

    def connect(self, fd: int, address: str, port: int) -> int:
        """0, or the negative errno. IPv4."""
        to = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + ip_address(address).packed + bytes(8)
        return self._run(OP_CONNECT, fd, to, len(to), 0)

    def send(self, fd: int, data: bytes) -> int:
        """How much was sent, or the negative errno."""
        return self._run(OP_SEND, fd, data, 0, len(data))
