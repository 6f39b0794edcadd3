"""Limits under a crowd and over time: nothing is lost from the count, and each window is told of by itself."""

import ctypes
import struct
import time

from bed import Bed, Host, call_in
from e2e.escapes import dial, hosts_drop, post, rules, says, udp
from e2e.guard import Guard
from e2e.limit_words import DATAGRAM, DATAGRAM_BYTES, counts, in_parallel, limit, open_connections, refusals
from exeat.kernel import libbpf
from exeat.kernel.abi import Usage
from exeat.model.policy import Then
from exeat.model.verdicts import Reason, Verdict

WORKLOADS_MAX = 16_384  # bpf/limits.h
SENDERS, EACH = 4, 25_000


def test_not_a_byte_of_a_crowd_is_lost_from_the_count(guard: Guard, bed: Bed, good: Host) -> None:
    """Two that counted without a lock would now and then count one for both: beyond the limit, it would show later."""
    there = (good.address4, 5000)

    def send() -> None:
        with udp() as sock:
            sock.settimeout(None)
            for _ in range(EACH):
                sock.sendto(DATAGRAM, there)

    most = SENDERS * EACH * DATAGRAM_BYTES
    with guard.workload(*rules(good), limits=limit("bytes", most)) as w, hosts_drop(bed, "udp dport 5000"):
        call_in(bed, lambda: in_parallel(*[send] * SENDERS), cgroup=w.cgroup)
        assert counts(w)[0] == most


def test_what_is_only_reported_is_reported_in_every_window(guard: Guard, bed: Bed, good: Host) -> None:
    """Once each, though nothing is ever denied."""
    audit = (Verdict.AUDIT, Reason.LIMIT_CONNECTIONS)
    with guard.workload(*rules(good), limits=limit("connections", 2, Then.REPORT, per_s=2)) as w:
        for _ in range(2):
            assert refusals(call_in(bed, lambda: open_connections(good.address4, 4), cgroup=w.cgroup)) == 0
            assert w.reasons().count(audit) == 1
            time.sleep(2.1)
    assert good.count().connections == 8


def test_an_address_is_one_destination_by_whatever_protocol(guard: Guard, bed: Bed, good: Host) -> None:
    """TCP and UDP, on whatever port; the next address is another."""
    with guard.workload(*rules(good), limits=limit("destinations", 1)) as w:
        assert call_in(bed, lambda: [dial(good.address4), post(good.address4)], cgroup=w.cgroup) == [
            says(good, b"hello"),
            says(good),
        ]
        assert call_in(bed, lambda: post(good.address6), cgroup=w.cgroup) == "EPERM"
        assert counts(w)[2] == 1


def test_a_full_table_of_workloads_denies_those_that_have_limits(guard: Guard, bed: Bed, good: Host) -> None:
    """What cannot be counted does not pass; who has no limit needs no count."""
    table = guard.instance.map("usage")
    left = WORKLOADS_MAX - len(libbpf.keys(table, 8))
    keys = [struct.pack("<Q", 1 << 60 | number) for number in range(left)]
    with (
        guard.workload(*rules(good), limits=limit("connections", 9)) as w,
        guard.workload(*rules(good)) as unlimited,
    ):
        try:
            libbpf.update_batch(table, b"".join(keys), bytes(ctypes.sizeof(Usage) * left), left)
            assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == "EPERM"
            assert w.reasons() == [(Verdict.ERROR, Reason.TABLE_FULL)]
            assert good.count().is_untouched
            assert call_in(bed, lambda: dial(good.address4), cgroup=unlimited.cgroup) == says(good, b"hello")
        finally:
            for key in keys:
                libbpf.delete(table, key)
        assert call_in(bed, lambda: dial(good.address4), cgroup=w.cgroup) == says(good, b"hello")
