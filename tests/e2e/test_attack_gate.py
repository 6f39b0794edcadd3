"""An attacker inside a workload, or behind a name that is allowed: the gate lives on, and opens nothing else."""

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bed import Bed, Host, Manner, call_in
from bed.namespace import Namespace
from e2e.escapes import Steps, dial, got, says, udp
from e2e.gatekeeper import PLENTY_S, SOMEBODY, Kept, ask_dns, fresh_resolver, keep_gate, look_up
from e2e.guard import Guard, rule
from exeat.core.doh_hosts import known_doh_hosts
from exeat.kernel.entries import GATE_PRIORITY
from exeat.kernel.grants import GateTables
from exeat.model.verdicts import Reason, Verdict

RESOLVED = (Verdict.FORWARDED, Reason.RESOLVED)
NAMELESS = (Verdict.DROPPED, Reason.NAME_NOT_ALLOWED)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets


def query(name: str, kind: int = 1, *, ident: int = 7, padding: int = 0) -> bytes:
    """A question as bytes; with padding, an EDNS option of so many (RFC 7830)."""
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    message = struct.pack(">6H", ident, 0x0100, 1, 0, 0, 1 if padding else 0) + wire + struct.pack(">2H", kind, 1)
    if padding:
        message += b"\0" + struct.pack(">HHIH", 41, 1232, 0, 4 + padding) + struct.pack(">2H", 12, padding)
        message += bytes(padding)
    return message


def listener_of(kept: Kept) -> int:
    """The port of its gate."""
    return kept.listeners.port


def resident_kib() -> int:
    """This process's memory: the gates of guard tests live in it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


def test_connections_that_are_reset_before_they_are_accepted_break_nothing(guard: Guard, bed: Bed, good: Host) -> None:
    """The peer of such a connection has no name any more. A failure of the gate would be raised at its end."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})

    def run() -> list[str]:
        for _ in range(200):
            with socket.create_connection((SOMEBODY, 53), PLENTY_S) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        for _ in range(100):  # those that are not looked at yet take up places
            answer = got(lambda: ask_dns("good.test", transport="tcp").addresses)
            if answer != "ECONNRESET":
                break
            time.sleep(0.05)
        return answer

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        assert call_in(bed, run, cgroup=kept.workload.cgroup) == [good.address4]
        assert RESOLVED in kept.reasons()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_an_answer_that_comes_after_a_change_of_policy_opens_nothing_that_the_new_one_denies(
    guard: Guard, bed: Bed, good: Host, evil: Host, transport: str
) -> None:
    """Whoever answers an allowed name can hold the answer back until the policy has changed."""
    resolver = fresh_resolver(bed, {"slow.evil.test": evil.addresses, "good.test": good.addresses})
    resolver.behave(Manner(delay_s=1.0), "slow.evil.test")
    first = rule(hosts=("*.evil.test", "good.test"), ports=(7,))

    def run(pause: Callable[[], None]) -> list[object]:
        message = query("slow.evil.test")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM) as sock:
            sock.settimeout(PLENTY_S)
            sock.connect((SOMEBODY, 53))
            sock.sendall(message if transport == "udp" else len(message).to_bytes(2, "big") + message)
            for _ in range(2000):
                if asked_upstream():
                    break
                time.sleep(0.005)
            pause()
            answer = sock.recv(4096)
        good_one = look_up("good.test")
        is_led_to_evil = socket.inet_aton(evil.address4) in answer
        return [is_led_to_evil, good_one, dial(evil.address4), dial(good.address4)]

    def asked_upstream() -> bool:
        return any(asked.name == "slow.evil.test" for asked in resolver.questions())

    with keep_gate(guard, bed, resolver, first) as kept:
        with Steps(bed, run, kept.workload.cgroup) as steps:
            kept.switch(rule(hosts=("good.test",), ports=(7,)))
            steps.go_on()
        assert steps.result == [False, [good.address4], "EPERM", says(good, b"hello")]
    assert evil.count().connections == 0


def test_a_service_record_leads_to_no_resolver_over_https(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Its target is its author's choice; a name that no rule mentions is still on the list."""
    doh = "dns.google"
    assert known_doh_hosts().covers(doh)
    services = {"_a._tcp.good.test": {"SRV": [f"1 1 7 {doh}.", "1 1 7 one.else.test."]}}
    zone = {**services, "good.test": good.addresses, doh: evil.addresses, "one.else.test": good.addresses}
    resolver = fresh_resolver(bed, zone)

    def run() -> list[object]:
        said = ask_dns("_a._tcp.good.test", "SRV")
        return [
            len(said.records),
            ask_dns(doh).rcode,
            dial(evil.address4),
            look_up("one.else.test"),
            dial(good.address4),
        ]

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        got_there = call_in(bed, run, cgroup=kept.workload.cgroup)
        assert got_there == [2, "NXDOMAIN", "EPERM", [good.address4], says(good, b"hello")]
        assert kept.reasons() == [RESOLVED, (Verdict.DROPPED, Reason.DOH_HOST), RESOLVED]
    assert evil.count().connections == 0
    assert doh not in [asked.name for asked in resolver.questions()]


@pytest.mark.parametrize("is_entry_left", [True, False], ids=["the agent died", "the gate moved"])
def test_whoever_takes_the_port_of_a_gate_that_has_gone_hears_nothing(
    guard: Guard, bed: Bed, good: Host, is_entry_left: bool
) -> None:
    """It is anybody's port then, and nobody else's loopback service is reached without a rule."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    client = bed.network.client

    def run(pause: Callable[[], None]) -> list[object]:
        kept.listeners.close()  # this process's own copies, inherited by fork()
        with udp() as old, udp() as connected, udp() as new:
            connected.connect((SOMEBODY, 53))
            sent = [old.sendto(query("good.test"), (SOMEBODY, 53)), connected.send(query("good.test"))]
            heard = [old.recvfrom(4096)[1], connected.recv(4096)[:2]]
            pause()
            refused = [
                got(lambda: connected.send(b"by the connected one")),
                got(lambda: old.sendto(b"to the old port", ("127.0.0.1", port))),
                got(lambda: old.sendto(b"to 53 from an old socket", (SOMEBODY, 53))),
                got(lambda: new.sendto(b"to 53 from a new socket", (SOMEBODY, 53))),
            ]
        return [sent, heard, refused]

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        port, network = kept.listeners.port, kept.listeners.network
        with Steps(bed, run, kept.workload.cgroup) as steps:
            kept.thread.finish()
            if not is_entry_left:
                GateTables(guard.instance, kept.workload.id).close(network)
            with client.call(udp) as stranger:
                stranger.bind(("127.0.0.1", port))
                steps.go_on()
                heard = everything(stranger)
        assert steps.result[:2] == [[27, 27], [(SOMEBODY, 53), b"\0\7"]]
        assert heard == []
        assert steps.result[2] == ["EPERM"] * 4


def everything(sock: socket.socket) -> list[bytes]:
    """What waits there. Loopback delivers before send() returns."""
    sock.setblocking(False)
    heard = []
    while isinstance(data := got(lambda: sock.recv(4096)), bytes):
        heard.append(data)
    return heard


def test_a_socket_that_was_there_before_another_workloads_gate_does_not_reach_it(guard: Guard, bed: Bed) -> None:
    """A rule for loopback lets it connect where nobody is yet; then a gate opens at that port."""
    client = bed.network.client
    with client.call(udp) as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]

    def run(pause: Callable[[], None]) -> list[object]:
        with udp() as sock:
            sock.connect(("127.0.0.1", port))
            pause()
            to_other = got(lambda: sock.send(b"to somebody's service"))
            pause()
            return [to_other, got(lambda: sock.send(b"to the gate"))]

    with guard.workload(rule("127.0.0.1/32", ports=(port,), protocol="udp")) as workload:
        with Steps(bed, run, workload.cgroup) as steps:
            with client.call(udp) as service:
                service.bind(("127.0.0.1", port))
                steps.go_on()
                assert everything(service) == [b"to somebody's service"]
            with client.call(udp) as gate:
                gate.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, GATE_PRIORITY)
                gate.bind(("127.0.0.1", port))
                steps.go_on()
                assert everything(gate) == []
        assert steps.result == [21, "EPERM"]


def test_who_takes_the_gates_port_on_ipv6_hears_nothing(guard: Guard, bed: Bed, good: Host) -> None:
    """Where there was no IPv6 when the gate opened, ::1 is free until there is."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    inside = Namespace()
    try:
        inside.command("ip", "link", "set", "lo", "up")
        inside.sysctl("net.ipv6.conf.lo.disable_ipv6", 1)
        tls = rule(hosts=("good.test",), ports=(7,))
        with keep_gate(guard, bed, resolver, tls, namespace=inside.fd) as kept:
            port = listener_of(kept)
            inside.sysctl("net.ipv6.conf.lo.disable_ipv6", 0)
            with inside.call(lambda: udp("::1")) as stranger:
                stranger.bind(("::1", port))

                def run() -> list[object]:
                    with udp("::1") as sock:
                        sent = got(lambda: sock.sendto(query("good.test"), ("2001:db8::53", 53)))
                    return [sent, look_up("good.test")]

                result = call_in(bed, run, cgroup=kept.workload.cgroup, at=inside)
                assert everything(stranger) == []
            assert result[1] == [good.address4]
    finally:
        inside.close()


def test_padded_questions_do_not_fill_the_memory(guard: Guard, bed: Bed, good: Host) -> None:
    """A question may have 4 KiB, and each of them may be another."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})

    def run() -> list[str]:
        with udp() as sock:
            sock.connect((SOMEBODY, 53))
            for number in range(5000):
                sock.send(query(f"n{number}.evil.test", padding=3900))
                sock.recv(4096)
        return look_up("good.test")

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        before = resident_kib()
        assert call_in(bed, run, cgroup=kept.workload.cgroup) == [good.address4]
        assert resident_kib() - before < 12 * 1024
    assert [asked.name for asked in resolver.questions()] == ["good.test"]
