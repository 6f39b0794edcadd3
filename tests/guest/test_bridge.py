"""An interface that is a port of a bridge, with another guest at the next one: what the bridge would hand on."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from bed import Host, Udp
from bed.namespace import Namespace
from bed.network import ip_batch
from bed.sniffer import Sniffer
from exeat.model.verdicts import Reason
from guest.link_frames import ALL_STATIONS, IP, Arp, Line, ether, told_soon
from guest.packets import RawLink
from guest.stage import Guest, Stage
from guest.test_link import FAMILIES, PORT, judged, refused, to_server


@pytest.fixture(scope="module")
def server(stage: Stage) -> Host:
    """Counts datagrams."""
    return stage.add("bridge.test", Udp(PORT, answers=False))


class Bridge:
    """Two guests at one bridge of the router's; `tap5` is judged."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.router = stage, stage.network.router
        self.near, self.far = Guest(5, Namespace()), Guest(6, Namespace())
        self.mac = self.near.gateway_mac
        ip_batch(self.router, f"link add br5 address {self.mac.hex(':')} type bridge\nlink set br5 up\n")
        self.router.sysctl("net.ipv6.conf.br5.accept_dad", 0)
        for guest in (self.near, self.far):
            guest.namespace.sysctl("net.ipv6.conf.default.disable_ipv6", 1)  # its kernel says nothing by itself
            ip_batch(
                self.router,
                f"link add {guest.tap} type veth peer name eth0 address {guest.mac.hex(':')} "
                f"netns {guest.namespace.path}\nlink set {guest.tap} master br5 up\n"
                f"addr add {guest.address4(1)}/27 dev br5\naddr add {guest.address6(1)}/64 dev br5 nodad\n",
            )
            ip_batch(guest.namespace, "link set eth0 up\n")
            guest.index = self.router.call(lambda guest=guest: socket.if_nametoindex(guest.tap))
            guest.link = RawLink(guest.namespace, "eth0", guest.mac, self.mac)
        self.eyes = self.far.namespace.call(lambda: Sniffer("eth0"))

    def judged(self, **changes: Any) -> Any:
        """The near one's interface, a port of the bridge."""
        return judged(self.stage, self.near, gateway_macs=(self.mac,), **changes)

    def came(self) -> list[bytes]:
        """What the far one's card has, of what the near one sent."""
        return [frame for frame in self.eyes.frames() if frame[6:12] == self.near.mac]

    def close(self) -> None:
        """Takes all of it away."""
        self.eyes.close()
        for guest in (self.near, self.far):
            assert guest.link
            guest.link.close()
        ip_batch(self.router, "link del tap5\nlink del tap6\nlink del br5\n")
        for guest in (self.near, self.far):
            guest.namespace.close()


@pytest.fixture(scope="module")
def _bridge(stage: Stage) -> Iterator[Bridge]:
    bridge = Bridge(stage)
    wait_for_ports(bridge)
    yield bridge
    bridge.close()


def wait_for_ports(bridge: Bridge) -> None:
    """Until the bridge hands on what comes from a port."""
    line = Line.of(bridge.near)
    for _ in range(200):
        line.send(ether(bridge.near.mac, ALL_STATIONS, 0x88B5, b"anybody there?"))
        if bridge.came():
            break
        line.link.wait(lambda: False, 0.02)
    assert bridge.came()
    line.send(ether(bridge.near.mac, bridge.mac, 0x88B5, b""))  # and the bridge knows who is where
    Line.of(bridge.far).send(ether(bridge.far.mac, bridge.mac, 0x88B5, b""))


@pytest.fixture
def bridge(_bridge: Bridge, judging: Stage) -> Bridge:
    """Nothing came yet."""
    _bridge.eyes.clear()
    return _bridge


@FAMILIES
def test_a_guest_at_a_bridge_reaches_servers_but_not_its_neighbour(bridge: Bridge, server: Host, version: int) -> None:
    """The frame to the neighbour's card is one that would be allowed as a packet; unjudged, the bridge hands it on."""
    server.reset()
    line = Line.of(bridge.near)
    packet = to_server(server, line.address(version))
    aside = ether(bridge.near.mac, bridge.far.mac, packet.kind, packet.bytes())
    line.send(aside)
    assert bridge.came() == [aside]
    bridge.eyes.clear()
    with bridge.judged() as workload:
        line.send(aside)
        assert told_soon(workload) == refused(Reason.NEIGHBOUR)
        assert bridge.came() == []
        line.send(ether(bridge.near.mac, bridge.mac, packet.kind, packet.bytes()))
        assert server.count().datagrams == 1
        assert bridge.came() == []


@pytest.mark.parametrize(
    "to", [ALL_STATIONS, bytes.fromhex("01005e00000a"), bytes.fromhex("333300000001"), bytes.fromhex("0180c2000000")]
)
def test_a_packet_for_one_is_not_sent_to_many(bridge: Bridge, server: Host, to: bytes) -> None:
    """A bridge hands such a frame to everybody."""
    line = Line.of(bridge.near)
    packet = to_server(server, line.address(4))
    with bridge.judged() as workload:
        line.send(ether(bridge.near.mac, to, IP, packet.bytes()))
        assert told_soon(workload) == refused(Reason.NEIGHBOUR)
        assert bridge.came() == []


def test_what_fills_a_frame_up_reaches_nobody(bridge: Bridge) -> None:
    """A question by ARP goes to all on the bridge; the 18 bytes behind it, which may say anything, do not."""
    line = Line.of(bridge.near)
    question = line.arp(Arp(bridge.near.mac, line.address(4), bridge.near.address4(1)))
    line.send(question + b"eighteen secret b.")
    assert [len(frame) for frame in bridge.came()] == [60]
    bridge.eyes.clear()
    with bridge.judged() as workload:
        line.send(question + b"eighteen secret b.")
        assert bridge.came() == [question]
        assert workload.reasons() == []
        line.send(question + b"nineteen secret by.")
        assert told_soon(workload) == refused(Reason.MALFORMED_PACKET)
        assert bridge.came() == [question]


# What is no IP


def tagged(packet: bytes, *tags: int) -> bytes:
    """With these two bytes after two addresses, and the same frame behind."""
    return packet[:12] + b"".join(struct.pack("!HH", kind, 0) for kind in tags) + packet[12:]


def other_kinds(frame: bytes) -> dict[str, bytes]:
    """Ways to send the same packet as something else."""
    body, link = frame[14:], frame[:12]
    kinds = {
        "0 as a tag of a VLAN": tagged(frame, 0x8100),
        "a VLAN's tag": link + b"\x81\x00\x00\x05" + frame[12:],
        "a VLAN's tag of another kind": tagged(frame, 0x88A8),
        "an old tag": tagged(frame, 0x9100),
        "two tags": tagged(frame, 0x88A8, 0x8100),
        "three tags": tagged(frame, 0x8100, 0x8100, 0x8100),
        "LLC and SNAP": link + struct.pack("!H", len(body) + 8) + b"\xaa\xaa\x03\x00\x00\x00" + frame[12:],
        "LLC with IP inside": link + struct.pack("!H", len(body) + 3) + b"\x06\x06\x03" + body,
        "a length instead of a kind": link + struct.pack("!H", len(body)) + body,
        "nothing but addresses": link + b"\x00\x00",
    }
    numbers = {
        "MPLS": 0x8847, "MPLS to many": 0x8848, "PPPoE's begin": 0x8863, "PPPoE": 0x8864, "802.1X": 0x888E,
        "LLDP": 0x88CC, "RARP": 0x8035, "IPX": 0x8137, "MACsec": 0x88E5, "HSR": 0x892F, "TIPC": 0x88CA,
        "batman": 0x4305, "loopback": 0x9000, "local experiments": 0x88B5, "Wake-on-LAN": 0x0842, "NSH": 0x894F,
    }  # fmt: skip
    return kinds | {name: link + struct.pack("!H", kind) + body for name, kind in numbers.items()}


@pytest.mark.parametrize("kind", list(other_kinds(bytes(14))))
def test_what_is_neither_ip_nor_arp_is_dropped(bridge: Bridge, server: Host, kind: str) -> None:
    """To all, so that the neighbour at the bridge has it where nobody judges."""
    line = Line.of(bridge.near)
    packet = to_server(server, line.address(4))
    frame = other_kinds(ether(bridge.near.mac, ALL_STATIONS, IP, packet.bytes()))[kind]
    line.send(frame)
    assert len(bridge.came()) == 1
    bridge.eyes.clear()
    server.reset()
    with bridge.judged() as workload:
        line.send(frame, bridge.mac + frame[6:])
        assert told_soon(workload, 2) == refused(Reason.LINK_PROTOCOL) * 2
        assert bridge.came() == []
        assert server.count().is_untouched
        line.send(ether(bridge.near.mac, bridge.mac, IP, packet.bytes()))
        assert server.count().datagrams == 1
