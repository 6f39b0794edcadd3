"""OpenSSL's servers take the name of the second hello, after HelloRetryRequest: it must be the name of the first.

A policy here allows both names, so that only the change is denied.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from bed import OpensslServer, Tcp, Tls, call_in, curl, run_in
from e2e.guard import Guard, Workload
from e2e.hello_client import NODELAY, HelloClient, Outcome, Talk, client, hello_guard, naming
from exeat.kernel import libbpf
from exeat.model.verdicts import Reason, Verdict
from hellos.build import NOISE, Hello, RecordType, every, message, record, records, writes

__all__ = ["client", "hello_guard"]

SEED = 20261122
FIRST, SECOND = "first.test", "other.test"  # of one length, so that one can be written over the other
ALLOWED = [(Verdict.FORWARDED, Reason.NAME_ALLOWED)]
CHANGED = [*ALLOWED, (Verdict.DROPPED, Reason.NAME_CHANGED)]
CCS = record(b"\x01", RecordType.CHANGE_CIPHER_SPEC, 0x0303)
WARNING = record(b"\x01\x5a", RecordType.ALERT, 0x0303)
RETRYING = Hello(sni=FIRST, key_shares=())
EARLY = replace(RETRYING, psk=NOISE[:99], early_data=True)
TAMPERED = Hello(sni=SECOND)
REPEATED = Hello(sni=FIRST)
Flight = Callable[[bytes], Sequence[bytes]]


@pytest.fixture(scope="module")
def workload(hello_guard: Guard) -> Iterator[Workload]:
    """A workload that may say both names."""
    with hello_guard.workload(naming(FIRST, SECOND)) as workload:
        yield workload


@pytest.fixture(scope="module")
def retrying(client: HelloClient) -> OpensslServer:
    """A real server that asks each client for a second hello, and reports every name it reads."""
    return client.bed.openssl_server(FIRST, SECOND, groups="P-384")


def shake(server: OpensslServer, flight: Flight, name: str) -> tuple[int, str | None]:
    """The errno of the second flight's first failed write, and whose certificate came."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing, server_hostname=FIRST)
    with socket.create_connection((server.address4, server.port), timeout=2) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read())
        incoming.write(sock.recv(1 << 16))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        try:
            for part in flight(outgoing.read().replace(FIRST.encode(), name.encode())):
                sock.sendall(part)
        except OSError as failure:
            return failure.errno or -1, None
        with contextlib.suppress(OSError, ssl.SSLError):
            while True:
                incoming.write(sock.recv(1 << 16))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    return 0, tls.getpeercert(binary_form=True) and tls.version()
                if incoming.pending == 0:
                    continue
    return 0, None


def only_hello(flight: bytes) -> bytes:
    """The handshake message without CCS and record headers."""
    joined = b""
    while flight:
        length = int.from_bytes(flight[3:5], "big")
        joined += flight[5 : 5 + length] if flight[0] == RecordType.HANDSHAKE else b""
        flight = flight[5 + length :]
    return joined


FLIGHTS: dict[str, Flight] = {
    "as it is": lambda flight: [flight],
    "without CCS": lambda flight: [record(only_hello(flight))],
    "CCS apart": lambda flight: [CCS, record(only_hello(flight))],
    "cut behind the CCS": lambda flight: writes(flight, [6]),
    "cut in the header": lambda flight: writes(flight, [8, 12, 17]),
    "byte by byte": lambda flight: writes(flight, range(len(flight))),
    "in 64 records": lambda flight: [CCS, b"".join(records(only_hello(flight), range(1, 64)))],
    "in 64 records and as many writes": lambda flight: [CCS, *records(only_hello(flight), range(1, 64))],
    "in records of 20 bytes": lambda flight: [b"".join(records(only_hello(flight), every(only_hello(flight), 20)))],
}


@pytest.mark.parametrize("how", FLIGHTS)
def test_a_second_hello_with_another_name_is_denied_and_the_server_never_reads_it(
    client: HelloClient, workload: Workload, retrying: OpensslServer, how: str
) -> None:
    """And its twin with the same name shakes hands, after a real HelloRetryRequest."""
    seen = len(retrying.names_seen())
    error, version = call_in(client.bed, lambda: shake(retrying, FLIGHTS[how], SECOND), cgroup=workload.cgroup)
    assert (error, version) == (13, None)
    assert workload.reasons() == CHANGED
    assert retrying.names_seen()[seen:] == [FIRST]

    error, version = call_in(client.bed, lambda: shake(retrying, FLIGHTS[how], FIRST), cgroup=workload.cgroup)
    assert error == 0
    assert workload.reasons() == ALLOWED
    assert retrying.names_seen()[seen:] == [FIRST, FIRST, FIRST]


def test_the_switch_works_against_this_server_where_nobody_looks(client: HelloClient, retrying: OpensslServer) -> None:
    """Or the test above would prove nothing."""
    seen = len(retrying.names_seen())
    assert call_in(client.bed, lambda: shake(retrying, FLIGHTS["as it is"], SECOND))[0] == 0
    assert retrying.names_seen()[seen:] == [FIRST, SECOND]


@pytest.mark.parametrize(
    "before",
    [
        record(NOISE[:64], RecordType.APPLICATION_DATA, 0x0303),
        WARNING,
        CCS + CCS,
        record(message(b"", kind=0), version=0x0303),
        record(message(NOISE[:40], kind=16), version=0x0303),
        record(b"\0", version=0x0303),
        CCS + record(b"\x01" + NOISE[:39], version=0x0303),
    ],
    ids=["application data", "alert", "CCS twice", "hello request", "key exchange", "half a message", "Finished"],
)
def test_what_ends_our_watch_ends_the_servers_patience(
    client: HelloClient, workload: Workload, retrying: OpensslServer, before: bytes
) -> None:
    """A record that lets a socket go unwatched makes the server give up before a second hello could follow it."""
    seen = len(retrying.names_seen())
    call_in(
        client.bed,
        lambda: shake(retrying, lambda flight: [before, record(only_hello(flight))], SECOND),
        cgroup=workload.cgroup,
    )
    assert SECOND not in retrying.names_seen()[seen:]
    workload.told()


@pytest.mark.parametrize("options", [[], ["-tls1_3"], ["-groups", "P-256:P-384"]], ids=["", "1.3", "P-256 first"])
def test_a_real_client_that_is_asked_to_retry_gets_through(
    client: HelloClient, workload: Workload, retrying: OpensslServer, options: list[str]
) -> None:
    """openssl s_client, with the same name twice as every honest client."""
    target = ["-connect", f"{retrying.address4}:{retrying.port}", "-servername", FIRST, *options]
    done = run_in(client.bed, ["openssl", "s_client", "-msg", *target], cgroup=workload.cgroup)
    assert done.stdout.count("ClientHello") == 2
    assert f"subject=CN = {FIRST}" in done.stdout
    assert workload.reasons() == ALLOWED


def test_curl_that_is_asked_to_retry_gets_its_page(client: HelloClient, workload: Workload) -> None:
    """HTTPS through a HelloRetryRequest."""
    host = client.bed.add(FIRST, Tls(groups="secp384r1"))
    assert curl(client.bed, host, cgroup=workload.cgroup).stdout == f"I am {FIRST}\n"
    assert host.count().sni == [FIRST, FIRST]
    assert workload.reasons() == ALLOWED


def say(client: HelloClient, workload: Workload, *parts: bytes) -> Outcome:
    """One connection of these writes."""
    return client.say(workload, [Talk(parts, (NODELAY,))])[0]


@pytest.mark.parametrize("between", [b"", CCS, WARNING, CCS + WARNING, WARNING + CCS + WARNING, CCS + CCS])
def test_a_second_hello_right_behind_the_first_must_repeat_its_name(
    client: HelloClient, workload: Workload, between: bytes
) -> None:
    """Nobody waits for an answer here. A message goes as a whole or not at all."""
    for first in (RETRYING.stream(), EARLY.stream()):
        cuts = [[first + between, TAMPERED.stream()], [first, between + TAMPERED.stream()]]
        for cut in [*cuts, [first, between, TAMPERED.stream()] if between else [first, TAMPERED.stream()]]:
            outcome = say(client, workload, *cut)
            assert (outcome.verdicts, outcome.error) == (CHANGED, 13), cut
            assert outcome.got == b"".join(cut[: outcome.failed_at])
            twin = say(client, workload, *(part.replace(SECOND.encode(), FIRST.encode()) for part in cut))
            assert (twin.verdicts, twin.error) == (ALLOWED, 0)
            assert twin.got == first + between + REPEATED.stream()


@pytest.mark.parametrize("between", [b"", CCS, WARNING + CCS])
def test_two_hellos_in_one_message_are_denied_whatever_they_say(
    client: HelloClient, workload: Workload, between: bytes
) -> None:
    """A client writes the second only when it has read the answer to the first."""
    for first in (RETRYING, EARLY):
        for second in (TAMPERED, REPEATED):
            whole = first.stream() + between + second.stream()
            end = len(first.stream() + between)
            for cut in ([whole], writes(whole, [end + 1]), writes(whole, [end + 5]), writes(whole, [9, end + 3])):
                outcome = say(client, workload, *cut)
                assert outcome.verdicts == [(Verdict.DROPPED, Reason.HELLO_INTERLEAVED)]
                assert (outcome.error, outcome.got) == (13, b"")


def test_a_second_hello_in_single_bytes_is_followed_up_to_the_limit(client: HelloClient, workload: Workload) -> None:
    """After CCS, 64 records may be an honest client's; 65 are nobody's."""
    for name, points in ((FIRST, range(1, 64)), (SECOND, range(1, 64)), (FIRST, range(1, 65)), (FIRST, range(1, 300))):
        second = Hello(sni=name).stream(points)
        outcome = say(client, workload, RETRYING.stream(), CCS, *writes(second, every(second, 6)))
        if len(points) > 63:
            assert outcome.verdicts == [*ALLOWED, (Verdict.DROPPED, Reason.HELLO_TOO_MANY_RECORDS)]
        else:
            assert outcome.verdicts == (ALLOWED if name == FIRST else CHANGED)
        is_passed = name == FIRST and len(points) == 63
        assert outcome.got == RETRYING.stream() + CCS + (second if is_passed else b"")


def test_a_malformed_second_hello_is_denied_with_its_own_reason(client: HelloClient, workload: Workload) -> None:
    """The second is read as strictly as the first."""
    for second, reason in (
        (record(REPEATED.message() + b"\0"), Reason.HELLO_TRAILING_BYTES),
        (Hello(sni=None).stream(), Reason.SNI_MISSING),
        (replace(REPEATED, after=[(0x7777, b""), (0x7777, b"")]).stream(), Reason.EXTENSION_DUPLICATE),
        (Hello(sni="10.0.0.1").stream(), Reason.SNI_ADDRESS),
        (record(b"x", 24), Reason.HELLO_INTERLEAVED),
    ):
        for between in (b"", CCS):
            outcome = say(client, workload, RETRYING.stream(), between + second)
            assert outcome.verdicts == [*ALLOWED, (Verdict.DROPPED, reason)]
            assert outcome.got in (RETRYING.stream(), RETRYING.stream() + between)


@pytest.mark.parametrize("length", [32, 40, 64, 80, 1000])
def test_a_tls12_finished_that_begins_like_a_hello_passes(client: HelloClient, workload: Workload, length: int) -> None:
    """It is encrypted, so that one in 256 begins with the type of a ClientHello; bulk data follows."""
    rng = random.Random(length)
    key_exchange = record(message(rng.randbytes(66), kind=16), version=0x0303)
    talks = []
    for _ in range(50):
        finished = record(b"\x01" + rng.randbytes(length - 1), version=0x0303)
        if finished[6] <= 2 and finished[9] == 3:
            continue  # once in 21,845: looks just like a hello
        data = record(rng.randbytes(500), RecordType.APPLICATION_DATA, 0x0303)
        whole = CCS + finished + data
        apart = [CCS, finished, data]
        for parts in ([key_exchange + whole], [key_exchange, whole], [whole], apart, writes(whole, [7])):
            talks.append(Talk([REPEATED.stream(), *parts], (NODELAY,)))
    for talk, outcome in zip(talks, client.say(workload, talks), strict=True):
        assert (outcome.verdicts, outcome.error) == (ALLOWED, 0)
        assert outcome.got == talk.stream


def random_early_data(rng: random.Random) -> bytes:
    """Records that may stand between the hellos, with bytes in them that look like other records."""
    made = []
    for _ in range(rng.randint(1, 23)):
        bait = b"".join(rng.choice((CCS, WARNING, record(NOISE[:50], 23), b"\x17\x03\x03\x0f\xff")) for _ in range(3))
        data = rng.choice((b"a", bait, rng.randbytes(rng.randint(1, 1400)), bait + rng.randbytes(rng.randint(1, 90))))
        made.append(rng.choice((CCS, WARNING, *[record(data, RecordType.APPLICATION_DATA, 0x0303)] * 8)))
    return b"".join(made)


def test_early_data_never_hides_a_second_hello(client: HelloClient, workload: Workload) -> None:
    """300 flights with records in all sizes and cuts, full of bytes that look like records."""
    rng, flights, honest, hello = random.Random(SEED), [], [], EARLY.stream()
    for _ in range(300):
        data = random_early_data(rng)
        whole = hello + data + TAMPERED.stream()
        points = rng.sample(range(len(whole)), rng.choice((0, 1, 2, 9, 30)))
        flights.append((hello + data, Talk(writes(whole, points), rng.choice(((NODELAY,), ())))))
        behind = [point for point in points if point >= len(hello)]
        honest.append(Talk([hello, *writes(data + REPEATED.stream(), [p - len(hello) for p in behind])], (NODELAY,)))
    for (before, _talk), outcome in zip(flights, client.say(workload, [talk for _, talk in flights]), strict=True):
        assert SECOND.encode() not in outcome.got
        assert before.startswith(outcome.got)
        assert outcome.verdicts[:2] in (CHANGED, [(Verdict.DROPPED, Reason.HELLO_INTERLEAVED)])
    for talk, outcome in zip(honest, client.say(workload, honest), strict=True):
        assert (outcome.verdicts, outcome.error) == (ALLOWED, 0)
        assert outcome.got == talk.stream


def test_tls12_clients_come_and_come_back(client: HelloClient, workload: Workload) -> None:
    """50 handshakes in a row, every other one a resumption."""
    server = client.bed.openssl_server(FIRST, SECOND, "-tls1_2")
    target = f"-connect {server.address4}:{server.port} -servername {FIRST}"
    ask = f"openssl s_client -tls1_2 {target} </dev/null 2>/dev/null"
    once = f"f=$(mktemp); {ask} -sess_out $f | grep -c ^New; {ask} -sess_in $f | grep -c ^Reused; rm $f"
    done = run_in(client.bed, ["sh", "-c", f"for i in $(seq 25); do {once}; done"], cgroup=workload.cgroup, timeout=40)
    assert done.stdout.split() == ["1"] * 50
    assert workload.reasons() == ALLOWED * 50


def test_once_no_hello_can_come_the_socket_leaves_the_sockhash_and_data_flows(
    hello_guard: Guard, client: HelloClient, workload: Workload
) -> None:
    """24 MB in a moment: nobody looks at them one by one."""
    host = client.bed.add("sink.test", Tcp(443, "sink"))
    sockets = hello_guard.instance.map("sockets")
    bulk = bytes(1 << 20)

    def run() -> tuple[bool, bool, float]:
        with socket.create_connection((host.address4, 443)) as sock:
            cookie = sock.getsockopt(socket.SOL_SOCKET, 57, 8)
            sock.sendall(REPEATED.stream())
            is_watched = cookie in libbpf.keys(sockets, 8)
            sock.sendall(record(NOISE[:53], RecordType.APPLICATION_DATA, 0x0303))
            began = time.monotonic()
            for _ in range(24):
                sock.sendall(bulk)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100).startswith(b"I am")
            return is_watched, cookie in libbpf.keys(sockets, 8), time.monotonic() - began

    is_watched, is_watched_still, took = call_in(client.bed, run, cgroup=workload.cgroup)
    assert (is_watched, is_watched_still) == (True, False)
    assert host.count().bytes == len(REPEATED.stream()) + 58 + 24 * len(bulk)
    assert took < 2
    assert workload.reasons() == ALLOWED
