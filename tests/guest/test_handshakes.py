"""Who begins a connection, and which one a segment belongs to: rows C20 to C25 and A5 of the catalogue."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ctypes import sizeof

import pytest

from bed import Host, OpensslServer, Tls, call_in, curl
from e2e.escapes import hosts_drop
from e2e.guard import rule
from e2e.test_second_hello import FIRST, FLIGHTS, SECOND, shake
from exeat.kernel import libbpf
from exeat.kernel.guest_abi import FlowKey, GuestFlow
from exeat.model.verdicts import Reason, Verdict
from guest.packets import ACK, PSH, RST, SYN, Ends, RawClient, RawLink, Segment, tcp_frame
from guest.stage import WAYS_MAC, WIRE_MAC, GuestWorkload, Recorder, Stage
from guest.test_desync import ALLOWED, has_name, named
from guest.tricks import EVIL, EVIL_HELLO, GOOD_HELLO

PEER = "203.0.113.250"  # nobody's: the raw server
MORE = b"\x17\x03\x03\x00\x20" + bytes(32)


@pytest.fixture(scope="module")
def _judged(judging: Stage, server4: Recorder) -> Iterator[GuestWorkload]:
    with judging.judged(
        named(server4), rule("203.0.113.0/24", hosts=("good.test", FIRST, SECOND), protocol="tls"),
        rule("203.0.113.0/24", ports=(7,)),
    ) as workload:  # fmt: skip
        yield workload


@pytest.fixture
def judged(_judged: GuestWorkload) -> GuestWorkload:
    """Guest 0; nothing was told of it yet."""
    _judged.begin_anew()
    return _judged


def verified(stage: Stage, server: Recorder, **how: object) -> RawClient:
    """A client whose hello has passed."""
    client = stage.raw(server, **how)
    assert client.connect()
    assert client.push(GOOD_HELLO)
    return client


def names_of(read: bytes) -> bool:
    """Whether the denied name was read."""
    return has_name(read, EVIL)


@pytest.mark.parametrize("end", ["closed", "reset", "reset by the server", "left"])
def test_another_connection_of_the_same_ends_is_judged_anew(
    stage: Stage, judged: GuestWorkload, server4: Recorder, end: str
) -> None:
    """An allowed one was there before, and was closed, reset, or just left."""
    for hello in (EVIL_HELLO, GOOD_HELLO):
        client = verified(stage, server4)
        if end == "closed":
            client.finish(len(GOOD_HELLO), server4.look)
        elif end == "reset":
            client.send(Segment(flags=RST | ACK, at=len(GOOD_HELLO)))
        elif end == "reset by the server":
            server4.forget()
            client.link.read()
        assert judged.reasons()[0] == ALLOWED
        last = client.isn + 1 + client.acked
        client.forget()
        client.isn = (last + 100_000) % (1 << 32)  # what TIME_WAIT lets begin anew
        client.clock += 10_000
        if end == "left":
            client.connect()  # the server answers with an ACK of the old one, to which a RST is due
            ack = client.arrived[-1].ack if client.arrived else 0
            client.link.send(tcp_frame(client.ends, ack, 0, b"", Segment(flags=RST)))
        assert client.connect(tries=3)
        client.push(hello)
        heard = server4.of(client)
        assert heard
        if hello == GOOD_HELLO:
            assert heard.data == GOOD_HELLO
            assert judged.reasons() == [ALLOWED]
        else:
            assert not names_of(heard.data)
            assert client.is_reset
            assert (Verdict.DROPPED, Reason.NAME_NOT_ALLOWED) in judged.reasons()


def test_without_a_new_syn_a_closed_connection_says_nothing(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """The sequence numbers of the old one are no entrance for another hello."""
    client = verified(stage, server4)
    client.finish(len(GOOD_HELLO), server4.look)
    client.send(Segment(EVIL_HELLO, at=len(GOOD_HELLO) + 1), Segment(EVIL_HELLO, at=0))
    heard = server4.of(client)
    assert heard
    assert heard.data == GOOD_HELLO


def test_an_earlier_number_begins_nothing_until_the_last_connection_is_long_ago(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """Segments of the last one could be taken for its own. Numbers come round in minutes, so later it must be free."""
    client = verified(stage, server4)
    client.finish(len(GOOD_HELLO), server4.look)
    judged.told()
    first = client.isn
    client.forget()
    client.isn, client.clock = (first - 100_000) % (1 << 32), client.clock + 10_000
    assert not client.connect()
    assert [reason for _, reason in judged.reasons()] == [Reason.NO_FLOW]
    flows = judged.guard.instance.map("flows")
    (key,) = flow_keys(judged, client)
    flow = GuestFlow.from_buffer_copy(libbpf.lookup(flows, key, sizeof(GuestFlow)) or b"")
    flow.used_ns -= 131 * 10**9
    libbpf.update(flows, key, bytes(flow))
    client.forget()
    assert client.connect(tries=3)
    client.push(GOOD_HELLO)
    heard = server4.of(client)
    assert heard
    assert heard.data == GOOD_HELLO


def flow_keys(workload: GuestWorkload, client: RawClient) -> list[bytes]:
    """The entries of a client's connection."""
    flows = workload.guard.instance.map("flows")
    keys = [FlowKey.from_buffer_copy(key) for key in libbpf.keys(flows, len(bytes(FlowKey())))]
    return [bytes(key) for key in keys if bytes(key.guest_port) == client.source_port.to_bytes(2, "big")]


def test_a_connection_that_is_known_no_more_is_reset_at_both_ends(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """It is not picked up in its middle. The twin, whose entry is there, goes on."""
    client = verified(stage, server4)
    assert client.push(GOOD_HELLO + MORE)
    (key,) = flow_keys(judged, client)
    libbpf.delete(judged.guard.instance.map("flows"), key)
    judged.told()
    client.send(Segment(MORE, at=len(GOOD_HELLO + MORE)))
    assert client.wait_reset()
    heard = server4.of(client)
    assert heard
    assert heard.data == GOOD_HELLO + MORE
    assert heard.ended == "ConnectionResetError"
    assert (Verdict.DROPPED, Reason.NO_FLOW) in judged.reasons()


def test_who_acknowledges_in_a_connection_that_is_known_no_more_is_reset(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """So it ends also where the server alone has something to say. The twin first."""
    client = verified(stage, server4)
    heard = server4.of(client)
    assert heard
    server4.say(heard, b"first")
    assert client.link.wait(lambda: client.got == b"first")
    client.acknowledge()
    assert not client.wait_reset(0.02)
    (key,) = flow_keys(judged, client)
    libbpf.delete(judged.guard.instance.map("flows"), key)
    server4.say(heard, b"second")
    client.link.read()
    client.acknowledge()
    assert client.wait_reset()
    server4.look()
    assert heard.ended == "ConnectionResetError"


class Peer:
    """A server of our own that answers as it likes, at an address that no kernel has."""

    def __init__(self, stage: Stage, client: RawClient) -> None:
        hosts = stage.network.hosts
        self.link = RawLink(hosts, "wire", *(bytes.fromhex(mac.replace(":", "")) for mac in (WIRE_MAC, WAYS_MAC)))
        self.client, self.isn = client, 7_000_000
        self.ends = Ends(self.link.mac, self.link.gateway_mac, PEER, client.source, client.port, client.source_port)

    def say(self, flags: int, seq: int, ack: int, data: bytes = b"") -> None:
        """One segment, with an MSS option in a SYN."""
        options = struct.pack("!BBH", 2, 4, 1460) if flags & SYN else b""
        self.link.send(tcp_frame(self.ends, seq, ack, options, Segment(data, flags=flags)))
        self.client.link.read()

    def heard(self) -> bytes:
        """All payload that reached its device."""
        self.link.read()
        frames = [one for one in self.link.others if one[26:30] == bytes(map(int, self.client.source.split(".")))]
        return b"".join(one[14 + 20 + (one[46] >> 4) * 4 : 14 + int.from_bytes(one[16:18], "big")] for one in frames)


@pytest.fixture
def peer(stage: Stage, server4: Recorder) -> Iterator[Peer]:
    """A raw server and its raw client, which has sent nothing yet."""
    client = stage.raw(server4, has_stamps=False)
    client.link.clients.pop((client.source, client.source_port))
    client.destination = PEER
    client.link.clients[client.source, client.source_port] = client
    with hosts_drop(stage, f"ip daddr {PEER}"):
        peer = Peer(stage, client)
        yield peer
        peer.link.close()


def say_hello(client: RawClient, hello: bytes) -> None:
    """In one segment, whatever was acknowledged."""
    client.link.send(client.frame(Segment(hello)))
    client.link.read()


def begin(client: RawClient) -> None:
    """A SYN."""
    client.link.send(tcp_frame(client.ends, client.isn, 0, struct.pack("!BBH", 2, 4, 1460), Segment(flags=SYN)))


@pytest.mark.parametrize("hello", [GOOD_HELLO, EVIL_HELLO], ids=["allowed", "denied"])
@pytest.mark.parametrize("way", ["plain", "split", "split, and a SYN-ACK back", "simultaneous"])
def test_a_handshake_in_another_order_does_not_change_who_says_hello(
    judged: GuestWorkload, peer: Peer, way: str, hello: bytes
) -> None:
    """The server answers a SYN with an ACK and a SYN of its own, or with a SYN alone."""
    client = peer.client
    begin(client)
    if way == "plain":
        peer.say(SYN | ACK, peer.isn, client.isn + 1)
    elif way == "split":
        peer.say(ACK, peer.isn, client.isn + 1)
        peer.say(SYN, peer.isn, 0)
    elif way == "split, and a SYN-ACK back":
        peer.say(SYN, peer.isn, 0)
        client.peer_isn = peer.isn
        client.link.send(client.frame(Segment(flags=SYN | ACK, at=-1)))
        peer.say(ACK, peer.isn + 1, client.isn + 1)
    else:
        peer.say(SYN, peer.isn, 0)
        client.peer_isn = peer.isn
        client.link.send(client.frame(Segment(flags=SYN | ACK, at=-1)))
        peer.say(SYN | ACK, peer.isn, client.isn + 1)
    client.peer_isn = peer.isn
    client.link.send(client.frame(Segment(flags=ACK)))
    say_hello(client, hello)
    heard = peer.heard()
    if hello == EVIL_HELLO:
        assert not names_of(heard)
    elif way == "plain":
        assert heard == GOOD_HELLO


@pytest.mark.parametrize("hello", [GOOD_HELLO, EVIL_HELLO], ids=["allowed", "denied"])
def test_who_is_called_does_not_answer(judged: GuestWorkload, peer: Peer, hello: bytes) -> None:
    """A server that dials in would be told anything: connections are the guest's to begin."""
    client = peer.client
    peer.say(SYN, peer.isn, 0)
    client.peer_isn = peer.isn
    client.link.send(client.frame(Segment(flags=SYN | ACK, at=-1)))
    peer.say(ACK, peer.isn + 1, client.isn + 1)
    say_hello(client, hello)
    client.link.send(client.frame(Segment(b"secret", flags=ACK | PSH)))
    assert peer.heard() == b""


@pytest.mark.parametrize(("mss", "piece"), [(1, 1), (88, 76), (536, 536)])
def test_a_hello_in_tiny_segments_is_read(
    stage: Stage, judged: GuestWorkload, server4: Recorder, mss: int, piece: int
) -> None:
    """And its denied twin is denied."""
    client = stage.raw(server4)
    assert client.connect(mss=mss)
    assert client.push(GOOD_HELLO, piece=piece)
    heard = server4.of(client)
    assert heard
    assert heard.data == GOOD_HELLO
    client = stage.raw(server4)
    assert client.connect(mss=mss)
    client.push(EVIL_HELLO, piece=piece)
    heard = server4.of(client)
    assert heard
    assert not names_of(heard.data)
    assert client.is_reset


@pytest.fixture(scope="module")
def shop(stage: Stage) -> Host:
    """A real web server that has both names."""
    return stage.add("good.test", Tls(names=("good.test", "evil.test")))


@pytest.mark.parametrize("is_on", [True, False], ids=["with offloads", "without"])
def test_a_real_client_gets_through_whatever_its_card_does(
    stage: Stage, judged: GuestWorkload, shop: Host, is_on: bool
) -> None:
    """curl, by the allowed name; under another one it is told at once, and the server's OpenSSL saw no name."""
    stage.offload(stage.network.client, "eth0", is_on)
    try:
        shop.reset()
        assert curl(stage, shop).stdout == "I am good.test\n"
        assert shop.count().sni == ["good.test"]
        shop.reset()
        denied = curl(stage, shop, name="evil.test")
        assert denied.returncode == 35  # the handshake was ended
        assert denied.duration < 0.5
        assert shop.count().sni == []
    finally:
        stage.offload(stage.network.client, "eth0", True)


@pytest.fixture(scope="module")
def retrying(stage: Stage) -> OpensslServer:
    """A real server that asks each client for a second hello, and reports every name it reads."""
    return stage.openssl_server(FIRST, SECOND, groups="P-384")


@pytest.mark.parametrize("how", FLIGHTS)
def test_a_second_hello_with_another_name_is_denied(
    stage: Stage, judged: GuestWorkload, retrying: OpensslServer, how: str
) -> None:
    """After a real HelloRetryRequest; the same name shakes hands."""
    seen = len(retrying.names_seen())
    _error, version = call_in(stage, lambda: shake(retrying, FLIGHTS[how], SECOND))
    assert version is None
    assert (Verdict.DROPPED, Reason.NAME_CHANGED) in judged.reasons()
    assert SECOND not in retrying.names_seen()[seen:]

    seen = len(retrying.names_seen())
    error, _version = call_in(stage, lambda: shake(retrying, FLIGHTS[how], FIRST))
    assert error == 0
    assert judged.reasons() == [ALLOWED]
    assert retrying.names_seen()[seen:] == [FIRST, FIRST]
