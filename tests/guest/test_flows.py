"""What is known of connections: how they end when they are denied, how many are kept, and what cuts them."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bed import call_in
from e2e.guard import rule
from exeat.kernel import libbpf
from exeat.kernel.guest_abi import GUEST_FLOWS, FlowKey
from exeat.model.policy import Mode
from exeat.model.verdicts import Reason, Verdict
from guest.packets import ACK, FIN, PSH, RST, SYN, Offload, RawClient, Segment, tcp_frame
from guest.stage import Guest, GuestWorkload, Recorder, Stage
from guest.test_desync import ALLOWED, has_name, named
from guest.tricks import EVIL, EVIL_HELLO, GOOD_HELLO

AT_ONCE_S = 0.05
MORE = b"\x17\x03\x03\x00\x20" + bytes(32)
BOTH = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def servers(stage: Stage) -> dict[int, Recorder]:
    """TLS, as far as they know."""
    return {4: stage.recorder(443), 6: stage.recorder(443, stage.network.next_addresses()[1])}


@pytest.fixture(scope="module")
def plain(stage: Stage) -> Recorder:
    """A server of plain TCP that speaks first."""
    return stage.recorder(7, answer=b"welcome")


@pytest.fixture(autouse=True)
def _fresh(servers: dict[int, Recorder], plain: Recorder) -> Iterator[None]:
    yield
    for one in (*servers.values(), plain):
        one.forget()


@contextmanager
def timed() -> Iterator[list[float]]:
    """How long it took."""
    took: list[float] = []
    began = time.monotonic()
    yield took
    took.append(time.monotonic() - began)


def dial(address: str, port: int, data: bytes = b"", kind: socket.SocketKind = socket.SOCK_STREAM) -> tuple[str, float]:
    """By the guest's own kernel: the name of the error and how long it took; "" if there was none."""
    began = time.monotonic()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as sock:
        sock.settimeout(1)
        try:
            sock.connect((address, port))
            if data:
                began = time.monotonic()
                sock.sendall(data)
                sock.recv(100)
        except TimeoutError:
            return "TIMEOUT", time.monotonic() - began
        except OSError as error:
            return errno.errorcode[error.errno or 0], time.monotonic() - began
    return "", time.monotonic() - began


def opened(stage: Stage, server: Recorder, **how: object) -> RawClient:
    """A client after its handshake."""
    client = stage.raw(server, **how)
    assert client.connect()
    return client


@BOTH
def test_a_denied_connection_is_refused_at_once_and_not_a_frame_arrives(
    judging: Stage, servers: dict[int, Recorder], version: int
) -> None:
    """ECONNREFUSED for the guest's kernel, as if the port were closed; its twin to an allowed port connects."""
    server = servers[version]
    with judging.judged(rule(server.address, ports=(443,))) as workload, judging.sniff() as wire:
        assert call_in(judging, lambda: dial(server.address, 443))[0] == ""
        assert workload.reasons() == [(Verdict.FORWARDED, Reason.NETWORK_ALLOWED)]
        server.forget()
        wire.clear()
        error, took = call_in(judging, lambda: dial(server.address, 444))
        assert (error, took < AT_ONCE_S) == ("ECONNREFUSED", True)
        assert workload.reasons() == [(Verdict.DROPPED, Reason.PORT_NOT_ALLOWED)]
        assert wire.toward(server.address, "tcp", 444).frames == 0
        other = str(servers[version].address).rsplit("." if version == 4 else ":", 1)[0]
        other += ".240" if version == 4 else ":f0"
        error, took = call_in(judging, lambda: dial(other, 443))
        assert (error, took < AT_ONCE_S) == ("ECONNREFUSED", True)
        assert workload.reasons() == [(Verdict.DROPPED, Reason.ADDRESS_NOT_ALLOWED)]
        assert wire.toward(other).frames == 0


@BOTH
@pytest.mark.parametrize("offload", Offload, ids=lambda one: one.name.lower())
def test_the_reset_of_a_refused_syn_is_exact(
    judging: Stage, servers: dict[int, Recorder], version: int, offload: Offload
) -> None:
    """RFC 9293 3.10.7.1: sequence number 0, and it acknowledges the SYN."""
    with judging.judged(rule(servers[version].address, ports=(7,))):
        client = judging.raw(servers[version], offload=offload)
        assert not client.connect()
        (reset,) = client.resets
        assert (reset.seq, (reset.ack - client.isn) % (1 << 32), reset.flags) == (0, 1, RST | ACK)
        assert reset.is_sound
        assert (reset.data, reset.source, reset.source_port) == (b"", servers[version].address, 443)


@BOTH
@pytest.mark.parametrize("offload", Offload, ids=lambda one: one.name.lower())
def test_a_denied_hello_resets_both_ends_exactly(
    judging: Stage, servers: dict[int, Recorder], version: int, offload: Offload
) -> None:
    """The guest's end by the number that it expects, or it would not believe it; the server's likewise."""
    server = servers[version]
    with judging.judged(named(server)) as workload:
        client = opened(judging, server, offload=offload)
        with timed() as took:
            client.send(Segment(EVIL_HELLO, piece=100))
            assert client.wait_reset()
        assert took[0] < AT_ONCE_S
        assert {(reset.seq, reset.is_sound) for reset in client.resets} == {(client.expected, True)}
        heard = server.of(client)
        assert heard
        assert (heard.data, heard.ended) == (b"", "ConnectionResetError")
        assert workload.reasons() == [(Verdict.DROPPED, Reason.NAME_NOT_ALLOWED)]
        error, seconds = call_in(judging, lambda: dial(server.address, 443, EVIL_HELLO))
        assert (error, seconds < AT_ONCE_S) == ("ECONNRESET", True)


def test_a_denied_connection_is_reset_while_the_server_speaks(judging: Stage) -> None:
    """What it said is not acknowledged, or not yet read, when the denial falls."""
    server = judging.recorder(443, answer=b"welcome" * 20)
    with judging.judged(named(server)):
        client = opened(judging, server)
        server.look()
        assert client.link.wait(lambda: bool(client.got))
        client.send(Segment(EVIL_HELLO, ack=-len(client.got)))
        client.link.wait(lambda: bool(client.resets))
        (reset,) = client.resets
        assert (client.expected - reset.seq) % (1 << 32) in (0, len(client.got))  # what it expects, or what it says so
        heard = server.of(client)
        assert heard
        assert (heard.data, heard.ended) == (b"", "ConnectionResetError")


@BOTH
@pytest.mark.parametrize("is_on", [True, False], ids=["sums by the card", "sums by the kernel"])
def test_a_denied_datagram_is_answered_at_once(
    judging: Stage, servers: dict[int, Recorder], version: int, is_on: bool
) -> None:
    """ "Communication administratively prohibited": QUIC's clients fall back to TCP at once."""
    address = servers[version].address

    def post() -> tuple[str, float]:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(0.5)
        sock.connect((address, 443))
        began = time.monotonic()
        try:
            sock.send(b"quic" * 300)
            sock.recv(10)
        except TimeoutError:
            return "TIMEOUT", time.monotonic() - began
        except OSError as error:
            return errno.errorcode[error.errno or 0], time.monotonic() - began
        return "", 0

    with judging.judged(named(servers[version])) as workload, judging.sniff() as wire:
        judging.offload(judging.network.router, "tap0", is_on)
        error, took = call_in(judging, post)
        judging.offload(judging.network.router, "tap0", True)
        assert error == {4: "EHOSTUNREACH", 6: "EACCES"}[version]
        assert took < AT_ONCE_S
        assert wire.toward(address, "udp").frames == 0
        assert [verdict for verdict, _ in workload.reasons()] == [Verdict.DROPPED]
        workload.switch(rule(address, ports=(443,), protocol="udp"))
        call_in(judging, post)
        assert wire.toward(address, "udp", 443).payload == 1200


def count_flows(workload: GuestWorkload) -> int:
    """How many entries this guest has."""
    flows = workload.guard.instance.map("flows")
    size, start = len(bytes(FlowKey())), workload.id.to_bytes(8, "little")
    return sum(key.startswith(start) for key in libbpf.keys(flows, size))


def syn_frames(client: RawClient, count: int) -> list[bytes]:
    """So many, each from another pair of ports."""
    frames = []
    for i in range(count):
        client.source_port, client.isn = 1024 + i % 60000, i
        frames.append(tcp_frame(client.ends, i, 0, b"", Segment(flags=SYN)))
    return frames


def connected_soon(stage: Stage, server: Recorder, guest: Guest) -> RawClient:
    """A new connection, within a second: the kernel makes memory for tables a little later than a flood takes it."""
    deadline = time.monotonic() + 1
    while True:
        client = stage.raw(server, guest, place=13)
        if client.connect():
            return client
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_flood_of_connections_is_bounded_and_disturbs_nobody_else(
    judging: Stage, servers: dict[int, Recorder], plain: Recorder
) -> None:
    """One guest has a bounded number, can still begin another, and its neighbour's are not touched."""
    server, own = servers[4], rule(plain.address, ports=(7,))
    with (
        judging.judged(named(server), own, guest=judging.guests[1]) as neighbour,
        judging.judged(named(server), own) as workload,
    ):
        there = opened(judging, server, guest=judging.guests[1])
        assert there.push(GOOD_HELLO)
        client = judging.raw(plain)
        client.link.clients.clear()
        client.link.clients[there.source, there.source_port] = there
        judging.network.hosts.command("ip", "route", "replace", "blackhole", "198.51.100.16/32")  # no answers
        flooder = judging.raw(plain, place=16)
        flooder.link.clients.pop((flooder.source, flooder.source_port))
        try:
            for frame in syn_frames(flooder, GUEST_FLOWS + 3000):
                flooder.link.send(frame)
        finally:
            judging.network.hosts.command("ip", "route", "del", "blackhole", "198.51.100.16/32")
        assert GUEST_FLOWS - 100 <= count_flows(workload) <= GUEST_FLOWS
        assert count_flows(neighbour) == 1
        for guest in judging.guests[:2]:
            assert connected_soon(judging, server, guest).push(GOOD_HELLO)
        assert there.push(GOOD_HELLO + MORE)
        heard = server.of(there)
        assert heard
        assert heard.data == GOOD_HELLO + MORE
        assert workload.guard.tables.traffic(workload.id).verdicts[Verdict.FORWARDED] > GUEST_FLOWS


def test_closed_connections_make_room_first(judging: Stage, servers: dict[int, Recorder], plain: Recorder) -> None:
    """Many come and go, more than there is room for; one that is used now and then is kept all the while."""
    server = servers[4]
    with judging.judged(named(server), rule(plain.address, ports=(7,))) as workload:
        kept = opened(judging, server)
        stream = GOOD_HELLO
        assert kept.push(stream)
        brief = judging.raw(plain, place=12, has_stamps=False)
        key = (brief.source, brief.source_port)
        for i in range(GUEST_FLOWS + 1500):
            brief.link.clients.pop(key, None)
            brief.source_port = 2000 + i % 60000
            key = (brief.source, brief.source_port)
            brief.link.clients[key] = brief
            brief.forget()
            brief.link.send(tcp_frame(brief.ends, brief.isn, 0, b"", Segment(flags=SYN)))
            brief.link.read()
            brief.link.send(brief.frame(Segment(flags=RST, at=0)))
            if i % 1000 == 0:
                stream += MORE
                assert kept.push(stream), i
        assert count_flows(workload) <= GUEST_FLOWS
        heard = server.of(kept)
        assert heard
        assert heard.data == stream


@pytest.mark.parametrize("way", ["the guest speaks", "the server speaks"])
@pytest.mark.parametrize("what", ["tls", "plain"])
def test_what_is_revoked_is_cut_at_its_next_packet(
    judging: Stage, servers: dict[int, Recorder], plain: Recorder, what: str, way: str
) -> None:
    """Whoever sends it. The twin: a new policy that allows the same leaves the connection alone."""
    server, said = (servers[4], GOOD_HELLO) if what == "tls" else (plain, b"first")
    rules = named(servers[4]), rule(plain.address, ports=(7,))
    with judging.judged(*rules) as workload:
        client = opened(judging, server)
        server.look()
        assert client.push(said)
        assert client.link.wait(lambda: what == "tls" or client.got == b"welcome")
        client.acknowledge()
        workload.switch(*rules, rule("203.0.113.99", ports=(1,)))
        said += MORE
        assert client.push(said)
        heard = server.of(client)
        assert heard
        server.say(heard, b"still here")
        assert client.link.wait(lambda: client.got.endswith(b"still here"))
        client.acknowledge()
        got = client.got
        workload.told()
        workload.switch(rule("203.0.113.99", ports=(1,)))
        if way == "the guest speaks":
            client.send(Segment(MORE, at=len(said)))
            assert client.wait_reset()
        else:
            server.say(heard, b"secret")
            client.link.wait(lambda: bool(client.resets), 0.1)
        server.look()
        assert heard.data == said
        assert client.got == got
        assert heard.ended == "ConnectionResetError"
        assert [verdict for verdict, _ in workload.reasons()] == [Verdict.DROPPED]


def test_under_a_plain_rule_a_connection_is_not_read(judging: Stage, plain: Recorder) -> None:
    """Any bytes, in any order, also a hello with whatever name."""
    with judging.judged(rule(plain.address, ports=(7,))) as workload:
        client = opened(judging, plain)
        stream = b"any bytes" + EVIL_HELLO + bytes(range(256)) * 40
        tail = [Segment(stream[at : at + 1000], at) for at in range(0, len(stream), 1000)]
        client.send(*tail[::-1], Segment(stream[:50]), Segment(stream[:1400]))
        assert client.push(stream)
        heard = plain.of(client)
        assert heard
        assert heard.data == stream
        assert client.link.wait(lambda: client.got == b"welcome")
        assert workload.reasons() == [(Verdict.FORWARDED, Reason.NETWORK_ALLOWED)]
        assert client.finish(len(stream), plain.look)
        assert heard.ended == "fin"


@pytest.mark.parametrize("mode", [Mode.MONITOR, Mode.OPEN])
def test_a_lenient_mode_passes_what_would_be_denied_and_says_so(
    judging: Stage, servers: dict[int, Recorder], plain: Recorder, mode: Mode
) -> None:
    """A name, an address; the twin under `enforce` is all above."""
    server = servers[4]
    with judging.judged(named(server), mode=mode) as workload:
        client = opened(judging, server)
        assert client.push(EVIL_HELLO + MORE)
        heard = server.of(client)
        assert heard
        assert heard.data == EVIL_HELLO + MORE
        other = opened(judging, plain)
        assert other.push(b"anything")
        verdicts = {verdict for verdict, _ in workload.reasons()}
        assert verdicts == {Verdict.AUDIT} if mode is Mode.MONITOR else verdicts <= {Verdict.FORWARDED, Verdict.AUDIT}


def test_quarantine_denies_everything(judging: Stage, servers: dict[int, Recorder]) -> None:
    """What the policy allows, and what is open already."""
    server = servers[4]
    with judging.judged(named(server)) as workload:
        client = opened(judging, server)
        assert client.push(GOOD_HELLO)
        workload.told()
        workload.guard.tables.switch(workload.id, workload.policy_ids[-1], mode=Mode.QUARANTINE)
        client.send(Segment(MORE, at=len(GOOD_HELLO)))
        assert client.wait_reset()
        assert not judging.raw(server, place=11).connect()
        heard = server.of(client)
        assert heard
        assert heard.data == GOOD_HELLO
        assert {reason for _, reason in workload.reasons()} == {Reason.QUARANTINED}


def test_nobody_s_guest_says_nothing(judging: Stage, servers: dict[int, Recorder]) -> None:
    """Attached, but bound to no policy; the twin has one."""
    server = servers[4]
    with judging.judged(named(server)) as workload:
        assert opened(judging, server).push(GOOD_HELLO)
        workload.guard.tables.unbind(workload.id)
        client = judging.raw(server, place=11)
        assert not client.connect()
        server.look()
        assert server.last(client.source, client.source_port) is None


def test_a_guest_s_half_closed_connection_goes_on(judging: Stage, servers: dict[int, Recorder]) -> None:
    """After its FIN the server may still speak."""
    server = servers[4]
    with judging.judged(named(server)):
        client = opened(judging, server)
        assert client.push(GOOD_HELLO)
        heard = server.of(client)
        assert heard
        sock = heard.sock
        assert sock
        client.send(Segment(flags=FIN | ACK, at=len(GOOD_HELLO)))
        sock.send(b"late words")
        assert client.link.wait(lambda: client.got == b"late words")
        client.send(Segment(flags=ACK, at=len(GOOD_HELLO) + 1))
        server.look()
        assert client.link.wait(lambda: client.has_fin)


def test_an_allowed_connection_is_judged_once_and_then_let_be(judging: Stage, servers: dict[int, Recorder]) -> None:
    """A long stream after the hello: one verdict, and the bytes are counted."""
    server = servers[4]
    with judging.judged(named(server)) as workload:
        client = opened(judging, server)
        stream = GOOD_HELLO + b"".join(b"\x17\x03\x03\x05\x00" + bytes(1280) for _ in range(60))
        for end in range(len(GOOD_HELLO), len(stream) + 1, 1285 * 10):
            assert client.push(stream[:end])
        heard = server.of(client)
        assert heard
        assert heard.data == stream
        assert workload.reasons() == [ALLOWED]
        traffic = workload.guard.tables.traffic(workload.id)
        assert traffic.bytes_out > len(stream)
        assert traffic.packets_in > 10


def test_a_denied_end_stays_denied(judging: Stage, servers: dict[int, Recorder]) -> None:
    """Whoever ignores the reset and goes on in the same connection is told again."""
    server = servers[4]
    with judging.judged(named(server)):
        client = opened(judging, server)
        client.send(Segment(EVIL_HELLO))
        assert client.wait_reset()
        client.resets.clear()
        client.send(Segment(GOOD_HELLO), Segment(MORE, at=len(EVIL_HELLO), flags=ACK | PSH))
        heard = server.of(client)
        assert heard
        assert not has_name(heard.data, EVIL)
        assert heard.data == b""
