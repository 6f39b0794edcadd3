"""What an answer may open: the name's own addresses, none that a stranger chose, and none inside."""

from typing import Any

import pytest

from bed import Bed, Host, Manner
from bed.services import Zone
from e2e.escapes import dial, dropped, judged, says
from e2e.gatekeeper import Kept, Said, ask_dns, at, fetch, fresh_resolver, keep_gate, look_up
from e2e.guard import Guard, rule
from exeat.model.verdicts import Reason, Verdict

BY_NAME = (Verdict.FORWARDED, Reason.NAME_ALLOWED)
GRANTED = (Verdict.FORWARDED, Reason.GRANTED)
RESOLVED = (Verdict.FORWARDED, Reason.RESOLVED)
INSIDE4 = ["127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"]
INSIDE4 += ["168.63.129.16", "224.0.0.251", "255.255.255.255"]
INSIDE6 = ["::1", "::", "fe80::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::10.0.0.1", "fc00::1", "fd00:ec2::254"]
INSIDE6 += ["64:ff9b::10.0.0.1", "2002:a00:1::1", "2001:0:a00:1::1", "fec0::1", "ff02::fb"]


def is_granted(kept: Kept, address: str) -> bool:
    """Whether the kernel's tables open an address: the judge in the kernel is asked."""
    answer = kept.workload.guard.tables.ask(kept.policy_id, 6, at(address), 7)
    return answer.reason is Reason.GRANTED


@pytest.mark.parametrize("inside", INSIDE4 + INSIDE6)
def test_an_answer_that_leads_inside_is_taken_out_and_not_granted(
    guard: Guard, bed: Bed, good: Host, inside: str
) -> None:
    """DNS rebinding: the public address beside it stays and is granted."""
    kind, public = ("AAAA", good.address6) if ":" in inside else ("A", good.address4)
    resolver = fresh_resolver(bed, {"good.test": {kind: [inside, public]}, "only.test": {kind: [inside]}})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test", "only.test"), ports=(7,))) as kept:
        said: Said = kept.run(lambda: ask_dns("good.test", kind))
        assert (said.rcode, said.addresses) == ("NOERROR", [public])
        assert "address_withheld" in said.why
        (told,) = kept.asked()
        assert (told.verdict, told.reason, told.name) == (Verdict.DROPPED, Reason.ADDRESS_WITHHELD, "good.test")
        assert kept.run(lambda: look_up("only.test", kind)) == []
        assert kept.reasons() == [dropped(Reason.ADDRESS_WITHHELD)]
        assert [is_granted(kept, inside), is_granted(kept, public)] == [False, True]


@pytest.mark.parametrize(
    ("inside", "network"),
    [("10.0.0.1", "10.0.0.0/24"), ("169.254.169.254", "169.254.169.254/32"), ("fc00::1", "fc00::/64")],
)
def test_an_address_inside_that_the_policy_s_networks_cover_is_kept(
    guard: Guard, bed: Bed, inside: str, network: str
) -> None:
    """Its author meant it, so the name may lead there; the neighbour outside of the network still is taken out."""
    kind = "AAAA" if ":" in inside else "A"
    beside = {"10.0.0.1": "10.0.1.1", "169.254.169.254": "169.254.169.253", "fc00::1": "fc00:1::1"}[inside]
    resolver = fresh_resolver(bed, {"good.test": {kind: [inside, beside]}})
    rules = rule(hosts=("good.test",), ports=(7,)), rule(network, ports=(9,))
    with keep_gate(guard, bed, resolver, *rules) as kept:
        assert kept.run(lambda: look_up("good.test", kind)) == [inside]
        assert [is_granted(kept, inside), is_granted(kept, beside)] == [True, False]


def test_a_name_that_leads_to_loopback_opens_no_service_of_the_host(guard: Guard, bed: Bed, good: Host) -> None:
    """The whole attack: resolve, connect; the own loopback rules stay what they are."""
    zone: Zone = {"good.test": {"A": ["127.0.0.1"]}, "local.test": good.addresses}
    resolver = fresh_resolver(bed, zone)

    def run() -> list[Any]:
        return [look_up("good.test"), dial("127.0.0.1", 7), look_up("local.test"), dial(good.address4)]

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test", "local.test"), ports=(7,))) as kept:
        heard = kept.run(run)
    assert heard == [[], "ECONNREFUSED", [good.address4], says(good, b"hello")]


def test_answers_that_change_add_up_and_lead_to_what_was_answered_last_too(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """A program may still use the earlier address; one that was never in an answer stays shut."""
    resolver = fresh_resolver(bed, {"good.test": {"A": [good.address4], "ttl": 0}})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        assert kept.run(lambda: look_up("good.test")) == [good.address4]
        with judged(kept.workload, dropped(Reason.NOT_RESOLVED)):
            assert kept.run(lambda: dial(evil.address4)) == "EPERM"
        assert evil.count().is_untouched
        resolver.set_zone({"good.test": {"A": [evil.address4], "ttl": 0}})

        def changed() -> list[str]:
            found: list[str] = []
            while found != [evil.address4]:  # those who ask within a second may share an answer of TTL 0
                found = look_up("good.test")
            return found

        assert kept.run(changed) == [evil.address4]
        with judged(kept.workload, GRANTED, GRANTED):
            assert kept.run(lambda: dial(evil.address4)) == says(evil, b"hello")
            assert kept.run(lambda: dial(good.address4)) == says(good, b"hello")


def test_an_alias_grants_the_name_that_was_asked(guard: Guard, bed: Bed, good: Host) -> None:
    """However long the chain: the address opens for the name asked, and the chain's other names are denied as SNI."""
    zone: Zone = {
        "good.test": {"CNAME": ["cdn.example."]},
        "cdn.example": {"CNAME": ["edge.example."]},
        "edge.example": good.addresses,
    }
    resolver = fresh_resolver(bed, zone)
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), protocol="tls")) as kept:
        said: Said = kept.run(lambda: ask_dns("good.test"))
        assert said.records == ["CNAME cdn.example.", "CNAME edge.example.", f"A {good.address4}"]
        with judged(kept.workload, *[dropped(Reason.NAME_NOT_ALLOWED)] * 2, BY_NAME):
            assert kept.run(lambda: fetch(good.address4, "cdn.example")) == "EACCES"
            assert kept.run(lambda: fetch(good.address4, "edge.example")) == "EACCES"
            assert kept.run(lambda: fetch(good.address4, "good.test")) == "I am good.test"
        assert kept.run(lambda: look_up("edge.example")) == []
        assert kept.reasons() == [RESOLVED, dropped(Reason.NAME_NOT_ALLOWED)]
    assert good.count().sni == ["good.test"]


def test_an_allowed_alias_of_another_s_name_leads_inside_no_more_than_itself(guard: Guard, bed: Bed) -> None:
    """CNAME cloaking: behind the alias stands an address inside, or a resolver over HTTPS, still denied by name."""
    zone: Zone = {
        "good.test": {"CNAME": ["inside.example."]},
        "inside.example": {"A": ["10.1.2.3"]},
        "hidden.test": {"CNAME": ["dns.quad9.net."]},
        "dns.quad9.net": {"A": ["203.0.113.5"]},
    }
    resolver = fresh_resolver(bed, zone)
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test", "hidden.test"), protocol="tls")) as kept:
        assert kept.run(lambda: look_up("good.test")) == []
        assert kept.reasons() == [dropped(Reason.ADDRESS_WITHHELD)]
        assert kept.run(lambda: look_up("hidden.test")) == ["203.0.113.5"]
        allowed, denied = (
            guard.tables.ask(kept.policy_id, 6, at("203.0.113.5"), 443, name=name)
            for name in ("hidden.test", "dns.quad9.net")
        )
        assert (allowed.reason, denied.reason) == (Reason.NAME_ALLOWED, Reason.NAME_NOT_ALLOWED)


def test_records_that_came_beside_the_answer_are_neither_told_nor_granted(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """Of the allowed name in other sections, of another allowed name, of a denied one: only the answer's own counts."""
    resolver = fresh_resolver(bed, {"good.test": {"A": [good.address4]}, "other.test": {"A": [good.address4]}})
    strays = f"evil.test. 300 IN A {evil.address4}", f"other.test. 300 IN A {evil.address4}"
    for section in ("answers", "authorities", "additionals"):
        where = strays if section == "answers" else (*strays, f"good.test. 300 IN A {evil.address4}")
        resolver.behave(Manner(**{section: where}), "good.test")  # type: ignore[arg-type]
        with keep_gate(guard, bed, resolver, rule(hosts=("good.test", "other.test"), ports=(7,))) as kept:
            said: Said = kept.run(lambda: ask_dns("good.test"))
            assert said.records == [f"A {good.address4}"], section
            with judged(kept.workload, dropped(Reason.NOT_RESOLVED), GRANTED):
                assert kept.run(lambda: dial(evil.address4)) == "EPERM"
                assert kept.run(lambda: dial(good.address4)) == says(good, b"hello")
    assert evil.count().is_untouched


def test_an_alias_that_comes_after_its_target_is_followed(guard: Guard, bed: Bed, good: Host) -> None:
    """The order of records is nobody's promise."""
    resolver = fresh_resolver(bed, {"good.test": {"CNAME": ["edge.example."]}, "edge.example": good.addresses})
    resolver.behave(Manner(reverses=True))
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        assert kept.run(lambda: look_up("good.test")) == [good.address4]
        assert kept.run(lambda: dial(good.address4)) == says(good, b"hello")


def test_an_alias_to_itself_is_no_answer(guard: Guard, bed: Bed, good: Host) -> None:
    """Neither a circle of two: the gate says so at once, and goes on."""
    zone: Zone = {
        "self.test": {"CNAME": ["self.test."]},
        "one.test": {"CNAME": ["two.test."]},
        "two.test": {"CNAME": ["one.test."]},
        "good.test": good.addresses,
    }
    resolver = fresh_resolver(bed, zone)
    allowed = rule(hosts=("self.test", "one.test", "two.test", "good.test"), ports=(7,))
    with keep_gate(guard, bed, resolver, allowed) as kept:
        rcodes = [kept.run(lambda name=name: ask_dns(name)).rcode for name in ("self.test", "one.test", "good.test")]
    assert rcodes == ["SERVFAIL", "SERVFAIL", "NOERROR"]


def test_the_targets_of_a_service_become_resolvable_and_open_its_ports(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """SRV: before the answer the target is denied; afterwards it is granted what the service's name allows."""
    zone: Zone = {
        "_echo._tcp.good.test": {"SRV": ["0 0 7 node1.example."]},
        "node1.example": good.addresses,
        "node2.example": evil.addresses,
    }
    resolver = fresh_resolver(bed, zone)

    def run(target: str, there: str) -> list[Any]:
        return [look_up(target), dial(there)]

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        assert kept.run(lambda: run("node1.example", good.address4)) == [[], "EPERM"]
        said: Said = kept.run(lambda: ask_dns("_echo._tcp.good.test", "SRV"))
        assert said.records == ["SRV 0 0 7 node1.example."]

        def wait() -> list[str]:
            found: list[str] = []
            while not found:  # the denial of a moment ago is repeated for a second at most
                found = look_up("node1.example")
            return found

        assert kept.run(wait) == [good.address4]
        with judged(kept.workload, GRANTED):
            assert kept.run(lambda: dial(good.address4)) == says(good, b"hello")
        with judged(kept.workload, dropped(Reason.PORT_NOT_ALLOWED)):
            assert kept.run(lambda: dial(good.address4, 8443)) == "EPERM"
        assert kept.run(lambda: run("node2.example", evil.address4)) == [[], "EPERM"]
    assert evil.count().is_untouched


def test_a_service_s_target_over_tls_is_named_in_the_hello(guard: Guard, bed: Bed, good: Host) -> None:
    """The kernel's tables know a target only by its grant."""
    zone: Zone = {"_https._tcp.good.test": {"SRV": ["0 0 443 node1.example."]}, "node1.example": good.addresses}
    resolver = fresh_resolver(bed, zone)
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), protocol="tls")) as kept:
        assert kept.run(lambda: len(ask_dns("_https._tcp.good.test", "SRV").records)) == 1
        assert kept.run(lambda: look_up("node1.example")) == [good.address4]
        with judged(kept.workload, BY_NAME, dropped(Reason.NAME_NOT_ALLOWED)):
            assert kept.run(lambda: fetch(good.address4, "node1.example")) == "I am good.test"
            assert kept.run(lambda: fetch(good.address4, "node2.example")) == "EACCES"


@pytest.mark.parametrize("target", ["dns.quad9.net", "metadata.example"])
def test_a_service_cannot_lead_to_what_is_denied_by_name_or_lies_inside(guard: Guard, bed: Bed, target: str) -> None:
    """Whoever answers for an allowed name chooses the targets: not a resolver over HTTPS, nor an address inside."""
    zone: Zone = {
        "_https._tcp.good.test": {"SRV": [f"0 0 443 {target}."]},
        "metadata.example": {"A": ["169.254.169.254"]},
        "dns.quad9.net": {"A": ["203.0.113.5"]},
    }
    resolver = fresh_resolver(bed, zone)
    rules = rule(hosts=("good.test",), protocol="tls"), rule(hosts=("**.quad9.net",), protocol="tls")
    with keep_gate(guard, bed, resolver, *rules) as kept:
        kept.run(lambda: ask_dns("_https._tcp.good.test", "SRV"))
        assert kept.run(lambda: look_up(target)) == []
        reason = Reason.DOH_HOST if target == "dns.quad9.net" else Reason.ADDRESS_WITHHELD
        assert kept.reasons()[-1] == dropped(reason)


def test_a_service_s_target_may_not_be_a_resolver_over_https(guard: Guard, bed: Bed) -> None:
    """Also where no wildcard covers it: only a rule may name one."""
    zone: Zone = {"_x._tcp.good.test": {"SRV": ["0 0 443 dns.quad9.net."]}, "dns.quad9.net": {"A": ["203.0.113.5"]}}
    resolver = fresh_resolver(bed, zone)
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), protocol="tls")) as kept:
        kept.run(lambda: ask_dns("_x._tcp.good.test", "SRV"))
        assert kept.run(lambda: look_up("dns.quad9.net")) == []
        assert kept.reasons() == [RESOLVED, dropped(Reason.DOH_HOST)]
        assert [asked.name for asked in resolver.questions()] == ["_x._tcp.good.test"]


def test_the_labels_of_a_service_carry_nothing_out(guard: Guard, bed: Bed) -> None:
    """They are the asker's choice, also in front of a name that a rule names exactly: only what is a service's name."""
    resolver = fresh_resolver(bed, {})
    carrying = "_0123456789abcdefghijklmnopqrstuvwxyz-0123456789._tcp.good.test", "_https._aGVsbG8gd29ybGQ.good.test"
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), protocol="tls")) as kept:
        kept.run(lambda: [ask_dns(name, "SRV") for name in ("_https._tcp.good.test", *carrying)])
        assert kept.reasons() == [RESOLVED, *[dropped(Reason.NAME_NOT_ALLOWED)] * 2]
    assert [asked.name for asked in resolver.questions()] == ["_https._tcp.good.test"]


def test_a_granted_address_is_told_its_name_and_no_other_is(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """PTR is answered out of the grants, and never goes upstream."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    reverse, other = (".".join(reversed(one.address4.split("."))) + ".in-addr.arpa" for one in (good, evil))

    def run() -> list[list[str]]:
        look_up("good.test")
        return [ask_dns(reverse, "PTR").records, ask_dns(other, "PTR").records]

    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), ports=(7,))) as kept:
        assert kept.run(run) == [["PTR good.test."], []]
        assert kept.reasons() == [RESOLVED, RESOLVED, dropped(Reason.NAME_NOT_ALLOWED)]
    assert [asked.kind for asked in resolver.questions()] == ["A"]
