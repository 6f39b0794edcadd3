"""Monitor tells what would have been dropped and drops nothing; open records; neither changes what arrives."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from bed import Bed, Host, call_in, curl
from e2e.escapes import dial, got, hello, ipv4_packet, judged, post, rules, says, tcp, udp_datagram
from e2e.guard import Guard, Told
from exeat.model.policy import Mode
from exeat.model.verdicts import Reason, Verdict


def sends(address: str, port: int, data: bytes, flags: int = 0) -> Callable[[], Any]:
    """Connects and sends."""

    def run() -> Any:
        sock = tcp(address)
        if flags & socket.MSG_FASTOPEN:
            return got(lambda: sock.sendto(data, flags, (address, port)))
        return got(lambda: sock.connect((address, port))) or got(lambda: sock.send(data, flags))

    return run


def raw(address: str) -> Callable[[], Any]:
    """A datagram from a raw socket."""
    packet = ipv4_packet(address, 17, udp_datagram(5000, b"raw"))

    def run() -> Any:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        return got(lambda: sock.sendto(packet, (address, 0)))

    return run


@pytest.mark.parametrize("mode", [Mode.MONITOR, Mode.ENFORCE])
@pytest.mark.parametrize("version", [4, 6])
def test_monitor_lets_pass_what_enforce_drops(
    guard: Guard, bed: Bed, good: Host, evil: Host, mode: Mode, version: int
) -> None:
    """The same client, the same reasons; AUDIT and everything arrives, or DROPPED and nothing does."""
    verdict = Verdict.AUDIT if mode is Mode.MONITOR else Verdict.DROPPED
    theirs, ours = (evil.address4, good.address4) if version == 4 else (evil.address6, good.address6)
    name = hello("evil.test")
    with guard.workload(*rules(good), mode=mode) as w:
        with judged(w, *[(verdict, Reason.ADDRESS_NOT_ALLOWED)] * 2, (verdict, Reason.NAME_NOT_ALLOWED)):
            answers = [
                call_in(bed, lambda: dial(theirs), cgroup=w.cgroup),
                call_in(bed, lambda: post(theirs), cgroup=w.cgroup),
                call_in(bed, sends(ours, 8443, name), cgroup=w.cgroup),
            ]
        if mode is Mode.MONITOR:
            assert answers == [says(evil, b"hello"), says(evil), len(name)]
            assert good.received() == name
        else:
            assert answers == ["EPERM", "EPERM", "EACCES"]
            assert evil.count().is_untouched
            assert good.count().bytes == 0


def test_monitor_breaks_nothing_that_is_odd(guard: Guard, bed: Bed, good: Host) -> None:
    """A raw socket, Fast Open data and urgent data under a tls rule: told, and delivered."""
    name = hello("evil.test")
    with guard.workload(*rules(good), mode=Mode.MONITOR) as w:
        assert call_in(bed, raw(good.address4), cgroup=w.cgroup) == 31
        assert call_in(bed, sends(good.address4, 8443, name, socket.MSG_FASTOPEN), cgroup=w.cgroup) == len(name)
        assert good.count().bytes == len(name)
        assert {verdict for verdict, _ in w.reasons()} == {Verdict.AUDIT}
        traffic = guard.tables.traffic(w.id)
        assert traffic.verdicts[Verdict.DROPPED] == traffic.verdicts[Verdict.ERROR] == 0
    assert good.datagrams() == [b"raw"]


def test_a_tls_connection_in_monitor_is_followed_to_its_end(guard: Guard, bed: Bed, good: Host) -> None:
    """A real client and a real server, under a name that would be denied."""
    with guard.workload(*rules(good), mode=Mode.MONITOR) as w, judged(w, (Verdict.AUDIT, Reason.NAME_NOT_ALLOWED)):
        assert curl(bed, good, name="evil.test", cgroup=w.cgroup).stdout == "I am evil.test\n"


def by_name(told: list[Told]) -> dict[str, tuple[Verdict, Reason, int]]:
    """Each verdict under its name."""
    return {one.name: (one.verdict, one.reason, one.port) for one in told}


def test_open_lets_pass_and_writes_down_the_name(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """What no rule names is FORWARDED with OPEN_MODE, and its name is there to make a rule of."""
    with guard.workload(*rules(good), mode=Mode.OPEN) as w:
        assert curl(bed, evil, cgroup=w.cgroup).stdout == "I am evil.test\n"
        assert curl(bed, good, cgroup=w.cgroup).stdout == "I am good.test\n"
        told = by_name(w.told())
        assert told == {
            "": (Verdict.FORWARDED, Reason.OPEN_MODE, 443),  # of evil.test's connect, when nobody had named it yet
            "evil.test": (Verdict.FORWARDED, Reason.OPEN_MODE, 443),
            "good.test": (Verdict.FORWARDED, Reason.NAME_ALLOWED, 443),
        }
        assert call_in(bed, lambda: dial(evil.address4), cgroup=w.cgroup) == says(evil, b"hello")
        assert by_name(w.told()) == {"": (Verdict.FORWARDED, Reason.OPEN_MODE, 7)}
        assert call_in(bed, lambda: post(evil.address4), cgroup=w.cgroup) == says(evil)
        assert by_name(w.told()) == {"": (Verdict.FORWARDED, Reason.OPEN_MODE, 5000)}
        w.switch(*rules(good))
        assert curl(bed, evil, cgroup=w.cgroup).returncode != 0
        assert w.reasons() == [(Verdict.DROPPED, Reason.ADDRESS_NOT_ALLOWED)]
