"""Names resolved past port 53: over TLS, by multicast, by NetBIOS, over HTTPS; and another workload's gate.

No rule opens those ports, not even one of all ports; no wildcard covers a host that resolves names over HTTPS.
"""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bed import Bed, Dns, Host, Tcp, Tls, Udp, call_in
from e2e.bypasses import connected, framed, over_tcp, patient, question, read_framed
from e2e.escapes import dial, dropped, got, post, says, tcp, udp
from e2e.gatekeeper import Kept, ask_dns, fetch, fresh_resolver, keep_gate, look_up, read_answer
from e2e.guard import Guard, rule
from exeat.model.policy import PortRange, Protocol, Rule
from exeat.model.verdicts import Reason, Verdict

CLOSED = {
    137: Reason.NETBIOS,
    853: Reason.DNS_OVER_TLS,
    5353: Reason.MULTICAST_DNS,
    5355: Reason.LLMNR,
}
ABOVE = "opendns.com"
DOH = f"doh.{ABOVE}"  # of exeat's list, core/doh_hosts.txt
MULTICAST = {"224.0.0.251": 5353, "224.0.0.252": 5355, "ff02::fb%uplink": 5353, "ff02::1:3%uplink": 5355}


@pytest.fixture(scope="module")
def _other(bed: Bed) -> Host:
    services = [service for port in (*CLOSED, 5354) for service in (Tcp(port, "echo", fastopen=True), Udp(port))]
    return bed.add("other-ports.test", *services, Tls(names=("shop.test", DOH)))


@pytest.fixture
def other(_other: Host) -> Host:
    """A host that serves all of these ports, and 5354; it has counted nothing yet."""
    _other.reset()
    return _other


def everything(*cidrs: str) -> tuple[Rule, ...]:
    """All ports of these networks, over TCP and UDP."""
    ports = (PortRange(1, 65535),)
    networks = rule(*cidrs, ports=(1,)).cidrs
    return tuple(
        Rule(f"all {protocol}", protocol, cidrs=networks, ports=ports) for protocol in (Protocol.TCP, Protocol.UDP)
    )


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", CLOSED)
def test_a_port_that_resolves_names_is_closed_under_a_rule_of_all_ports(
    guard: Guard, bed: Bed, other: Host, port: int, version: int
) -> None:
    """TCP, UDP connected and not, v4-mapped: EPERM with the port's own reason. The port beside them is open."""
    address = other.address4 if version == 4 else other.address6

    def do(to: int) -> Callable[[], list[Any]]:
        def ways() -> list[Any]:
            with udp(address) as sock:
                sent = got(lambda: sock.connect((address, to))) or got(lambda: sock.send(b"x") and sock.recv(99))
            mapped = f"::ffff:{address}" if version == 4 else address
            return [dial(address, to), post(address, to), sent, post(mapped, to), dial(mapped, to)]

        return ways

    answers = [says(other, b"hello"), says(other), says(other), says(other), says(other, b"hello")]
    assert call_in(bed, do(port)) == answers
    other.reset()
    with guard.workload(*everything(*other.addresses)) as workload:
        assert call_in(bed, do(5354), cgroup=workload.cgroup) == answers
        workload.told()
        other.reset()
        denied = call_in(bed, do(port), cgroup=workload.cgroup)
        assert denied == ["EPERM"] * 5
        assert set(workload.reasons()) == {dropped(CLOSED[port])}
        assert other.count().is_untouched


@pytest.mark.parametrize("group", MULTICAST)
def test_no_question_goes_to_a_multicast_group(guard: Guard, bed: Bed, group: str) -> None:
    """Even under a rule that names the groups. Another port of the same group is open under it."""
    rules = everything("224.0.0.0/24") + everything("ff02::/16")

    def do(port: int) -> Callable[[], Any]:
        def send() -> Any:
            with udp(family=socket.AF_INET6 if ":" in group else socket.AF_INET) as sock:
                return got(lambda: sock.sendto(b"a-question-for-all", (group, port)))

        return send

    port, plain = MULTICAST[group], group.partition("%")[0]
    for cgroup, arrives in ((None, True), (guard, False)):
        with bed.sniff() as wire:
            if cgroup is None:
                call_in(bed, do(port))
                assert wire.toward(plain, "udp", port).frames == int(arrives)
                continue
            with guard.workload(*rules) as workload:
                assert call_in(bed, do(5354), cgroup=workload.cgroup) == 18
                assert wire.toward(plain, "udp", 5354).frames == 1
                assert call_in(bed, do(port), cgroup=workload.cgroup) == "EPERM"
                assert dropped(CLOSED[port]) in workload.reasons()
                assert wire.toward(plain, "udp", port).frames == 0


@pytest.fixture
def doh(guard: Guard, bed: Bed, other: Host) -> Iterator[Kept]:
    """A workload whose wildcard would cover a DNS-over-HTTPS host; its resolver knows that and shop.test."""
    resolver = fresh_resolver(bed, dict.fromkeys((DOH, "shop.test"), other.addresses))
    with keep_gate(guard, bed, resolver, rule(hosts=("shop.test", f"*.{ABOVE}"), protocol="tls")) as kept:
        yield kept


def test_a_doh_host_is_denied_under_a_wildcard(doh: Kept, bed: Bed, other: Host) -> None:
    """By name, by hard-coded address, and by its name at the address of an allowed one."""
    assert call_in(bed, lambda: fetch(other.address4, DOH)) == f"I am {DOH}"
    other.reset()

    refused = doh.run(lambda: ask_dns(DOH))
    assert (refused.rcode, refused.addresses) == ("NXDOMAIN", [])
    assert "doh_host" in refused.why
    assert doh.reasons() == [(Verdict.DROPPED, Reason.DOH_HOST)]
    assert bed.host("resolver.test").questions() == []

    assert doh.run(lambda: fetch(other.address4, DOH)) == "EPERM"
    assert doh.workload.reasons() == [dropped(Reason.NOT_RESOLVED)]
    assert other.count().is_untouched

    assert doh.run(lambda: look_up("shop.test")) == [other.address4]
    assert doh.run(lambda: fetch(other.address4, DOH)) == "EACCES"
    assert doh.workload.reasons() == [dropped(Reason.DOH_HOST)]
    assert (other.count().bytes, other.count().sni) == (0, [])
    assert doh.run(lambda: fetch(other.address4, "shop.test")) == "I am shop.test"


def test_a_doh_host_named_exactly_is_allowed(guard: Guard, bed: Bed, other: Host) -> None:
    """The twin: whoever wrote its name into a rule meant it."""
    resolver = fresh_resolver(bed, {DOH: other.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=(DOH,), protocol="tls")) as kept:
        assert kept.run(lambda: look_up(DOH)) == [other.address4]
        assert kept.run(lambda: fetch(other.address4, DOH)) == f"I am {DOH}"


def gate_port(kept: Kept) -> int:
    """Where a gate listens."""
    return kept.listeners.port


def direct(address: str, port: int, kind: str, name: str) -> Any:
    """Asks a listener by its port."""

    def ask() -> bytes:
        with patient((tcp if kind == "tcp" else udp)(address)) as sock:
            sock.connect((address, port))
            sock.sendall(framed(question(name)) if kind == "tcp" else question(name))
            return read_framed(sock) if kind == "tcp" else sock.recv(1 << 16)

    return got(ask)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_another_workloads_gate_is_out_of_reach(guard: Guard, bed: Bed, good: Host, kind: str, address: str) -> None:
    """It would resolve what another policy allows. Even a rule of all loopback ports does not open it."""
    resolver = fresh_resolver(bed, {"shop.test": good.addresses, "other.test": good.addresses})
    open_loopback = everything("127.0.0.0/8", "::1/128")
    with (
        keep_gate(guard, bed, resolver, rule(hosts=("other.test",), protocol="tls")) as theirs,
        keep_gate(guard, bed, resolver, rule(hosts=("shop.test",), protocol="tls"), *open_loopback) as mine,
    ):
        port = gate_port(theirs)
        assert isinstance(call_in(bed, lambda: direct(address, port, kind, "other.test")), bytes)
        theirs.asked()
        resolver.reset()

        assert mine.run(lambda: direct(address, port, kind, "other.test")) == "EPERM"
        assert mine.workload.reasons() == [dropped(Reason.GATE_NOT_OWN)]
        assert theirs.asked() == []
        assert mine.run(lambda: look_up("other.test")) == []
        assert theirs.run(lambda: look_up("other.test")) == [good.address4]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_the_own_gates_port_gives_nothing_more_than_port_53(
    guard: Guard, bed: Bed, good: Host, kind: str, address: str
) -> None:
    """Asked by its port: refused. By port 53 it answers; what it denies there it would deny here."""
    resolver = fresh_resolver(bed, {"shop.test": good.addresses, "evil.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("shop.test",), protocol="tls")) as kept:
        port = gate_port(kept)
        for name in ("shop.test", "evil.test"):
            assert kept.run(lambda name=name: direct(address, port, kind, name)) == "EPERM"
        assert {reason for _, reason in kept.workload.reasons()} == {Reason.GATE_NOT_OWN}
        assert kept.asked() == []
        assert resolver.questions() == []
        way = connected if kind == "udp" else over_tcp
        assert read_answer(kept.run(lambda: way("127.0.0.1", "", question("shop.test")))).addresses == [good.address4]


def test_a_socket_that_asked_the_gate_may_not_turn_to_another_gate(guard: Guard, bed: Bed, good: Host) -> None:
    """Its stamp says that it talks to a gate; to which one is looked at for each datagram."""
    resolver = fresh_resolver(bed, {"shop.test": good.addresses, "other.test": good.addresses})
    with (
        keep_gate(guard, bed, resolver, rule(hosts=("other.test",), protocol="tls")) as theirs,
        keep_gate(guard, bed, resolver, rule(hosts=("shop.test",), protocol="tls")) as mine,
    ):
        port = gate_port(theirs)

        def do() -> list[Any]:
            with patient(udp("127.0.0.1")) as sock:
                sock.sendto(question("shop.test"), ("127.0.0.1", 53))
                first = sock.recv(1 << 16)
                second = got(lambda: sock.sendto(question("other.test"), ("127.0.0.1", port)))
                sock.sendto(question("shop.test"), ("127.0.0.1", 53))
                return [first, second, sock.recv(1 << 16)]

        first, second, third = mine.run(do)
        assert [read_answer(answer).addresses for answer in (first, third)] == [[good.address4]] * 2
        assert second == "EPERM"
        assert theirs.asked() == []


def test_a_resolver_elsewhere_than_port_53_needs_a_rule(guard: Guard, bed: Bed, good: Host) -> None:
    """DNS on an odd port is traffic like any other; an answer from there grants nothing."""
    server = bed.add("odd-port.test", Dns({"evil.test": good.addresses}, port=5300))
    resolver = fresh_resolver(bed, {"shop.test": good.addresses})

    def do() -> list[Any]:
        return [direct(server.address4, 5300, kind, "evil.test") for kind in ("udp", "tcp")]

    assert all(isinstance(answer, bytes) for answer in call_in(bed, do))
    server.reset()
    with keep_gate(guard, bed, resolver, rule(hosts=("shop.test",), protocol="tls")) as kept:
        assert kept.run(do) == ["EPERM", "EPERM"]
        assert server.count().is_untouched
        assert kept.run(lambda: look_up("shop.test")) == [good.address4]
