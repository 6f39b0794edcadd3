"""A guest with two CPUs: frames at the same moment, and frames that change while they are judged.

Each race is run a bounded number of times, with every delay in turn; one success would be a bypass. Without
the lock of a flow every third try of the first one succeeds. 400 tries may end before the other CPU has begun:
where that can be seen, only those count in which it was there.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from e2e.guard import rule
from guest.packets import ACK, ETH_P_ALL, SOL_PACKET, Ends, Offload, RawClient, RawLink, Segment, checksum, tcp_frame
from guest.stage import Guest, GuestWorkload, Recorder, Stage
from guest.test_attack_guest import all_read, network, reads_evil, syn, wrapped
from guest.test_desync import named
from guest.tricks import GOOD_HELLO

__all__ = ["network"]

TRIES = 400
RACING_S = 60.0  # at most; it takes milliseconds, unless others want the second CPU too
CPUS = sorted(os.sched_getaffinity(0))
PACKET_VNET_HDR, PACKET_TX_RING = 15, 13  # linux/if_packet.h
TP_STATUS_SEND_REQUEST = 1
RING_DATA = 32  # behind a tpacket_hdr
DATA = b"\x17\x03\x03\x20\x00" + bytes(0x2000)


@pytest.fixture(scope="module", autouse=True)
def _two_cpus() -> Iterator[None]:
    """This process on one, its children on the other."""
    if len(CPUS) < 2:
        pytest.skip("two CPUs are needed for a race")
    os.sched_setaffinity(0, CPUS[:1])
    yield
    os.sched_setaffinity(0, CPUS)


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Has a process of its own do this on the other CPU until the end."""
    child = os.fork()
    if child == 0:
        try:
            os.sched_setaffinity(0, CPUS[1:2])
            work()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def opened(guest: Guest, has_header: bool = True) -> socket.socket:
    """A socket beside that of the link, for the other CPU."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, int(has_header))
        sock.bind(("eth0", ETH_P_ALL if not has_header else 0))
        return sock

    return guest.namespace.call(make)


class Volley:
    """Two frames at almost the same moment, from two CPUs."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._shared = mmap.mmap(-1, 4096)
        self._turn = 0

    def work(self) -> None:
        """What the other CPU does: waits for its turn, and a little longer, and sends."""
        shared, turn = self._shared, 0
        while True:
            turn += 1
            while shared[0] != turn & 255:
                pass
            (length, delay) = struct.unpack_from("=II", shared, 4)
            frame = shared[16 : 16 + length]
            for _ in range(delay):
                pass
            self._sock.send(frame)
            shared[1] = turn & 255

    def fire(self, frame: bytes, delay: int, at_once: Callable[[], None]) -> None:
        """Has the frame sent there while this one does something here."""
        self._turn += 1
        struct.pack_into("=II", self._shared, 4, len(frame), max(0, delay))
        self._shared[16 : 16 + len(frame)] = frame
        self._shared[0] = self._turn & 255
        for _ in range(max(0, -delay)):
            pass
        at_once()
        deadline = time.monotonic() + RACING_S
        while self._shared[1] != self._turn & 255:  # who went on without it would never be in step again
            assert time.monotonic() < deadline, "the other CPU has sent nothing"


@pytest.fixture(scope="module")
def _judged(judging: Stage, server4: Recorder) -> Iterator[GuestWorkload]:
    with judging.judged(named(server4), rule(server4.address, protocol="udp", ports=(7,))) as workload:
        yield workload


@pytest.fixture
def judged(_judged: GuestWorkload, server4: Recorder) -> GuestWorkload:
    """Guest 0, which may say one name, and send datagrams to one port; nothing was told of it yet."""
    server4.forget()
    _judged.told()
    return _judged


def connected(stage: Stage, server: Recorder) -> RawClient:
    """A client after its handshake; those before are forgotten."""
    for guest in stage.guests:
        assert guest.link
        guest.link.clients.clear()
        guest.link.others.clear()
    client = stage.raw(server, has_stamps=False, offload=Offload.SEGMENTS)
    assert client.connect(tries=3)
    return client


def connections(stage: Stage, judged: GuestWorkload, server: Recorder) -> Iterator[tuple[int, RawClient, bytes, bytes]]:
    """One after the other, each with a hello in two parts; at the end, one more is as good as any."""
    for turn in range(TRIES):
        if turn % 40 == 0:
            server.forget()
            judged.told()
        yield turn, connected(stage, server), *wrapped(turn)
    client = connected(stage, server)
    assert client.push(GOOD_HELLO)


def test_a_syn_while_a_segment_is_read_makes_it_no_begin(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """The SYN has the number before the segment's: what was read before it would be forgotten."""
    volley = Volley(opened(stage.guests[0]))
    reached = 0
    with beside(volley.work):
        for turn, client, begin, rest in connections(stage, judged, server4):
            client.send(Segment(begin))
            rest_of_it = client.frame(Segment(rest + DATA * 3, at=len(begin), piece=1400))
            volley.fire(
                syn(client, client.isn + len(begin)),
                (turn * 37) % 1200 - 100,
                lambda sock=client.link.socket, frame=rest_of_it: sock.send(frame),  # type: ignore[misc]
            )
            client.link.read()
            server4.look(0.001)
            assert not reads_evil(server4, client), turn
            reached += begin in all_read(server4, client)
    assert reached > TRIES / 2


def test_a_begin_is_not_forgotten_while_the_server_speaks(
    stage: Stage, judged: GuestWorkload, server4: Recorder, network: RawLink
) -> None:
    """Both directions write what is known of a connection; no segment of one undoes what the other has noted."""
    shared = mmap.mmap(-1, 4096)

    def speak() -> None:
        while True:
            length = shared[0]
            if length:
                network.socket.send(shared[16 : 16 + length])

    reached = 0
    with beside(speak):
        for turn, client, begin, rest in connections(stage, judged, server4):
            back = Ends(
                network.mac, network.gateway_mac, client.destination, client.source, client.port, client.source_port
            )
            frame = tcp_frame(back, client.peer_isn + 1, client.isn + 1, b"", Segment(flags=ACK))
            shared[16 : 16 + len(frame)] = frame
            shared[0] = len(frame)
            time.sleep(0.0005)
            for _ in range(3):
                client.link.socket.send(client.frame(Segment(begin)))
                client.link.socket.send(client.frame(Segment(rest, at=len(begin))))
            shared[0] = 0
            client.link.read()
            server4.look(0.001)
            assert not reads_evil(server4, client), turn
            reached += begin in all_read(server4, client)
    assert reached > TRIES / 2


class Ring:
    """One frame that is sent out of memory which others write to: of a packet socket."""

    def __init__(self, guest: Guest) -> None:
        self.sock = opened(guest, has_header=False)
        self.sock.setsockopt(SOL_PACKET, PACKET_TX_RING, struct.pack("=IIII", 4096, 1, 4096, 1))
        self.memory = mmap.mmap(self.sock.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def send(self, frame: bytes) -> None:
        """Hands it to the kernel, which copies no more than the link's header."""
        self.memory[RING_DATA : RING_DATA + len(frame)] = frame
        struct.pack_into("=QI", self.memory, 0, TP_STATUS_SEND_REQUEST, len(frame))
        self.sock.send(b"")


def udp_frame(guest: Guest, address: str, port: int) -> bytes:
    """A datagram without a checksum."""
    data = struct.pack("!HHHH", 4000, port, 8 + 4, 0) + b"data"
    ends = bytes(int(one) for one in f"{guest.address4(10)}.{address}".split("."))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 7, 0x4000, 64, 17, 0) + ends
    ip = ip[:10] + struct.pack("!H", checksum(ip) ^ 0xFFFF) + ip[12:]
    return guest.gateway_mac + guest.mac + b"\x08\x00" + ip + data


def counting(stage: Stage, address: str, port: int) -> socket.socket:
    """A socket that keeps what comes."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        sock.bind((address, port))
        sock.setblocking(False)
        return sock

    return stage.network.hosts.call(make)


def count(sock: socket.socket, guest: Guest, quiet_s: float = 0.0) -> int:
    """How many datagrams of this guest have come since the last call, until it was quiet for so long."""
    come = 0
    while select.select([sock], [], [], quiet_s)[0]:
        _, (source, _) = sock.recvfrom(100)
        come += source == guest.address4(10)
    return come


def test_a_header_that_changes_is_read_once(stage: Stage, judged: GuestWorkload, server4: Recorder) -> None:
    """The port is another one every few nanoseconds; one of two is denied. Who is not judged wins."""
    allowed, denied = counting(stage, server4.address, 7), counting(stage, server4.address, 9)
    try:
        for guest, is_judged in ((stage.guests[1], False), (stage.guests[0], True)):
            ring = Ring(guest)
            memory, at = ring.memory, RING_DATA + 14 + 20 + 2
            seven, nine = struct.pack("!H", 7), struct.pack("!H", 9)

            def flip(memory: mmap.mmap = memory, at: int = at, seven: bytes = seven, nine: bytes = nine) -> None:
                while True:
                    memory[at : at + 2] = nine
                    memory[at : at + 2] = seven

            tries = changed = come = wrong = 0
            deadline = time.monotonic() + RACING_S
            with beside(flip):
                while changed < TRIES or not (wrong or is_judged):
                    assert time.monotonic() < deadline, (tries, changed, come, wrong)
                    ring.send(udp_frame(guest, server4.address, 7))
                    changed += memory[at : at + 2] == nine  # while it was sent, or a moment later
                    tries += 1
                    if tries % 40 == 0:
                        come, wrong = come + count(allowed, guest), wrong + count(denied, guest)
            come, wrong = come + count(allowed, guest, 0.1), wrong + count(denied, guest, 0.1)
            assert come > TRIES / 10
            assert (wrong == 0) == is_judged
            memory.close()
            ring.sock.close()
    finally:
        allowed.close()
        denied.close()
