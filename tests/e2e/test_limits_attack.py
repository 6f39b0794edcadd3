"""Ways to use up more than a limit: each is counted, and each has a twin that stays below."""

import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, Host, Sniffer, call_in
from e2e.escapes import Steps, ask, dial, got, hello, later_managed, post, rules, says, tcp, udp, unspecify
from e2e.guard import Guard, rule
from e2e.limit_words import (
    DATAGRAM,
    HOUR_S,
    MANY4,
    MANY6,
    call_up,
    counts,
    hold_connections,
    limit,
    many,
    many_rules,
    peer_rule,
    reach,
    refusals,
    send_datagrams,
    serving,
)
from exeat.kernel import libbpf
from exeat.model.policy import Limit, Limits, Then
from exeat.model.verdicts import Reason, Verdict

DESTINATIONS_MAX = 262_144  # bpf/limits.h
PLENTY = Limits(Limit(10**9, HOUR_S), Limit(10**6, HOUR_S), Limit(10**4, HOUR_S))


def test_connections_without_a_byte_are_connections(guard: Guard, bed: Bed, good: Host, wire: Sniffer) -> None:
    """Twelve connects, none of which sends anything; the refused ones send no SYN either."""
    with guard.workload(*rules(good), limits=limit("connections", 4)) as w:
        assert refusals(call_in(bed, lambda: hold_connections(good.address4, 4), cgroup=w.cgroup)) == 0
        frames = wire.toward(good.address4).frames
        assert refusals(call_in(bed, lambda: hold_connections(good.address4, 8), cgroup=w.cgroup)) == 8
        assert wire.toward(good.address4).frames == frames
    assert good.count().connections == 4


def test_many_sockets_share_one_limit_of_bytes(guard: Guard, bed: Bed, good: Host) -> None:
    """A datagram on each of thirty sockets, over IPv4, IPv6 and as a mapped address in turns."""
    to = [(good.address4, 0), (good.address6, 0), (f"::ffff:{good.address4}", socket.AF_INET6)]

    def run(count: int) -> list[Any]:
        socks = [udp(*to[number % 3]) for number in range(count)]
        return [
            got(lambda sock=sock, number=number: sock.sendto(DATAGRAM[:900], (to[number % 3][0], 5000)))
            for number, sock in enumerate(socks)
        ]

    with guard.workload(*rules(good), limits=limit("bytes", 10 * 948)) as w:
        assert refusals(call_in(bed, lambda: run(9), cgroup=w.cgroup)) == 0
        assert refusals(call_in(bed, lambda: run(21), cgroup=w.cgroup)) == 20
    assert good.count().datagrams == 10


def test_a_mapped_address_is_the_same_destination(guard: Guard, bed: Bed, good: Host) -> None:
    """IPv4 both ways is one; IPv6 is another."""

    def mapped() -> Any:
        return dial(f"::ffff:{good.address4}", sock=tcp("", socket.AF_INET6))

    with guard.workload(*rules(good), limits=limit("destinations", 1)) as w:
        assert call_in(bed, lambda: [dial(good.address4), mapped()], cgroup=w.cgroup) == [says(good, b"hello")] * 2
        assert call_in(bed, lambda: dial(good.address6), cgroup=w.cgroup) == "EPERM"
        assert counts(w)[2] == 1
    assert good.count().connections == 2


def test_one_socket_to_many_destinations(guard: Guard, bed: Bed) -> None:
    """sendmsg() names another address each time, old ones in between; a destination that is known stays open."""
    host = many(bed)
    host.reset()
    order = [MANY4[0], MANY4[1], MANY4[0], MANY6[0], MANY4[1], MANY4[2], MANY4[0]]

    def run() -> list[Any]:
        sock = udp("", socket.AF_INET6)
        as6 = [address if ":" in address else f"::ffff:{address}" for address in order]
        return [got(lambda to=to: sock.sendmsg([to.encode()], [], 0, (to, 5000))) for to in as6]

    with guard.workload(*many_rules(), limits=limit("destinations", 3)) as w:
        results = call_in(bed, run, cgroup=w.cgroup)
        assert [result == "EPERM" for result in results] == [False] * 5 + [True, False]
        assert counts(w)[2] == 3
    assert host.count().datagrams == 6


def test_a_connected_socket_that_sends_elsewhere(guard: Guard, bed: Bed) -> None:
    """connect() to one, sendto() to others, send() to the first again: two destinations, however the packets mix."""
    host = many(bed)
    host.reset()

    def run() -> list[Any]:
        sock = udp()
        sock.connect((MANY4[0], 5000))
        tries = [lambda: sock.send(b"0"), lambda: sock.sendto(b"1", (MANY4[1], 5000)), lambda: sock.send(b"0")]
        return [got(one) for one in (*tries, lambda: sock.sendto(b"2", (MANY4[2], 5000)), tries[0])]

    with guard.workload(*many_rules(), limits=limit("destinations", 2)) as w:
        assert call_in(bed, run, cgroup=w.cgroup) == [1, 1, 1, "EPERM", 1]
        assert counts(w)[2] == 2
    assert sorted(host.datagrams()) == [b"0", b"0", b"0", b"1"]  # each address has a server of its own


def test_a_udp_connect_counts_though_nothing_is_sent(guard: Guard, bed: Bed) -> None:
    """Connected one after the other and used later: the address was counted, and the refused ones stay unreached."""
    host = many(bed)
    host.reset()

    def run() -> list[Any]:
        socks = [udp() for _ in MANY4[:4]]
        connected = [
            got(lambda sock=sock, to=to: sock.connect((to, 5000))) for sock, to in zip(socks, MANY4, strict=False)
        ]
        return [*connected, *[got(lambda sock=sock: sock.send(b"later")) for sock in socks]]

    with guard.workload(*many_rules(), limits=limit("destinations", 2)) as w:
        results = call_in(bed, run, cgroup=w.cgroup)
        assert results == [None, None, "EPERM", "EPERM", 5, 5, "EDESTADDRREQ", "EDESTADDRREQ"]
    assert host.count().datagrams == 2


def test_one_socket_connected_again_and_again(guard: Guard, bed: Bed, good: Host) -> None:
    """connect(), connect(AF_UNSPEC), connect(): each is a connection."""

    def run() -> list[Any]:
        sock = tcp(good.address4)
        results = []
        for _ in range(4):
            results.append(got(lambda: sock.connect((good.address4, 7))))
            unspecify(sock)
        return results

    with guard.workload(*rules(good), limits=limit("connections", 2)) as w:
        assert call_in(bed, run, cgroup=w.cgroup) == [None, None, "EPERM", "EPERM"]
    assert good.count().connections == 2


def test_fast_open_connects_too(guard: Guard, bed: Bed, good: Host) -> None:
    """sendto(MSG_FASTOPEN) has no connect() of its own, and its data would be in the SYN."""

    def run() -> list[Any]:
        return [
            got(lambda: tcp(good.address4).sendto(b"fast", socket.MSG_FASTOPEN, (good.address4, 7))) for _ in range(3)
        ]

    with guard.workload(*rules(good), limits=limit("connections", 2)) as w:
        assert call_in(bed, run, cgroup=w.cgroup) == [4, 4, "EPERM"]
    assert good.count().bytes == 8


def test_pings_are_destinations_and_bytes(guard: Guard, bed: Bed) -> None:
    """Echo requests carry data, and pass no connect or send hook."""
    many(bed)

    def run(addresses: tuple[str, ...]) -> list[Any]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        echo = struct.pack("!BBHHH", 8, 0, 0, 0, 1) + b"p" * 972
        return [got(lambda to=to: sock.sendto(echo, (to, 0))) for to in addresses]

    icmp = rule(*MANY4, protocol="icmp")
    with guard.workload(icmp, limits=limit("destinations", 3)) as w:
        assert refusals(call_in(bed, lambda: run((*MANY4[:3], MANY4[0])), cgroup=w.cgroup)) == 0
        assert refusals(call_in(bed, lambda: run(MANY4[:6]), cgroup=w.cgroup)) == 3
        assert counts(w)[2] == 3
    with guard.workload(icmp, limits=limit("bytes", 4000)) as w:
        assert refusals(call_in(bed, lambda: run(MANY4[:6]), cgroup=w.cgroup)) == 2
        assert counts(w)[0] == 4000


def test_segmentation_offload_counts_every_byte(guard: Guard, bed: Bed, good: Host) -> None:
    """One send, ten datagrams: what it carries is counted, and it goes whole or not at all."""
    UDP_SEGMENT = 103  # noqa: N806  # its name in linux/udp.h

    def run() -> Any:
        sock = udp()
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        return got(lambda: sock.sendto(b"s" * 1000, (good.address4, 5000)))

    with guard.workload(*rules(good), limits=limit("bytes", 3000)) as w:
        assert call_in(bed, lambda: [run(), run(), run()], cgroup=w.cgroup) == [1000, 1000, "EPERM"]
    assert good.count().datagrams == 20


@pytest.mark.parametrize("what", ["connections", "destinations", "bytes"])
def test_connections_from_outside_count_when_they_are_answered(
    guard: Guard, bed: Bed, tmp_path: Path, what: str
) -> None:
    """Three strangers dial in. What is sent back to them is sent: as much as the limit allows, and nothing more."""
    most = {"connections": 2, "destinations": 1, "bytes": 250}[what]
    heard = {"connections": (2,), "destinations": (3,), "bytes": (1, 2)}[what]
    with guard.workload(peer_rule(), limits=PLENTY) as w, serving(bed, w.cgroup, tmp_path) as port:
        assert call_up(bed, port, 3) == [b"inbound"] * 3
        assert counts(w)[1:] == (3, 1)
    with guard.workload(peer_rule(), limits=limit(what, most)) as w, serving(bed, w.cgroup, tmp_path) as port:
        assert call_up(bed, port, 3).count(b"inbound") in heard
        assert getattr(guard.tables.usage(w.id), what).count <= most


def test_a_listener_that_was_a_client_hides_nobody(guard: Guard, bed: Bed, good: Host, tmp_path: Path) -> None:
    """Accepted sockets inherit their listener's stamp: not that it was counted once."""

    def before(listener: socket.socket) -> None:
        listener.connect((good.address4, 7))
        ask(listener)
        unspecify(listener)

    allowed = (peer_rule(), *rules(good))
    with guard.workload(*allowed, limits=PLENTY) as w, serving(bed, w.cgroup, tmp_path, before) as port:
        assert call_up(bed, port, 2) == [b"inbound"] * 2
        assert counts(w)[1:] == (3, 2)
    once = limit("connections", 1)
    with guard.workload(*allowed, limits=once) as w, serving(bed, w.cgroup, tmp_path, before) as port:
        assert call_up(bed, port, 2) == ["TIMEOUT"] * 2


def test_strangers_that_are_not_answered_use_nothing_up(guard: Guard, bed: Bed, good: Host, tmp_path: Path) -> None:
    """Who dials in without a rule gets no SYN-ACK, and cannot use up a workload's limits."""
    with guard.workload(*rules(good), limits=PLENTY) as w, serving(bed, w.cgroup, tmp_path) as port:
        assert call_up(bed, port, 3) == ["TIMEOUT"] * 3
        assert counts(w) == (0, 0, 0)


@pytest.mark.parametrize("allowed", [1, 2])
def test_a_udp_socket_older_than_the_policy_counts(guard: Guard, bed: Bed, allowed: int) -> None:
    """Connected while nobody was in charge: no hook but the last sees it."""
    host = many(bed)
    host.reset()

    def run(pause: Any) -> list[Any]:
        old = udp()
        old.connect((MANY4[0], 5000))
        pause()
        return [post(MANY4[1]), got(lambda: old.send(b"old")), got(lambda: old.send(b"old"))]

    with later_managed(guard) as w, Steps(bed, run, w.cgroup) as steps:
        w.switch(*many_rules(), limits=Limits(None, Limit(10, HOUR_S), Limit(allowed, HOUR_S)))
        steps.go_on()
        assert steps.result == [says(host), *([3, 3] if allowed == 2 else ["EPERM"] * 2)]
        assert counts(w)[1:] == (allowed, allowed)


def test_a_tls_connection_is_counted_at_connect_and_byte_by_byte(guard: Guard, bed: Bed, good: Host) -> None:
    """Its name is judged later; the hello's bytes are bytes."""
    ours = hello("good.test")

    def run() -> list[Any]:
        sock = tcp(good.address4)
        return [got(lambda: sock.connect((good.address4, 8443))), got(lambda: sock.send(ours))]

    limits = Limits(Limit(len(ours) + 500, HOUR_S), Limit(2, HOUR_S), None)
    with guard.workload(*rules(good), limits=limits) as w:
        assert call_in(bed, lambda: [run(), run(), run()], cgroup=w.cgroup)[2] == ["EPERM", "EPIPE"]
        assert good.received(0) == ours
        assert good.received(1) == b""  # the second hello would have been beyond the bytes
        assert counts(w)[1] == 2


def test_a_child_cgroup_is_no_second_workload(guard: Guard, bed: Bed, good: Host) -> None:
    """What lives below shares the limit."""
    with guard.workload(*rules(good), limits=limit("bytes", 5000)) as w:
        below = w.cgroup / "below"
        below.mkdir()
        assert refusals(call_in(bed, lambda: send_datagrams(good.address4, 3), cgroup=below)) == 0
        assert refusals(call_in(bed, lambda: send_datagrams(good.address4, 3), cgroup=w.cgroup)) == 1
    assert good.count().datagrams == 5


@pytest.mark.parametrize("then", [Then.DENY, Then.REPORT])
def test_a_full_table_of_destinations_is_a_limit_that_is_reached(guard: Guard, bed: Bed, then: Then) -> None:
    """Fail closed, and only for who has such a limit."""
    host = many(bed)
    host.reset()
    table = guard.instance.map("destinations")
    left = DESTINATIONS_MAX - len(libbpf.keys(table, 24))
    keys = [struct.pack("<QQQ", 1, 0, number) for number in range(left)]
    with (
        guard.workload(*many_rules(), limits=limit("destinations", 9, then)) as w,
        guard.workload(*many_rules(), limits=limit("connections", 9)) as unlimited,
    ):
        try:
            libbpf.update_batch(table, b"".join(keys), bytes(16 * len(keys)), len(keys))
            refused = refusals(call_in(bed, lambda: reach(MANY4[:2]), cgroup=w.cgroup))
            assert refused == (2 if then is Then.DENY else 0)
            assert refusals(call_in(bed, lambda: reach(MANY4[:2]), cgroup=unlimited.cgroup)) == 0
        finally:
            for key in keys:
                libbpf.delete(table, key)
        verdict = Verdict.DROPPED if then is Then.DENY else Verdict.AUDIT
        assert (verdict, Reason.LIMIT_DESTINATIONS) in w.reasons()
        assert refusals(call_in(bed, lambda: reach(MANY4[:2]), cgroup=w.cgroup)) == 0
    assert host.count().datagrams == (4 if then is Then.DENY else 6)


def test_addresses_of_earlier_windows_take_no_room(guard: Guard, bed: Bed) -> None:
    """With nobody to tidy up, a workload never has more entries than its limit: the new take the place of the old."""
    many(bed)

    def entries(workload_id: int) -> int:
        fd = guard.instance.map("destinations")
        return sum(struct.unpack_from("<Q", key)[0] == workload_id for key in libbpf.keys(fd, 24))

    with guard.workload(*many_rules(), limits=limit("destinations", 3, per_s=1)) as w:
        for first in (0, 3, 1, 6, 0):
            assert refusals(call_in(bed, lambda first=first: reach(MANY4[first : first + 3]), cgroup=w.cgroup)) == 0
            assert entries(w.id) == 3
            time.sleep(1.1)
