"""onUndeclared: a destination that no rule names puts the workload into quarantine, by the program that denied it."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, Host, call_in
from e2e.escapes import ask, dial, got, hello, post, rules, says, tcp, udp
from e2e.guard import Guard, Workload
from e2e.limit_words import call_up, peer_rule, serving
from exeat.kernel.abi import NEVER
from exeat.model.policy import Mode, OnUndeclared
from exeat.model.verdicts import Reason, Verdict

Try = Callable[[Host, Host], Any]


def speak(address: str, name: str) -> Any:
    """A hello with this name."""
    sock = tcp(address)
    sock.connect((address, 8443))
    return got(lambda: sock.send(hello(name)))


def mapped(address: str) -> Any:
    """A datagram to an IPv4 address by an IPv6 socket."""
    return post(f"::ffff:{address}", sock=udp("", socket.AF_INET6))


# What each is denied for, and what its program sees.
TRIES: dict[str, tuple[Try, Reason, str]] = {
    "address": (lambda good, evil: dial(evil.address4), Reason.ADDRESS_NOT_ALLOWED, "EPERM"),
    "address, IPv6": (lambda good, evil: dial(evil.address6), Reason.ADDRESS_NOT_ALLOWED, "EPERM"),
    "port": (lambda good, evil: dial(good.address4, 71), Reason.PORT_NOT_ALLOWED, "EPERM"),
    "datagram": (lambda good, evil: post(evil.address4), Reason.ADDRESS_NOT_ALLOWED, "EPERM"),
    "datagram, mapped": (lambda good, evil: mapped(evil.address4), Reason.ADDRESS_NOT_ALLOWED, "EPERM"),
    "name": (lambda good, evil: speak(good.address4, "evil.test"), Reason.NAME_NOT_ALLOWED, "EACCES"),
}


def is_quarantined(workload: Workload) -> bool:
    """Whether the workloads' own entry says so, for ever."""
    return workload.guard.tables.mode_set(workload.id) == (Mode.QUARANTINE, NEVER)


@pytest.mark.parametrize("what", TRIES)
def test_one_try_and_everything_is_closed(guard: Guard, bed: Bed, good: Host, evil: Host, what: str) -> None:
    """Told once, as what it is; an open connection ends as well. By default the same try is only denied."""
    attempt, reason, seen = TRIES[what]

    def run() -> list[Any]:
        sock = tcp(good.address4)
        sock.connect((good.address4, 7))
        return [ask(sock, b"before"), attempt(good, evil), ask(sock, b"after"), dial(good.address4)]

    with guard.workload(*rules(good), on_undeclared=OnUndeclared.QUARANTINE) as w:
        assert call_in(bed, run, cgroup=w.cgroup) == [says(good, b"before"), seen, "TIMEOUT", "EPERM"]
        assert is_quarantined(w)
        told = w.reasons()
        assert told.count((Verdict.DROPPED, Reason.UNDECLARED)) == 1
        assert set(told[2:]) == {(Verdict.DROPPED, Reason.QUARANTINED)}
        assert good.received(0) == b"before"
        w.switch(*rules(good), on_undeclared=OnUndeclared.QUARANTINE)
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")
    assert evil.count().is_untouched
    with guard.workload(*rules(good)) as w:
        answers = call_in(bed, run, cgroup=w.cgroup)
        assert answers == [says(good, b"before"), seen, b"after", says(good, b"hello")]
        assert (Verdict.DROPPED, reason) in w.reasons()
        assert not is_quarantined(w)


@pytest.mark.parametrize("mode", [Mode.MONITOR, Mode.OPEN])
@pytest.mark.parametrize("what", TRIES)
def test_monitor_and_open_close_nothing(guard: Guard, bed: Bed, good: Host, evil: Host, what: str, mode: Mode) -> None:
    """The reason is told as ever."""
    attempt, reason, _ = TRIES[what]
    with guard.workload(*rules(good), mode=mode, on_undeclared=OnUndeclared.QUARANTINE) as w:
        assert call_in(bed, lambda: attempt(good, evil), cgroup=w.cgroup) not in ("EPERM", "EACCES")
        assert not is_quarantined(w)
        verdict = (Verdict.AUDIT, reason) if mode is Mode.MONITOR else (Verdict.FORWARDED, Reason.OPEN_MODE)
        assert verdict in w.reasons()


def test_what_resolvers_and_strangers_do_is_no_try(guard: Guard, bed: Bed, good: Host, tmp_path: Path) -> None:
    """getaddrinfo() connects a UDP socket to what TCP is meant for; a stranger dials in; local name services."""

    def probe() -> Any:
        sock = udp()
        sock.connect((good.address4, 443))
        return sock.getpeername()[0]

    with guard.workload(*rules(good), on_undeclared=OnUndeclared.QUARANTINE) as w:
        assert call_in(bed, probe, cgroup=w.cgroup) == good.address4
        with serving(bed, w.cgroup, tmp_path) as port:
            assert call_up(bed, port, 2) == ["TIMEOUT"] * 2
        assert call_in(bed, lambda: post("224.0.0.251", 5353), cgroup=w.cgroup) == "EPERM"
        assert call_in(bed, lambda: post(good.address4, 53), cgroup=w.cgroup) == "EPERM"  # there is no gate
        assert not is_quarantined(w)
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")
    with guard.workload(peer_rule(), on_undeclared=OnUndeclared.QUARANTINE) as w, serving(bed, w.cgroup, tmp_path) as p:
        assert call_up(bed, p, 2) == [b"inbound"] * 2


def test_loopback_of_others_is_a_try_and_nobodys_is_not(guard: Guard, bed: Bed) -> None:
    """A local service that no rule names; where nobody listens, a program sees connection refused, as ever."""
    listener = bed.network.client.call(lambda: socket.create_server(("127.0.0.1", 0)))
    free = bed.network.client.call(lambda: socket.create_server(("127.0.0.1", 0)))
    taken, nobody = listener.getsockname()[1], free.getsockname()[1]
    free.close()
    with listener, guard.workload(on_undeclared=OnUndeclared.QUARANTINE) as w:
        assert call_in(bed, lambda: dial("127.0.0.1", nobody), cgroup=w.cgroup) == "ECONNREFUSED"
        assert not is_quarantined(w)
        assert call_in(bed, lambda: dial("127.0.0.1", taken), cgroup=w.cgroup) == "EPERM"
        assert is_quarantined(w)
