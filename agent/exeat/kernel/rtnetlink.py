"""The few messages of rtnetlink(7) that guests' interfaces need, packed by hand.

A dozen kinds of message do not pay for a library of 20 MB in an agent that may use 60.
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator

from exeat.errors import KernelError

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_CAPPED, _HAS_WORDS = 0x100, 0x200  # of an error: without the request; with attributes
_DUMP_INTERRUPTED = 0x10
_WORDS = 1  # NLMSGERR_ATTR_MSG
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 270, 10, 11, 12
_HEADER = struct.Struct("=IHHII")
_NESTED_BITS = 0xC000
_RECEIVE_BYTES = 1 << 18
_DUMPS = 5


class Refusal(KernelError):
    """The kernel's own answer to a request, with its number (errno)."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(f"the kernel refused: {words or os.strerror(number)}")
        self.number = number


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, with what fills it up to four bytes."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message by their kind."""
    found = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & ~_NESTED_BITS] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, sequence number and body of every message of a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            break
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def open_socket(groups: int = 0, receive_buffer: int = 0) -> socket.socket:
    """A socket of this network namespace that hears what these groups are told."""
    ours = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
        ours.setsockopt(_SOL_NETLINK, option, 1)
    if receive_buffer:
        ours.setsockopt(socket.SOL_SOCKET, 33, receive_buffer)  # SO_RCVBUFFORCE
    ours.bind((0, groups))
    return ours


class Conversation:
    """Questions and orders; one at a time, whichever thread asks."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._socket = open_socket()
        self._sequence = 0

    def close(self) -> None:
        """Ends it."""
        self._socket.close()

    def order(self, kind: int, flags: int, body: bytes) -> None:
        """Has the kernel do something; Refusal if it does not."""
        with self._one_at_a_time:
            self._send(kind, flags | REQUEST | ACK, body)
            self._receive()

    def ask(self, kind: int, body: bytes) -> bytes | None:
        """The body of the one answer."""
        with self._one_at_a_time:
            self._send(kind, REQUEST | ACK, body)
            found, _ = self._receive()
        return found[0] if found else None

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all answers; asked again where something changed in between."""
        for _ in range(_DUMPS):
            with self._one_at_a_time:
                self._send(kind, REQUEST | DUMP, body)
                found, was_interrupted = self._receive()
            if not was_interrupted:
                break
        return found

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)

    def _receive(self) -> tuple[list[bytes], bool]:
        """The bodies of one answer up to its end, and whether something changed meanwhile."""
        found: list[bytes] = []
        was_interrupted = False
        while True:
            for kind, flags, sequence, body in messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                was_interrupted |= bool(flags & _DUMP_INTERRUPTED)
                if kind == _ERROR:
                    _raise(flags, body)
                if kind in (_DONE, _ERROR):
                    return found, was_interrupted
                found.append(body)


def _raise(flags: int, body: bytes) -> None:
    """Unless it is no error but what was asked for: an acknowledgement."""
    number = -struct.unpack_from("=i", body)[0]
    if number:
        words = b""
        if flags & _HAS_WORDS and flags & _CAPPED:  # else the request stands before them, in any length
            words = attributes(body[4 + _HEADER.size :]).get(_WORDS, b"")
        raise Refusal(number, words.rstrip(b"\0").decode(errors="replace"))
