"""Whose policy counts: nested cgroups, tasks that move, workloads that are gone, and processes nobody manages."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, Host, Sniffer, call_in
from e2e.escapes import ALLOWED_TCP, Steps, ask, dial, dropped, hello, judged, later_managed, post, rules, says, tcp
from e2e.guard import Guard
from exeat.model.verdicts import Reason

ADDRESS = dropped(Reason.ADDRESS_NOT_ALLOWED)


def below(cgroup: Path, *names: str) -> Path:
    """A cgroup further down."""
    path = cgroup.joinpath(*names)
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("depth", [1, 4])
def test_a_nested_cgroup_inherits(guard: Guard, bed: Bed, good: Host, evil: Host, depth: int) -> None:
    """A workload that makes cgroups of its own gets no further by it."""
    with guard.workload(*rules(good)) as w:
        child = below(w.cgroup, *"abcd"[:depth])
        with judged(w, ADDRESS, ALLOWED_TCP):
            assert call_in(bed, lambda: dial(evil.address4), cgroup=child) == "EPERM"
            assert call_in(bed, lambda: dial(good.address4), cgroup=child) == says(good, b"hello")
        assert evil.count().is_untouched


def test_the_nearest_policy_counts(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """A workload inside another has its own rules; unbound, it has the outer one's, for open connections too."""

    def run(pause: Callable[[], None]) -> list[Any]:
        sock = tcp(evil.address4)
        sock.connect((evil.address4, 7))
        before = ask(sock, b"1")
        pause()
        return [before, ask(sock, b"2"), dial(evil.address4), dial(good.address4)]

    with guard.workload(*rules(good)) as outer:
        child = below(outer.cgroup, "inner")
        child_id = child.stat().st_ino
        guard.tables.switch(child_id, outer.switch(*rules(evil)))
        outer.switch(*rules(good))
        with Steps(bed, run, child) as steps:
            assert guard.tables.traffic(child_id).packets_out >= 3
            guard.tables.unbind(child_id)
            with judged(outer, *[ADDRESS] * 2, ALLOWED_TCP):
                steps.go_on()
        assert steps.result == [says(evil, b"1"), "TIMEOUT", "EPERM", says(good, b"hello")]
    assert evil.count().bytes == 1


def move_to(cgroup: Path) -> None:
    """Moves the calling process."""
    (cgroup / "cgroup.procs").write_text("0")


def test_a_socket_keeps_its_policy_when_its_task_moves_out(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """A deputy outside the workload that uses its socket is judged by the workload's rules."""
    ours = hello("good.test")

    def run() -> list[Any]:
        fresh, named = tcp(good.address4), tcp(good.address4)
        named.connect((good.address4, 8443))
        move_to(guard.top)
        return [dial(evil.address4, sock=fresh), named.send(ours), dial(evil.address4)]

    with guard.workload(*rules(good)) as w:
        with judged(w, ADDRESS, (ALLOWED_TCP[0], Reason.NAME_ALLOWED)):
            assert call_in(bed, run, cgroup=w.cgroup) == ["EPERM", len(ours), says(evil, b"hello")]
        assert good.count().bytes == len(ours)


def test_a_task_that_moves_in_leaves_its_sockets_outside(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """What it opened before is not its workload's; what it opens then is."""

    def run() -> list[Any]:
        old = tcp(evil.address4)
        move_to(w.cgroup)
        return [dial(evil.address4, sock=old), dial(evil.address4), dial(good.address4)]

    with guard.workload(*rules(good)) as w:
        with judged(w, dropped(Reason.FOREIGN_SOCKET), ADDRESS, ALLOWED_TCP):
            assert call_in(bed, run, cgroup=guard.top) == ["EPERM", "EPERM", says(good, b"hello")]
        assert evil.count().is_untouched


def test_what_was_held_back_stays_when_its_workload_is_gone(guard: Guard, bed: Bed, good: Host, wire: Sniffer) -> None:
    """The process ends, the cgroup goes, the workload is unbound; TCP has the bytes, and would send them again."""

    def run(pause: Callable[[], None]) -> Any:
        sock = tcp(good.address4)
        sock.connect((good.address4, 7))
        pause()
        sock.send(b"held back")

    with later_managed(guard) as w:
        w.switch(*rules(good))
        with Steps(bed, run, w.cgroup) as steps:
            w.switch()
            with judged(w, dropped(Reason.REVOKED)):
                steps.go_on()
    time.sleep(1.5)
    assert not wire.saw(b"held back")
    assert good.count().bytes == 0


def test_unbound_and_alive_it_opens_new_sockets_freely(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Its old ones have no policy any more, which is a denial; new ones belong to nobody."""

    def run(pause: Callable[[], None]) -> list[Any]:
        old, unused = tcp(good.address4), tcp(good.address4)
        old.connect((good.address4, 7))
        pause()
        return [ask(old), dial(good.address4, sock=unused), dial(evil.address4)]

    with guard.workload(*rules(good)) as w, Steps(bed, run, w.cgroup) as steps:
        guard.tables.unbind(w.id)
        with judged(w, *[dropped(Reason.NO_POLICY)] * 2):
            steps.go_on()
        assert steps.result == ["TIMEOUT", "EPERM", says(evil, b"hello")]
        assert good.count().bytes == 0


def test_nobody_else_notices(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Processes below the attached cgroup without a policy, and processes outside of it."""
    ours = hello("evil.test")

    def run() -> list[Any]:
        named = tcp(evil.address4)
        named.connect((evil.address4, 8443))
        everywhere = (evil.address4, evil.address6)
        return [named.send(ours), *(dial(at) for at in everywhere), *(post(at) for at in everywhere)]

    told = [len(ours), *[says(evil, b"hello")] * 2, *[says(evil)] * 2]
    with guard.workload(*rules(good)) as w, later_managed(guard) as unmanaged:
        with judged(w), judged(unmanaged):
            for cgroup in (guard.top, unmanaged.cgroup, None):
                assert call_in(bed, run, cgroup=cgroup) == told
        assert guard.tables.traffic(w.id).packets_out == 0
        assert guard.tables.traffic(unmanaged.id).packets_out == 0
