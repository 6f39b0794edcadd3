"""What is told of a guest that has thousands of frames denied: enough, and not so much that nobody else is heard."""

from __future__ import annotations

import time

import pytest

from e2e.guard import rule
from exeat.kernel.guest_abi import GUEST_TOLD
from exeat.model.policy import Mode
from exeat.model.verdicts import Reason, Verdict
from guest.link_frames import Line, run_frames, run_out, told_soon, udp_datagram
from guest.stage import Guest, Stage

WINDOW_S = 2**30 / 1e9
MANY = 4 * GUEST_TOLD


def spoofed(guest: Guest) -> bytes:
    """A datagram that is denied, and answered by nobody."""
    return Line.of(guest).ip(udp_datagram(guest.address4(20), "203.0.113.9", 4000, 5000, b"who am I"))


@pytest.mark.parametrize(("mode", "verdict"), [(Mode.ENFORCE, Verdict.DROPPED), (Mode.MONITOR, Verdict.AUDIT)])
def test_a_guest_that_floods_is_told_of_so_often_and_its_neighbour_too(
    judging: Stage, mode: Mode, verdict: Verdict
) -> None:
    """All its denials are counted, and those that were not told, as lost. A second later it is told of again."""
    flooder, neighbour = judging.guests[:2]
    own = rule("203.0.113.9", protocol="udp", ports=(7,))
    with judging.judged(own, guest=neighbour) as theirs, judging.judged(own, mode=mode) as floods:
        tables, program = floods.guard.tables, floods.guard.instance.program("on_guest_out")
        lost = tables.lost_events()
        judging.network.router.call(lambda: run_frames(program, flooder.index, [spoofed(flooder)], MANY))
        run_out(judging, neighbour, spoofed(neighbour))
        told = floods.told()
        assert GUEST_TOLD <= len(told) <= 2 * GUEST_TOLD  # one window, or two
        assert {(one.verdict, one.reason) for one in told} == {(verdict, Reason.SPOOFED)}
        assert tables.traffic(floods.id).verdicts[verdict] == MANY
        assert tables.lost_events() - lost == MANY - len(told)
        assert theirs.reasons() == [(Verdict.DROPPED, Reason.SPOOFED)]
        time.sleep(WINDOW_S)
        run_out(judging, flooder, spoofed(flooder))
        assert told_soon(floods) == [(verdict, Reason.SPOOFED)]
