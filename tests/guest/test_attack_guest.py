"""A guest that wrote its own TCP: what it can do with connections that end, begin again and are answered late.

Each attack is played first where nobody judges, so that it is known to work on a Linux server.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from bed.sniffer import Sniffer
from e2e.guard import rule
from exeat.model.verdicts import Verdict
from guest.packets import ACK, FIN, MOD, PSH, RST, SYN, VNET, Ends, RawClient, RawLink, Segment, checksum, tcp_frame
from guest.stage import WAYS_MAC, WIRE_MAC, Guest, GuestWorkload, Recorder, Stage
from guest.test_desync import ALLOWED, has_name, named
from guest.tricks import EVIL, EVIL_HELLO, GOOD, GOOD_HELLO, NAME
from hellos.build import Ext, Hello

MORE = b"\x17\x03\x03\x00\x20" + bytes(32)
MSS = struct.pack("!BBH", 2, 4, 1460)
SO_SNDBUFFORCE = 32
BEHIND_THE_NAME = NAME + len(GOOD)


@pytest.fixture(scope="module")
def _judged(judging: Stage, server4: Recorder) -> Iterator[GuestWorkload]:
    with judging.judged(named(server4), rule(server4.address, protocol="icmp")) as workload:
        yield workload


@pytest.fixture
def judged(_judged: GuestWorkload, server4: Recorder) -> GuestWorkload:
    """Guest 0, which may say one name to the server, and ping it; nothing was told of it yet."""
    server4.forget()
    _judged.told()
    return _judged


@pytest.fixture
def cookies(stage: Stage) -> Iterator[None]:
    """The server remembers nobody before the handshake's end, as under a flood, or behind many a load balancer."""
    stage.network.hosts.sysctl("net.ipv4.tcp_syncookies", 2)
    yield
    stage.network.hosts.sysctl("net.ipv4.tcp_syncookies", 1)


def all_read(server: Recorder, client: RawClient) -> list[bytes]:
    """What was read on each connection from a client's port."""
    return [heard.data for heard in server.look() if (heard.peer, heard.port) == (client.source, client.source_port)]


def reads_evil(server: Recorder, client: RawClient) -> bool:
    """Whether the server has a whole hello with the denied name."""
    return any(has_name(data, EVIL) for data in all_read(server, client))


def syn(client: RawClient, isn: int, flags: int = SYN) -> bytes:
    """A first segment without timestamps."""
    return tcp_frame(client.ends, isn, 0, MSS, Segment(flags=flags))


def segment(client: RawClient, data: bytes, flags: int = ACK | PSH) -> bytes:
    """As the first one after the handshake, whatever has come since."""
    return tcp_frame(client.ends, client.isn + 1, client.peer_isn + 1, b"", Segment(data, flags=flags))


def ended_behind_a_segment_far_ahead(client: RawClient, server: Recorder) -> None:
    """By both, after a segment that the server ignores: what was sent is never all acknowledged."""
    client.send(Segment(MORE, at=client.acked + (8 << 20)))
    client.send(Segment(flags=FIN | ACK, at=client.acked + (9 << 20)))
    ended_by_both(client, server)


def ended_by_the_guest(client: RawClient, server: Recorder) -> None:
    """By a reset."""
    client.send(Segment(flags=RST | ACK, at=client.acked))


def ended_by_the_server(client: RawClient, server: Recorder) -> None:
    """By a reset."""
    server.forget()
    client.link.wait(lambda: client.is_reset)


def ended_by_both(client: RawClient, server: Recorder) -> None:
    """As it should be."""
    assert client.finish(client.acked, server.look)


ENDS = pytest.mark.parametrize(
    "end", [ended_by_the_guest, ended_by_the_server, ended_by_both, ended_behind_a_segment_far_ahead]
)


def replayed(stage: Stage, server: Recorder, guest: Guest, stream: bytes, end: Callable[..., None]) -> RawClient:
    """An allowed connection that has ended, and then its handshake's last segment again, with the denied hello."""
    client = stage.raw(server, guest, has_stamps=False)
    assert client.connect()
    assert client.push(stream)
    server.look()
    end(client, server)
    client.link.read()
    client.link.send(segment(client, EVIL_HELLO))
    client.link.read()
    return client


@ENDS
@pytest.mark.parametrize("stream", [GOOD_HELLO, GOOD_HELLO + MORE], ids=["watched", "settled"])
def test_a_cookie_opens_no_second_connection(
    stage: Stage, judged: GuestWorkload, server4: Recorder, cookies: None, stream: bytes, end: Callable[..., None]
) -> None:
    """A SYN cookie is good for minutes and as often as it is shown: no SYN is needed for another hello."""
    assert reads_evil(server4, replayed(stage, server4, stage.guests[1], stream, end))
    server4.forget()
    client = replayed(stage, server4, stage.guests[0], stream, end)
    assert not reads_evil(server4, client)
    judged.told()
    client = stage.raw(server4, has_stamps=False)
    assert client.connect()
    assert client.push(stream)
    assert all_read(server4, client) == [stream]
    assert judged.reasons() == [ALLOWED]


def reset_far_behind(stage: Stage, server: Recorder, guest: Guest) -> RawClient:
    """A server with much in flight resets by the number of what was acknowledged last; then comes the old cookie."""
    client = stage.raw(server, guest)
    assert client.connect(extra=b"\x03\x03\x0e\x01")  # a window as large as can be
    assert client.push(GOOD_HELLO + MORE)
    (heard,) = [one for one in server.look() if one.port == client.source_port]
    assert heard.sock
    heard.sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 32 << 20)
    acknowledged, data, answered = client.expected, bytes(4 << 20), client.peer_isn
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            heard.sock.send(data)
        # For a moment nothing is acknowledged: all that the server may have under way comes, more each time.
        if client.link.wait(lambda since=acknowledged: (client.expected - since) % MOD > 2 << 20, 0.01):  # type: ignore[misc]
            break
        acknowledged = client.expected
        client.acknowledge()
        client.peer_isn, client.got = (client.expected - 1) % MOD, b""  # it is much, and grows slowly by being copied
    server._selector.unregister(heard.sock)  # closed by its program, while much is still to be sent
    heard.sock.close()
    heard.sock = None
    client.link.read()
    behind = (client.expected - acknowledged) % MOD
    assert behind > 1 << 20
    client.send(Segment(MORE, at=client.acked, ack=-behind))
    assert client.link.wait(lambda: bool(client.resets))
    client.peer_isn = answered
    client.link.send(segment(client, EVIL_HELLO))
    client.link.read()
    return client


def test_a_reset_far_behind_is_one_too(stage: Stage, judged: GuestWorkload, server4: Recorder, cookies: None) -> None:
    """The server's socket is gone, whatever number it says so by."""
    assert reads_evil(server4, reset_far_behind(stage, server4, stage.guests[1]))
    server4.forget()
    assert not reads_evil(server4, reset_far_behind(stage, server4, stage.guests[0]))


@pytest.fixture(scope="module")
def network(stage: Stage) -> Iterator[RawLink]:
    """Where a segment of the server that was late comes from."""
    link = RawLink(
        stage.network.hosts, "wire", bytes.fromhex(WIRE_MAC.replace(":", "")), bytes.fromhex(WAYS_MAC.replace(":", ""))
    )
    yield link
    link.close()


def answered_late(
    stage: Stage, server: Recorder, guest: Guest, network: RawLink, between: int, hello: bytes
) -> RawClient:
    """The server has sent its SYN-ACK again just before a begin of the denied hello came; it arrives after another SYN.

    `between`: how far away the number of yet another SYN is, before that of the first one again.
    """
    client = stage.raw(server, guest, has_stamps=False)
    client.link.send(syn(client, client.isn))
    assert client.link.wait(lambda: client.peer_isn >= 0)
    client.link.send(segment(client, EVIL_HELLO[:BEHIND_THE_NAME]))
    server.look()
    if between:
        client.link.send(syn(client, client.isn + between))
    client.link.send(syn(client, client.isn))
    back = Ends(network.mac, network.gateway_mac, client.destination, client.source, client.port, client.source_port)
    network.send(tcp_frame(back, client.peer_isn, client.isn + 1, MSS, Segment(flags=SYN | ACK)))
    client.link.wait(lambda: sum(bool(one.flags & SYN) for one in client.arrived) > 1)
    client.link.send(segment(client, hello))
    client.link.read()
    server.look()
    return client


@pytest.mark.parametrize("between", [0, 100_000, -100_000])
def test_a_late_answer_to_the_first_syn_is_none_to_the_next(
    stage: Stage, judged: GuestWorkload, server4: Recorder, network: RawLink, between: int
) -> None:
    """What had passed before the guest began anew is still before the server."""
    assert reads_evil(server4, answered_late(stage, server4, stage.guests[1], network, between, GOOD_HELLO))
    client = answered_late(stage, server4, stage.guests[0], network, between, GOOD_HELLO)
    assert not reads_evil(server4, client)
    client = stage.raw(server4)
    assert client.connect()
    assert client.push(GOOD_HELLO)
    assert all_read(server4, client) == [GOOD_HELLO]


def begun_again(stage: Stage, server: Recorder, guest: Guest, steps: int, change: Callable[[], object]) -> RawClient:
    """The begin of the denied hello has passed; after some SYNs the first one comes again, and the allowed hello."""
    client = stage.raw(server, guest, has_stamps=False)
    assert client.connect()
    client.send(Segment(EVIL_HELLO[:BEHIND_THE_NAME]))
    server.look()
    change()
    for step in range(1, steps):
        client.link.send(syn(client, client.isn + step * (1 << 32) // steps))
    client.link.send(syn(client, client.isn))
    client.link.read()
    client.link.send(segment(client, GOOD_HELLO))
    client.link.read()
    server.look()
    return client


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8])
def test_numbers_that_have_gone_round_are_not_those_of_before(
    stage: Stage, judged: GuestWorkload, server4: Recorder, steps: int
) -> None:
    """Each SYN is behind the last; the last is the first again, to which the server's answer is known."""
    assert reads_evil(server4, begun_again(stage, server4, stage.guests[1], steps, lambda: None))
    client = begun_again(stage, server4, stage.guests[0], steps, lambda: None)
    assert not reads_evil(server4, client)


@pytest.mark.parametrize("steps", [1, 4])
def test_what_was_open_begins_nothing_under_a_policy_of_names(
    stage: Stage, judged: GuestWorkload, server4: Recorder, steps: int
) -> None:
    """What had passed freely is still before the server."""
    names = (named(server4), rule(server4.address, protocol="icmp"))
    judged.switch(rule(server4.address, ports=(443,)))
    try:
        client = begun_again(stage, server4, stage.guests[0], steps, lambda: judged.switch(*names))
    finally:
        judged.switch(*names)
    assert all_read(server4, client) == [EVIL_HELLO[:BEHIND_THE_NAME]]
    client = stage.raw(server4)
    assert client.connect()
    assert client.push(GOOD_HELLO)


def test_a_syn_that_was_sent_again_is_answered_again(stage: Stage, judged: GuestWorkload, server4: Recorder) -> None:
    """The SYN-ACK was lost between host and guest: the guest sends the same SYN, and the connection comes about."""
    client = stage.raw(server4, has_stamps=False)
    for _ in range(2):
        client.link.send(syn(client, client.isn))
        assert client.link.wait(lambda: client.peer_isn >= 0)
    assert client.push(GOOD_HELLO)
    assert all_read(server4, client) == [GOOD_HELLO]
    assert judged.reasons() == [ALLOWED]


@pytest.mark.parametrize("option", [b"\xfd\x04ab", b"\x22\x02", b"\x1e\x0c\x01\x81" + bytes(8)])
def test_a_syn_that_was_sent_again_has_no_other_options(
    stage: Stage, judged: GuestWorkload, server4: Recorder, option: bytes
) -> None:
    """The first one may never have arrived: Fast Open, MPTCP and their like would come by the second."""
    client = stage.raw(server4, has_stamps=False)
    with stage.sniff() as wire:
        client.link.send(tcp_frame(client.ends, client.isn, 0, MSS, Segment(flags=SYN, ttl=1)))
        client.link.send(tcp_frame(client.ends, client.isn, 0, MSS + option, Segment(flags=SYN)))
        client.link.read()
        client.link.send(syn(client, client.isn))
        assert client.link.wait(lambda: client.peer_isn >= 0)
        assert not wire.saw(MSS + option)
    assert client.push(GOOD_HELLO)


def test_behind_its_own_end_a_guest_says_nothing(stage: Stage, judged: GuestWorkload, server4: Recorder) -> None:
    """A server that goes on reading has the FIN in place of the first byte: all that follows would be one ahead."""
    for has_fin, arrives in ((False, len(GOOD_HELLO)), (True, NAME)):
        client = stage.raw(server4)
        assert client.connect()
        with stage.sniff() as wire:
            client.send(Segment(GOOD_HELLO[:NAME]))
            if has_fin:
                client.send(Segment(flags=FIN | ACK, at=NAME))
            client.send(Segment(GOOD_HELLO[NAME:], at=NAME), Segment(GOOD_HELLO[NAME:], at=NAME + 1))
            assert wire.toward(server4.address, "tcp", 443).payload == arrives


def fill(wire: Sniffer, server: Recorder) -> int:
    """TCP segments that have reached the server's wire."""
    return int(wire.toward(server.address, "tcp", 443).frames)


def test_a_revoked_server_hears_one_reset_and_nothing_else(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """A reset has room for fifty bytes that the guest may choose, and nobody counts them."""
    client = stage.raw(server4)
    assert client.connect()
    assert client.push(GOOD_HELLO + MORE)
    try:
        with stage.sniff() as wire:
            client.send(Segment(MORE, at=client.acked))
            assert fill(wire, server4) == 1
            judged.switch(rule("203.0.113.251", ports=(443,)))
            client.send(Segment(MORE, at=client.acked))
            cut = fill(wire, server4)
            assert cut <= 2
            for secret in range(20):
                client.send(Segment(flags=RST, at=secret, window=secret, options=b"\xfd\x12" + bytes(16)))
                client.send(Segment(flags=RST | ACK, at=client.acked, ack=secret))
                where = {"at": client.acked + secret, "options": b""}
                client.send(Segment(MORE, **where), Segment(flags=RST | ACK, window=secret, urgent=secret, **where))
            assert fill(wire, server4) <= 2
    finally:
        judged.switch(named(server4), rule(server4.address, protocol="icmp"))


def icmp_frame(guest: Guest, address: str, kind: int, code: int = 0) -> bytes:
    """An ICMP message of IPv4."""
    body = struct.pack("!BBHI", kind, code, 0, 0xCB00710A) + bytes(28)
    body = body[:2] + struct.pack("!H", checksum(body) ^ 0xFFFF) + body[4:]
    ends = bytes(int(one) for one in f"{guest.address4(10)}.{address}".split("."))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0x4000, 64, 1, 0) + ends
    ip = ip[:10] + struct.pack("!H", checksum(ip) ^ 0xFFFF) + ip[12:]
    return VNET.pack(0, 0, 0, 0, 0, 0) + guest.gateway_mac + guest.mac + b"\x08\x00" + ip + body


def test_who_may_ping_may_not_redirect(stage: Stage, judged: GuestWorkload, server4: Recorder) -> None:
    """Each message is looked at, also of those that had one allowed already."""
    guest = stage.guests[0]
    assert guest.link
    with stage.sniff() as wire:
        for allowed in (8, 0, 8):
            guest.link.send(icmp_frame(guest, server4.address, allowed))
        assert wire.toward(server4.address, "icmp").frames == 3
        for denied in (5, 9, 10, 13, 15, 17):
            guest.link.send(icmp_frame(guest, server4.address, denied))
        assert wire.toward(server4.address, "icmp").frames == 3
    assert {verdict for verdict, _ in judged.reasons()} == {Verdict.FORWARDED, Verdict.DROPPED}


@pytest.mark.parametrize("flags", [SYN | FIN, SYN | FIN | PSH])
def test_a_syn_that_ends_at_once_begins_nothing(
    stage: Stage, judged: GuestWorkload, server4: Recorder, flags: int
) -> None:
    """Linux drops it; other servers begin a connection, whose hello nobody would read."""
    client = stage.raw(server4)
    assert client.connect()
    assert client.push(GOOD_HELLO + MORE)
    with stage.sniff() as wire:
        client.send(Segment(flags=flags, at=100_000))
        assert fill(wire, server4) == 0
        client.send(Segment(MORE, at=client.acked))
        assert fill(wire, server4) == 1


def wrapped(seed: int) -> tuple[bytes, bytes]:
    """A denied hello whose padding is a whole allowed one; the part before that, and the allowed one."""
    inner = Hello(GOOD, session_id=bytes([seed % 256]) * 32).stream()
    whole = Hello(EVIL, after=((Ext.PADDING, inner),)).stream()
    assert whole.endswith(inner)
    assert has_name(whole, EVIL)
    return whole[: -len(inner)], inner


def test_a_hello_inside_of_another_is_not_the_one_that_is_read(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """Whoever forgets the begin reads the other name: the attacks on a race stand on this."""
    begin, rest = wrapped(0)
    client = stage.raw(server4)
    assert client.connect()
    client.send(Segment(begin), Segment(rest, at=len(begin)))
    assert client.wait_reset()
    assert all_read(server4, client) == [begin]
