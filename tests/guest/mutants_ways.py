"""What a guest tries against one defence each. Every way says whether a real server, or the host, has taken it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bed import Host
from bed.network import ip_batch
from e2e.escapes import hosts_drop
from e2e.guard import rule
from exeat.kernel.guest_abi import GUEST_FLOWS
from exeat.model.policy import ALL_PORTS, Policy, Rule
from guest.link_frames import (
    ICMP,
    ICMP6,
    TCP,
    Arp,
    Line,
    Packet,
    body_of,
    dhcp_message,
    ether,
    is_a,
    link_option,
    neighbour_message,
    run_frames,
    solicited,
    udp_datagram,
)
from guest.packets import ACK, MOD, PSH, SYN, VNET, Ends, Offload, RawClient, RawLink, Segment, tcp_frame, tuned
from guest.stage import Guest, GuestGuard, GuestWorkload, Recorder, Stage
from guest.test_attack_guest import (
    BEHIND_THE_NAME,
    MSS,
    begun_again,
    ended_by_the_guest,
    icmp_frame,
    reads_evil,
    replayed,
    segment,
    syn,
)
from guest.test_desync import OTHER, has_name, named, played_card
from guest.test_differing_copies import losing
from guest.test_flows import count_flows, syn_frames
from guest.test_guest_limits import grant
from guest.test_link import dhcp_server, learning, received
from guest.test_questions import gated, question
from guest.tricks import EVIL, EVIL_HELLO, GOOD, GOOD_HELLO, MD5, TRICKS, Play, fake_first

OPEN, CLOSED = 5000, 5001
ASKED, TOLD = 135, 136  # of ICMPv6
STAMP_ASKED, STAMP_TOLD = 13, 14  # of ICMP
DISCOVER = 1
OTHER_MAC = bytes.fromhex("02005e0053ee")
ALIKE4, ALIKE6 = "198.51.100.20", "2001:db8:1::20"  # of the guest's network, and nobody's
MORE = b"\x17\x03\x03\x00\x20" + bytes(32)
SOON_S = 0.1


@dataclass
class Scene:
    """A guest that attacks, servers, and whose programs judge."""

    stage: Stage
    guard: GuestGuard
    tls: Recorder  # by the allowed name
    quick: Recorder  # the same; takes data with a SYN
    udp: Host  # port 5000 alone is allowed, and 5001 is not
    network: RawLink  # the servers' own device

    @property
    def line(self) -> Line:
        """The attacker's end."""
        return Line.of(self.stage.guests[0])

    @contextmanager
    def judged(self, *rules: Rule, guest: Guest | None = None, **changes: Any) -> Iterator[GuestWorkload]:
        """A guest under these rules, of which the agent says this."""
        guest = guest or self.stage.guests[0]
        self.stage.guard = self.guard
        with self.stage.judged(*rules, guest=guest) as workload:
            if changes:
                self.guard.guests.put(guest.index, replace(guest.place(), **changes))
            yield workload

    @contextmanager
    def client(self, server: Recorder | None = None, **how: Any) -> Iterator[RawClient]:
        """One that may say the allowed name to both servers."""
        with self.judged(named(self.tls, self.quick)):
            yield self.stage.raw(server or self.tls, **how)

    def datagram(self, source: str = "", port: int = OPEN, **fields: Any) -> Packet:
        """One to the server."""
        source = source or self.line.address(4)
        return udp_datagram(source, self.udp.address4, 4000, port, b"secret", **fields)

    def counted(self, *frames: bytes, rules: tuple[Rule, ...] = (), **changes: Any) -> int:
        """How many datagrams the server has after these frames."""
        own = rule(self.udp.address4, protocol="udp", ports=(OPEN,))
        self.udp.reset()
        with self.judged(*(rules or (own,)), **changes):
            self.line.send(*frames)
            return self.udp.count().datagrams


Way = Callable[[Scene], bool]


# Who sends a frame, and to whom


def from_another_card(scene: Scene) -> bool:
    """A datagram, with another link address."""
    packet = scene.datagram()
    return scene.counted(ether(OTHER_MAC, scene.line.guest.gateway_mac, packet.kind, packet.bytes())) > 0


def from_another_address(scene: Scene) -> bool:
    """A datagram from an address that nobody has."""
    return scene.counted(scene.line.ip(scene.datagram(ALIKE4))) > 0


def from_many_addresses(scene: Scene) -> bool:
    """Where a guest may take one address."""
    frames = [scene.line.ip(scene.datagram(scene.line.address(4, place))) for place in (10, 11, 12)]
    count = scene.counted(*frames, **learning(scene.line.guest))
    assert count
    return count > 1


def from_a_neighbours_address(scene: Scene) -> bool:
    """Of another guest, whose it was first."""
    other = Line.of(scene.stage.guests[1])
    learns = learning(other.guest, learn=learning(scene.line.guest)["learn"])
    own = rule(scene.udp.address4, protocol="udp", ports=(OPEN,))
    with scene.judged(own, guest=other.guest, **learns), scene.judged(own):
        scene.udp.reset()
        other.send(other.ip(scene.datagram(scene.line.address(4))))
        return scene.udp.count().datagrams > 0


def to_a_neighbour(scene: Scene) -> bool:
    """Past the host, to another machine of the same link, whose address the policy allows."""
    line, theirs = scene.line, scene.stage.guests[2].namespace
    allowed = rule(ALIKE4, protocol="udp", ports=(OPEN,))
    scene.stage.network.router.command(
        *f"ip link add link {line.guest.tap} name neighbour address {OTHER_MAC.hex(':')}".split(),
        *f"netns {theirs.path} type macvlan mode private".split(),
    )
    try:
        ip_batch(theirs, f"addr add {ALIKE4}/32 dev neighbour\nlink set neighbour up\n")
        packet = udp_datagram(line.address(4), ALIKE4, 4000, OPEN, b"secret")
        with theirs.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock, scene.judged(allowed):
            sock.bind((ALIKE4, OPEN))
            sock.settimeout(SOON_S)
            line.send(ether(line.guest.mac, OTHER_MAC, packet.kind, packet.bytes()))
            return sock.recv(100) == b"secret"
    except TimeoutError:
        return False
    finally:
        theirs.command("ip", "link", "del", "neighbour")


def as_another_by_arp(scene: Scene) -> bool:
    """Looks for the gateway in the name of an address that nobody has: the host answers, and remembers it."""
    line = scene.line

    def is_answer(frame: bytes) -> bool:
        return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02"

    with scene.judged(rule(scene.udp.address4, ports=(7,))):
        line.send(line.arp(Arp(line.guest.mac, ALIKE4, line.guest.address4(1))))
        return bool(line.arrivals(is_answer, SOON_S))


def as_another_among_neighbours(scene: Scene) -> bool:
    """The same by IPv6."""
    line, gateway = scene.line, scene.line.guest.address6(1)
    asks = neighbour_message(ALIKE6, solicited(gateway), ASKED, gateway, link_option(1, line.guest.mac))
    with scene.judged(rule(scene.udp.address4, ports=(7,))):
        line.send(line.ip(asks))
        return any(body_of(frame)[0] == TOLD for frame in line.arrivals(is_a(ICMP6), SOON_S))


def asks_for_an_address(scene: Scene) -> bool:
    """Of a DHCP server, though its own was said."""
    line = scene.line
    with dhcp_server(scene.stage, line.guest) as offers, scene.judged(rule(scene.udp.address4, ports=(7,))):
        line.send(line.ip(dhcp_message(DISCOVER, line.guest.mac)))
        return received(offers) != []


def asks_by_icmp(scene: Scene) -> bool:
    """For a server's time, where it may ping."""
    line = scene.line
    with scene.judged(rule(scene.udp.address4, protocol="icmp")):
        line.link.send(icmp_frame(line.guest, scene.udp.address4, STAMP_ASKED))
        return any(body_of(frame)[0] == STAMP_TOLD for frame in line.arrivals(is_a(ICMP), SOON_S))


def behind_options(scene: Scene) -> bool:
    """Where the allowed port would stand are options, which end at once; the real one stands behind them."""
    return scene.counted(scene.line.ip(scene.datagram(port=CLOSED), options=b"\x00\x01\x13\x88" + bytes(4))) > 0


def in_fragments(scene: Scene) -> bool:
    """The first has a begin of a hello, and a sum that is right for it alone too; the second looks like a SYN.

    That is to a port where nothing is read, and all of it stands in the hello's random bytes.
    """
    with scene.judged(named(scene.tls), rule(scene.tls.address, ports=(7,))):
        client = scene.stage.raw(scene.tls, has_stamps=False)
        assert client.connect()
        cut = 12  # with the segment's header, so much as a fragment's place can say
        looks = struct.pack("!HHIIBBHHH", 4000, 7, 1, 0, 5 << 4, SYN, 0xFFFF, 0, 0)
        hello = EVIL_HELLO[:cut] + looks + EVIL_HELLO[cut + len(looks) :]
        longer = struct.pack("!H", len(hello) - cut)
        hello = hello[:cut] + tuned(longer + hello[cut:], 2 + len(looks) + 4, bytes(2))[2:]
        whole = client.frame(Segment(hello))[VNET.size + 14 + 20 :]
        first = Packet(client.source, client.destination, TCP, whole[: 20 + cut], bits=0x2000)
        scene.line.send(scene.line.ip(first), scene.line.ip(first, payload=whole[20 + cut :], bits=(20 + cut) // 8))
        return reads_evil(scene.tls, client)


def written_by_the_card(scene: Scene) -> bool:
    """Two bytes of the name."""
    with scene.client() as client:
        return has_name(played_card(client, scene.tls, 0), OTHER.decode())


# Which segments a server takes for what was read


def tricked(play: Play | str, fake: bytes = GOOD_HELLO, real: bytes = EVIL_HELLO, **how: Any) -> Way:
    """A trick after which the server has read the denied name."""

    def way(scene: Scene) -> bool:
        with scene.client(**how) as client:
            (TRICKS[play].play if isinstance(play, str) else play)(client, fake, real)
            client.push(real, tries=2)
            return reads_evil(scene.tls, client)

    return way


def without_acknowledgement(client: RawClient, fake: bytes, real: bytes) -> None:
    """The number is there, but not the flag; a server drops it."""
    client.connect()
    client.send(Segment(fake, flags=PSH, ack=client.expected), Segment(real))


def another_copy(scene: Scene) -> bool:
    """The allowed hello was lost behind the host."""
    with scene.client() as client:
        assert client.connect()
        with losing(scene.stage, client):
            client.send(Segment(GOOD_HELLO))
        client.send(Segment(EVIL_HELLO))
        client.push(EVIL_HELLO, tries=2)
        return reads_evil(scene.tls, client)


def behind_the_hello(scene: Scene) -> bool:
    """Another hello, in a segment of its own."""
    with scene.client() as client:
        assert client.connect()
        assert client.push(GOOD_HELLO)
        client.push(GOOD_HELLO + EVIL_HELLO, tries=2)
        return reads_evil(scene.tls, client)


def acknowledged_too_little(scene: Scene) -> bool:
    """All was lost, and the server says something: it acknowledges nothing by that."""
    with scene.client() as client:
        assert client.connect()
        heard = scene.tls.of(client)
        assert heard
        with losing(scene.stage, client):
            client.send(Segment(GOOD_HELLO), Segment(MORE, at=len(GOOD_HELLO)))
            scene.tls.say(heard, b"welcome")
            assert client.link.wait(lambda: client.got == b"welcome")
        client.send(Segment(EVIL_HELLO))
        client.push(EVIL_HELLO, tries=2)
        return reads_evil(scene.tls, client)


# When a connection begins and ends


def in_the_syn(scene: Scene) -> bool:
    """The server takes data with a SYN, from whom it likes."""
    with scene.client(scene.quick) as client:
        client.connect(data=EVIL_HELLO, patience_s=SOON_S)
        return reads_evil(scene.quick, client)


def in_the_syn_again(scene: Scene) -> bool:
    """The first one was lost, and had none."""
    with scene.client(scene.quick) as client:
        with hosts_drop(scene.stage, f"tcp sport {client.source_port}"):
            client.connect(patience_s=0.02)
        client.connect(data=EVIL_HELLO, patience_s=SOON_S)
        return reads_evil(scene.quick, client)


def before_the_answer(scene: Scene) -> bool:
    """What the server reads had begun before, and the guest's numbers have gone round since."""
    with scene.judged(named(scene.tls)):
        return reads_evil(scene.tls, begun_again(scene.stage, scene.tls, scene.stage.guests[0], 2, lambda: None))


def by_a_late_answer(scene: Scene) -> bool:
    """The same, and the server's first answer comes once more."""
    with scene.client(has_stamps=False) as client:
        assert client.connect()
        client.send(Segment(EVIL_HELLO[:BEHIND_THE_NAME]))
        scene.tls.look()
        for isn in (client.isn + MOD // 2, client.isn):
            client.link.send(syn(client, isn))
        own = scene.network
        back = Ends(own.mac, own.gateway_mac, client.destination, client.source, client.port, client.source_port)
        own.send(tcp_frame(back, client.peer_isn, client.isn + 1, MSS, Segment(flags=SYN | ACK)))
        client.link.wait(lambda: sum(bool(one.flags & SYN) for one in client.arrived) > 1, SOON_S)
        client.link.send(segment(client, GOOD_HELLO))
        client.link.read()
        return reads_evil(scene.tls, client)


def after_the_end(stream: bytes) -> Way:
    """A SYN cookie is shown a second time."""

    def way(scene: Scene) -> bool:
        hosts = scene.stage.network.hosts
        hosts.sysctl("net.ipv4.tcp_syncookies", 2)
        try:
            with scene.judged(named(scene.tls)):
                client = replayed(scene.stage, scene.tls, scene.stage.guests[0], stream, ended_by_the_guest)
                return reads_evil(scene.tls, client)
        finally:
            hosts.sysctl("net.ipv4.tcp_syncookies", 1)

    return way


def under_an_earlier_policy(scene: Scene) -> bool:
    """The connection was allowed by it, and by this one it is not."""
    with scene.judged(named(scene.tls)) as workload:
        client = scene.stage.raw(scene.tls)
        assert client.connect()
        assert client.push(GOOD_HELLO + MORE)
        workload.switch(rule("203.0.113.99", ports=(1,)))
        return client.push(GOOD_HELLO + MORE + MORE, tries=2)


def with_too_many(scene: Scene) -> bool:
    """Connections at once, one more than there is room for; none is idle yet, so that none makes room."""
    scene.stage.guard = scene.guard
    guest = scene.stage.guests[0]
    program = scene.guard.instance.program("on_guest_out")
    with scene.judged(named(scene.tls)) as workload:
        flooder = scene.stage.raw(scene.tls, place=16)
        flooder.link.clients.pop((flooder.source, flooder.source_port))
        frames = [frame[VNET.size :] for frame in syn_frames(flooder, GUEST_FLOWS + 100)]
        scene.stage.network.router.call(lambda: run_frames(program, guest.index, frames))
        count = count_flows(workload)
        assert count > GUEST_FLOWS / 2
        return count > GUEST_FLOWS


# The gate, and what was resolved


def past_the_gate(scene: Scene) -> bool:
    """A question to a real server, where rules open everything."""
    everything = replace(rule(scene.udp.address4, protocol="udp"), ports=(ALL_PORTS,))
    return scene.counted(scene.line.ip(scene.datagram(port=53)), rules=(everything,)) > 0


def to_anothers_gate(scene: Scene) -> bool:
    """At the port where it listens."""
    scene.stage.guard = scene.guard
    line = scene.line
    with gated(scene.stage) as own, gated(scene.stage, scene.stage.guests[1]) as others:
        to = others.listeners.udp[0].getsockname()[0]
        own.workload.switch(replace(rule(to, protocol="udp"), ports=(ALL_PORTS,)))
        line.send(line.ip(udp_datagram(line.address(4), to, 4000, others.listeners.port, b"who is")))
        assert own.asked(4) == []
        return others.asked(4) != []


def to_whoever_has_its_port(scene: Scene) -> bool:
    """Somebody listens where the gate did."""
    scene.stage.guard = scene.guard
    with gated(scene.stage, priority=0) as somebody:
        scene.line.send(question(scene.line, 4))
        return somebody.asked(4) != []


def to_an_address_of_no_name(scene: Scene) -> bool:
    """By the allowed name, which was never resolved."""
    with scene.judged(rule(hosts=(GOOD,), protocol="tls")):
        client = scene.stage.raw(scene.tls)
        return client.connect() and client.push(GOOD_HELLO, tries=2)


def by_a_name_that_is_elsewhere(scene: Scene) -> bool:
    """Both names are allowed; the address is that of one of them."""
    rules = (rule(hosts=(GOOD, EVIL), protocol="tls"),)
    with scene.judged(*rules) as workload:
        grant(workload, Policy("test", rules), (GOOD, scene.tls.address), (EVIL, "203.0.113.99"))
        client = scene.stage.raw(scene.tls)
        assert client.connect()
        client.push(EVIL_HELLO, tries=2)
        return reads_evil(scene.tls, client)


# What must be missing for it: two where either of two layers would stop it.
WAYS: dict[str, tuple[tuple[str, ...], Way]] = {
    "from another card": (("source mac",), from_another_card),
    "from another address": (("source address",), from_another_address),
    "from many addresses": (("learnt once",), from_many_addresses),
    "from a neighbour's address": (("another's",), from_a_neighbours_address),
    "to a neighbour": (("gateway's mac",), to_a_neighbour),
    "as another by ARP": (("arp",), as_another_by_arp),
    "as another among neighbours": (("neighbours",), as_another_among_neighbours),
    "asks for an address": (("dhcp",), asks_for_an_address),
    "asks by ICMP": (("icmp",), asks_by_icmp),
    "behind options": (("ip options",), behind_options),
    "in fragments": (("fragments",), in_fragments),
    "written by the card": (("card",), written_by_the_card),
    "another copy": (("copies",), another_copy),
    "a bad checksum": (("checksum", "copies"), tricked("a bad TCP checksum")),
    "dies on the way": (("hops", "copies"), tricked("dies on the way")),
    "an old timestamp": (("timestamp", "copies"), tricked("an old timestamp")),
    "acknowledges too much": (("acknowledgement", "copies"), tricked("an ACK of what was never sent")),
    "acknowledges nothing": (("no acknowledgement", "copies"), tricked(without_acknowledgement)),
    "a signature": (("tcp options", "copies"), tricked(fake_first(options=MD5), has_stamps=False)),
    "longer than its packet": (("length", "copies"), tricked("longer than its packet", offload=Offload.CHECKSUM)),
    "ahead": (("order",), tricked("the name's place twice before it is due", EVIL_HELLO, GOOD_HELLO)),
    "behind the hello": (("behind the hello",), behind_the_hello),
    "acknowledged too little": (("acknowledged",), acknowledged_too_little),
    "in the SYN": (("syn data",), in_the_syn),
    "in the SYN again": (("syn again",), in_the_syn_again),
    "before the answer": (("answered",), before_the_answer),
    "by a late answer": (("late answer",), by_a_late_answer),
    "after the end, watched": (("ended",), after_the_end(GOOD_HELLO)),
    "after the end, settled": (("ended",), after_the_end(GOOD_HELLO + MORE)),
    "under an earlier policy": (("generation",), under_an_earlier_policy),
    "with too many": (("flows",), with_too_many),
    "past the gate": (("question",), past_the_gate),
    "to another's gate": (("gates",), to_anothers_gate),
    "to whoever has its port": (("gate's port",), to_whoever_has_its_port),
    "to an address of no name": (("ungranted",), to_an_address_of_no_name),
    "by a name that is elsewhere": (("elsewhere",), by_a_name_that_is_elsewhere),
}
