"""connect() and sendto() under host rules: an address opens when the gate led a name there, for that name's ports."""

import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bed import Bed, Host, Sniffer
from e2e.escapes import Steps, ask, dial, dropped, got, judged, post, says, tcp, udp
from e2e.gatekeeper import at, fetch, fresh_resolver, keep_gate, look_up
from e2e.guard import Guard, rule
from exeat.core.grants import SLOTS, Change, Slot
from exeat.dns.gate import boot_ns
from exeat.model.verdicts import Reason, Verdict

GRANTED = (Verdict.FORWARDED, Reason.GRANTED)
BY_NETWORK = (Verdict.FORWARDED, Reason.NETWORK_ALLOWED)
BY_NAME = (Verdict.FORWARDED, Reason.NAME_ALLOWED)
RESOLVED = (Verdict.FORWARDED, Reason.RESOLVED)
BOTH = pytest.mark.parametrize("version", [4, 6])


def address(host: Host, version: int) -> str:
    """Its address of this version of IP."""
    return host.address4 if version == 4 else host.address6


def kind(version: int) -> str:
    """The records to ask for."""
    return "A" if version == 4 else "AAAA"


@BOTH
def test_an_address_opens_when_its_name_is_resolved(
    guard: Guard, bed: Bed, good: Host, wire: Sniffer, version: int
) -> None:
    """Not one packet before, by its number or out of /etc/hosts; then the same client gets through."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    there = address(good, version)

    def run() -> list[Any]:
        return [dial(there), look_up("good.test", kind(version)), dial(there)]

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        with judged(kept.workload, dropped(Reason.NOT_RESOLVED)):
            assert kept.run(lambda: dial(there)) == "EPERM"
        assert wire.toward(there).frames == 0
        with judged(kept.workload, dropped(Reason.NOT_RESOLVED), GRANTED):
            assert kept.run(run) == ["EPERM", [there], says(good, b"hello")]
        assert kept.reasons() == [RESOLVED]
    assert (good.count().connections, good.count().bytes) == (1, 5)


def test_a_grant_holds_for_its_address_however_it_is_written(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """::ffff:a.b.c.d on an IPv6 socket is a.b.c.d, granted or not."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})

    def mapped(host: Host) -> Any:
        return dial(f"::ffff:{host.address4}")

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        assert kept.run(lambda: look_up("good.test")) == [good.address4]
        with judged(kept.workload, GRANTED, dropped(Reason.NOT_RESOLVED)):
            assert kept.run(lambda: mapped(good)) == says(good, b"hello")
            assert kept.run(lambda: mapped(evil)) == "EPERM"
    assert evil.count().is_untouched


def test_a_question_about_one_family_does_not_open_the_other(guard: Guard, bed: Bed, good: Host) -> None:
    """Each address stands in an answer before it opens."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        assert kept.run(lambda: look_up("good.test", "A")) == [good.address4]
        with judged(kept.workload, dropped(Reason.NOT_RESOLVED), GRANTED):
            assert kept.run(lambda: dial(good.address6)) == "EPERM"
            assert kept.run(lambda: dial(good.address4)) == says(good, b"hello")
        assert kept.run(lambda: look_up("good.test", "AAAA")) == [good.address6]
        with judged(kept.workload, GRANTED):
            assert kept.run(lambda: dial(good.address6)) == says(good, b"hello")


def test_a_denied_name_gets_no_grant(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """It is not even asked about upstream."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses, "evil.test": evil.addresses})

    def run(name: str, there: str) -> list[Any]:
        return [look_up(name), dial(there)]

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        assert kept.run(lambda: run("evil.test", evil.address4)) == [[], "EPERM"]
        assert kept.run(lambda: run("good.test", good.address4)) == [[good.address4], says(good, b"hello")]
        assert kept.reasons() == [dropped(Reason.NAME_NOT_ALLOWED), RESOLVED]
    assert [asked.name for asked in resolver.questions()] == ["good.test"]
    assert evil.count().is_untouched


@BOTH
def test_a_grant_ends(guard: Guard, bed: Bed, good: Host, version: int) -> None:
    """At its time, in the kernel: the same connect a moment later is denied, and resolving again opens anew."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    there = address(good, version)
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        kept.write_grant("good.test", there)
        with judged(kept.workload, GRANTED):
            assert kept.run(lambda: dial(there)) == says(good, b"hello")
        good.reset()
        kept.write_grant("good.test", there, lasts_s=0)
        with judged(kept.workload, dropped(Reason.GRANT_EXPIRED)):
            assert kept.run(lambda: dial(there)) == "EPERM"
        assert good.count().is_untouched
        with judged(kept.workload, GRANTED):
            assert kept.run(lambda: [look_up("good.test", kind(version)), dial(there)][1]) == says(good, b"hello")


def test_a_connection_outlives_its_grant(guard: Guard, bed: Bed, good: Host) -> None:
    """What is open goes on, TCP and connected UDP, while a new one to the same place is denied."""
    resolver = fresh_resolver(bed, {})
    rules = rule(hosts=("good.test",), ports=(7,)), rule(hosts=("good.test",), ports=(5000,), protocol="udp")
    there = good.address4

    def run(pause: Callable[[], None]) -> list[Any]:
        stream, datagrams = tcp(there), udp(there)
        stream.connect((there, 7))
        datagrams.connect((there, 5000))
        before = [ask(stream, b"1"), ask(datagrams)]
        pause()
        return [*before, ask(stream, b"2"), ask(datagrams), dial(there), post(there)]

    with keep_gate(guard, bed, resolver, *rules) as kept:
        kept.write_grant("good.test", there)
        with Steps(bed, run, kept.workload.cgroup) as steps:
            kept.write_grant("good.test", there, lasts_s=0)
            kept.workload.told()
        assert steps.result == [says(good, b"1"), says(good), b"2", says(good), "EPERM", "EPERM"]
        assert kept.workload.reasons() == [dropped(Reason.GRANT_EXPIRED)] * 2


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_name_opens_its_rule_s_ports_and_protocol_only(guard: Guard, bed: Bed, good: Host, protocol: str) -> None:
    """Other ports of the address stay shut, and so does the port's other protocol."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    port = 7 if protocol == "tcp" else 5000
    there = good.address4

    def run() -> list[Any]:
        use, other = (dial, post) if protocol == "tcp" else (post, dial)
        return [use(there, port), use(there, port + 1), other(there, port)]

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(port,), protocol=protocol)) as kept:
        assert kept.run(lambda: look_up("good.test")) == [there]
        with judged(kept.workload, GRANTED, *[dropped(Reason.PORT_NOT_ALLOWED)] * 2):
            heard = kept.run(run)
        assert heard == [says(good, b"hello" if protocol == "tcp" else b""), "EPERM", "EPERM"]
    counted = good.count()
    assert (counted.connections, counted.datagrams) == ((1, 0) if protocol == "tcp" else (0, 1))


def test_a_tls_rule_s_grant_opens_no_other_port(guard: Guard, bed: Bed, good: Host) -> None:
    """A name that may be reached on 443 may not be reached on 7."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), protocol="tls")) as kept:
        assert kept.run(lambda: look_up("good.test")) == [good.address4]
        with judged(kept.workload, dropped(Reason.PORT_NOT_ALLOWED), BY_NAME):
            assert kept.run(lambda: dial(good.address4)) == "EPERM"
            assert kept.run(lambda: fetch(good.address4, "good.test")) == "I am good.test"
    assert good.count().connections == 1


def test_what_a_granted_connection_sends_is_counted(guard: Guard, bed: Bed, good: Host) -> None:
    """The workload's bytes and packets grow by what the server read, at least; nobody else's do."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    size = 200_000
    rules = rule(hosts=("good.test",), ports=(7,)), rule(hosts=("good.test",), ports=(5000,), protocol="udp")

    def run() -> None:
        look_up("good.test")
        with socket.create_connection((good.address4, 7), 10) as sock:
            sock.settimeout(10)
            sent = received = 0
            while sent < size:
                sent += sock.send(bytes(min(50_000, size - sent)))
                received += len(sock.recv(1 << 20))
            while received < size + len(says(good)):
                received += len(sock.recv(1 << 20))
        post(good.address4, 5000, bytes(1000))

    with keep_gate(guard, bed, resolver, *rules) as kept, guard.workload() as idle:
        before = guard.tables.traffic(kept.workload.id)
        kept.run(run)
        after = guard.tables.traffic(kept.workload.id)
        assert (good.count().bytes, good.count().datagram_bytes) == (size, 1000)
        assert size + 1000 < after.bytes_out - before.bytes_out < 2 * size
        assert after.packets_out > before.packets_out
        assert guard.tables.traffic(idle.id).bytes_out == 0


def test_connecting_a_datagram_socket_is_silent_and_sending_on_it_is_not(guard: Guard, bed: Bed, good: Host) -> None:
    """getaddrinfo() connects UDP sockets to what it found, to put it in order: no verdict for that, and no way out."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})

    def run(port: int) -> list[Any]:
        look_up("good.test")
        sock = udp(good.address4)
        connected = got(lambda: sock.connect((good.address4, port)))
        if port == 0:
            return [connected]
        return [connected, got(lambda: sock.send(b"datagram")), got(lambda: sock.recv(100))]

    rules = rule(hosts=("good.test",), protocol="tls"), rule(hosts=("good.test",), ports=(5000,), protocol="udp")
    with keep_gate(guard, bed, resolver, *rules) as kept:
        with judged(kept.workload):
            assert kept.run(lambda: run(0)) == [None]
        with judged(kept.workload, dropped(Reason.PORT_NOT_ALLOWED)):
            assert kept.run(lambda: run(5001)) == [None, "EPERM", "TIMEOUT"]
        assert good.count().is_untouched
        with judged(kept.workload, GRANTED):
            assert kept.run(lambda: run(5000)) == [None, 8, says(good)]


def test_getaddrinfo_of_an_allowed_name_gives_no_denial(guard: Guard, bed: Bed, good: Host) -> None:
    """It asks the gate, sorts by probing, and a connect to each result is let through."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})

    def run() -> list[Any]:
        found = socket.getaddrinfo("good.test", 7, type=socket.SOCK_STREAM)
        return sorted((where[4][0], dial(where[4][0])) for where in found)

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        with judged(kept.workload, GRANTED, GRANTED):
            assert kept.run(run) == sorted((one, says(good, b"hello")) for one in (good.address4, good.address6))
        assert set(kept.reasons()) == {RESOLVED}


def test_networks_and_names_widen_one_another_at_an_address(guard: Guard, bed: Bed, good: Host) -> None:
    """A network rule holds without a grant, the name's ports come on top, and a listed SNI passes beside a granted."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    there = good.address4
    rules = (
        rule(there, ports=(7,)),
        rule(there, hosts=("listed.test",), protocol="tls"),
        rule(hosts=("good.test",), protocol="tls"),
        rule(hosts=("good.test",), ports=(5000,), protocol="udp"),
    )

    def run() -> list[Any]:
        names = ("listed.test", "good.test", "other.test")
        return [dial(there), post(there), *(fetch(there, name) for name in names)]

    denied = [dropped(Reason.PORT_NOT_ALLOWED), dropped(Reason.NAME_NOT_RESOLVED), dropped(Reason.NAME_NOT_ALLOWED)]
    with keep_gate(guard, bed, resolver, *rules) as kept:
        with judged(kept.workload, BY_NETWORK, *denied, BY_NAME):
            assert kept.run(run) == [says(good, b"hello"), "EPERM", "I am good.test", "EACCES", "EACCES"]
        assert good.count().sni == ["listed.test"]
        assert kept.run(lambda: look_up("good.test")) == [there]
        with judged(kept.workload, BY_NETWORK, GRANTED, BY_NAME, BY_NAME, dropped(Reason.NAME_NOT_ALLOWED)):
            heard = kept.run(run)
        assert heard == [says(good, b"hello"), says(good), "I am good.test", "I am good.test", "EACCES"]
    assert good.count().sni == ["listed.test", "listed.test", "good.test"]


def test_a_rule_s_end_counts_whatever_was_granted(guard: Guard, bed: Bed, good: Host) -> None:
    """The grant may last for hours, the rule's end stands in the ports; the name is no longer resolved either."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    ends = datetime.now(UTC) + timedelta(seconds=1.5)
    lasting, ending = (
        rule(hosts=("good.test",), ports=(5000,), protocol="udp"),
        rule(hosts=("good.test",), ports=(7,), expires=ends),
    )
    brief = rule(hosts=("brief.test",), protocol="tls", expires=ends)

    def run() -> list[Any]:
        return [look_up("good.test"), dial(good.address4), post(good.address4), look_up("brief.test")]

    with keep_gate(guard, bed, resolver, lasting, ending, brief) as kept:
        heard = kept.run(run)
        if datetime.now(UTC) < ends:  # else the machine was too busy to see it open
            assert heard == [[good.address4], says(good, b"hello"), says(good), []]
        time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 0.05)
        kept.asked()
        with judged(kept.workload, dropped(Reason.RULE_EXPIRED), GRANTED):
            assert kept.run(run) == [[good.address4], "EPERM", says(good), []]
        reasons = {record.name: record.reason for record in kept.asked()}
        assert reasons["brief.test"] is Reason.RULE_EXPIRED


def test_grants_of_one_workload_are_not_another_s(guard: Guard, bed: Bed, good: Host) -> None:
    """Both policies allow the name; only who resolved it may go."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    allowed = rule(hosts=("good.test",), ports=(7,))
    with keep_gate(guard, bed, resolver, allowed) as one, keep_gate(guard, bed, resolver, allowed) as two:
        assert one.run(lambda: look_up("good.test")) == [good.address4]
        with judged(two.workload, dropped(Reason.NOT_RESOLVED)):
            assert two.run(lambda: dial(good.address4)) == "EPERM"
        assert good.count().is_untouched
        with judged(one.workload, GRANTED):
            assert one.run(lambda: dial(good.address4)) == says(good, b"hello")
        assert two.run(lambda: look_up("good.test")) == [good.address4]
        with judged(two.workload, GRANTED):
            assert two.run(lambda: dial(good.address4)) == says(good, b"hello")


def test_a_full_row_of_slots_is_read_to_its_end(guard: Guard, bed: Bed, good: Host) -> None:
    """The last of all slots opens as the first does, also behind others for the same port that have ended."""
    resolver = fresh_resolver(bed, {})
    names = [f"n{number}.test" for number in range(SLOTS)]
    rules = [rule(hosts=(name,), ports=(7, 1000 + number)) for number, name in enumerate(names)]
    with keep_gate(guard, bed, resolver, *rules) as kept:
        *ended, last = [Slot(kept.ports_id(name), 1) for name in names]
        assert len({slot.ports_id for slot in (*ended, last)}) == SLOTS
        place = at(good.address4)
        kept.grants.apply(Change(granted=((place, (*ended, last)),)))
        with judged(kept.workload, dropped(Reason.GRANT_EXPIRED)):
            assert kept.run(lambda: dial(good.address4)) == "EPERM"
        kept.grants.apply(Change(granted=((place, (*ended, Slot(last.ports_id, boot_ns() + 600 * 10**9))),)))
        with judged(kept.workload, GRANTED):
            assert kept.run(lambda: dial(good.address4)) == says(good, b"hello")
