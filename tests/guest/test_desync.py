"""Every trick of the catalogue's section C, with a Linux server as the receiver.

First what the server reads where nobody judges, so that the trick is known to work or to be harmless; then that a
denied name never reaches it whole, whichever copy carries it; and that the same segments pass where all of them carry
the allowed name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from e2e.guard import rule
from exeat.model.policy import Rule
from exeat.model.verdicts import Reason, Verdict
from guest.packets import SYN, VNET, Offload, RawClient, Segment, checksum, left_to_the_card, tcp_frame, tuned
from guest.stage import GuestWorkload, Recorder, Stage
from guest.tricks import EVIL, EVIL_HELLO, GOOD, GOOD_HELLO, NAME, TRICKS, Trick
from hellos.oracle import judge_hello

ALLOWED = (Verdict.FORWARDED, Reason.NAME_ALLOWED)


def named(*servers: Recorder, hosts: tuple[str, ...] = (GOOD,)) -> Rule:
    """TLS under these names at these servers."""
    return rule(*(server.address for server in servers), hosts=hosts, protocol="tls")


@pytest.fixture(scope="module")
def server6(stage: Stage) -> Recorder:
    """A server of IPv6."""
    return stage.recorder(443, stage.network.next_addresses()[1])


@pytest.fixture(scope="module")
def _judged(judging: Stage, server4: Recorder, server6: Recorder) -> Iterator[GuestWorkload]:
    with judging.judged(named(server4, server6)) as workload:
        yield workload


@pytest.fixture
def judged(_judged: GuestWorkload) -> GuestWorkload:
    """Guest 0, which may say one name to both servers; nothing was told of it yet."""
    _judged.begin_anew()
    return _judged


CASES = [
    pytest.param(trick, version, offload, id=f"{name}, IPv{version}, {offload.name.lower()}")
    for name, trick in TRICKS.items()
    for version, offload in ((4, Offload.NONE), (4, Offload.CHECKSUM), (4, Offload.SEGMENTS), (6, Offload.NONE))
    if not (trick.whole and offload is not Offload.NONE) and not (version == 6 and "IP checksum" in name)
]


def played(client: RawClient, server: Recorder, trick: Trick, fake: bytes, real: bytes) -> bytes:
    """What the server has read after the trick, and after the real hello was pushed."""
    trick.play(client, fake, real)
    client.push(real)
    heard = server.of(client)
    return heard.data if heard else b""


def has_name(stream: bytes, name: str) -> bool:
    """Whether a whole hello with this name can be read in a stream, from its begin or from anywhere."""
    starts = [at for at in range(len(stream)) if stream[at] == 22]
    return any(judge_hello(stream[at:]).name == name for at in starts)


@pytest.mark.parametrize(("trick", "version", "offload"), CASES)
def test_a_server_reads_what_the_catalogue_says_where_nobody_judges(
    stage: Stage, server4: Recorder, server6: Recorder, trick: Trick, version: int, offload: Offload
) -> None:
    """Or the tests below would prove nothing."""
    server = server4 if version == 4 else server6
    client = stage.raw(server, stage.guests[1], offload=offload)
    read = played(client, server, trick, GOOD_HELLO, EVIL_HELLO)
    assert read == {"fake": GOOD_HELLO, "real": EVIL_HELLO}[trick.reads]


OTHER = b"goal.test"  # two bytes away from the allowed name


def played_card(client: RawClient, server: Recorder, sum_from: int) -> bytes:
    """What the server reads of a hello into which the card writes two bytes of the name."""
    assert client.connect()
    read = tuned(GOOD_HELLO[sum_from:], 50 - sum_from, OTHER[2:4])
    read = GOOD_HELLO[:sum_from] + read
    written = read.replace(GOOD.encode(), OTHER)
    client.link.send(left_to_the_card(client, Segment(written), read, sum_from, NAME + 2))
    client.link.read()
    heard = server.of(client)
    return heard.data if heard else b""


@pytest.mark.parametrize("sum_from", [0, 20])
def test_the_card_writes_no_sum_into_a_name_that_was_read(
    stage: Stage, judged: GuestWorkload, server4: Recorder, sum_from: int
) -> None:
    """The guest says where the sum of a frame stands, and from where on it is counted: virtio lets it."""
    unjudged = stage.raw(server4, stage.guests[1])
    assert has_name(played_card(unjudged, server4, sum_from), OTHER.decode())
    client = stage.raw(server4)
    assert not has_name(played_card(client, server4, sum_from), OTHER.decode())
    assert [one for one in judged.reasons() if one[0] is Verdict.DROPPED]


def syn_to_another_port(client: RawClient, port: int) -> None:
    """Sends a SYN into whose port the card writes another one; the source's port is such that the sum is that."""
    options, port_at = bytes((2, 4, 5, 0xB4)), VNET.size + 14 + 20 + 2

    def frame() -> bytes:
        ends = replace(client.ends, port=port)
        whole = tcp_frame(ends, client.isn, 0, options, Segment(flags=SYN))
        return whole[:port_at] + client.port.to_bytes(2, "big") + whole[port_at + 2 :]

    client.source_port = 30_000
    would_be, wanted = checksum(frame()[port_at:]), port ^ 0xFFFF
    client.source_port = (30_000 + would_be - wanted) % 0xFFFF
    at = port_at - VNET.size
    client.link.clients[client.source, client.source_port] = client
    client.link.send(VNET.pack(1, 0, 0, 0, at, 0) + frame()[VNET.size :])
    client.link.read()


def test_the_card_writes_no_sum_into_a_port_that_was_judged(
    stage: Stage, judged: GuestWorkload, server4: Recorder
) -> None:
    """An allowed port in what we read, another one on the wire."""
    for guest, arrives in ((stage.guests[1], 1), (stage.guests[0], 0)):
        with stage.sniff() as wire:
            client = stage.raw(server4, guest, has_stamps=False)
            syn_to_another_port(client, 7)
            if arrives:
                client.link.wait(lambda one=client: bool(one.resets))
                assert len(client.resets) == 1  # by the server, where nothing listens there: the sums were right
            assert wire.toward(server4.address, "tcp", 7).frames == arrives
            assert wire.toward(server4.address, "tcp", 443).frames == 0


@pytest.mark.parametrize(("trick", "version", "offload"), CASES)
def test_a_denied_name_never_arrives(
    stage: Stage, judged: GuestWorkload, server4: Recorder, server6: Recorder, trick: Trick, version: int,
    offload: Offload,
) -> None:  # fmt: skip
    """Neither where the fake is allowed and the real one is not, nor the other way round."""
    server = server4 if version == 4 else server6
    client = stage.raw(server, offload=offload)
    read = played(client, server, trick, GOOD_HELLO, EVIL_HELLO)
    assert not has_name(read, EVIL)
    assert read == GOOD_HELLO or not has_name(read, GOOD)
    if read != GOOD_HELLO and not trick.ends:
        assert [one for one in judged.reasons() if one[0] is Verdict.DROPPED]

    client = stage.raw(server, offload=offload, place=11)
    read = played(client, server, trick, EVIL_HELLO, GOOD_HELLO)
    assert not has_name(read, EVIL)


@pytest.mark.parametrize(("trick", "version", "offload"), [case for case in CASES if not case.values[0].ends])
def test_the_same_segments_with_the_allowed_name_pass(
    stage: Stage, judged: GuestWorkload, server4: Recorder, server6: Recorder, trick: Trick, version: int,
    offload: Offload,
) -> None:  # fmt: skip
    """What was dropped on the way is sent again, as every TCP does."""
    server = server4 if version == 4 else server6
    client = stage.raw(server, offload=offload)
    read = played(client, server, trick, GOOD_HELLO, GOOD_HELLO)
    assert read == GOOD_HELLO
    assert ALLOWED in judged.reasons()
    assert not client.is_reset
