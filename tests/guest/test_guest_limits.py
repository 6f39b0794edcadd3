"""Limits, grants and the hold of a guest: the same words and the same tables as for a cgroup."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from e2e.escapes import hosts_drop
from e2e.guard import rule
from e2e.limit_words import limit
from exeat.core.compile import compile_policy
from exeat.core.grants import SOMEWHERE, Change, Slot
from exeat.dns.gate import boot_ns
from exeat.kernel.grants import GrantTables
from exeat.kernel.guest_abi import GUEST_HOLDS
from exeat.model.networks import mapped
from exeat.model.policy import Policy, Then
from exeat.model.verdicts import Reason, Verdict
from guest.packets import ACK, RST, Offload, RawClient, Segment
from guest.stage import GuestWorkload, Recorder, Stage
from guest.test_desync import ALLOWED, has_name, named
from guest.tricks import EVIL, EVIL_HELLO, GOOD, GOOD_HELLO
from hellos.build import record
from unit.table_walk import slot_of

HOUR_NS = 3600 * 10**9
MORE = b"\x17\x03\x03\x00\x20" + bytes(32)


@pytest.fixture(scope="module")
def server(stage: Stage) -> Recorder:
    """Under a tls rule."""
    return stage.recorder(443)


@pytest.fixture(scope="module")
def plain(stage: Stage) -> Recorder:
    """Under a tcp rule."""
    return stage.recorder(7)


@pytest.fixture(autouse=True)
def _fresh(server: Recorder, plain: Recorder) -> Iterator[None]:
    yield
    server.forget()
    plain.forget()


def opened(stage: Stage, server: Recorder, **how: object) -> RawClient:
    """A client after its handshake."""
    client = stage.raw(server, **how)
    assert client.connect()
    return client


def test_connections_beyond_their_limit_are_refused(judging: Stage, plain: Recorder) -> None:
    """Those below go on; the server counts no more than the limit."""
    with judging.judged(rule(plain.address, ports=(7,)), limits=limit("connections", 3)) as workload:
        clients = [opened(judging, plain) for _ in range(3)]
        assert not judging.raw(plain).connect()
        assert (Verdict.DROPPED, Reason.LIMIT_CONNECTIONS) in workload.reasons()
        assert len(plain.look()) == 3
        assert all(client.push(b"still here") for client in clients)
        assert workload.guard.tables.usage(workload.id).connections.count == 3


def test_a_syn_that_is_sent_again_counts_once(judging: Stage, plain: Recorder) -> None:
    """Nothing is used up by the line's losses, of a SYN or of its answer."""
    with judging.judged(rule(plain.address, ports=(7,)), limits=limit("connections", 2)) as workload:
        for hook in ("input", "output"):
            client = judging.raw(plain)
            end = "sport" if hook == "input" else "dport"
            with hosts_drop(judging, f"tcp {end} {client.source_port} tcp flags & syn == syn", hook):
                assert not client.connect(tries=2, patience_s=0.02)
            assert client.connect()
            assert client.push(b"hello")
        assert workload.guard.tables.usage(workload.id).connections.count == 2


def test_bytes_beyond_their_limit_are_dropped(judging: Stage, plain: Recorder) -> None:
    """In an open connection too; the server has no more than the limit."""
    with judging.judged(rule(plain.address, ports=(7,)), limits=limit("bytes", 10_000)) as workload:
        client = opened(judging, plain)
        client.push(bytes(20_000), piece=1000, tries=2)
        heard = plain.of(client)
        assert heard
        assert 8_000 < len(heard.data) < 10_000
        assert (Verdict.DROPPED, Reason.LIMIT_BYTES) in workload.reasons()
        assert workload.guard.tables.usage(workload.id).bytes.count <= 10_000


def test_bytes_of_a_hello_s_connection_count_too(judging: Stage, server: Recorder) -> None:
    """Before its verdict and after."""
    with judging.judged(named(server), limits=limit("bytes", 4_000)) as workload:
        client = opened(judging, server)
        stream = GOOD_HELLO + b"\x17\x03\x03\x40\x00" + bytes(0x4000)
        client.push(stream, piece=500, tries=2)
        heard = server.of(client)
        assert heard
        assert len(GOOD_HELLO) < len(heard.data) < 4_000
        assert Reason.LIMIT_BYTES in {reason for _, reason in workload.reasons()}


def test_destinations_beyond_their_limit_are_refused(judging: Stage, plain: Recorder) -> None:
    """An address that was counted stays open."""
    with (
        judging.judged(rule("203.0.113.0/24", ports=(7,)), limits=limit("destinations", 1)) as workload,
        judging.sniff() as wire,
    ):
        opened(judging, plain)
        other = judging.raw(plain)
        other.destination = "203.0.113.201"
        other.connect()
        assert wire.toward("203.0.113.201").frames == 0
        assert (Verdict.DROPPED, Reason.LIMIT_DESTINATIONS) in workload.reasons()
        assert opened(judging, plain).push(b"again")


def test_who_goes_beyond_may_be_quarantined(judging: Stage, plain: Recorder) -> None:
    """Then nothing passes any more, not even what is open."""
    limits = limit("connections", 1, Then.QUARANTINE)
    with judging.judged(rule(plain.address, ports=(7,)), limits=limits):
        client = opened(judging, plain)
        assert client.push(b"hello")
        assert not judging.raw(plain).connect()
        client.send(Segment(b"more", at=5))
        assert client.wait_reset()
        heard = plain.of(client)
        assert heard
        assert heard.data == b"hello"


def grant(workload: GuestWorkload, policy: Policy, *pairs: tuple[str, str]) -> None:
    """As if the gate had led these names to these addresses."""
    table_set, until_ns = compile_policy(policy), boot_ns() + HOUR_NS
    grants: list[tuple[str, bytes, int, int]] = []
    granted = []
    for name, address in pairs:
        ports_id, place = slot_of(table_set, 0, name).ports_id, mapped(ip_address(address))
        grants += [(name, place, ports_id, until_ns), (name, SOMEWHERE, ports_id, until_ns)]
        granted.append((place, (Slot(ports_id, until_ns),)))
    tables = GrantTables(workload.guard.instance, workload.policy_ids[-1])
    tables.apply(Change(grants=tuple(grants), granted=tuple(granted)))


def test_an_address_opens_when_a_name_was_led_there(judging: Stage, server: Recorder, plain: Recorder) -> None:
    """Before: refused, not a frame. After: for that name's rule alone, and for no other address."""
    rules = rule(hosts=(GOOD,), protocol="tls"), rule(hosts=("plain.test",), ports=(7,))
    with judging.judged(*rules) as workload, judging.sniff() as wire:
        assert not judging.raw(server).connect()
        assert not judging.raw(plain).connect()
        assert wire.toward(server.address).frames == wire.toward(plain.address).frames == 0
        assert workload.reasons() == [(Verdict.DROPPED, Reason.NOT_RESOLVED)] * 2

        grant(workload, Policy("test", rules), (GOOD, server.address), ("plain.test", plain.address))
        assert opened(judging, plain).push(b"hello")
        assert workload.reasons() == [(Verdict.FORWARDED, Reason.GRANTED)]
        client = opened(judging, server)
        assert client.push(GOOD_HELLO)
        assert workload.reasons() == [ALLOWED]
        client = opened(judging, server)
        client.push(EVIL_HELLO)
        assert client.is_reset
        heard = server.of(client)
        assert heard
        assert not has_name(heard.data, EVIL)
        assert workload.reasons() == [(Verdict.DROPPED, Reason.NAME_NOT_ALLOWED)]


def test_a_name_that_was_led_elsewhere_is_denied_here(judging: Stage, server: Recorder) -> None:
    """Name, address and rule must agree: another name opened this address."""
    rules = (rule(hosts=(GOOD, EVIL), protocol="tls"),)
    with judging.judged(*rules) as workload:
        grant(workload, Policy("test", rules), (GOOD, server.address), (EVIL, "203.0.113.99"))
        client = opened(judging, server)
        client.push(EVIL_HELLO)
        assert client.is_reset
        heard = server.of(client)
        assert heard
        assert not has_name(heard.data, EVIL)
        assert workload.reasons()[-1] == (Verdict.DROPPED, Reason.NAME_ELSEWHERE)
        assert opened(judging, server).push(GOOD_HELLO)


def test_a_slow_handshake_is_not_cut_by_many_quick_ones(judging: Stage, server: Recorder) -> None:
    """What is remembered of it is bounded for a guest, but those that are over need no room."""
    with judging.judged(named(server)):
        slow = opened(judging, server)
        assert slow.push(GOOD_HELLO)
        for _ in range(600):
            client = opened(judging, server)
            assert client.push(GOOD_HELLO + MORE)
        assert slow.push(GOOD_HELLO + MORE)
        server.look()
        heard = server.of(slow)
        assert heard
        assert heard.data == GOOD_HELLO + MORE


@pytest.mark.parametrize("end", ["wait", "have been reset", "have closed", "were reset half-way", "were cut half-way"])
def test_hellos_that_are_over_take_no_room(judging: Stage, server: Recorder, end: str) -> None:
    """What a server has acknowledged need not be remembered, nor what belongs to a connection that has ended."""
    with judging.judged(named(server)):
        for count in range(GUEST_HOLDS + 50):
            client = opened(judging, server)
            said = GOOD_HELLO[:50] if "half" in end else GOOD_HELLO
            assert client.push(said, tries=1), count
            if "reset" in end:
                client.send(Segment(flags=RST | ACK, at=len(said)))
            elif end == "have closed":
                client.finish(len(said), server.look)
            elif end == "were cut half-way":
                server.forget()  # the server resets it
        assert opened(judging, server).push(GOOD_HELLO, tries=1)


def test_hellos_that_wait_for_their_end_make_room_in_a_second(judging: Stage, server: Recorder) -> None:
    """A guest that leaves as many half-way as are remembered is held up itself, and not for long."""
    with judging.judged(named(server)):
        left = [opened(judging, server) for _ in range(GUEST_HOLDS + 50)]
        for client in left:
            client.send(Segment(GOOD_HELLO[:50]))
        assert opened(judging, server).push(GOOD_HELLO, tries=30, patience_s=0.1)


def test_a_large_upload_behind_the_handshake_is_not_held_up(judging: Stage, server: Recorder) -> None:
    """The second flight and the first data in one frame as large as a card takes."""
    flight = record(b"\x01", 20, 0x0303) + record(bytes(60), 23, 0x0303)
    stream = GOOD_HELLO + flight + b"".join(record(bytes(16_000), 23, 0x0303) for _ in range(3))
    with judging.judged(named(server)):
        client = opened(judging, server, offload=Offload.SEGMENTS)
        assert client.push(GOOD_HELLO)
        client.send(Segment(stream[len(GOOD_HELLO) :], len(GOOD_HELLO), piece=1400))
        assert client.link.wait(lambda: client.acked == len(stream), 0.1)
