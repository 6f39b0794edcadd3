"""Open sockets with their stamps, and their end: netlink's sock_diag in the caller's network namespace."""

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from exeat.errors import KernelError
from exeat.kernel.abi import Stamp, VerifiedName
from exeat.kernel.instance import Instance
from exeat.model.networks import MAPPED_PREFIX

# linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
_NETLINK_SOCK_DIAG = 4
_DUMP, _DESTROY = 20, 21
_REQUEST, _ACK, _DUMP_FLAGS = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_REQ_STORAGES, _REQ_MAP_FD = 2, 1
_STORAGES, _STORAGE, _MAP_VALUE = 20, 1, 3
_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")
_ID = struct.Struct("!HH16s16s")  # ports and addresses, followed by interface and cookie in host order
_DIAG_MESSAGE_BYTES = 72
_DESTROYING = struct.Struct("=BBBBI")
_RECEIVE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """One socket that carries a stamp."""

    family: int
    protocol: int
    id: bytes  # struct inet_diag_sockid, which names it to the kernel
    stamp: Stamp
    name: str  # verified, or empty


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & ~_NESTED, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _storage_values(data: bytes) -> Iterator[bytes]:
    for kind, attributes in _attributes(data):
        if kind == _STORAGES:
            for inner, storage in _attributes(attributes):
                if inner == _STORAGE:
                    yield from (value for attribute, value in _attributes(storage) if attribute == _MAP_VALUE)


class Diagnosis:
    """A conversation with sock_diag; one question at a time, whichever thread asks."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        self._sequence = 0

    def close(self) -> None:
        """Ends the conversation."""
        self._socket.close()

    def stamped(self, instance: Instance) -> list[OpenSocket]:
        """Every TCP and UDP socket of this network namespace that an instance's stamp is on."""
        maps = _attribute(_REQ_MAP_FD, struct.pack("=I", instance.map("stamps")))
        maps += _attribute(_REQ_MAP_FD, struct.pack("=I", instance.map("names")))
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                request = struct.pack("=BBBBI48x", family, protocol, 0, 0, 0xFFFFFFFF)
                with self._one_at_a_time:
                    self._send(_DUMP, _REQUEST | _DUMP_FLAGS, request + _attribute(_REQ_STORAGES | _NESTED, maps))
                    messages = list(self._receive())
                for message in messages:
                    one = _open_socket(family, protocol, message)
                    if one:
                        found.append(one)
        return found

    def destroy(self, one: OpenSocket) -> bool:
        """Ends a socket: its program sees ECONNABORTED. False: it was gone already."""
        return self._destroy(one.family, one.protocol, one.id)

    def destroy_flow(self, address: bytes, port: int, source: bytes, source_port: int, cookie: int) -> bool:
        """Ends the TCP socket that an event told of. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d."""
        family = socket.AF_INET6
        if address.startswith(MAPPED_PREFIX):
            family = socket.AF_INET
            address, source = address[12:] + bytes(12), source[12:] + bytes(12)
        identity = _ID.pack(source_port, port, source, address) + struct.pack(
            "=III", 0, cookie & 0xFFFFFFFF, cookie >> 32
        )
        return self._destroy(family, socket.IPPROTO_TCP, identity)

    def _destroy(self, family: int, protocol: int, identity: bytes) -> bool:
        try:
            with self._one_at_a_time:
                self._send(_DESTROY, _REQUEST | _ACK, _DESTROYING.pack(family, protocol, 0, 0, 0xFFFFFFFF) + identity)
                list(self._receive())
        except KernelError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise
        return True

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)

    def _receive(self) -> Iterator[bytes]:
        """The bodies of one answer, up to its end."""
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    if number:
                        cause = OSError(number, os.strerror(number))
                        raise KernelError(f"sock_diag refused: {cause.strerror}") from cause
                    return
                yield body


def _open_socket(family: int, protocol: int, message: bytes) -> OpenSocket | None:
    stamp, name = None, ""
    for value in _storage_values(message[_DIAG_MESSAGE_BYTES:]):
        if len(value) == ctypes.sizeof(Stamp):
            stamp = Stamp.from_buffer_copy(value)
        elif len(value) == ctypes.sizeof(VerifiedName):
            verified = VerifiedName.from_buffer_copy(value)
            name = bytes(verified.key.reversed[: verified.length])[::-1].decode("ascii", "replace")
    return OpenSocket(family, protocol, message[4:52], stamp, name) if stamp else None
