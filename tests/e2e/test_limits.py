"""Limits per workload and window: what passes below, what happens beyond, and what the kernel has counted."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from bed import Bed, Host, call_in
from e2e.escapes import Steps, ask, dial, got, post, rules, says, tcp
from e2e.gatekeeper import ask_dns, fresh_resolver, keep_gate
from e2e.guard import Guard, rule
from e2e.limit_words import (
    DATAGRAM,
    DATAGRAM_BYTES,
    MANY4,
    counts,
    in_parallel,
    limit,
    many,
    many_rules,
    open_connections,
    reach,
    refusals,
    send_datagrams,
)
from exeat.kernel.abi import NEVER
from exeat.kernel.usage import forget_usage
from exeat.model.policy import Limit, Limits, Mode, Then
from exeat.model.verdicts import Reason, Verdict

MOST, TRIED = 5, 8


class Use(NamedTuple):
    """A client that uses something up, what arrives of it, and how much of the limit a piece takes."""

    what: str
    run: Callable[[int], list[Any]]
    arrived: Callable[[], int]
    piece: int
    tells: int  # denials told for TRIED - MOST tries: a socket's packets are told of once, calls each time

    @property
    def reason(self) -> Reason:
        """Its limit's."""
        return Reason[f"LIMIT_{self.what.upper()}"]


@pytest.fixture(params=["bytes", "connections", "destinations"])
def use(request: pytest.FixtureRequest, bed: Bed, good: Host) -> Use:
    """Each of the three."""
    host = many(bed)
    host.reset()
    return {
        "bytes": Use(
            "bytes", lambda n: send_datagrams(good.address4, n), lambda: good.count().datagrams, DATAGRAM_BYTES, 1
        ),
        "connections": Use(
            "connections", lambda n: open_connections(good.address4, n), lambda: good.count().connections, 1, 3
        ),
        "destinations": Use("destinations", lambda n: reach(MANY4[:n]), lambda: host.count().datagrams, 1, 3),
    }[request.param]


def test_so_much_passes_and_not_one_more(guard: Guard, bed: Bed, good: Host, use: Use) -> None:
    """deny: exactly the limit arrives, without a word of it; the rest is refused at once and arrives never."""
    with guard.workload(*rules(good), *many_rules(), limits=limit(use.what, MOST * use.piece)) as w:
        assert refusals(call_in(bed, lambda: use.run(MOST), cgroup=w.cgroup)) == 0
        assert {verdict for verdict, _ in w.reasons()} == {Verdict.FORWARDED}
        assert getattr(guard.tables.usage(w.id), use.what).count == MOST * use.piece
        assert use.arrived() == MOST
    with guard.workload(*rules(good), *many_rules(), limits=limit(use.what, MOST * use.piece)) as w:
        before = guard.tables.counter(Verdict.DROPPED, use.reason)
        assert refusals(call_in(bed, lambda: use.run(TRIED), cgroup=w.cgroup)) == TRIED - MOST
        told = [one for one in w.reasons() if one[0] is not Verdict.FORWARDED]
        assert told == [(Verdict.DROPPED, use.reason)] * use.tells
        assert guard.tables.counter(Verdict.DROPPED, use.reason) - before == TRIED - MOST
        assert use.arrived() == 2 * MOST
        assert getattr(guard.tables.usage(w.id), use.what).count == MOST * use.piece


def test_report_tells_it_once_and_lets_all_pass(guard: Guard, bed: Bed, good: Host, use: Use) -> None:
    """One AUDIT verdict in a window."""
    with guard.workload(*rules(good), *many_rules(), limits=limit(use.what, MOST * use.piece, Then.REPORT)) as w:
        assert refusals(call_in(bed, lambda: use.run(TRIED), cgroup=w.cgroup)) == 0
        assert [one for one in w.reasons() if one[0] is not Verdict.FORWARDED] == [(Verdict.AUDIT, use.reason)]
        assert use.arrived() == TRIED


def test_quarantine_closes_everything_until_it_is_lifted(guard: Guard, bed: Bed, good: Host, use: Use) -> None:
    """Set by the program: nobody has read an event when it holds. A switch lifts it."""
    with guard.workload(*rules(good), *many_rules(), limits=limit(use.what, MOST * use.piece, Then.QUARANTINE)) as w:
        assert refusals(call_in(bed, lambda: use.run(MOST), cgroup=w.cgroup)) == 0
        assert guard.tables.mode_set(w.id) is None
        forget_usage(guard.instance, w.id)
        w.told()
        assert refusals(call_in(bed, lambda: use.run(TRIED), cgroup=w.cgroup)) == TRIED - MOST
        assert guard.tables.mode_set(w.id) == (Mode.QUARANTINE, NEVER)
        assert use.arrived() == 2 * MOST
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == "EPERM"
        told = [one for one in w.reasons() if one[0] is not Verdict.FORWARDED]
        assert told[0] == (Verdict.DROPPED, use.reason)
        assert set(told[1:]) == {(Verdict.DROPPED, Reason.QUARANTINED)}
        w.switch(*rules(good))
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")


@pytest.mark.parametrize("mode", [Mode.MONITOR, Mode.OPEN])
@pytest.mark.parametrize("then", [Then.DENY, Then.QUARANTINE])
def test_monitor_and_open_only_report(guard: Guard, bed: Bed, good: Host, use: Use, mode: Mode, then: Then) -> None:
    """What would have been denied is told once in a window; everything arrives."""
    with guard.workload(*rules(good), *many_rules(), mode=mode, limits=limit(use.what, MOST * use.piece, then)) as w:
        assert refusals(call_in(bed, lambda: use.run(TRIED), cgroup=w.cgroup)) == 0
        assert [one for one in w.reasons() if one[0] is not Verdict.FORWARDED] == [(Verdict.AUDIT, use.reason)]
        assert use.arrived() == TRIED
        assert guard.tables.mode_set(w.id) is None


def test_a_window_that_has_ended_begins_again(guard: Guard, bed: Bed, good: Host, use: Use) -> None:
    """Twice as much arrives over two windows, and what was told once is told again."""
    with guard.workload(*rules(good), *many_rules(), limits=limit(use.what, MOST * use.piece, per_s=2)) as w:
        for window in (1, 2):
            assert refusals(call_in(bed, lambda: use.run(TRIED), cgroup=w.cgroup)) == TRIED - MOST
            assert use.arrived() == window * MOST
            time.sleep(2.1)
            assert counts(w) == (0, 0, 0)
        assert w.reasons().count((Verdict.DROPPED, use.reason)) == 2 * use.tells


def test_four_at_once_get_no_more_than_one_alone(guard: Guard, bed: Bed, good: Host, use: Use) -> None:
    """Counted under a lock: no overshoot, on however many CPUs."""
    most = {"bytes": 200, "connections": 40, "destinations": MOST}[use.what]
    tries = {"bytes": 100, "connections": 20, "destinations": 12}[use.what]
    with guard.workload(*rules(good), *many_rules(), limits=limit(use.what, most * use.piece)) as w:
        call_in(bed, lambda: in_parallel(*[lambda: use.run(tries)] * 4), cgroup=w.cgroup)
        if use.what == "destinations":
            assert len(set(many(bed).datagrams())) in (MOST - 1, MOST)  # two may have met the same address at once
        else:
            assert use.arrived() == most
        assert getattr(guard.tables.usage(w.id), use.what).count == most * use.piece


def test_bytes_are_held_back_on_an_open_connection(guard: Guard, bed: Bed, good: Host) -> None:
    """A stream that has begun stops at the limit, packet by packet; in the next window it goes on."""
    most, size = 400_000, 600_000

    def run(patience_s: float) -> int:
        sock = tcp(good.address4)
        sock.connect((good.address4, 7))
        sock.settimeout(patience_s)
        threading.Thread(target=lambda: got(lambda: sock.sendall(b"s" * size)), daemon=True).start()
        heard = 0
        while heard < size and isinstance(part := got(lambda: sock.recv(1 << 16)), bytes):
            heard += len(part)
        return heard

    with guard.workload(*rules(good), limits=limit("bytes", most)) as w:
        assert call_in(bed, lambda: run(1.0), cgroup=w.cgroup) < most
        assert most // 2 < good.count().bytes < most
        assert most // 2 < counts(w)[0] <= most
        assert w.reasons() == [(Verdict.FORWARDED, Reason.NETWORK_ALLOWED), (Verdict.DROPPED, Reason.LIMIT_BYTES)]
    good.reset()
    with guard.workload(*rules(good), limits=limit("bytes", most, per_s=1)) as w:
        assert call_in(bed, lambda: run(6.0), cgroup=w.cgroup) >= size
        assert good.count().bytes == size


def test_every_limit_counts_for_itself(guard: Guard, bed: Bed, good: Host) -> None:
    """Three connections to one address: so many bytes, three connections, one destination."""
    limits = Limits(Limit(10**6, 3600), Limit(10, 3600), Limit(10, 3600))
    with guard.workload(*rules(good), limits=limits) as w:
        call_in(bed, lambda: open_connections(good.address4, 3), cgroup=w.cgroup)
        usage = guard.tables.usage(w.id)
        assert (usage.connections.count, usage.destinations.count) == (3, 1)
        assert usage.bytes.count == guard.tables.traffic(w.id).bytes_out
        assert usage.connections.max == 10
        left_s = (usage.connections.ends_boot_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
        assert 3590 < left_s <= 3600
    with guard.workload(*rules(good)) as w:
        call_in(bed, lambda: open_connections(good.address4, 3), cgroup=w.cgroup)
        assert counts(w) == (0, 0, 0)
        assert guard.tables.usage(w.id).bytes.max is None


def test_what_is_denied_by_the_rules_counts_nowhere(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Refused connects and datagrams send no packet and use nothing up."""
    limits = Limits(Limit(10**6, 3600), Limit(2, 3600), Limit(2, 3600))
    with guard.workload(*rules(good), limits=limits) as w:
        call_in(bed, lambda: [dial(evil.address4), post(evil.address4), dial(evil.address6)] * 5, cgroup=w.cgroup)
        assert counts(w) == (0, 0, 0)
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")
        assert counts(w)[1:] == (1, 1)
    assert evil.count().is_untouched


def test_own_loopback_does_not_count(guard: Guard, bed: Bed, good: Host) -> None:
    """A megabyte to a socket of its own takes nothing from a limit of 10 kB."""

    def run() -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        sock = tcp("127.0.0.1")
        sock.connect(listener.getsockname())
        other = listener.accept()[0]
        sock.settimeout(5)
        reader = threading.Thread(target=lambda: [other.recv(1 << 16) for _ in range(1)])
        reader.start()
        sent = 0
        for _ in range(16):
            sent += sock.send(b"l" * 4096)
        reader.join()
        return sent

    limits = Limits(Limit(10_000, 3600), Limit(1, 3600), Limit(1, 3600))
    with guard.workload(*rules(good), limits=limits) as w:
        assert call_in(bed, run, cgroup=w.cgroup) == 65536
        assert counts(w) == (0, 0, 0)
        assert refusals(call_in(bed, lambda: send_datagrams(good.address4, 12), cgroup=w.cgroup)) == 2
        assert counts(w) == (10_000, 1, 1)


def test_a_new_policy_goes_on_with_the_count_and_an_end_forgets_it(guard: Guard, bed: Bed, good: Host) -> None:
    """The key is the workload: a reload is no way to begin again."""
    with guard.workload(*rules(good), limits=limit("connections", 3)) as w:
        assert refusals(call_in(bed, lambda: open_connections(good.address4, 2), cgroup=w.cgroup)) == 0
        w.switch(*rules(good), limits=limit("connections", 4))
        assert refusals(call_in(bed, lambda: open_connections(good.address4, 5), cgroup=w.cgroup)) == 3
        forget_usage(guard.instance, w.id)
        assert refusals(call_in(bed, lambda: open_connections(good.address4, 5), cgroup=w.cgroup)) == 1


def test_a_lower_limit_is_held_against_what_is_new(guard: Guard, bed: Bed, good: Host) -> None:
    """Five connections and addresses were counted, two are allowed now: the next is refused, the open ones go on."""
    wide, low = (Limits(Limit(most, 3600), Limit(n, 3600), Limit(n, 3600)) for most, n in ((10**6, 9), (10**6, 2)))
    host = many(bed)

    def run(pause: Callable[[], None]) -> list[Any]:
        held = [tcp(address) for address in MANY4[:5]]
        for sock, address in zip(held, MANY4, strict=False):
            sock.connect((address, 7))
        pause()
        return [*[ask(sock, b"on") for sock in held], dial(MANY4[0]), dial(MANY4[7])]

    with guard.workload(*many_rules(), limits=wide) as w, Steps(bed, run, w.cgroup) as steps:
        w.switch(*many_rules(), limits=low)
        steps.go_on()
        assert steps.result == [says(host, b"on")] * 5 + ["EPERM"] * 2
        assert counts(w)[1:] == (5, 5)


def test_questions_to_the_gate_do_not_count(guard: Guard, bed: Bed, good: Host) -> None:
    """Names are free; the connection that follows is not."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    limits = Limits(Limit(10**6, 3600), Limit(1, 3600), Limit(1, 3600))
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,)), limits=limits) as kept:
        for _ in range(3):
            assert good.address4 in kept.run(lambda: ask_dns("good.test").addresses)
        assert counts(kept.workload) == (0, 0, 0)
        assert kept.run(lambda: [dial(good.address4), dial(good.address4)]) == [says(good, b"hello"), "EPERM"]
        assert counts(kept.workload)[1:] == (1, 1)


def test_workloads_do_not_share_what_they_use(guard: Guard, bed: Bed, good: Host) -> None:
    """One is at its limit, its twin under the same policy is not."""
    with (
        guard.workload(*rules(good), limits=limit("connections", 2)) as one,
        guard.workload(*rules(good), limits=limit("connections", 2)) as two,
    ):
        assert refusals(call_in(bed, lambda: open_connections(good.address4, 3), cgroup=one.cgroup)) == 1
        assert refusals(call_in(bed, lambda: open_connections(good.address4, 2), cgroup=two.cgroup)) == 0


def test_an_open_connection_ends_with_the_quarantine(guard: Guard, bed: Bed, good: Host) -> None:
    """Another socket goes beyond the limit; what this one says next does not arrive, nobody having done anything."""

    def run() -> list[Any]:
        sock = tcp(good.address4)
        sock.connect((good.address4, 7))
        before = ask(sock, b"before")
        others = open_connections(good.address4, 2)
        return [before, *others, ask(sock, b"after")]

    with guard.workload(*rules(good), limits=limit("connections", 2, Then.QUARANTINE)) as w:
        answers = call_in(bed, run, cgroup=w.cgroup)
        assert answers == [says(good, b"before"), says(good, b"hello"), "EPERM", "TIMEOUT"]
        assert good.received(0) == b"before"
    with guard.workload(*rules(good), limits=limit("connections", 3, Then.QUARANTINE)) as w:
        assert call_in(bed, run, cgroup=w.cgroup)[-1] == b"after"
    assert len(DATAGRAM) + 28 == DATAGRAM_BYTES
