"""Data that leaves with the SYN, before any program sees the connection."""

import socket
import time
from typing import Any

import pytest

from bed import Bed, Host, Sniffer, call_in
from e2e.escapes import ALLOWED_TCP, dropped, got, hello, judged, rules, tcp
from e2e.guard import Guard
from exeat.model.verdicts import Reason


def fast(address: str, port: int, first: bytes, then: bytes = b"") -> list[Any]:
    """sendto(MSG_FASTOPEN), and an ordinary send() a little later."""
    sock = tcp(address)
    answers = [got(lambda: sock.sendto(first, socket.MSG_FASTOPEN, (address, port)))]
    time.sleep(0.3)
    if then:
        answers.append(got(lambda: sock.send(then)))
        time.sleep(0.3)
    return answers


def test_fast_open_data_is_not_read_before_its_name_is(guard: Guard, bed: Bed, good: Host, wire: Sniffer) -> None:
    """Neither a denied hello nor an allowed one, and no hello afterwards lets out what waits in the queue."""
    ours, theirs = hello("good.test"), hello("evil.test")
    assert call_in(bed, lambda: fast(good.address4, 8443, theirs), cgroup=guard.top) == [len(theirs)]
    assert theirs in wire.frames()[0]
    assert good.received() == theirs  # outside, in the SYN
    good.reset()
    with guard.workload(*rules(good)) as w:
        for first in (theirs, ours):
            with judged(w, dropped(Reason.UNVERIFIED_DATA)):
                answers = call_in(bed, lambda first=first: fast(good.address4, 8443, first, ours), cgroup=w.cgroup)
            assert answers == [len(first), "EACCES"]
            assert good.count().bytes == 0


@pytest.mark.parametrize("version", [4, 6])
def test_fast_open_asks_connects_question(guard: Guard, bed: Bed, good: Host, evil: Host, version: int) -> None:
    """Where no name is asked, it works; where the address is not allowed, EPERM and no SYN."""
    ours, theirs = (good.address4, evil.address4) if version == 4 else (good.address6, evil.address6)
    with guard.workload(*rules(good)) as w:
        with judged(w, dropped(Reason.ADDRESS_NOT_ALLOWED)):
            assert call_in(bed, lambda: fast(theirs, 7, b"early"), cgroup=w.cgroup) == ["EPERM"]
        assert evil.count().is_untouched
        with judged(w, ALLOWED_TCP):
            assert call_in(bed, lambda: fast(ours, 7, b"early"), cgroup=w.cgroup) == [5]
        assert good.received() == b"early"
