"""What was inspected is what arrives: copies that differ, while the server has not acknowledged the first one.

The line between router and server loses packets here, as a guest can have it lose them: by a full queue, by ECN, by a
server of its own beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bed import Bed
from e2e.escapes import hosts_drop
from exeat.kernel.guest_abi import GUEST_HOLDS
from exeat.model.verdicts import Reason, Verdict
from guest.packets import ACK, PSH, Offload, RawClient, Segment, spread
from guest.stage import GuestWorkload, Recorder, Stage
from guest.test_desync import ALLOWED, has_name, judged, named
from guest.tricks import EVIL, EVIL_HELLO, GOOD_HELLO, NAME

__all__ = ["judged"]

DIFFERING = (Verdict.DROPPED, Reason.DIFFERING_COPY)
MORE = b"\x17\x03\x03\x00\x20" + bytes(32)
OFFLOADS = pytest.mark.parametrize("offload", Offload, ids=lambda one: one.name.lower())


@pytest.fixture(scope="module")
def _judged(judging: Stage, server4: Recorder) -> Iterator[GuestWorkload]:
    with judging.judged(named(server4)) as workload:
        yield workload


@contextmanager
def losing(bed: Bed, client: RawClient) -> Iterator[None]:
    """The server gets no data of this client; handshakes and acknowledgements arrive."""
    with hosts_drop(bed, f"tcp sport {client.source_port} tcp flags & psh == psh"):
        yield


def opened(stage: Stage, server: Recorder, **how: object) -> RawClient:
    """A client after its handshake."""
    client = stage.raw(server, **how)
    assert client.connect()
    return client


CUTS = {
    "whole": lambda data: [Segment(data)],
    "in two": lambda data: spread(data, [NAME + 4]),
    "in small ones": lambda data: spread(data, range(0, len(data), 30)),
    "overlapping": lambda data: [Segment(data[: NAME + 9]), Segment(data[NAME - 9 :], NAME - 9)],
}


@OFFLOADS
@pytest.mark.parametrize("copy", CUTS)
@pytest.mark.parametrize("first", CUTS)
def test_a_copy_of_lost_bytes_is_the_same_or_it_is_denied(
    stage: Stage, judged: GuestWorkload, server4: Recorder, first: str, copy: str, offload: Offload
) -> None:
    """The allowed hello passed and was lost; then the denied one comes for its place. The twin is the same again."""
    client = opened(stage, server4, offload=offload)
    with losing(stage, client):
        client.send(*CUTS[first](GOOD_HELLO))
        client.push(GOOD_HELLO, tries=2, patience_s=0.01)
        assert client.acked == 0
    client.send(*CUTS[copy](EVIL_HELLO))
    heard = server4.of(client)
    assert heard
    assert not has_name(heard.data, EVIL)
    assert client.wait_reset()
    assert [one for one in judged.reasons() if one != ALLOWED] == [DIFFERING]
    client.push(EVIL_HELLO, patience_s=0.01)
    server4.look()
    assert not has_name(heard.data, EVIL)

    client = opened(stage, server4, offload=offload)
    with losing(stage, client):
        client.send(*CUTS[first](GOOD_HELLO))
        client.push(GOOD_HELLO, tries=2, patience_s=0.01)
    judged.told()
    client.send(*CUTS[copy](GOOD_HELLO))
    client.push(GOOD_HELLO)
    heard = server4.of(client)
    assert heard
    assert heard.data == GOOD_HELLO
    assert DIFFERING not in judged.reasons()


@pytest.mark.parametrize("cut", [1, 5, 6, 9, 43, NAME, NAME + 3, len(GOOD_HELLO) - 1])
def test_what_passed_before_the_verdict_is_remembered_too(
    stage: Stage, judged: GuestWorkload, server4: Recorder, cut: int
) -> None:
    """A begin that was lost is not replaced by that of another hello; the rest alone would complete it."""
    evil = EVIL_HELLO.replace(EVIL_HELLO[11:43], bytes(reversed(EVIL_HELLO[11:43])))  # another random too
    client = opened(stage, server4)
    with losing(stage, client):
        client.send(Segment(GOOD_HELLO[:cut]))
        client.link.read()
    client.send(Segment(evil[:cut]), Segment(evil[cut:], cut))
    client.push(evil)
    heard = server4.of(client)
    assert heard
    assert not has_name(heard.data, EVIL)
    assert [one for one in judged.reasons() if one[0] is Verdict.DROPPED]

    client = opened(stage, server4)
    with losing(stage, client):
        client.send(Segment(GOOD_HELLO[:cut]))
        client.link.read()
    client.push(GOOD_HELLO)
    heard = server4.of(client)
    assert heard
    assert heard.data == GOOD_HELLO


def test_a_copy_that_differs_after_the_servers_acknowledgement_was_lost_is_denied(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """The server has the first one and would ignore it; who cannot know that must not let it pass."""
    client = opened(stage, server4)
    with hosts_drop(stage, f"tcp dport {client.source_port} tcp flags & syn == 0", "output"):
        client.send(Segment(GOOD_HELLO))
        heard = server4.of(client)
        assert heard
        assert heard.data == GOOD_HELLO
        client.send(Segment(EVIL_HELLO))
        client.link.read()
    assert client.wait_reset()
    server4.look()
    assert heard.data == GOOD_HELLO
    assert DIFFERING in judged.reasons()


def test_a_copy_after_the_acknowledgement_disturbs_nobody(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """The server ignores what it has: whether such a copy passes or not, the connection goes on."""
    client = opened(stage, server4)
    assert client.push(GOOD_HELLO)
    client.send(Segment(EVIL_HELLO), Segment(GOOD_HELLO))
    client.push(GOOD_HELLO + MORE)
    heard = server4.of(client)
    assert heard
    assert heard.data in (GOOD_HELLO, GOOD_HELLO + MORE)
    assert not has_name(heard.data, EVIL)


@OFFLOADS
def test_what_follows_the_hello_may_not_cover_it(
    stage: Stage, judged: GuestWorkload, server4: Recorder, offload: Offload
) -> None:
    """The hello was lost; a segment with new data begins inside of it, with other bytes there."""
    client = opened(stage, server4, offload=offload)
    with losing(stage, client):
        client.send(Segment(GOOD_HELLO))
    client.send(Segment(EVIL_HELLO + MORE), Segment(EVIL_HELLO[NAME:] + MORE, NAME), Segment(EVIL_HELLO))
    client.push(EVIL_HELLO + MORE)
    heard = server4.of(client)
    assert heard
    assert not has_name(heard.data, EVIL)

    client = opened(stage, server4, offload=offload)
    with losing(stage, client):
        client.send(Segment(GOOD_HELLO))
    client.push(GOOD_HELLO + MORE)
    heard = server4.of(client)
    assert heard
    assert heard.data == GOOD_HELLO + MORE


def test_a_lying_acknowledgement_by_the_server_is_none_for_what_was_not_sent(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """A segment in the server's name cannot come from the guest, and from outside it cannot be old or ahead."""
    client = opened(stage, server4)
    with losing(stage, client):
        client.send(Segment(GOOD_HELLO))
        client.send(Segment(flags=ACK | PSH, at=0, ack=0), Segment(b"", at=len(GOOD_HELLO)))
    client.send(Segment(EVIL_HELLO))
    client.push(EVIL_HELLO)
    heard = server4.of(client)
    assert heard
    assert not has_name(heard.data, EVIL)


def test_who_lets_go_of_too_many_hellos_is_not_forgotten(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """A guest has a bounded number of remembered hellos: what was pushed out is denied, not passed unread."""
    with hosts_drop(stage, f"ip daddr {server4.address} tcp flags & psh == psh"):
        first = opened(stage, server4)
        first.send(Segment(GOOD_HELLO))
        for _ in range(GUEST_HOLDS + 20):
            client = opened(stage, server4)
            client.send(Segment(GOOD_HELLO))
        judged.told()
    first.send(Segment(EVIL_HELLO))
    first.push(EVIL_HELLO, patience_s=0.02)
    heard = server4.of(first)
    assert heard
    assert not has_name(heard.data, EVIL)
    assert client.push(GOOD_HELLO, tries=20, patience_s=0.2)  # once another has not moved for a second
    heard = server4.of(client)
    assert heard
    assert heard.data == GOOD_HELLO
    server4.forget()
