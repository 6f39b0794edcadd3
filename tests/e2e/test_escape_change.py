"""What is open when the rules change, when a rule ends, when a workload is put in quarantine."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bed import Bed, Host, call_in
from e2e.escapes import ALLOWED_TCP, Steps, ask, dial, dropped, got, hello, judged, post, rules, says, tcp, udp
from e2e.guard import Guard, rule
from exeat.model.policy import Mode, Rule
from exeat.model.verdicts import Reason, Verdict


def kept_open(good: Host) -> Callable[[Callable[[], None]], list[Any]]:
    """One plain connection, one by name, one UDP socket; each is used before and after."""
    ours = hello("good.test")

    def run(pause: Callable[[], None]) -> list[Any]:
        plain, named, datagrams = tcp(good.address4), tcp(good.address4), udp()
        plain.connect((good.address4, 7))
        named.connect((good.address4, 8443))
        datagrams.connect((good.address4, 5000))
        before = [ask(plain, b"1"), named.send(ours), named.send(b"\x17\3\3\0\1x"), ask(datagrams)]
        pause()
        after = [ask(plain, b"2"), got(lambda: named.send(b"\x17\3\3\0\1y")), ask(datagrams)]
        time.sleep(0.05)
        return [before, after]

    return run


BEFORE = 517 + 6


def test_a_change_leaves_alone_what_is_still_allowed(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Plain, by name, and UDP live on when another rule is added."""
    with guard.workload(*rules(good)) as w, Steps(bed, kept_open(good), w.cgroup) as steps:
        w.switch(*rules(good), *rules(evil))
        with judged(w, ALLOWED_TCP):  # the plain one, under its new policy
            steps.go_on()
        assert steps.result[1] == [b"2", 6, says(good)]
        assert good.received(1).endswith(b"y")


CUTS: dict[str, Callable[[Host, Host], tuple[Rule, ...]]] = {
    "nothing is left": lambda good, evil: (),
    "another host": lambda good, evil: rules(evil),
    "other ports and another name": lambda good, evil: (
        rule(good.address4, ports=(9,)),
        rule(good.address4, ports=(5009,), protocol="udp"),
        rule(good.address4, ports=(8443,), hosts=("evil.test",), protocol="tls"),
    ),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_change_cuts_what_is_no_longer_allowed(guard: Guard, bed: Bed, good: Host, evil: Host, cut: str) -> None:
    """The next packet of each does not leave: after one write, on the same sockets."""
    new = CUTS[cut](good, evil)
    with guard.workload(*rules(good)) as w, Steps(bed, kept_open(good), w.cgroup) as steps:
        before = good.count().bytes
        w.switch(*new)
        w.told()
        steps.go_on()
        reasons = w.reasons()
        assert reasons.count(dropped(Reason.REVOKED)) == 2
        assert len(reasons) == 3  # the third is the datagram's, which has a reason of its own
        assert steps.result[1][0] == "TIMEOUT"
        assert steps.result[1][2] == "EPERM"
        assert (good.count().bytes, good.count().datagrams) == (before, 1)


def test_a_connection_by_name_lives_on_under_a_rule_for_its_network(guard: Guard, bed: Bed, good: Host) -> None:
    """And a plain one does not under a rule that asks for a name."""
    with guard.workload(*rules(good)) as w, Steps(bed, kept_open(good), w.cgroup) as steps:
        w.switch(
            rule(good.address4, ports=(8443,)),
            rule(good.address4, ports=(7,), hosts=("good.test",), protocol="tls"),
            rule(good.address4, ports=(5000,), protocol="udp"),
        )
        with judged(w, dropped(Reason.UNVERIFIED_DATA), ALLOWED_TCP):
            steps.go_on()
        assert steps.result[1] == ["TIMEOUT", 6, says(good)]
        assert good.received(1).endswith(b"y")


def test_a_rule_ends_in_the_kernel(guard: Guard, bed: Bed, good: Host) -> None:
    """One second after it was loaded, with nobody writing anything: what is open is cut and nothing new begins."""
    ends = datetime.now(UTC) + timedelta(seconds=1.2)
    with guard.workload(*rules(good, expires=ends)) as w:
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")
        with Steps(bed, kept_open(good), w.cgroup) as steps:
            before = good.count().bytes
            w.told()
            time.sleep(max(0, (ends - datetime.now(UTC)).total_seconds()) + 0.05)
            with judged(w, *[dropped(Reason.RULE_EXPIRED)] * 3):
                steps.go_on()
            assert steps.result[1] == ["TIMEOUT", 6, "EPERM"]
        with judged(w, *[dropped(Reason.RULE_EXPIRED)] * 2):
            assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == "EPERM"
            assert call_in(bed, lambda: post(good.address4), cgroup=w.cgroup) == "EPERM"
        assert good.count().bytes == before
        w.switch(*(replace(one, expires=None) for one in rules(good)))
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")


def test_a_policy_ends_in_the_kernel(guard: Guard, bed: Bed, good: Host) -> None:
    """A policy's end is its rules' end."""
    ends = datetime.now(UTC) + timedelta(seconds=0.6)
    with guard.workload(*rules(good), expires=ends) as w:
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")
        time.sleep(0.7)
        with judged(w, (Verdict.FORWARDED, Reason.NETWORK_ALLOWED), dropped(Reason.POLICY_EXPIRED)):
            w.switch(*rules(good))
            assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")
            w.switch(*rules(good), expires=ends)
            assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == "EPERM"


def test_quarantine_stops_everything_also_what_is_open(guard: Guard, bed: Bed, good: Host) -> None:
    """TCP, TLS, UDP, loopback, pings; and the same rules in enforce let a new connection through again."""
    with guard.workload(*rules(good)) as w, Steps(bed, kept_open(good), w.cgroup) as steps:
        before = good.count().bytes
        w.switch(*rules(good), mode=Mode.QUARANTINE)
        w.told()
        with judged(w, *[dropped(Reason.QUARANTINED)] * 3):
            steps.go_on()
        assert steps.result[1][0::2] == ["TIMEOUT", "EPERM"]
        for address in (good.address4, good.address6, "127.0.0.1", "::1"):
            with judged(w, dropped(Reason.QUARANTINED)):
                assert call_in(bed, lambda at=address: dial(at), cgroup=w.cgroup) == "EPERM"
        assert good.count().bytes == before
        w.told()
        w.switch(*rules(good))
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")
        assert set(w.reasons()) == {ALLOWED_TCP}  # of the older connection too, if TCP has just sent again


def test_an_override_of_the_mode_ends_by_itself(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Open for half a second; then what was let through is cut, in the kernel."""
    with guard.workload(*rules(good)) as w:
        until = time.time_ns() + 500_000_000
        guard.tables.switch(w.id, w.policy_ids[-1], mode=Mode.OPEN, until_wall_ns=until)

        def run(pause: Callable[[], None]) -> list[Any]:
            sock = tcp(evil.address4)
            sock.connect((evil.address4, 7))
            before = ask(sock, b"1")
            pause()
            return [before, ask(sock, b"2"), dial(evil.address4)]

        with Steps(bed, run, w.cgroup) as steps:
            time.sleep(0.55)
            w.told()
            steps.go_on()
            assert steps.result == [says(evil, b"1"), "TIMEOUT", "EPERM"]
            assert w.reasons() == [dropped(Reason.REVOKED), dropped(Reason.ADDRESS_NOT_ALLOWED)]
    assert evil.count().bytes == 1
