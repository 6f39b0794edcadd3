"""Grants over time: a change of policy, the end of what is unused, and what happens when there is no more room."""

import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bed import Bed, Host
from e2e.escapes import Steps, dial, dropped, got, judged, says
from e2e.gatekeeper import Kept, Said, ask_dns, at, fetch, fresh_resolver, keep_gate, look_up
from e2e.guard import Guard, rule
from exeat.core.grants import CONNECT_WITHIN_NS, SLOTS
from exeat.model.policy import DnsSettings, Mode, Tunnel, TunnelLimits
from exeat.model.verdicts import Reason, Verdict

GRANTED = (Verdict.FORWARDED, Reason.GRANTED)
BY_NAME = (Verdict.FORWARDED, Reason.NAME_ALLOWED)
RESOLVED = (Verdict.FORWARDED, Reason.RESOLVED)
EVICTED = dropped(Reason.GRANT_EVICTED)
PLENTY_S = 10


def talk(*addresses: str) -> Callable[[Callable[[], None]], list[Any]]:
    """Opens a connection to each; after each pause says something on all of them: what came back each time."""

    def run(pause: Callable[[], None]) -> list[Any]:
        socks = [socket.create_connection((address, 7), PLENTY_S) for address in addresses]
        heard: list[Any] = []
        for word in (b"1", b"2"):
            heard.append([got(lambda sock=sock, word=word: _say(sock, word)) for sock in socks])
            pause()
        return heard

    return run


def _say(sock: socket.socket, word: bytes) -> bytes:
    sock.send(word)
    said = b""
    while not said.endswith(word):
        part = sock.recv(100)
        if not part:
            raise ConnectionResetError
        said += part
    return said


def test_a_change_of_policy_keeps_the_names_still_allowed_and_cuts_the_others(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """Their connections too: one goes on, one is ended; the next connect needs no new answer for the first alone."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses, "evil.test": evil.addresses})
    both, one = rule(hosts=("good.test", "evil.test"), ports=(7,)), rule(hosts=("good.test",), ports=(7, 70))
    with keep_gate(guard, bed, resolver, both) as kept:
        kept.run(lambda: [look_up("good.test"), look_up("evil.test")])
        with Steps(bed, talk(good.address4, evil.address4), kept.workload.cgroup) as steps:
            assert kept.switch(one) == 1
            steps.go_on()
        assert steps.result == [[says(good, b"1"), says(evil, b"1")], [b"2", "ECONNABORTED"]]
        read = evil.count().bytes
        with judged(kept.workload, GRANTED, GRANTED, dropped(Reason.NOT_RESOLVED)):
            assert kept.run(lambda: dial(good.address4)) == says(good, b"hello")
            assert kept.run(lambda: dial(good.address4, 70)) == says(good, b"hello")
            assert kept.run(lambda: dial(evil.address4)) == "EPERM"
        assert evil.count().bytes == read == 1
        assert kept.run(lambda: look_up("evil.test")) == []
        assert kept.run(lambda: look_up("good.test")) == [good.address4]
    assert [asked.name for asked in resolver.questions()] == ["good.test", "evil.test"]


def test_a_change_of_policy_takes_a_name_s_hello_back(guard: Guard, bed: Bed, good: Host) -> None:
    """Two names at one address: after the change the address stays open, and only one of them passes."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses, "evil.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test", "evil.test"), protocol="tls")) as kept:
        kept.run(lambda: [look_up("good.test"), look_up("evil.test")])
        assert kept.run(lambda: fetch(good.address4, "evil.test")) == "I am evil.test"
        kept.switch(rule(hosts=("good.test", "*.evil.test"), protocol="tls"))
        with judged(kept.workload, BY_NAME, dropped(Reason.NAME_NOT_ALLOWED)):
            assert kept.run(lambda: fetch(good.address4, "good.test")) == "I am good.test"
            assert kept.run(lambda: fetch(good.address4, "evil.test")) == "EACCES"
    assert good.count().sni == ["evil.test", "good.test"]


def test_a_name_allowed_again_must_be_resolved_again(guard: Guard, bed: Bed, good: Host) -> None:
    """What a policy took back, the next one does not give of itself."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    allowed = rule(hosts=("good.test",), ports=(7,))
    with keep_gate(guard, bed, resolver, allowed) as kept:
        kept.run(lambda: look_up("good.test"))
        kept.switch()
        kept.switch(allowed)
        with judged(kept.workload, dropped(Reason.NOT_RESOLVED), GRANTED):
            assert kept.run(lambda: dial(good.address4)) == "EPERM"
            assert kept.run(lambda: [look_up("good.test"), dial(good.address4)][1]) == says(good, b"hello")


def test_a_denied_name_that_becomes_allowed_is_answered_at_once(guard: Guard, bed: Bed, good: Host) -> None:
    """No answer of the old policy is repeated, neither the denial nor, the other way round, the address."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    allowed = rule(hosts=("good.test",), ports=(7,))
    with keep_gate(guard, bed, resolver) as kept:
        for rules, addresses in (((), []), ((allowed,), [good.address4]), ((), []), ((allowed,), [good.address4])):
            kept.switch(*rules)
            assert kept.run(lambda: look_up("good.test")) == addresses


def test_an_open_connection_outlives_its_grant_also_across_a_change_of_policy(
    guard: Guard, bed: Bed, good: Host
) -> None:
    """Its grant ended, its rule stands: it goes on, while a new one must resolve; when the rule goes it is cut."""
    resolver = fresh_resolver(bed, {})
    allowed = rule(hosts=("good.test",), ports=(7,))
    with keep_gate(guard, bed, resolver, allowed) as kept:
        kept.grant("good.test", good.address4, lasts_s=3)
        with Steps(bed, talk(good.address4), kept.workload.cgroup) as steps:
            while kept.run(lambda: dial(good.address4)) != "EPERM":
                time.sleep(0.05)
            kept.collect()
            assert kept.holds(good.address4)
            assert kept.switch(allowed, rule(hosts=("other.test",), ports=(7,))) == 0
            assert kept.holds(good.address4)
            with judged(kept.workload, dropped(Reason.GRANT_EXPIRED)):
                assert kept.run(lambda: dial(good.address4)) == "EPERM"
            steps.go_on()
            assert kept.switch(rule(hosts=("other.test",), ports=(7,))) == 1
        assert steps.result == [[says(good, b"1")], [b"2"]]


def test_what_ended_is_collected_when_no_connection_uses_it(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """The unused one at once, the used one after its connection has closed, what lasts not at all."""
    resolver = fresh_resolver(bed, {})
    allowed = rule(hosts=("good.test", "evil.test", "lasting.test"), ports=(7,))
    with keep_gate(guard, bed, resolver, allowed) as kept:
        kept.grant("lasting.test", good.address6, lasts_s=7200)
        for host in (good, evil):
            kept.grant(host.name, host.address4, lasts_s=600)
        with Steps(bed, talk(good.address4), kept.workload.cgroup) as steps:
            kept.collect()
            assert [kept.holds(one) for one in (good.address4, evil.address4, good.address6)] == [True, True, True]
            kept.collect(in_s=3600)
            assert [kept.holds(one) for one in (good.address4, evil.address4, good.address6)] == [True, False, True]
            steps.go_on()
        assert steps.result == [[says(good, b"1")], [b"2"]]
        kept.collect(in_s=3600)
        assert [kept.holds(one) for one in (good.address4, evil.address4, good.address6)] == [False, False, True]


def fill(kept: Kept, *hosts: Host) -> None:
    """Resolves each host's name, after a second in which nothing is about to be used any more."""
    time.sleep(CONNECT_WITHIN_NS / 1e9 + 0.1)
    for host in hosts:
        assert kept.run(lambda host=host: look_up(host.name)) == [host.address4]


def test_beyond_the_limit_the_longest_unused_goes_with_a_verdict(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """What was connected to stays; what was taken back is denied, told by name and address, and may be had anew."""
    zone = {"good.test": good.addresses, "evil.test": evil.addresses, "third.test": good.addresses}
    resolver = fresh_resolver(bed, zone)
    allowed = rule(hosts=tuple(zone), ports=(7,))
    with keep_gate(guard, bed, resolver, allowed, dns=DnsSettings(max_grants=2)) as kept:
        fill(kept, good, evil)
        assert kept.run(lambda: dial(good.address4)) == says(good, b"hello")
        kept.asked()
        time.sleep(CONNECT_WITHIN_NS / 1e9 + 0.1)
        assert kept.run(lambda: look_up("third.test", "AAAA")) == [good.address6]
        told = [(one.verdict, one.reason, one.name, str(one.address)) for one in kept.asked()]
        assert (Verdict.DROPPED, Reason.GRANT_EVICTED, "evil.test", evil.address4) in told
        assert len(told) == 2
        with judged(kept.workload, GRANTED, GRANTED, dropped(Reason.NOT_RESOLVED)):
            assert kept.run(lambda: dial(good.address4)) == says(good, b"hello")
            assert kept.run(lambda: dial(good.address6)) == says(good, b"hello")
            assert kept.run(lambda: dial(evil.address4)) == "EPERM"
        assert evil.count().is_untouched
        assert kept.run(lambda: [look_up("evil.test"), dial(evil.address4)][1]) == says(evil, b"hello")


def test_what_was_taken_back_is_granted_again_before_the_next_answer(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """Answers that are repeated within a second are no exception: no answer leaves before its grant."""
    zone = {"good.test": good.addresses, "evil.test": evil.addresses}
    resolver = fresh_resolver(bed, zone)

    def run() -> list[Any]:
        query = [("good.test", good.address4), ("evil.test", evil.address4)] * 3
        return [[look_up(name) == [address], dial(address)] for name, address in query]

    allowed = rule(hosts=tuple(zone), ports=(7,))
    with keep_gate(guard, bed, resolver, allowed, dns=DnsSettings(max_grants=1)) as kept:
        assert kept.run(run) == [[True, says(host, b"hello")] for host in (good, evil)] * 3


def test_what_was_answered_a_moment_ago_is_not_what_goes(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Its grant may be old, its program is about to connect."""
    zone = {"good.test": good.addresses, "evil.test": evil.addresses, "third.test": good.addresses}
    resolver = fresh_resolver(bed, zone)
    allowed = rule(hosts=tuple(zone), ports=(7,))
    with keep_gate(guard, bed, resolver, allowed, dns=DnsSettings(max_grants=2)) as kept:
        fill(kept, good, evil)
        time.sleep(CONNECT_WITHIN_NS / 1e9 + 0.1)

        def run() -> list[Any]:
            return [look_up("good.test"), look_up("third.test", "AAAA"), dial(good.address4)]

        assert kept.run(run) == [[good.address4], [good.address6], says(good, b"hello")]


def test_one_set_of_ports_too_many_at_an_address_is_left_out_of_the_answer(guard: Guard, bed: Bed, good: Host) -> None:
    """What cannot be granted is not told: the program is led to the address that can be, and the operator reads why."""
    names = [f"n{number}.test" for number in range(SLOTS + 1)]
    full, free = "203.0.113.5", good.address4
    resolver = fresh_resolver(bed, {**dict.fromkeys(names, [full]), names[-1]: [full, free]})
    rules = [rule(hosts=(name,), ports=(7, 1000 + number)) for number, name in enumerate(names)]
    with keep_gate(guard, bed, resolver, *rules) as kept:
        assert kept.run(lambda: [look_up(name) for name in names[:-1]]) == [[full]] * SLOTS
        kept.asked()
        said: Said = kept.run(lambda: ask_dns(names[-1]))
        assert said.addresses == [free]
        assert "table_full" in said.why
        (told,) = kept.asked()
        assert (told.verdict, told.reason, str(told.address)) == (Verdict.ERROR, Reason.TABLE_FULL, full)
        with judged(kept.workload, GRANTED):
            assert kept.run(lambda: dial(free)) == says(good, b"hello")
        ports = [1000, 1000 + SLOTS - 1, 1000 + SLOTS]
        reasons = [guard.tables.ask(kept.policy_id, 6, at(full), port).reason for port in ports]
        assert reasons == [Reason.GRANTED, Reason.GRANTED, Reason.PORT_NOT_ALLOWED]


def test_a_service_s_targets_survive_a_change_of_policy(guard: Guard, bed: Bed, good: Host) -> None:
    """They follow from a name that is still allowed: the connection goes on, and so does the name."""
    zone = {"_echo._tcp.good.test": {"SRV": ["0 0 7 node1.example."]}, "node1.example": good.addresses}
    resolver = fresh_resolver(bed, zone)
    allowed = rule(hosts=("good.test",), ports=(7,))
    with keep_gate(guard, bed, resolver, allowed) as kept:
        kept.run(lambda: [ask_dns("_echo._tcp.good.test", "SRV"), look_up("node1.example")])
        with Steps(bed, talk(good.address4), kept.workload.cgroup) as steps:
            assert kept.switch(allowed, rule(hosts=("other.test",), ports=(7,))) == 0
            steps.go_on()
        assert steps.result == [[says(good, b"1")], [b"2"]]
        assert kept.run(lambda: look_up("node1.example")) == [good.address4]
        assert kept.switch(rule(hosts=("other.test",), ports=(7,))) == 0
        assert kept.run(lambda: look_up("node1.example")) == []


@pytest.mark.parametrize("mode", [Mode.MONITOR, Mode.OPEN])
def test_modes_that_deny_nothing_ask_for_everything(guard: Guard, bed: Bed, good: Host, mode: Mode) -> None:
    """The name is resolved upstream and the connection passes; each is told as what it would have been."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    with keep_gate(guard, bed, resolver, mode=mode) as kept:
        heard = kept.run(lambda: [look_up("good.test"), dial(good.address4)])
        assert heard == [[good.address4], says(good, b"hello")]
        expected = (Verdict.FORWARDED, Reason.OPEN_MODE) if mode is Mode.OPEN else None
        assert kept.reasons() == [expected or (Verdict.AUDIT, Reason.NAME_NOT_ALLOWED)]
        assert set(kept.workload.reasons()) == {expected or (Verdict.AUDIT, Reason.ADDRESS_NOT_ALLOWED)}


def test_a_policy_s_end_ends_its_answers_and_grants(guard: Guard, bed: Bed, good: Host) -> None:
    """From then on nothing is resolved and nothing reached."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    past, future = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))
    allowed = rule(hosts=("good.test",), ports=(7,))

    def run() -> list[Any]:
        return [got(lambda: look_up("good.test")), dial(good.address4)]

    with keep_gate(guard, bed, resolver, allowed, expires=future) as kept:
        assert kept.run(run) == [[good.address4], says(good, b"hello")]
        kept.switch(allowed, expires=past)
        with judged(kept.workload, dropped(Reason.POLICY_EXPIRED), dropped(Reason.POLICY_EXPIRED)):
            assert kept.run(run) == ["EPERM", "EPERM"]


def test_a_tunnel_that_is_blocked_gets_no_grant(guard: Guard, bed: Bed, good: Host) -> None:
    """The next of too many names under a wildcard is not resolved; where it is only reported, it is."""
    resolver = fresh_resolver(bed, {"*.good.test": [good.address4]})
    allowed = rule(hosts=("*.good.test",), ports=(7,))
    names = [f"n{number}.good.test" for number in range(4)]
    for tunnel, last in ((Tunnel.BLOCK, []), (Tunnel.REPORT, [good.address4])):
        settings = DnsSettings(tunnel=tunnel, tunnel_limits=TunnelLimits(names_per_minute=3))
        with keep_gate(guard, bed, resolver, allowed, dns=settings) as kept:
            assert kept.run(lambda: [look_up(name) for name in names]) == [[good.address4]] * 3 + [last]
            told = kept.asked()
            assert [one.reason for one in told] == [Reason.RESOLVED] * 3 + [Reason.TUNNEL]
            assert told[-1].verdict is (Verdict.AUDIT if last else Verdict.DROPPED)
            assert "more than 3 names in a minute" in (told[-1].evidence or "")
