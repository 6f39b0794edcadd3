"""What the gate and the programs remember of sockets, targets and failures, turned against them."""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from bed import Bed, Host
from bed.namespace import Namespace, enter
from e2e.escapes import Steps, dial, got, says, udp
from e2e.gatekeeper import SOMEBODY, ask_dns, at, fresh_resolver, keep_gate, look_up
from e2e.guard import Guard, rule
from exeat.core.verdict_text import line_for_people
from exeat.model.record import Process
from unit.record_words import any_record

RACE_S = 1.0


def test_questions_and_datagrams_of_many_threads_on_one_socket_never_mix(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """The stamp says where to the last datagram went; no mixture of two allowed ends is an allowed end."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    client = bed.network.client
    allowed = (
        rule(f"{good.address4}/32", ports=(5000,), protocol="udp"),
        rule(f"{evil.address4}/32", ports=(5001,), protocol="udp"),
    )

    def run() -> list[int]:
        sock = udp()
        ends = [(SOMEBODY, 53), (good.address4, 5000), (evil.address4, 5001)]
        mixtures = [(good.address4, 5001), (evil.address4, 5000), ("127.0.0.1", 5000)]
        until = time.monotonic() + RACE_S
        passed, refused, sent = [0], [0], [0]

        def allowed_ones() -> None:
            while time.monotonic() < until:
                for end in ends:
                    sent[0] += got(lambda end=end: sock.sendto(b"fine", end)) == 4

        def denied_ones() -> None:
            while time.monotonic() < until:
                for end in mixtures:
                    if got(lambda end=end: sock.sendto(b"secret", end)) == "EPERM":
                        refused[0] += 1
                    else:
                        passed[0] += 1

        threads = [threading.Thread(target=one) for one in (allowed_ones, denied_ones) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [passed[0], min(refused[0], 100), min(sent[0], 100)]

    with client.call(udp) as stranger, keep_gate(guard, bed, resolver, *allowed) as kept:
        stranger.bind(("127.0.0.1", 5000))
        assert kept.run(run) == [0, 100, 100]
        assert got(lambda: stranger.recv(100)) == "TIMEOUT"
        for host in (good, evil):
            assert set(host.datagrams()) == {b"fine"}
        guard.collect()


def test_a_change_of_policy_keeps_what_a_service_record_led_to(guard: Guard, bed: Bed, good: Host) -> None:
    """The name that led there is still allowed, so is its target; connections live on, and new ones may be made."""
    services = {"_a._tcp.good.test": {"SRV": ["1 1 7 one.else.test."]}}
    resolver = fresh_resolver(bed, {**services, "one.else.test": good.addresses})
    allowed = rule(hosts=("good.test",), ports=(7,))

    def run(pause: Callable[[], None]) -> list[Any]:
        ask_dns("_a._tcp.good.test", "SRV")
        found = look_up("one.else.test")
        with socket.create_connection((good.address4, 7), 5) as sock:
            sock.sendall(b"1")
            before = heard(sock, says(good, b"1"))
            pause()
            after = got(lambda: [sock.sendall(b"2"), sock.recv(100)][1])
        return [found, before, after, dial(good.address4)]

    with keep_gate(guard, bed, resolver, allowed) as kept:
        with Steps(bed, run, kept.workload.cgroup) as steps:
            assert kept.switch(allowed) == 0
            steps.go_on()
        assert steps.result == [[good.address4], says(good, b"1"), b"2", says(good, b"hello")]


def heard(sock: socket.socket, whole: bytes) -> bytes:
    """What arrives, up to as much as is expected."""
    data = b""
    while len(data) < len(whole) and (part := sock.recv(100)):
        data += part
    return data


def test_a_look_at_the_sockets_that_fails_does_not_end_the_gate(
    guard: Guard, bed: Bed, good: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes the agent run out of descriptors for a moment would leave a workload without names for good."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    failed = threading.Event()

    def fails() -> set[bytes]:
        failed.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        ledger = kept.ledger
        monkeypatch.setattr(ledger, "_addresses_in_use", fails)

        def age() -> None:
            ledger.book.grant("old.test", [b"\xff" * 16], 1, 1, 0, lambda _: 0)
            ledger._collected_ns = 0

        kept.settle()
        kept.thread.do(age)
        assert failed.wait(10)
        for _ in range(20):  # it may be about to end
            assert kept.run(lambda: look_up("good.test")) == [good.address4]
            time.sleep(0.02)


@pytest.mark.parametrize(
    "is_inside",
    [pytest.param(False, id="the agent's namespace"), pytest.param(True, id="a container's")],
)
def test_connections_are_seen_in_whatever_namespace_they_are(guard: Guard, bed: Bed, is_inside: bool) -> None:
    """A grant that ended is kept for them, so that a change of policy does not cut them."""
    inside = Namespace()
    place = inside if is_inside else bed.network.client
    try:
        inside.command("ip", "link", "set", "lo", "up")
        resolver = fresh_resolver(bed, {})
        with place.call(lambda: socket.create_server(("127.0.0.1", 0))) as server:
            port = server.getsockname()[1]

            def run(pause: Callable[[], None]) -> None:
                enter(place.fd)
                with socket.create_connection(("127.0.0.1", port), 5):
                    pause()

            allowed = rule("127.0.0.1/32", ports=(port,))
            with (
                keep_gate(guard, bed, resolver, allowed, namespace=place.fd) as kept,
                Steps(bed, run, kept.workload.cgroup),
            ):
                assert at("127.0.0.1") in kept.thread.do(kept.ledger._addresses_in_use)
    finally:
        inside.close()


def test_a_questions_process_is_named_by_a_line_that_cannot_be_forged() -> None:
    """A program may call itself what it likes; a terminal must not be told to hide its denials."""
    record = any_record(hook="query", process=Process(1, "\x1b[2K\r\nexeat:", 0), address=None, port=53, detail=1)
    line = line_for_people(record)
    assert "evil.test" in line
    assert line.isprintable()
