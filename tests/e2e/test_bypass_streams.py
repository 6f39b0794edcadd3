"""Questions over TCP in every shape, and floods: the gate does bounded work, serves the others, and counts exactly."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, Host
from e2e.bypasses import PATIENCE_S, PORT, framed, patient, read_framed
from e2e.escapes import Steps, got, tcp, udp
from e2e.gatekeeper import SOMEBODY, Kept, ask_dns, fresh_resolver, keep_gate, look_up, read_answer
from e2e.guard import Guard, rule
from e2e.test_bypass_upstream import RESOLVED, message, of_upstream, opt, option
from exeat.model.verdicts import Reason, Verdict

MESSAGE_S = 5.0  # how long one message may take to come (dns/tcp.py)
FLOOD = 50_000
NAMES = [f"n{number}.shop.test" for number in range(20)]


@pytest.fixture
def kept(guard: Guard, bed: Bed, good: Host) -> Iterator[Kept]:
    """A workload that may ask for shop.test and what is one label below it."""
    resolver = fresh_resolver(bed, {"shop.test": good.addresses, "*.shop.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("shop.test", "*.shop.test"), protocol="tls")) as kept:
        yield kept


def dialled() -> socket.socket:
    """A connection to port 53, that is to the gate."""
    sock = patient(tcp(SOMEBODY))
    sock.connect((SOMEBODY, PORT))
    return sock


def found(transport: str) -> list[str]:
    """The addresses of the allowed name, asked over this."""
    return ask_dns("shop.test", transport=transport).addresses


class Reader:
    """The messages of one connection, however they are cut."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._pending = sock, b""

    def read(self) -> bytes:
        """The next message; ConnectionResetError where the connection ends."""
        while len(self._pending) < 2 or len(self._pending) < 2 + int.from_bytes(self._pending[:2], "big"):
            part = self._sock.recv(1 << 16)
            if not part:
                raise ConnectionResetError(104, "the gate closed the connection")
            self._pending += part
        end = 2 + int.from_bytes(self._pending[:2], "big")
        answer, self._pending = self._pending[2:end], self._pending[end:]
        return answer


def at_once(stream: bytes) -> list[bytes]:
    """All in one segment."""
    return [stream]


def byte_by_byte(stream: bytes) -> list[bytes]:
    """Also the two bytes of a length come apart."""
    return [stream[at : at + 1] for at in range(len(stream))]


def askew(stream: bytes) -> list[bytes]:
    """Each piece ends inside a message."""
    return [stream[at : at + 37] for at in range(0, len(stream), 37)]


@pytest.mark.parametrize("cut", [at_once, byte_by_byte, askew])
def test_questions_on_one_connection_are_answered_however_they_are_cut(
    kept: Kept, bed: Bed, good: Host, cut: Callable[[bytes], list[bytes]]
) -> None:
    """Twenty of them without waiting for an answer, every other one denied; upstream sees each allowed one once."""
    names = [name if number % 2 else f"{name}.evil.test" for number, name in enumerate(NAMES)]

    def do() -> list[bytes]:
        with dialled() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in cut(b"".join(framed(message(name)) for name in names)):
                sock.sendall(piece)
            reader = Reader(sock)
            return [reader.read() for _ in names]

    said = [read_answer(answer) for answer in kept.run(do)]
    assert [one.addresses for one in said] == [[good.address4] if number % 2 else [] for number in range(len(names))]
    assert [one.rcode for one in said[0::2]] == ["NXDOMAIN"] * 10
    asked = bed.host("resolver.test").questions()
    assert [one.raw[2:] for one in asked] == [of_upstream(name) for name in names[1::2]]
    assert sorted(kept.reasons()) == sorted([RESOLVED, (Verdict.DROPPED, Reason.NAME_NOT_ALLOWED)] * 10)


def test_the_longest_message_is_read_and_nothing_of_it_travels(kept: Kept, bed: Bed, good: Host) -> None:
    """65,535 bytes, most of them padding: a question like any other. The same size of rubbish is refused."""
    bare = len(message("shop.test", counts="1001", tail=opt(option(12, b""))))
    padded = message("shop.test", counts="1001", tail=opt(option(12, b"x" * (65_535 - bare))))
    rubbish = message("shop.test").ljust(65_535, b"x")
    assert len(padded) == len(rubbish) == 65_535

    def do() -> list[bytes]:
        with dialled() as sock:
            reader = Reader(sock)
            answers = []
            for one in (padded, rubbish, message("shop.test")):
                sock.sendall(framed(one))
                answers.append(reader.read())
            return answers

    first, second, third = (read_answer(answer) for answer in kept.run(do))
    assert (first.addresses, second.rcode, third.addresses) == ([good.address4], "FORMERR", [good.address4])
    assert [one.raw[2:] for one in bed.host("resolver.test").questions()] == [of_upstream("shop.test")]


def test_an_empty_message_and_half_a_connection(kept: Kept, good: Host) -> None:
    """A length of 0 ends nothing that came before; who has said all still gets an answer."""

    def halved() -> bytes:
        with dialled() as sock:
            sock.sendall(framed(message("shop.test")))
            sock.shutdown(socket.SHUT_WR)
            return read_framed(sock)

    def empty() -> Any:
        with dialled() as sock:
            sock.sendall(framed(message("shop.test")) + framed(b"") + framed(message("n1.shop.test")))
            reader = Reader(sock)
            return [reader.read(), got(reader.read)]

    assert read_answer(kept.run(halved)).addresses == [good.address4]
    first, _ = kept.run(empty)
    assert read_answer(first).addresses == [good.address4]
    assert kept.run(lambda: found("tcp")) == [good.address4]


def test_a_slow_client_holds_up_nobody_and_is_let_go(kept: Kept, bed: Bed, good: Host) -> None:
    """It writes a byte now and then; others are answered meanwhile, and its time ends though it goes on writing."""

    def slow(pause: Callable[[], None]) -> float:
        with dialled() as sock:
            sock.sendall(b"\x00")
            pause()
            began = time.monotonic()
            while time.monotonic() - began < 6 * MESSAGE_S:
                if got(lambda: sock.send(b"\x20")) != 1:
                    break
                sock.settimeout(0.25)
                if got(lambda: sock.recv(1)) != "TIMEOUT":  # closed
                    break
                sock.settimeout(PATIENCE_S)
            return time.monotonic() - began

    with Steps(bed, slow, kept.workload.cgroup) as steps:
        for transport in ("udp", "tcp"):
            began = time.monotonic()
            assert kept.run(lambda transport=transport: found(transport)) == [good.address4]
            assert time.monotonic() - began < MESSAGE_S / 2
        steps.go_on()
    assert 0 < steps.result < 3 * MESSAGE_S


def test_two_hundred_connections_cost_their_owner_alone(guard: Guard, bed: Bed, good: Host) -> None:
    """UDP is answered beside them, another workload is served, and after them TCP is, too."""
    resolver = fresh_resolver(bed, {"shop.test": good.addresses})
    hosts = rule(hosts=("shop.test",), protocol="tls")

    def crowd(pause: Callable[[], None]) -> Any:
        with ExitStack() as held:
            for _ in range(200):
                got(lambda: held.enter_context(dialled()))
            beside = look_up("shop.test")
            pause()
        return beside

    with keep_gate(guard, bed, resolver, hosts) as kept, keep_gate(guard, bed, resolver, hosts) as other:
        with Steps(bed, crowd, kept.workload.cgroup) as steps:
            for transport in ("udp", "tcp"):
                assert other.run(lambda transport=transport: found(transport)) == [good.address4]
            steps.go_on()
        assert steps.result == [good.address4]
        deadline = time.monotonic() + PATIENCE_S
        while got(lambda: kept.run(lambda: found("tcp"))) != [good.address4]:
            assert time.monotonic() < deadline


def waiting_and_dropped(bed: Bed, port: int) -> tuple[int, int]:
    """Bytes that wait at the gate's UDP sockets, and datagrams that the kernel threw away there."""

    def look() -> tuple[int, int]:
        waiting = dropped = 0
        for table in ("udp", "udp6"):
            for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port:
                    waiting += int(fields[4].partition(":")[2], 16)
                    dropped += int(fields[-1])
        return waiting, dropped

    return bed.network.client.call(look)


REPEATED = "evil.test"


@pytest.mark.parametrize("kind", ["one name", "different names"])
def test_a_flood_is_counted_to_the_last_datagram(guard: Guard, bed: Bed, good: Host, kind: str) -> None:
    """As fast as the workload can: each is counted by the gate, or by the kernel as dropped; then all is as before."""
    resolver = fresh_resolver(bed, {"shop.test": good.addresses})
    is_one = kind == "one name"

    def flood() -> int:
        sent = 0
        with udp(SOMEBODY) as sock:
            sock.connect((SOMEBODY, PORT))
            sock.settimeout(None)
            for number in range(FLOOD):
                name = REPEATED if is_one else f"n{number}.evil.test"
                sent += isinstance(got(lambda name=name: sock.send(message(name))), int)
        return sent

    with keep_gate(guard, bed, resolver, rule(hosts=("shop.test",), protocol="tls")) as kept:
        port = kept.listeners.port
        sent = kept.run(flood, timeout=60.0)
        deadline = time.monotonic() + 60.0
        while waiting_and_dropped(bed, port)[0]:
            assert time.monotonic() < deadline, "the gate does not read"
        _, lost = waiting_and_dropped(bed, port)
        assert kept.run(lambda: look_up("shop.test")) == [good.address4]
        assert [one.name for one in resolver.questions()] == ["shop.test"]
    counts = kept.gatehouse.counts
    assert sent > FLOOD / 2
    assert counts[Verdict.DROPPED] == sent - lost > 0
    assert (counts[Verdict.FORWARDED], counts[Verdict.ERROR]) == (1, lost)
    told = [one for one in kept.records if one.name != "shop.test"]
    assert sum(one.count for one in told) == sent
    assert {one.reason for one in told} <= {Reason.NAME_NOT_ALLOWED, Reason.QUERY_FLOOD}
    assert sum(one.count for one in told if one.reason is Reason.QUERY_FLOOD) == lost
    assert not is_one or len(told) <= 20


def test_a_flood_of_rubbish_leaves_the_gate_as_it_was(kept: Kept, good: Host) -> None:
    """Datagrams of every length and of no sense."""

    def flood() -> None:
        with udp(SOMEBODY) as sock:
            sock.connect((SOMEBODY, PORT))
            sock.settimeout(None)
            for number in range(5_000):
                body = struct.pack("!HH4H", number, 0x0100, 1, 0, 0, number % 3) + bytes([number % 256]) * (
                    number % 700
                )
                got(lambda body=body: sock.send(body))

    kept.run(flood)
    assert kept.run(lambda: look_up("shop.test")) == [good.address4]
