"""Ways in which a program asks a resolver of its own choosing. Each sends a whole question and returns what came back.

Every way is called twice: with nobody in its way, where the chosen server must answer, and inside a workload, where the
gate does. They run inside call_in, so a failure is the name of the errno.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import dns.message

from e2e.escapes import family_of, tcp, udp, unspecify
from e2e.uring import Ring

PORT = 53
PATIENCE_S = 5.0  # an answer takes a millisecond; a busy machine may need more
IP_PKTINFO, IPV6_PKTINFO, UDP_SEGMENT = 8, 50, 103
OP_SENDMSG = 9
CLIENT4, CLIENT6 = "198.51.100.1", "2001:db8:1::1"

Way = Callable[[str, str, bytes], bytes]  # the server's address, another host's that is allowed, the question


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.POINTER(_Iovec)),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Counted(ctypes.Structure):
    _fields_ = [("message", _Message), ("sent", ctypes.c_uint)]


def question(name: str) -> bytes:
    """A question as a resolver library writes it."""
    return bytes(dns.message.make_query(name, "A", use_edns=0).to_wire())


def patient(sock: socket.socket) -> socket.socket:
    """The socket, willing to wait for an answer."""
    sock.settimeout(PATIENCE_S)
    return sock


def mapped(address: str) -> str:
    """An IPv4 address as IPv6 sockets write it."""
    return f"::ffff:{address}"


def framed(message: bytes) -> bytes:
    """A message as TCP carries it."""
    return len(message).to_bytes(2, "big") + message


def read_framed(sock: socket.socket) -> bytes:
    """One message from a TCP connection; ConnectionResetError if it ends before."""
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        part = sock.recv(1 << 16)
        if not part:
            raise ConnectionResetError(104, "the connection ended before its answer")
        data += part
    return data[2:]


def sockaddr(address: str, port: int = PORT) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    packed = socket.inet_pton(family_of(address), address)
    head = struct.pack("=H", family_of(address)) + struct.pack("!H", port)
    return head + packed + bytes(8) if len(packed) == 4 else head + bytes(4) + packed + bytes(4)


def _c_message(address: str, data: bytes) -> tuple[_Message, list[Any]]:
    """A struct msghdr to this address, and what must live as long as it."""
    name = ctypes.create_string_buffer(sockaddr(address))
    part = _Iovec(data, len(data))
    message = _Message(ctypes.cast(name, ctypes.c_void_p), len(sockaddr(address)), ctypes.pointer(part), 1)
    return message, [name, part, data]


def connected(server: str, _: str, question: bytes) -> bytes:
    """connect() and send()."""
    with patient(udp(server)) as sock:
        sock.connect((server, PORT))
        sock.send(question)
        return sock.recv(1 << 16)


def unconnected(server: str, _: str, question: bytes) -> bytes:
    """sendto() and recvfrom(), and the answer comes from whom was asked."""
    with patient(udp(server)) as sock:
        sock.sendto(question, (server, PORT))
        answer, sender = sock.recvfrom(1 << 16)
        assert sender[:2] == (server, PORT), sender
        return answer


def connected_elsewhere(server: str, allowed: str, question: bytes) -> bytes:
    """Connected to an allowed host, and asked by sendto() all the same."""
    with patient(udp(server)) as sock:
        sock.connect((allowed, 5000))
        sock.sendto(question, (server, PORT))
        sock.connect((server, PORT))  # else only the allowed host's answers are taken
        sock.sendto(question, (server, PORT))
        return sock.recv(1 << 16)


def reconnected(server: str, allowed: str, question: bytes) -> bytes:
    """Connected to an allowed host first, used, then connected to the server."""
    with patient(udp(server)) as sock:
        sock.connect((allowed, 5000))
        sock.send(b"hello")
        assert sock.recv(1 << 16).startswith(b"I am")
        sock.connect((server, PORT))
        sock.send(question)
        return sock.recv(1 << 16)


def unspecified_between(server: str, allowed: str, question: bytes) -> bytes:
    """As before, with connect(AF_UNSPEC) between, and asked by sendto()."""
    with patient(udp(server)) as sock:
        sock.connect((allowed, 5000))
        unspecify(sock)
        sock.sendto(question, (server, PORT))
        return sock.recv(1 << 16)


def asked_again(server: str, _: str, question: bytes) -> bytes:
    """Connected to the server, let go of it, asked, connected again, asked again: the second answer counts."""
    with patient(udp(server)) as sock:
        sock.connect((server, PORT))
        unspecify(sock)
        sock.sendto(question, (server, PORT))
        sock.recv(1 << 16)
        sock.connect((server, PORT))
        sock.send(question)
        return sock.recv(1 << 16)


def sendmmsg(server: str, allowed: str, question: bytes) -> bytes:
    """Two datagrams in one call: the first to an allowed host, the second to the server."""
    libc = ctypes.CDLL(None, use_errno=True)
    first, kept = _c_message(allowed, b"hello")
    ctypes.memmove(first.name, sockaddr(allowed, 5000), first.name_length)
    second, more = _c_message(server, question)
    both = (_Counted * 2)(_Counted(first), _Counted(second))
    with patient(udp(server)) as sock:
        if libc.sendmmsg(sock.fileno(), both, 2, 0) != 2:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        del kept, more
        answers = [sock.recv(1 << 16) for _ in range(2)]
        return next(answer for answer in answers if not answer.startswith(b"I am"))


def with_packet_info(server: str, _: str, question: bytes) -> bytes:
    """sendmsg() that chooses the source address."""
    if family_of(server) == socket.AF_INET:
        chosen = socket.inet_aton(CLIENT4)
        control = [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i", 0) + chosen + bytes(4))]
    else:
        source = socket.inet_pton(socket.AF_INET6, CLIENT6)
        control = [(socket.IPPROTO_IPV6, IPV6_PKTINFO, source + struct.pack("=i", 0))]
    with patient(udp(server)) as sock:
        sock.sendmsg([question], control, 0, (server, PORT))
        return sock.recv(1 << 16)


def corked(server: str, _: str, question: bytes) -> bytes:
    """One datagram in two calls (MSG_MORE), the second of which names somebody else: the kernel keeps the first."""
    with patient(udp(server)) as sock:
        sock.sendto(question[:10], socket.MSG_MORE, (server, PORT))
        sock.sendto(question[10:], 0, (server, 54))
        return sock.recv(1 << 16)


def with_flags(server: str, _: str, question: bytes) -> bytes:
    """MSG_CONFIRM, MSG_NOSIGNAL and MSG_DONTWAIT."""
    with patient(udp(server)) as sock:
        flags = socket.MSG_CONFIRM | socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
        sock.sendto(question, flags, (server, PORT))
        return sock.recv(1 << 16)


def segmented(server: str, _: str, question: bytes) -> bytes:
    """UDP_SEGMENT: one call, two datagrams."""
    with patient(udp(server)) as sock:
        size = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(question)))]
        sock.sendmsg([question * 2], size, 0, (server, PORT))
        return sock.recv(1 << 16)


def bound(server: str, _: str, question: bytes) -> bytes:
    """From an address and a port of its own choosing: port 53, as old resolvers did."""
    with patient(udp(server)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((CLIENT4 if family_of(server) == socket.AF_INET else CLIENT6, PORT))
        sock.sendto(question, (server, PORT))
        return sock.recv(1 << 16)


def on_v6_socket(server: str, _: str, question: bytes) -> bytes:
    """IPv4 out of an IPv6 socket, unconnected."""
    with patient(udp(family=socket.AF_INET6)) as sock:
        sock.sendto(question, (mapped(server), PORT))
        return sock.recv(1 << 16)


def connected_on_v6_socket(server: str, _: str, question: bytes) -> bytes:
    """IPv4 out of an IPv6 socket, connected."""
    with patient(udp(family=socket.AF_INET6)) as sock:
        sock.connect((mapped(server), PORT))
        sock.send(question)
        return sock.recv(1 << 16)


def v4_name_on_v6_socket(server: str, _: str, question: bytes) -> bytes:
    """A plain sockaddr_in handed to an IPv6 socket."""
    libc = ctypes.CDLL(None, use_errno=True)
    with patient(udp(family=socket.AF_INET6)) as sock:
        to = sockaddr(server)
        if libc.sendto(sock.fileno(), question, len(question), 0, to, len(to)) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return sock.recv(1 << 16)


def unspecified_family(server: str, _: str, question: bytes) -> bytes:
    """A sockaddr of AF_UNSPEC, which IPv4 sockets take for AF_INET."""
    libc = ctypes.CDLL(None, use_errno=True)
    with patient(udp(server)) as sock:
        to = struct.pack("=H", socket.AF_UNSPEC) + sockaddr(server)[2:]
        if libc.sendto(sock.fileno(), question, len(question), 0, to, len(to)) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return sock.recv(1 << 16)


def over_tcp(server: str, _: str, question: bytes) -> bytes:
    """A TCP connection."""
    with patient(tcp(server)) as sock:
        sock.connect((server, PORT))
        sock.sendall(framed(question))
        return read_framed(sock)


def over_tcp_on_v6_socket(server: str, _: str, question: bytes) -> bytes:
    """A TCP connection over IPv4 out of an IPv6 socket."""
    with patient(tcp(server, socket.AF_INET6)) as sock:
        sock.connect((mapped(server), PORT))
        sock.sendall(framed(question))
        return read_framed(sock)


def over_tcp_without_waiting(server: str, _: str, question: bytes) -> bytes:
    """connect() that does not block; the question is written once it is there."""
    from select import select

    with patient(tcp(server)) as sock:
        sock.setblocking(False)
        sock.connect_ex((server, PORT))
        assert select([], [sock], [], PATIENCE_S)[1]
        patient(sock).sendall(framed(question))
        return read_framed(sock)


def over_tcp_bound(server: str, _: str, question: bytes) -> bytes:
    """From an address of its own choosing."""
    with patient(tcp(server)) as sock:
        sock.bind((CLIENT4 if family_of(server) == socket.AF_INET else CLIENT6, 0))
        sock.connect((server, PORT))
        sock.sendall(framed(question))
        return read_framed(sock)


def over_tcp_reconnected(server: str, allowed: str, question: bytes) -> bytes:
    """A connection to an allowed host, ended by AF_UNSPEC; then the server, on the same socket."""
    with patient(tcp(server)) as sock:
        sock.connect((allowed, 7))
        sock.sendall(b"hello")
        assert sock.recv(1 << 16).startswith(b"I am")
        unspecify(sock)
        sock.connect((server, PORT))
        sock.sendall(framed(question))
        return read_framed(sock)


def over_ring(server: str, _: str, question: bytes) -> bytes:
    """io_uring connects and sends over TCP: no such system call is made. IPv4."""
    ring = Ring()
    with patient(tcp(server)) as sock:
        sock.setblocking(True)
        _check(ring.connect(sock.fileno(), server, PORT))
        _check(ring.send(sock.fileno(), framed(question)))
        return read_framed(patient(sock))


def over_ring_connected(server: str, _: str, question: bytes) -> bytes:
    """io_uring connects and sends over UDP. IPv4."""
    ring = Ring()
    with patient(udp(server)) as sock:
        _check(ring.connect(sock.fileno(), server, PORT))
        _check(ring.send(sock.fileno(), question))
        return sock.recv(1 << 16)


def over_ring_unconnected(server: str, _: str, question: bytes) -> bytes:
    """io_uring's sendmsg."""
    ring = Ring()
    message, kept = _c_message(server, question)
    with patient(udp(server)) as sock:
        _check(ring._run(OP_SENDMSG, sock.fileno(), bytes(message), 0, 1))
        del kept
        return sock.recv(1 << 16)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


BOTH_FAMILIES: tuple[Way, ...] = (
    connected,
    unconnected,
    reconnected,
    asked_again,
    connected_elsewhere,
    sendmmsg,
    with_packet_info,
    corked,
    with_flags,
    segmented,
    bound,
    over_tcp,
    over_tcp_without_waiting,
    over_tcp_bound,
    over_tcp_reconnected,
    over_ring_unconnected,
)
ONLY_V4: tuple[Way, ...] = (
    unspecified_between,  # an IPv6 socket goes on hearing nobody but its old peer (Linux 6.18)
    on_v6_socket,
    connected_on_v6_socket,
    v4_name_on_v6_socket,
    unspecified_family,
    over_tcp_on_v6_socket,
    over_ring,
    over_ring_connected,
)
