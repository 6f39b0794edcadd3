"""The gate's sockets: on loopback, inside a workload's own network namespace, so that no routing is needed anywhere.

A guest behind an interface has a namespace that nobody can enter: its gate listens on addresses of the host.
"""

import ctypes
import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

from exeat.errors import ExeatError
from exeat.model.networks import Address

_T = TypeVar("_T")
_SO_MEMINFO = 55  # asm-generic/socket.h; the ninth of its numbers is SK_MEMINFO_DROPS
_DROPS_AT = 32
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14
_SO_RCVBUFFORCE = 33
_CLONE_NEWNET = 0x40000000
_RECEIVE_BUFFER = 4 << 20  # a burst of 10,000 questions waits there, at 400 bytes of kernel memory each
_BACKLOG = 128
_ATTEMPTS = 16  # a port that is free for UDP over IPv4 may be taken for TCP or IPv6
_LOOPBACK4, _LOOPBACK6 = (ip_address("127.0.0.1"),), (ip_address("::1"),)


@dataclass(frozen=True, slots=True)
class Listeners:
    """One port, UDP and TCP, on 127.0.0.1 and, where there is IPv6, on ::1; or on the host's addresses for guests."""

    port: int
    network: int  # the namespace's cookie, as the programs see it
    udp: tuple[socket.socket, ...]
    tcp: tuple[socket.socket, ...]

    def lost(self) -> int:
        """How many datagrams the kernel had no room for, since they were opened."""
        infos = (one.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36) for one in self.udp)
        return sum(int.from_bytes(info[_DROPS_AT : _DROPS_AT + 4], sys.byteorder) for info in infos)

    def close(self) -> None:
        """Closes all of them."""
        for one in self.udp + self.tcp:
            one.close()


def open_listeners(
    priority: int, port_before: Callable[[int], int] = lambda network: 0, addresses: Sequence[Address] = ()
) -> Listeners:
    """Opens them in this thread's network namespace, where they stay: see `inside`.

    `priority` marks them for the programs, which let no other workload talk to them whatever its rules say.
    `port_before` knows by a namespace's cookie where an earlier gate listened (0: none did): clients that were led
    there go on if it is still free. No addresses: loopback's.
    """
    places = addresses or _loopback()
    failure: OSError | None = None
    before = port_before(network_cookie())
    for attempt in range(_ATTEMPTS):
        made: list[socket.socket] = []
        port = 0 if attempt else before
        try:
            for address in places:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    made.append(_bound(address, kind, port, priority))
                    port = int(made[0].getsockname()[1])
        except OSError as error:
            failure = error
            for one in made:
                one.close()
            continue
        return Listeners(port, _cookie_of(made[0]), tuple(made[0::2]), tuple(made[1::2]))
    assert failure
    raise failure


def listeners_of(sockets: Sequence[socket.socket], addresses: Sequence[Address] = ()) -> Listeners | None:
    """The same out of sockets that somebody kept for us; None, and they are closed, if they are not whole.

    They must listen on these addresses, if any are given: the settings may have changed since.
    """
    udp = tuple(one for one in sockets if one.type == socket.SOCK_DGRAM)
    tcp = tuple(one for one in sockets if one.type == socket.SOCK_STREAM)
    ports = {one.getsockname()[1] for one in sockets}
    networks = {_cookie_of(one) for one in sockets}
    wanted = {str(address) for address in addresses}
    is_elsewhere = wanted and any({one.getsockname()[0] for one in kind} != wanted for kind in (udp, tcp))
    if not udp or len(udp) != len(tcp) or len(ports) != 1 or len(networks) != 1 or is_elsewhere:
        for one in sockets:
            one.close()
        return None
    for one in sockets:
        one.setblocking(False)
    return Listeners(ports.pop(), networks.pop(), udp, tcp)


def network_cookie() -> int:
    """Of this thread's network namespace, as the programs see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return _cookie_of(one)


def _cookie_of(one: socket.socket) -> int:
    return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")


def _bound(address: Address, kind: int, port: int, priority: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    one = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        else:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what an earlier gate closed may linger
        one.bind((str(address), port))
        if kind == socket.SOCK_STREAM:
            one.listen(_BACKLOG)
    except OSError:
        one.close()
        raise
    return one


def _loopback() -> Sequence[Address]:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind(("::1", 0))
    except OSError:  # no IPv6 in this namespace: nobody there can ask over it either
        return _LOOPBACK4
    return (*_LOOPBACK4, *_LOOPBACK6)


def inside(namespace: int, act: Callable[[], _T]) -> _T:
    """Does it in a thread of its own that has entered the namespace: the others stay where they are."""
    done: list[_T] = []
    failed: list[Exception] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            failed.append(OSError(number, f"cannot enter the network namespace: {os.strerror(number)}"))
            return
        try:
            done.append(act())
        except (OSError, ExeatError) as error:
            failed.append(error)

    thread = threading.Thread(target=enter, name="gate listeners")
    try:
        thread.start()
    except RuntimeError as error:  # there may be no more threads
        raise OSError(errno.EAGAIN, f"cannot enter the network namespace: {error}") from error
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
