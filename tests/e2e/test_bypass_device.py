"""What goes to loopback stays there: a device of the program's own choosing must not put it on a wire.

SO_BINDTODEVICE (Linux 5.7), IP_UNICAST_IF and IP_PKTINFO need no privilege. With them the kernel routes 127.0.0.1 out
of the device, to whoever is next on that wire: a router, or the host at the other end of a container's veth.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bed import Bed, Dns, Host, Sniffer, call_in
from e2e.bypasses import IP_PKTINFO, IPV6_PKTINFO, PORT, framed, patient, question, read_framed
from e2e.escapes import family_of, got, tcp, udp
from e2e.gatekeeper import Kept, fresh_resolver, keep_gate, read_answer
from e2e.guard import Guard, rule

SECRET = b"a-secret-of-the-workload"
IP_UNICAST_IF, IPV6_UNICAST_IF = 50, 76
DEVICE = "uplink"

Aim = Callable[[socket.socket, int], None]  # the socket, and the device's number


def bound(sock: socket.socket, _: int) -> None:
    """SO_BINDTODEVICE."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE.encode())


def aimed(sock: socket.socket, index: int) -> None:
    """IP_UNICAST_IF, IPV6_UNICAST_IF."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_UNICAST_IF, struct.pack("!I", index))
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_IF, struct.pack("!I", index))


def untouched(_: socket.socket, __: int) -> None:
    """The twin: as any other socket."""


def packet_info(family: int, index: int) -> list[tuple[int, int, bytes]]:
    """The control message that chooses a device for one datagram."""
    if family == socket.AF_INET:
        return [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i8x", index))]
    return [(socket.IPPROTO_IPV6, IPV6_PKTINFO, bytes(16) + struct.pack("=i", index))]


AIMS = [bound, aimed, untouched]


@pytest.fixture(scope="module")
def chosen(bed: Bed) -> Host:
    """A resolver of the client's choosing."""
    return bed.add("chosen-by-device.test", Dns({"shop.test": ["203.0.113.66"]}))


@pytest.fixture
def kept(guard: Guard, bed: Bed, good: Host) -> Iterator[Kept]:
    """A workload that may ask for shop.test."""
    resolver = fresh_resolver(bed, {"shop.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("shop.test",), protocol="tls")) as kept:
        yield kept


def device_index(bed: Bed) -> int:
    """The number of the client's device."""
    return bed.network.client.call(lambda: socket.if_nametoindex(DEVICE))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("aim", AIMS)
def test_a_datagram_to_a_socket_of_its_own_stays_on_loopback(
    kept: Kept, bed: Bed, wire: Sniffer, aim: Aim, address: str
) -> None:
    """The workload's own loopback needs no rule, so this would carry anything out."""
    index = device_index(bed)

    def do() -> Any:
        with udp(address) as own, udp(address) as sock:
            own.bind((address, 5400))
            aim(sock, index)
            refused = got(lambda: sock.sendto(SECRET, (address, 5400)))
            return refused if isinstance(refused, str) else got(lambda: own.recv(99))

    answer = kept.run(do)
    assert not wire.saw(SECRET)
    assert (answer == SECRET) == (aim is untouched)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("is_chosen", [True, False])
def test_a_datagram_that_names_its_device_stays_on_loopback(
    kept: Kept, bed: Bed, wire: Sniffer, address: str, is_chosen: bool
) -> None:
    """IP_PKTINFO is seen by no hook before the packet's."""
    index = device_index(bed) if is_chosen else 0

    def do() -> Any:
        with udp(address) as own, udp(address) as sock:
            own.bind((address, 5400))
            control = packet_info(family_of(address), index)
            refused = got(lambda: sock.sendmsg([SECRET], control, 0, (address, 5400)))
            return refused if isinstance(refused, str) else got(lambda: own.recv(99))

    answer = kept.run(do)
    assert not wire.saw(SECRET)
    assert (answer == SECRET) == (not is_chosen)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("aim", AIMS)
def test_a_question_stays_on_loopback(
    kept: Kept, bed: Bed, wire: Sniffer, chosen: Host, aim: Aim, version: int
) -> None:
    """It was led to the gate, and the gate is not on that device: it goes nowhere. Outside the server answers."""
    server = chosen.address4 if version == 4 else chosen.address6
    index = device_index(bed)

    def do() -> Any:
        def ask() -> bytes:
            with udp(server) as sock:
                aim(sock, index)
                sock.connect((server, PORT))
                sock.send(question("shop.test"))
                return sock.recv(1 << 16)

        return got(ask)

    assert isinstance(call_in(bed, do), bytes)
    chosen.reset()
    wire.clear()
    answer = kept.run(do)
    assert wire.toward("127.0.0.1" if version == 4 else "::1").frames == 0
    assert isinstance(answer, bytes) == (aim is untouched)
    assert chosen.count().is_untouched


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("aim", [bound, untouched])
def test_no_connection_to_the_gate_is_tried_on_a_wire(
    kept: Kept, bed: Bed, wire: Sniffer, chosen: Host, aim: Aim, version: int
) -> None:
    """Its first packet would carry the sequence number and the gate's port to a stranger."""
    server = chosen.address4 if version == 4 else chosen.address6
    index = device_index(bed)

    def do() -> Any:
        def ask() -> bytes:
            with tcp(server) as sock:
                aim(sock, index)
                sock.connect((server, PORT))
                patient(sock).sendall(framed(question("shop.test")))
                return read_framed(sock)

        return got(ask)

    answer = kept.run(do)
    assert wire.toward("127.0.0.1" if version == 4 else "::1").frames == 0
    assert chosen.count().is_untouched
    assert isinstance(answer, bytes) == (aim is untouched)
    assert aim is not untouched or read_answer(answer).rcode == "NOERROR"
