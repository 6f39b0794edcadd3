"""What on_message has let pass may still fail to be sent, in part or as a whole: nothing may take its place unread.

The kernel keeps the verdict of a message that failed for the next one (tcp_bpf_send_verdict), and asks no program about
that. So on_message redirects to the same socket instead of passing, which is forgotten first; it compares what has
passed with what is in the send queue; and no flight is settled before its first bytes have left.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bed import Host, Tcp, call_in
from e2e.guard import Guard, Workload
from e2e.hello_client import HelloClient, client, hello_guard, naming
from exeat.model.verdicts import Reason, Verdict
from hellos.build import NOISE, Hello, RecordType, message, record

__all__ = ["client", "hello_guard"]

MSG_FASTOPEN = 0x20000000  # on an established socket: EISCONN, after on_message has let it pass
GOOD, EVIL = Hello(sni="good.test"), Hello(sni="evil.test")
EARLY = replace(GOOD, psk=NOISE[:99], early_data=True)
CCS = record(b"\x01", RecordType.CHANGE_CIPHER_SPEC, 0x0303)
DATA = record(NOISE[:64], RecordType.APPLICATION_DATA, 0x0303)
KEY_EXCHANGE = record(message(NOISE[:66], kind=16), version=0x0303)
LEFT_OUT = (Verdict.DROPPED, Reason.UNVERIFIED_DATA)


@pytest.fixture(scope="module")
def workload(hello_guard: Guard) -> Iterator[Workload]:
    """A workload that may say good.test, and evil.test too: so only the change can be denied."""
    with hello_guard.workload(naming("good.test", "evil.test")) as workload:
        yield workload


@pytest.fixture(scope="module")
def host(client: HelloClient) -> Host:
    """A server that reads."""
    return client.bed.add("recording.test", Tcp(443, "record"))


def tries(sock: socket.socket, *parts: tuple[bytes, int]) -> list[int | str]:
    """What each send() came to: a count or the name of an errno."""
    told: list[int | str] = []
    for part, flags in parts:
        try:
            told.append(sock.send(part, flags))
        except OSError as failure:
            told.append(errno.errorcode[failure.errno or 0])
    return told


@pytest.mark.parametrize(
    "sent",
    [[], [GOOD.stream()], [GOOD.stream(), CCS], [EARLY.stream(), CCS, DATA]],
    ids=["first", "second", "ccs", "early"],
)
@pytest.mark.parametrize(
    "failing",
    [GOOD.stream(), CCS, DATA, KEY_EXCHANGE, CCS + GOOD.stream(), CCS + DATA],
    ids=["hello", "CCS", "data", "key exchange", "CCS and hello", "CCS and data"],
)
def test_nothing_goes_unread_in_the_place_of_a_write_that_failed(
    client: HelloClient, workload: Workload, host: Host, sent: list[bytes], failing: bytes
) -> None:
    """A hello of another name, of the same length as what failed or not, at once or after another write."""
    for replacement in (EVIL.stream(), CCS + EVIL.stream(), failing.replace(b"good.test", b"evil.test")):
        host.reset()

        def run(replacement: bytes = replacement) -> list[int | str]:
            with socket.create_connection((host.address4, 443)) as sock:
                told = tries(sock, *((part, 0) for part in sent))
                assert told == [len(part) for part in sent]
                return tries(sock, (failing, MSG_FASTOPEN), (replacement, 0), (EVIL.stream(), 0))

        told = call_in(client.bed, run, cgroup=workload.cgroup)
        assert told[0] in ("EISCONN", "EACCES")  # EACCES: such a write may not stand there
        assert told[1:] == ["EACCES", "EACCES"]
        assert host.received() == b"".join(sent)
        assert workload.reasons()[-1] != (Verdict.FORWARDED, Reason.NAME_ALLOWED) or told[0] == "EACCES"


def test_the_twin_whose_write_does_not_fail(client: HelloClient, workload: Workload, host: Host) -> None:
    """The same writes without the flag arrive."""
    host.reset()
    parts = [GOOD.stream(), CCS, GOOD.stream(), DATA, EVIL.stream()]

    def run() -> list[int | str]:
        with socket.create_connection((host.address4, 443)) as sock:
            return tries(sock, *((part, 0) for part in parts))

    assert call_in(client.bed, run, cgroup=workload.cgroup) == [len(part) for part in parts]
    assert host.received() == b"".join(parts)  # once data is exchanged, nobody looks any more
    assert workload.reasons() == [(Verdict.FORWARDED, Reason.NAME_ALLOWED)]


@pytest.fixture
def deaf(client: HelloClient) -> Iterator[socket.socket]:
    """A server that accepts and does not read: the client's send buffer fills."""
    address = client.bed.network.next_addresses()[0]

    def listen() -> socket.socket:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        server.bind((address, 443))
        server.listen()
        return server

    with client.bed.network.hosts.call(listen) as server:
        yield server


def heard(server: socket.socket) -> bytes:
    """All that has come in meanwhile, and what comes in a moment."""
    server.settimeout(1)
    sock, _ = server.accept()
    with sock:
        sock.settimeout(0.4)
        data = b""
        try:
            while part := sock.recv(1 << 16):
                data += part
        except (TimeoutError, ConnectionResetError):
            pass
        return data


def test_a_write_that_the_buffer_takes_in_part_ends_the_connection(
    client: HelloClient, workload: Workload, deaf: socket.socket
) -> None:
    """Early data in large records, not waiting: where the server's count and ours would part, nothing goes on."""
    address = deaf.getsockname()
    hello, data = EARLY.stream(), record(bytes(16000), RecordType.APPLICATION_DATA, 0x0303)

    def run() -> tuple[int, list[int | str]]:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sock.connect(address)
        sock.send(hello)
        sent = len(hello)
        for _ in range(50):
            (told,) = tries(sock, (data * 4, socket.MSG_DONTWAIT))
            if told != 4 * len(data):
                break
            sent += told
        assert isinstance(told, int)
        assert 0 < told < 4 * len(data)  # in part
        sent += told
        time.sleep(0.05)
        threading.Thread(target=lambda: time.sleep(1.5) or sock.close()).start()
        rest = -told % len(data)
        return sent, [tries(sock, (bytes(rest) + EVIL.stream(), flag))[0] for flag in (socket.MSG_DONTWAIT, 0)]

    reader: list[bytes] = []
    thread = threading.Thread(target=lambda: (time.sleep(0.3), reader.append(heard(deaf))))
    thread.start()
    sent, told = call_in(client.bed, run, cgroup=workload.cgroup)
    thread.join()
    assert told[-1] == "EACCES"
    assert EVIL.stream() not in reader[0]
    assert len(reader[0]) <= sent
    assert workload.reasons()[-1] == LEFT_OUT


def test_another_thread_cannot_write_into_a_message_that_waits_for_room(
    client: HelloClient, workload: Workload, deaf: socket.socket
) -> None:
    """The kernel lets go of the socket while it waits for memory in the middle of a message."""
    address = deaf.getsockname()
    hello, data = EARLY.stream(), record(bytes(16000), RecordType.APPLICATION_DATA, 0x0303)

    def run() -> list[int | str]:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sock.connect(address)
        sock.send(hello)
        told: list[int | str] = []
        waiting = threading.Thread(target=lambda: told.extend(tries(sock, *[(data * 4, 0)] * 8)))
        waiting.start()
        time.sleep(0.1)  # by now it sleeps in the middle of one
        for flags in (socket.MSG_DONTWAIT, 0):
            told.extend(tries(sock, (EVIL.stream(), flags)))
        waiting.join(3)
        return told

    reader: list[bytes] = []
    thread = threading.Thread(target=lambda: (time.sleep(0.5), reader.append(heard(deaf))))
    thread.start()
    told = call_in(client.bed, run, cgroup=workload.cgroup)
    thread.join()
    assert "EACCES" in told
    assert EVIL.stream() not in reader[0]
    assert workload.reasons()[-1][0] is Verdict.DROPPED
