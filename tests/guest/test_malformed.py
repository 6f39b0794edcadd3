"""Headers that say something odd: dropped with a reason, or handed on as they are where they may be so."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from bed import Host, Sniffer, Tcp, Udp
from e2e.guard import rule
from exeat.model.policy import Mode
from exeat.model.verdicts import Reason, Verdict
from fuzz.guest_oracle import COMPLAINTS, PASSED, Oracle, frames, right_ones, wrong_verdicts
from guest.link_frames import (
    ICMP,
    ICMP6,
    TCP,
    UDP,
    Line,
    Packet,
    body_of,
    icmp_message,
    left_to_the_device,
    run_frames,
    told_soon,
    transport_sum,
    udp_datagram,
)
from guest.packets import ACK, FIN, GSO_NONE, NEEDS_CSUM, PSH, RST, SYN, VNET
from guest.stage import GuestWorkload, Stage

SECRET = b"what nobody may hear"
PORT, STREAM = 5000, 7
Build = Callable[["Ends"], Packet]


@dataclass(frozen=True, slots=True)
class Ends:
    """A guest's address and a server's."""

    source: str
    to: str
    port: int  # of the guest; fresh for each case

    def udp(self, data: bytes = SECRET, **fields: Any) -> Packet:
        """A datagram that is allowed, but for these fields."""
        return udp_datagram(self.source, self.to, self.port, PORT, data, **fields)

    def ip(self, protocol: int, payload: bytes = SECRET, **fields: Any) -> Packet:
        """Any packet to the server."""
        return Packet(self.source, self.to, protocol, payload, **fields)

    def tcp(self, words: int = 5, flags: int = SYN, body: bytes = b"", **fields: Any) -> Packet:
        """A segment to the server."""
        head = struct.pack("!HHIIBBHHH", self.port, STREAM, 1, 0, words << 4, flags, 0xFFFF, 0, 0)
        return Packet(self.source, self.to, TCP, transport_sum(self.source, self.to, TCP, head + body), **fields)

    def icmp(self, kind: int, rest: bytes = bytes(4) + SECRET, **fields: Any) -> Packet:
        """An ICMP message to the server."""
        return icmp_message(self.source, self.to, kind, 0, rest, **fields)


def fields_of(**fields: Any) -> Build:
    """A datagram with other fields."""
    return lambda ends: ends.udp(**fields)


def other(protocol: int, payload: bytes = SECRET) -> Build:
    """A packet of another protocol."""
    return lambda ends: ends.ip(protocol, payload)


def inside(number: int, header: bytes) -> Build:
    """A datagram behind another header, which says in its first byte that one follows."""

    def build(ends: Ends) -> Packet:
        return ends.ip(number, bytes((UDP,)) + header[1:] + ends.udp().payload)

    return build


def routed(kind: int) -> Build:
    """By way of the server, on to somebody else."""
    via = bytes((UDP, 2, kind, 1)) + bytes(4) + bytes.fromhex("20010db8000200000000000000000066")
    return inside(43, via)


def piece(place: int, has_more: bool, size: int) -> Build:
    """A fragment of a datagram, by its place in bytes."""

    def build(ends: Ends) -> Packet:
        data = ends.udp(SECRET * 4).payload[place : place + size]
        if ":" in ends.to:
            return ends.ip(44, struct.pack("!BBHI", UDP, 0, place | has_more, 77) + data)
        return ends.ip(UDP, data, bits=has_more << 13 | place // 8)

    return build


OPTIONS = {
    "that mean nothing": b"\x01\x01\x01\x00",
    "that end at once": bytes(4),
    "record the way": b"\x07\x07\x04" + bytes(4) + b"\x00",
    "a loose way": b"\x83\x07\x04\xcb\x00\x71\x63\x00",
    "a strict way": b"\x89\x07\x04\xcb\x00\x71\x63\x00",
    "timestamps": b"\x44\x08\x05\x00" + bytes(4),
    "router alert": b"\x94\x04\x00\x00",
    "security": b"\x82\x0b" + bytes(10),
    "a stream": b"\x88\x04\x00\x01",
    "longer than the header": b"\x07\x27\x04\x00",
    "forty bytes": b"\x01" * 40,
}
STRANGERS = {2: "igmp", 4: "ipip", 6 + 35: "6in4", 46: "rsvp", 47: "gre", 50: "esp", 89: "ospf", 94: "ipip again",
             97: "etherip", 103: "pim", 112: "vrrp", 115: "l2tp", 132: "sctp", 136: "udp-lite", 137: "mpls",
             143: "ethernet", 253: "an experiment", 255: "raw"}  # fmt: skip
MALFORMED, BAD, PROTOCOL = Reason.MALFORMED_PACKET, Reason.BAD_CHECKSUM, Reason.PACKET_PROTOCOL

BOTH: dict[str, tuple[Build, Reason]] = {
    "version 0": (fields_of(version=0), MALFORMED),
    "version 5": (fields_of(version=5), MALFORMED),
    "version 15": (fields_of(version=15), MALFORMED),
    "longer than it is": (lambda ends: ends.udp(length=2000), MALFORMED),
    "with bytes behind it": (fields_of(data=SECRET * 2, behind=SECRET), MALFORMED),
    "with one byte behind it": (fields_of(data=SECRET * 2, behind=b"!"), MALFORMED),
    "a datagram's header cut off": (lambda ends: ends.ip(UDP, ends.udp().payload[:7]), MALFORMED),
    "a datagram without a header": (lambda ends: ends.ip(UDP, b""), MALFORMED),
    "a segment's header cut off": (lambda ends: ends.ip(TCP, ends.tcp().payload[:19]), MALFORMED),
    "a segment's header that ends inside itself": (lambda ends: ends.tcp(words=4, body=SECRET), MALFORMED),
    "a segment's header of nothing": (lambda ends: ends.tcp(words=0, body=SECRET), MALFORMED),
    "a segment's header beyond the packet": (lambda ends: ends.tcp(words=15, body=SECRET), MALFORMED),
    "a ping's header cut off": (
        lambda ends: replace(ends.icmp(8), payload=b"\x80\0\0" if ":" in ends.to else b"\x08\0\0"),
        MALFORMED,
    ),
    "a first fragment": (piece(0, True, 64), Reason.FRAGMENT),
    "a first fragment of eight bytes": (piece(0, True, 8), Reason.FRAGMENT),
    "a fragment in the middle": (piece(16, True, 16), Reason.FRAGMENT),
    "a fragment over the header": (piece(8, True, 16), Reason.FRAGMENT),
    "a last fragment": (piece(64, False, 24), Reason.FRAGMENT),
    "a fragment that is all of it": (piece(0, True, 88), Reason.FRAGMENT),
    **{f"protocol {name}": (other(number), PROTOCOL) for number, name in STRANGERS.items()},
}
ONLY4: dict[str, tuple[Build, Reason]] = {
    "version 6": (fields_of(version=6), MALFORMED),
    "a header of four words": (fields_of(words=4), MALFORMED),
    "a header of no words": (fields_of(words=0), MALFORMED),
    "a length of 0": (fields_of(length=0), MALFORMED),
    "a length of 19": (fields_of(length=19), MALFORMED),
    "a length of its header": (fields_of(length=20), MALFORMED),
    "a wrong checksum": (fields_of(ip_sum=1), BAD),
    "another wrong checksum": (fields_of(ip_sum=0x100), BAD),
    "ICMP of IPv6": (lambda ends: ends.ip(ICMP6, ends.icmp(8).payload), PROTOCOL),
    "hop by hop": (other(0), PROTOCOL),
    "a fragment's header of IPv6": (other(44), PROTOCOL),
    "authenticated": (other(51), PROTOCOL),
    **{f"options {name}": (fields_of(options=given), Reason.IP_OPTIONS_PRESENT) for name, given in OPTIONS.items()},
    "room for options, and none": (lambda ends: ends.udp(words=6), Reason.IP_OPTIONS_PRESENT),
    "a header of 60 bytes in the datagram": (lambda ends: ends.udp(SECRET * 3, words=15), Reason.IP_OPTIONS_PRESENT),
}
ONLY6: dict[str, tuple[Build, Reason]] = {
    "version 4": (fields_of(version=4), MALFORMED),
    "a length of 0": (fields_of(length=0), MALFORMED),
    "shorter than it is": (fields_of(data=SECRET * 2, length=20), MALFORMED),
    "a jumbo": (
        lambda ends: ends.ip(0, bytes((UDP, 0, 0xC2, 4)) + struct.pack("!I", 66000) + ends.udp().payload, length=0),
        MALFORMED,
    ),
    "hop by hop": (inside(0, bytes((0, 0, 1, 4, 0, 0, 0, 0))), Reason.EXTENSION_HEADER),
    "options for its end": (inside(60, bytes((0, 0, 1, 4, 0, 0, 0, 0))), Reason.EXTENSION_HEADER),
    "options longer than it": (inside(60, bytes((0, 255, 1, 4, 0, 0, 0, 0))), Reason.EXTENSION_HEADER),
    "two extension headers": (
        lambda ends: ends.ip(0, bytes((60, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 1, 4, 0, 0, 0, 0)) + ends.udp().payload),
        Reason.EXTENSION_HEADER,
    ),
    "a way of kind 0": (routed(0), Reason.EXTENSION_HEADER),
    "a way of kind 2": (routed(2), Reason.EXTENSION_HEADER),
    "a way of kind 4": (routed(4), Reason.EXTENSION_HEADER),
    "authenticated": (inside(51, bytes((0, 4)) + bytes(22)), Reason.EXTENSION_HEADER),
    "an extension header cut off": (other(60, b"\x11\x01\x00"), Reason.EXTENSION_HEADER),
    "a fragment that is whole": (inside(44, bytes((0, 0, 0, 0, 0, 0, 0, 9))), Reason.FRAGMENT),
    "nothing follows": (other(59), PROTOCOL),
    "nothing follows, and nothing does": (other(59, b""), PROTOCOL),
    "mobility": (inside(135, bytes(8)), PROTOCOL),
    "host identity": (inside(139, bytes(8)), PROTOCOL),
    "shim6": (inside(140, bytes(8)), PROTOCOL),
    "another experiment": (inside(254, bytes(8)), PROTOCOL),
    "ICMP of IPv4": (lambda ends: ends.ip(ICMP, ends.icmp(8).payload), PROTOCOL),
    "to an address of IPv4": (lambda ends: replace(ends.udp(), destination="::ffff:203.0.113.10"), MALFORMED),
    "from an address of IPv4": (lambda ends: replace(ends.udp(), source="::ffff:198.51.100.10"), MALFORMED),
    "from and to one of IPv4": (
        lambda ends: replace(ends.udp(), source="::ffff:198.51.100.10", destination="::ffff:203.0.113.10"),
        MALFORMED,
    ),
}
LEGAL: dict[str, tuple[int, Build]] = {
    "no hops to spare": (4, fields_of(hops=2)),
    "all hops": (4, fields_of(hops=255)),
    "may be cut": (4, fields_of(bits=0)),
    "the bit that nobody uses": (4, fields_of(bits=0x8000)),
    "no data": (4, fields_of(data=b"")),
    "no data of IPv6": (6, fields_of(data=b"")),
    "as long as the line carries": (4, fields_of(data=bytes(1472))),
    "as long as the line carries of IPv6": (6, fields_of(data=bytes(1452))),
    "a class and a label": (6, fields_of(first_word=0x0FFABCDE)),
    "few hops of IPv6": (6, fields_of(hops=2)),
}


@pytest.fixture(scope="module")
def server(stage: Stage) -> Host:
    """Counts datagrams and connections."""
    return stage.add("malformed.test", Udp(PORT, answers=False), Tcp(STREAM, "record"))


@pytest.fixture(scope="module")
def _judged(judging: Stage, server: Host) -> Iterator[GuestWorkload]:
    own = server.address4, server.address6
    rules = (
        rule(*own, "::/0", "0.0.0.0/0", protocol="udp", ports=(PORT,)),
        rule(*own, ports=(STREAM,)),
        rule(*own, protocol="icmp"),
    )
    with judging.judged(*rules) as workload:
        yield workload


@pytest.fixture
def judged(_judged: GuestWorkload, server: Host) -> GuestWorkload:
    """Guest 0, which may send to port 5000 of everybody; nothing came, nothing was told."""
    _judged.told()
    server.reset()
    return _judged


@pytest.fixture(scope="module")
def _wire(stage: Stage) -> Iterator[Sniffer]:
    with stage.sniff() as wire:
        yield wire


@pytest.fixture
def wire(_wire: Sniffer) -> Sniffer:
    """What leaves the host."""
    _wire.clear()
    return _wire


_PORTS = iter(range(20000, 60000))


def ends_of_both(line: Line, server: Host, version: int) -> Ends:
    """Fresh ones."""
    return Ends(line.address(version), server.address6 if version == 6 else server.address4, next(_PORTS))


@pytest.fixture
def line(stage: Stage) -> Line:
    """Guest 0's."""
    return Line.of(stage.guests[0])


ROWS = [
    pytest.param(version, build, reason, id=f"{name}, IPv{version}")
    for version, table in ((4, BOTH | ONLY4), (6, BOTH | ONLY6))
    for name, (build, reason) in table.items()
]


@pytest.mark.parametrize(("version", "build", "reason"), ROWS)
def test_what_is_odd_is_dropped_with_a_reason(
    judged: GuestWorkload, server: Host, wire: Sniffer, line: Line, version: int, build: Build, reason: Reason
) -> None:
    """Not a byte of it leaves the host, in whatever packet; a plain one of the same ends arrives."""
    ends = ends_of_both(line, server, version)
    line.send(line.ip(build(ends)))
    assert told_soon(judged) == [(Verdict.DROPPED, reason)]
    assert server.count().is_untouched
    assert wire.frames() == []
    line.send(line.ip(ends.udp(b"the twin")))
    assert server.count().datagrams == 1
    assert wire.saw(b"the twin")


@pytest.mark.parametrize(
    "name", ["options that mean nothing", "a first fragment", "hop by hop", "protocol sctp", "authenticated"]
)
@pytest.mark.parametrize("version", [4, 6])
def test_the_same_leaves_the_host_where_nobody_enforces(
    judging: Stage, server: Host, wire: Sniffer, line: Line, version: int, name: str
) -> None:
    """So that it is exeat that stops them, and not the host's kernel."""
    table = BOTH | (ONLY6 if version == 6 else ONLY4)
    build, reason = table.get(name, (fields_of(), None))
    ends = ends_of_both(line, server, version)
    second = judging.guests[1]
    other_line = Line.of(second)
    with judging.judged(rule("203.0.113.9", ports=(9,)), guest=second, mode=Mode.MONITOR) as workload:
        other_line.send(other_line.ip(build(replace(ends, source=other_line.address(version)))))
        if reason:
            assert (Verdict.AUDIT, reason) in told_soon(workload)
        assert len(wire.frames()) == 1


@pytest.mark.parametrize(("version", "build"), LEGAL.values(), ids=list(LEGAL))
def test_what_may_be_so_arrives_unchanged(
    judged: GuestWorkload, server: Host, wire: Sniffer, line: Line, version: int, build: Build
) -> None:
    """But for one hop."""
    sent = line.ip(build(ends_of_both(line, server, version)))
    line.send(sent)
    (came,) = wire.frames()
    hops, summed = (21, slice(21, 22)) if version == 6 else (22, slice(24, 26))
    assert came[hops] == sent[hops] - 1
    expected = bytearray(sent)
    expected[hops] -= 1
    expected[:12], expected[summed] = came[:12], came[summed]
    assert came == bytes(expected)
    assert server.count().datagrams == 1
    assert told_soon(judged) == [(Verdict.FORWARDED, Reason.NETWORK_ALLOWED)]


@pytest.mark.parametrize("version", [4, 6])
def test_what_a_frame_was_filled_up_with_goes(
    judged: GuestWorkload, server: Host, wire: Sniffer, line: Line, version: int
) -> None:
    """A frame of 60 bytes at most is cut where its packet ends; the server reads no more than it says."""
    data = b"a" if version == 4 else b""
    ends = ends_of_both(line, server, version)
    frame = line.ip(ends.udp(data) if version == 4 else ends.ip(TCP, b"", length=0))
    if version == 6:  # the shortest datagram of IPv6 is longer than the shortest frame
        assert len(frame) == 54
        line.send(frame + b"secret")
        assert told_soon(judged) == [(Verdict.DROPPED, MALFORMED)]
        assert wire.frames() == []
        return
    line.send(frame + b"seventeen secrets"[: 60 - len(frame)])
    (came,) = wire.frames()
    assert len(came) == len(frame)
    assert server.datagrams() == [data]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "kind", ["shorter than it is", "longer than it is", "shorter than its header", "no sum at all"]
)
def test_a_datagram_that_lies_about_itself_is_no_more_than_a_lie(
    judged: GuestWorkload, server: Host, wire: Sniffer, line: Line, version: int, kind: str
) -> None:
    """Whatever leaves, no server reads what its header does not cover, and no other port reads anything."""
    ends = ends_of_both(line, server, version)
    right = ends.udp(SECRET * 2).payload
    said = {
        "shorter than it is": 12,
        "longer than it is": 200,
        "shorter than its header": 4,
        "no sum at all": len(right),
    }
    body = right[:4] + struct.pack("!H", said[kind]) + right[6:]
    summed = bytes(2) if kind == "no sum at all" else transport_sum(ends.source, ends.to, UDP, body[: said[kind]])[6:8]
    line.send(line.ip(ends.ip(UDP, body[:6] + summed + body[8:])))
    wire.frames()
    heard = server.datagrams()
    allowed = {"shorter than it is": [SECRET[:4]], "no sum at all": [SECRET * 2] if version == 4 else []}
    assert heard in ([], allowed.get(kind, []))
    line.send(line.ip(ends.udp(b"the twin")))
    assert server.datagrams() == [*heard, b"the twin"]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("start", "at"), [(0, 2), (2, 0), (2, 6), (20, 4), (0, 12), (4, 2)])
def test_the_card_is_told_to_write_a_sum_nowhere_else(
    judged: GuestWorkload, server: Host, wire: Sniffer, line: Line, version: int, start: int, at: int
) -> None:
    """Into a port, into the data: it would change what was judged. Its twin says where the sum is."""
    ends = ends_of_both(line, server, version)
    frame = line.ip(ends.udp(SECRET * 2))
    header = 54 if version == 6 else 34
    line.send(frame, vnet=VNET.pack(NEEDS_CSUM, GSO_NONE, 0, 0, header + start, at))
    assert told_soon(judged) == [(Verdict.DROPPED, BAD)]
    assert wire.frames() == []
    vnet, twin = left_to_the_device(frame)
    line.send(twin, vnet=vnet)
    assert server.datagrams() == [SECRET * 2]
    (came,) = wire.frames()
    assert body_of(came) == body_of(frame)


FLAGS = {
    "SYN and FIN": SYN | FIN, "SYN and RST": SYN | RST, "none": 0, "FIN": FIN, "ACK": ACK,
    "data and FIN": PSH | ACK | FIN,
    "all": 0x3F, "SYN and ACK": SYN | ACK,
}  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS.values(), ids=list(FLAGS))
def test_odd_flags_open_no_connection(
    judged: GuestWorkload, server: Host, wire: Sniffer, line: Line, flags: int
) -> None:
    """Whatever of them leaves; a plain SYN does."""
    ends = ends_of_both(line, server, 4)
    line.send(line.ip(ends.tcp(flags=flags, body=SECRET)))
    wire.frames()
    assert server.count().is_untouched
    twin = line.ip(replace(ends, port=next(_PORTS)).tcp())
    line.send(twin)
    assert line.arrivals(lambda frame: frame[23:24] == b"\x06" and frame[47] == SYN | ACK)


# Random frames


def fuzzed(stage: Stage, server: Host, mode: Mode, count: int) -> tuple[int, list[str]]:
    """How many of so many frames passed, and what an oracle says of those."""
    line = Line.of(stage.guests[1])
    own = server.address4, server.address6
    rules = rule(*own, protocol="udp", ports=(PORT,)), rule(*own, ports=(STREAM,)), rule(*own, protocol="icmp")
    with stage.judged(*rules, guest=line.guest, mode=mode) as workload:
        oracle = Oracle.of(line, server, PORT)
        program, given = workload.guard.instance.program("on_guest_out"), list(frames(oracle, 1, count))
        ran = stage.network.router.call(lambda: run_frames(program, line.guest.index, given))
        workload.told()
    return sum(code == PASSED for code, _ in ran), [": ".join(one) for one in wrong_verdicts(oracle, given, ran)]


def test_every_right_frame_passes(judging: Stage, server: Host) -> None:
    """Those that the random ones are made of."""
    line = Line.of(judging.guests[1])
    own = server.address4, server.address6
    rules = rule(*own, protocol="udp", ports=(PORT,)), rule(*own, ports=(STREAM,)), rule(*own, protocol="icmp")
    with judging.judged(*rules, guest=line.guest) as workload:
        oracle = Oracle.of(line, server, PORT)
        program, given = workload.guard.instance.program("on_guest_out"), right_ones(oracle)
        ran = judging.network.router.call(lambda: run_frames(program, line.guest.index, given))
        assert ran == [(PASSED, frame) for frame in given]
        assert wrong_verdicts(oracle, given, ran) == []


def test_random_frames_pass_only_where_an_oracle_says_so(judging: Stage, server: Host) -> None:
    """Frames that were right once, read by an oracle that shares nothing with the programs."""
    passed, wrong = fuzzed(judging, server, Mode.ENFORCE, 20_000)
    assert wrong == []
    assert 2_000 < passed < 15_000


def test_the_oracle_finds_what_should_not_have_passed(judging: Stage, server: Host) -> None:
    """Where a policy in open mode lets everything through, it complains, of every rule that it knows."""
    _, wrong = fuzzed(judging, server, Mode.OPEN, 20_000)
    assert {one.partition(":")[0] for one in wrong} >= COMPLAINTS
