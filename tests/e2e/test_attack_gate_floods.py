"""Floods out of a workload: the gate's memory stays bounded, it goes on answering, and nothing is miscounted."""

import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, Host, call_in
from e2e.escapes import dial, says, udp
from e2e.gatekeeper import SOMEBODY, ask_dns, fresh_resolver, keep_gate, look_up
from e2e.guard import Guard, rule
from exeat.core.compile import compile_policy
from exeat.dns import gate as gate_module
from exeat.dns.desk import Desk
from exeat.dns.gate import Gate
from exeat.dns.records import Kind, Record, Reply
from exeat.dns.tellings import Asked
from exeat.dns.upstream import Upstream
from exeat.errors import KernelError
from exeat.kernel import libbpf
from exeat.model.policy import DnsSettings, Policy
from exeat.model.verdicts import Reason, Verdict


def query(name: str, kind: int = 1, *, ident: int = 7) -> bytes:
    """A question as bytes."""
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack(">6H", ident, 0x0100, 1, 0, 0, 0) + wire + struct.pack(">2H", kind, 1)


def test_a_grant_that_the_kernel_did_not_take_is_tried_again(
    guard: Guard, bed: Bed, good: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer leads where the kernel lets nobody: not the one that found the table full, nor the next."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:

        def run() -> list[Any]:
            return [look_up("good.test"), dial(good.address4)]

        with monkeypatch.context() as patch:
            patch.setattr(libbpf, "update", full)
            assert kept.run(run) == [[], "EPERM"]
        time.sleep(1.1)  # answers are repeated for a second
        assert kept.run(run) == [[good.address4], says(good, b"hello")]
        assert kept.reasons()[0] == (Verdict.ERROR, Reason.TABLE_FULL)


def full(*_: object) -> None:
    """Stands for a table that takes no more."""
    raise KernelError("the table is full")


def resident_kib() -> int:
    """This process's memory: the gates of guard tests live in it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


def test_questions_that_did_not_fit_into_the_gates_queue_are_counted(guard: Guard, bed: Bed, good: Host) -> None:
    """What is lost is told as lost: each datagram that was sent stands in some count."""
    sent = 40_000
    resolver = fresh_resolver(bed, {"good.test": good.addresses})

    def run() -> None:
        with udp() as sock:
            sock.connect((SOMEBODY, 53))
            message = query("other.test")
            for _ in range(sent):
                sock.send(message)

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        stalled = kept.thread._loop
        assert stalled
        stalled.call_soon_threadsafe(time.sleep, 1.5)  # as if the machine were busy
        call_in(bed, run, cgroup=kept.workload.cgroup)
        stream = call_in(bed, lambda: ask_dns("good.test", transport="tcp"), cgroup=kept.workload.cgroup)
        assert stream.addresses == [good.address4]
        gatehouse = kept.gatehouse
    assert sum(gatehouse.counts.values()) == sent + 1


def test_names_with_many_addresses_fill_neither_memory_nor_the_report(guard: Guard, bed: Bed, good: Host) -> None:
    """Behind a wildcard, each question may bring 64 addresses that drive out 64 others."""
    asked, each = 300, 64
    wild = {f"*.w{n}.evil.test": [f"203.0.{n % 100 + 1}.{i + 1}" for i in range(each)] for n in range(asked)}
    resolver = fresh_resolver(bed, {**wild, "good.test": good.addresses})
    dns = DnsSettings(max_grants=256)

    def run() -> list[str]:
        for number in range(asked):
            ask_dns(f"a.w{number}.evil.test")

        return look_up("good.test")

    policy = rule(hosts=("**.evil.test", "good.test"), ports=(7,))
    with keep_gate(guard, bed, resolver, policy, dns=dns) as kept:
        before = resident_kib()
        addresses = call_in(bed, run, cgroup=kept.workload.cgroup)
        records = kept.asked()
        assert addresses == [good.address4]
        assert resident_kib() - before < 16 * 1024
        assert len(records) < 3 * asked


def test_a_repeated_question_is_counted_under_the_answer_that_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes may be denied, and allowed a second later: by a service record, or by the end of a rule."""
    table_set = compile_policy(Policy("test", (rule(hosts=("good.test",), ports=(7,)),)))
    desk = Desk(table_set, DnsSettings(), lambda address, now_ns: ())
    told: list[Asked] = []
    gate = Gate(desk, Upstream((), ()), 600, lambda *_: (), told.append)
    now = [10**9]
    monkeypatch.setattr(gate_module, "boot_ns", lambda: now[0])
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        listener.bind(("127.0.0.1", 0))
        client.connect(listener.getsockname())

        def ask(times: int) -> None:
            for _ in range(times):
                client.send(query("target.test"))
                gate._read_datagrams(listener)

        ask(11)
        decision = desk.decide("good.test", Kind.SRV, 0, now[0])
        target = struct.pack(">3H", 1, 1, 7) + b"\x06target\x04test\0"
        desk.learn_targets((Record("good.test", Kind.SRV, 60, target),), decision, now[0], 10**12)
        address = Record("target.test", Kind.A, 60, bytes([203, 0, 113, 5]))
        gate._cache.put("target.test", Kind.A, Reply(0, False, (address,), None), now[0])
        now[0] += 15 * 10**8
        ask(1)
        gate._again.clear(now[0])
        gate._tellings.tell_due(None)
    assert gate.counts == {**dict.fromkeys(Verdict, 0), Verdict.DROPPED: 11, Verdict.FORWARDED: 1}
    assert [(one.verdict, one.count) for one in told] == [
        (Verdict.DROPPED, 1),
        (Verdict.FORWARDED, 1),
        (Verdict.DROPPED, 10),
    ]
