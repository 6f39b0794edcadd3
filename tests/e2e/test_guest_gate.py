"""Guests ask whatever server they like, and exeat's resolver answers: on addresses of the host, to nobody but them."""

import socket
import time
from collections.abc import Iterator

import dns.message
import pytest

from bed import missing_capability
from bed.namespace import Namespace
from bed.network import ip_batch
from e2e.gatekeeper import Said, read_answer
from e2e.guest_gate_stage import GATE4, GATE6, GUEST4, GUEST6, NOBODY4, NOBODY6, GuestStage, open_guest_stage
from exeat.agent.guest_said import GuestSaid
from exeat.dns.listeners import Listeners, network_cookie
from exeat.errors import Refused
from exeat.interface_settings import GATE_ADDRESSES
from exeat.kernel.local_addresses import put_on_loopback, take_off_loopback
from exeat.model.verdicts import Reason, Verdict

SHORT_S = 0.3  # how long is waited for an answer that must not come; one that comes takes a millisecond
_BRIDGED = """\
link add br0 address 02:00:5e:00:53:12 type bridge
addr flush dev tap0
addr add 198.51.100.129/28 dev br0
addr add 2001:db8:9::1/64 dev br0 nodad
link set br0 up
link set tap0 master br0
"""
_UNBRIDGED = """\
link del br0
addr add 198.51.100.129/28 dev tap0
addr add 2001:db8:9::1/64 dev tap0 nodad
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[GuestStage]:
    """One for all tests of this file."""
    if missing := missing_capability():
        pytest.skip(missing)
    with open_guest_stage() as stage:
        yield stage


@pytest.fixture(autouse=True)
def _fresh(stage: GuestStage) -> None:
    stage.shop.reset()
    stage.resolver.reset()


def connected(server: tuple[str, int], transport: str, message: bytes) -> bytes:
    """What comes back from somewhere, whoever asks; b"" for a refusal, or nothing in a while."""
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, kind) as sock:
        sock.settimeout(SHORT_S)
        try:
            sock.connect(server)
            sock.sendall(message if transport == "udp" else len(message).to_bytes(2, "big") + message)
            return sock.recv(1 << 16)
        except OSError:
            return b""


QUESTION = dns.message.make_query("shop.test", "A").to_wire()


# Who asks is answered


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize(("server", "source"), [(NOBODY4, GUEST4), (NOBODY6, GUEST6)])
def test_whatever_server_a_guest_asks_the_gate_answers(
    stage: GuestStage, server: str, source: str, transport: str
) -> None:
    """In that server's name. The verdict says who asked, and whom; nothing goes to whom it meant."""
    with stage.judged() as kept, stage.bed.sniff() as wire:
        assert stage.ask("shop.test", "A", server, transport).addresses == [stage.shop.address4]
        assert stage.ask("shop.test", "AAAA", server, transport).addresses == [stage.shop.address6]
        told = kept.told()
        assert wire.toward(server).frames == 0
    assert [(one.verdict, one.reason) for one in told] == [(Verdict.FORWARDED, Reason.RESOLVED)] * 2
    for one in told:
        assert (str(one.source), str(one.address), one.port) == (source, server, 53)
        assert (one.workload, one.process.pid, one.protocol) == ("tap0", 0, 17 if transport == "udp" else 6)
    assert len(stage.resolver.questions()) == 2


@pytest.mark.parametrize("server", [NOBODY4, NOBODY6])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_name_that_is_not_allowed_is_asked_of_nobody(stage: GuestStage, server: str, transport: str) -> None:
    """The guest hears why; its twin is allowed, over the same way."""
    with stage.judged() as kept:
        denied = stage.ask("evil.test", "A", server, transport)
        assert (denied.rcode, denied.addresses) == ("NXDOMAIN", [])
        assert "name_not_allowed" in denied.why
        assert stage.resolver.questions() == []
        assert stage.ask("shop.test", "A", server, transport).addresses == [stage.shop.address4]
        told = kept.told()
    assert [(one.verdict, one.reason) for one in told] == [
        (Verdict.DROPPED, Reason.NAME_NOT_ALLOWED),
        (Verdict.FORWARDED, Reason.RESOLVED),
    ]


def test_many_questions_over_one_connection_are_answered(stage: GuestStage) -> None:
    """And each port of the guest's is one that asked."""
    with stage.judged() as kept:

        def ask() -> list[Said]:
            with socket.create_connection((NOBODY4, 53), 5) as sock:
                said = []
                for _ in range(5):
                    sock.sendall(len(QUESTION).to_bytes(2, "big") + QUESTION)
                    length = int.from_bytes(sock.recv(2, socket.MSG_WAITALL), "big")
                    said.append(read_answer(sock.recv(length, socket.MSG_WAITALL)))
            return said

        assert [one.addresses for one in stage.guest.call(ask)] == [[stage.shop.address4]] * 5
        assert sum(kept.bound.house.counts.values()) == 5


def test_a_grant_outlives_its_end_while_a_guest_uses_it(stage: GuestStage) -> None:
    """Then it is collected: an address where the guest has nothing open any more."""
    with stage.judged() as kept:
        assert stage.ask("shop.test").addresses == [stage.shop.address4]
        with stage.guest.call(lambda: socket.create_connection((stage.shop.address4, 7), 5)) as sock:
            assert echoed(sock) == b"I am shop.test\nx"
            kept.collect(in_s=100_000.0)
            assert kept.granted() == {stage.shop.address4}
            assert echoed(sock) == b"x"
        time.sleep(0.05)  # both ends have said farewell
        kept.collect(in_s=100_000.0)
        assert kept.granted() == set()
    assert stage.shop.count().connections == 1


def echoed(sock: socket.socket) -> bytes:
    """What a server that sends everything back makes of one byte."""
    sock.sendall(b"x")
    said = sock.recv(100)
    while not said.endswith(b"x") and (part := sock.recv(100)):
        said += part
    return said


# Who else asks


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("where", ["host", "hosts", "guest"])
@pytest.mark.parametrize("gate", [GATE4, GATE6])
def test_nobody_else_is_answered(stage: GuestStage, gate: str, where: str, transport: str) -> None:
    """A process of the host, a neighbour who has a route, the guest itself past its own port 53."""
    namespace = {"host": stage.host, "hosts": stage.bed.network.hosts, "guest": stage.guest}[where]
    with stage.judged() as kept:
        port = kept.listeners.port
        assert namespace.call(lambda: connected((gate, port), transport, QUESTION)) == b""
        assert stage.resolver.questions() == []
        told = kept.told()
        if where != "guest":  # what a guest sends there itself is judged, and denied, by the programs
            assert {(one.verdict, one.reason) for one in told} == {(Verdict.DROPPED, Reason.GATE_NOT_OWN)}
            assert told[0].source is not None
            assert kept.bound.house.counts[Verdict.DROPPED] == 1
        server = NOBODY4 if gate == GATE4 else NOBODY6
        assert stage.ask("shop.test", "A", server, transport).addresses == [stage.shop.address4]


def test_strangers_do_not_take_the_places_of_guests(stage: GuestStage) -> None:
    """More connections than a gate takes at once: each of theirs ends before it is counted among them."""
    with stage.judged() as kept:
        place = (GATE4, kept.listeners.port)
        held = [stage.host.call(lambda: socket.create_connection(place, 5)) for _ in range(80)]
        try:
            assert stage.ask("shop.test", "A", NOBODY4, "tcp").addresses == [stage.shop.address4]
        finally:
            for one in held:
                one.close()


def test_the_gate_listens_on_its_own_addresses_alone(stage: GuestStage) -> None:
    """Neither on loopback nor on any other address of the host."""
    with stage.judged() as kept:
        for listener in kept.listeners.udp + kept.listeners.tcp:
            assert listener.getsockname()[0] in (GATE4, GATE6)
        for address in ("127.0.0.1", "::1", "198.51.100.1", "198.51.100.129"):
            place = (address, kept.listeners.port)
            with pytest.raises(ConnectionRefusedError):
                stage.host.call(lambda place=place: socket.create_connection(place, 5))


def test_the_addresses_are_in_the_agents_namespace_alone(stage: GuestStage) -> None:
    """On `lo`, where they are the source of nothing that goes elsewhere."""
    assert GATE4 in stage.host.command("ip", "addr", "show", "dev", "lo")
    assert GATE6 in stage.host.command("ip", "addr", "show", "dev", "lo")
    for other in (stage.guest, stage.bed.network.hosts):
        shown = other.command("ip", "addr", "show")
        assert GATE4 not in shown
        assert GATE6 not in shown
    for outside in ("203.0.113.99", "fd00:9::1", "2001:db8:2::99"):
        assert stage.host.call(lambda outside=outside: source_toward(outside)) not in (GATE4, GATE6)


def source_toward(address: str) -> str:
    """From which address the kernel would send there."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 9))
        return str(sock.getsockname()[0])


# What may happen to it


def test_addresses_that_somebody_removes_are_put_back(stage: GuestStage) -> None:
    """The news of `lo` is enough; listeners go on where they were."""
    with stage.judged():
        assert stage.ask("shop.test").addresses == [stage.shop.address4]
        ip_batch(stage.host, f"addr del {GATE4}/32 dev lo\naddr del {GATE6}/128 dev lo\n")
        with pytest.raises(OSError, match=r".*"):
            stage.guest.call(lambda: hurried(NOBODY4))
        assert 1 in stage.links.read().changed
        stage.host.call(lambda: stage.guests.refresh(1))
        assert stage.ask("shop.test").addresses == [stage.shop.address4]
        assert stage.ask("shop.test", "A", NOBODY6).addresses == [stage.shop.address4]


def hurried(server: str) -> bytes:
    """One question, by somebody who does not wait for long."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SHORT_S)
        sock.connect((server, 53))
        sock.send(QUESTION)
        return sock.recv(4096)


def test_a_gate_that_finds_its_addresses_gone_opens_at_the_second_try(stage: GuestStage) -> None:
    """Somebody has cleared `lo` before the guest came."""
    with stage.bound() as kept:
        stage.host.call(lambda: stage.guests.attend(stage.index, None))
        try:
            for address in GATE_ADDRESSES:
                assert stage.host.call(lambda address=address: take_off_loopback(address))
            assert not stage.host.call(lambda: stage.guests.open_gate(kept.bound))
            assert stage.host.call(lambda: stage.guests.open_gate(kept.bound))
            assert stage.ask("shop.test").addresses == [stage.shop.address4]
        finally:
            stage.host.call(lambda: stage.guests.leave(stage.index))


class Memory:
    """Holds listeners as systemd does, by descriptors of its own."""

    def __init__(self) -> None:
        self.kept: list[socket.socket] = []

    def take(self, workload: int, network: int) -> list[socket.socket]:
        """Those that are held."""
        return [one.dup() for one in self.kept]

    def keep(self, workload: int, listeners: Listeners) -> None:
        """Holds them."""
        self.close()
        self.kept = [one.dup() for one in listeners.udp + listeners.tcp]

    def drop(self, workload: int, network: int) -> None:
        """They outlive their gate here: what is tested is a restart."""

    def close(self) -> None:
        """Holds none."""
        for one in self.kept:
            one.close()
        self.kept = []


def test_a_question_waits_for_the_next_agent(stage: GuestStage) -> None:
    """The listeners are kept, and what came while nobody answered is answered then."""
    memory = Memory()
    try:
        with stage.judged(memory) as before:
            port = before.listeners.port
        with stage.bound(memory) as kept:
            stage.host.call(lambda: stage.guests.attend(stage.index, None))
            gates = kept.bound.house._gates
            gates.open(stage.host.call(network_cookie), port)  # as an agent that was killed leaves it
            with stage.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
                sock.settimeout(5)
                sock.connect((NOBODY4, 53))
                sock.send(QUESTION)
                time.sleep(0.05)
                assert stage.host.call(lambda: stage.guests.open_gate(kept.bound))
                assert kept.listeners.port == port
                assert read_answer(sock.recv(4096)).addresses == [stage.shop.address4]
            stage.host.call(lambda: stage.guests.leave(stage.index))
    finally:
        memory.close()


def test_kept_listeners_of_other_addresses_are_not_taken(stage: GuestStage) -> None:
    """The settings have changed since: guests would be led where nobody listens."""
    memory = Memory()
    try:
        memory.kept = [
            stage.host.call(lambda kind=kind: _listening("127.0.0.1", kind))
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
        ]
        with stage.judged(memory) as kept:
            assert {one.getsockname()[0] for one in kept.listeners.udp} == {GATE4, GATE6}
            assert stage.ask("shop.test").addresses == [stage.shop.address4]
    finally:
        memory.close()


def _listening(address: str, kind: socket.SocketKind) -> socket.socket:
    one = socket.socket(socket.AF_INET, kind)
    one.bind((address, 5353))
    return one


def test_where_ipv6_is_off_there_is_a_gate_of_ipv4(stage: GuestStage) -> None:
    """Nothing fails for it; and both can be taken away again, once."""
    place = Namespace()
    try:
        ip_batch(place, "link set lo up\n")
        place.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        assert [place.call(lambda one=one: put_on_loopback(one)) for one in GATE_ADDRESSES * 2] == [True, False] * 2
        place.sysctl("net.ipv6.conf.all.disable_ipv6", 0)
        assert [place.call(lambda one=one: put_on_loopback(one)) for one in GATE_ADDRESSES] == [True, True]
        assert [place.call(lambda one=one: take_off_loopback(one)) for one in GATE_ADDRESSES] == [True, True]
        assert [place.call(lambda one=one: take_off_loopback(one)) for one in GATE_ADDRESSES] == [False, False]
    finally:
        place.close()


def test_a_guest_whose_tap_becomes_a_bridges_port_asks_through_the_bridge(stage: GuestStage) -> None:
    """It sends to the bridge's MAC address from then on, and to the tap's own no more."""
    with stage.judged():
        assert stage.ask("shop.test").addresses == [stage.shop.address4]
        try:
            ip_batch(stage.host, _BRIDGED)
            ip_batch(stage.guest, "neigh flush dev eth0\n")
            followed(stage, "br0")
            assert stage.ask("shop.test").addresses == [stage.shop.address4]
            assert stage.ask("shop.test", "A", NOBODY6, "tcp").addresses == [stage.shop.address4]
            ip_batch(stage.guest, "neigh replace 198.51.100.129 lladdr 02:00:5e:00:53:11 nud permanent dev eth0\n")
            with pytest.raises(TimeoutError):
                stage.guest.call(lambda: hurried(NOBODY4))
        finally:
            ip_batch(stage.host, _UNBRIDGED)
            ip_batch(stage.guest, "neigh del 198.51.100.129 dev eth0\nneigh flush dev eth0\n")
            followed(stage, "tap0")
        assert stage.ask("shop.test").addresses == [stage.shop.address4]


def followed(stage: GuestStage, name: str) -> None:
    """The agent has heard of what changed, up to the host's addresses on this interface."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for index in stage.links.read().changed:
            stage.host.call(lambda index=index: stage.guests.refresh(index))
        link = stage.links.named(name)
        if link and {"198.51.100.129", "2001:db8:9::1"} <= {str(one.ip) for one in link.addresses}:
            return
        time.sleep(0.01)
    raise AssertionError(f"nobody told of the addresses on {name}")


# Attending and leaving


def test_what_is_left_is_judged_no_more_and_forgotten(stage: GuestStage) -> None:
    """It asks whom it likes; nothing is known of it any more."""
    with stage.judged():
        assert stage.ask("shop.test").addresses == [stage.shop.address4]
        assert stage.index in stage.guest_tables.known()
        assert stage.ask("evil.test", "A", stage.resolver.address4).addresses == []
    assert stage.index not in stage.guest_tables.known()
    assert stage.ask("evil.test", "A", stage.resolver.address4).addresses == [stage.shop.address4]


def test_words_that_cannot_be_meant_attend_nothing(stage: GuestStage) -> None:
    """And an interface that has gone is said to have."""
    with pytest.raises(Refused, match="is no MAC address"):
        stage.host.call(lambda: stage.guests.attend(stage.index, GuestSaid(mac="x")))
    with pytest.raises(Refused, match="has just gone"):
        stage.host.call(lambda: stage.guests.attend(99999, None))
    assert stage.index not in stage.guest_tables.known()


def test_a_guest_is_answered_at_the_address_that_was_said_alone(stage: GuestStage) -> None:
    """From another one of its own it gets nothing."""
    ip_batch(stage.guest, "addr add 198.51.100.131/28 dev eth0\n")
    try:
        with stage.judged(said=GuestSaid(mac="02:00:5e:00:53:10", addresses=("198.51.100.131",))):
            ip_batch(stage.guest, "neigh flush dev eth0\n")  # what it was told as another one
            assert read_answer(stage.guest.call(lambda: from_address("198.51.100.131"))).addresses
            assert stage.guest.call(lambda: from_address(GUEST4)) == b""
            assert read_answer(stage.guest.call(lambda: from_address("198.51.100.131"))).addresses
    finally:
        ip_batch(stage.guest, "addr del 198.51.100.131/28 dev eth0\n")


def from_address(source: str) -> bytes:
    """The answer to a question from this address; b"" for none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SHORT_S)
        sock.bind((source, 0))
        sock.sendto(QUESTION, (NOBODY4, 53))
        try:
            return sock.recv(4096)
        except OSError:
            return b""
