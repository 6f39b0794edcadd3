"""The SNI under host rules: a name must have been resolved to the very address that it is sent to."""

from typing import Any

import pytest

from bed import Bed, Host
from e2e.escapes import dropped, got, judged, tcp
from e2e.gatekeeper import Said, ask_dns, fetch, fresh_resolver, keep_gate, look_up
from e2e.guard import Guard, rule
from exeat.model.verdicts import Reason, Verdict
from hellos.build import Hello, ech

BY_NAME = (Verdict.FORWARDED, Reason.NAME_ALLOWED)
RESOLVED = (Verdict.FORWARDED, Reason.RESOLVED)
RECORDER = 8443  # reads and says nothing, so that a made hello needs no answer


def say(address: str, hello: Hello) -> Any:
    """Writes a made hello: how many bytes were taken, or the errno."""
    sock = tcp(address)
    sock.connect((address, RECORDER))
    return got(lambda: sock.send(hello.stream()))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("sni", "reason"),
    [
        (None, Reason.SNI_MISSING),
        ("evil.test", Reason.NAME_NOT_ALLOWED),
        ("www.good.test", Reason.NAME_NOT_ALLOWED),
        ("idle.test", Reason.NAME_NOT_RESOLVED),
        ("far.test", Reason.NAME_ELSEWHERE),
    ],
)
def test_a_name_that_does_not_lead_here_is_denied_with_its_own_reason(
    guard: Guard, bed: Bed, good: Host, evil: Host, version: int, sni: str | None, reason: Reason
) -> None:
    """No name, one that no rule allows, one never resolved, one resolved elsewhere: the server reads nothing of it."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses, "far.test": evil.addresses})
    kind, there = ("A", good.address4) if version == 4 else ("AAAA", good.address6)
    allowed = rule(hosts=("good.test", "idle.test", "far.test"), protocol="tls")
    with keep_gate(guard, bed, resolver, allowed) as kept:
        assert kept.run(lambda: look_up("good.test", kind)) == [there]
        assert kept.run(lambda: len(look_up("far.test", kind))) == 1
        with judged(kept.workload, dropped(reason)):
            assert kept.run(lambda: fetch(there, sni)) == "EACCES"
        assert (good.count().bytes, good.count().sni) == (0, [])
        with judged(kept.workload, BY_NAME):
            assert kept.run(lambda: fetch(there, "good.test")) == "I am good.test"
        assert good.count().sni == ["good.test"]


def test_the_right_name_at_the_wrong_address_is_denied(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """Also where the wrong address is open to another name; each of the two passes at its own."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses, "evil.test": evil.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test", "evil.test"), protocol="tls")) as kept:
        kept.run(lambda: [look_up("good.test"), look_up("evil.test")])
        with judged(kept.workload, *[dropped(Reason.NAME_ELSEWHERE)] * 2, BY_NAME, BY_NAME):
            assert kept.run(lambda: fetch(evil.address4, "good.test")) == "EACCES"
            assert kept.run(lambda: fetch(good.address4, "evil.test")) == "EACCES"
            assert good.count().bytes + evil.count().bytes == 0
            assert kept.run(lambda: fetch(good.address4, "good.test")) == "I am good.test"
            assert kept.run(lambda: fetch(evil.address4, "evil.test")) == "I am evil.test"


def test_two_names_at_one_address_pass_each_by_itself(guard: Guard, bed: Bed, good: Host) -> None:
    """And a workload whose policy allows only one of them gets nothing from what the other's granted."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses, "evil.test": good.addresses})
    both, one = rule(hosts=("good.test", "evil.test"), protocol="tls"), rule(hosts=("good.test",), protocol="tls")

    def run() -> list[Any]:
        return [
            look_up("good.test"),
            look_up("evil.test"),
            fetch(good.address4, "good.test"),
            fetch(good.address4, "evil.test"),
        ]

    with keep_gate(guard, bed, resolver, both) as wide, keep_gate(guard, bed, resolver, one) as narrow:
        with judged(wide.workload, BY_NAME, BY_NAME):
            assert wide.run(run) == [[good.address4], [good.address4], "I am good.test", "I am evil.test"]
        with judged(narrow.workload, BY_NAME, dropped(Reason.NAME_NOT_ALLOWED)):
            assert narrow.run(run) == [[good.address4], [], "I am good.test", "EACCES"]
    assert good.count().sni == ["good.test", "evil.test", "good.test"]


def test_an_expired_name_is_denied_where_another_keeps_the_address_open(guard: Guard, bed: Bed, good: Host) -> None:
    """connect() cannot know the name yet; the hello's own grant counts then."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test", "old.test"), protocol="tls")) as kept:
        kept.write_grant("old.test", good.address4, lasts_s=0)
        with judged(kept.workload, dropped(Reason.GRANT_EXPIRED)):
            assert kept.run(lambda: fetch(good.address4, "old.test")) == "EPERM"
        assert kept.run(lambda: look_up("good.test")) == [good.address4]
        with judged(kept.workload, dropped(Reason.GRANT_EXPIRED), BY_NAME):
            assert kept.run(lambda: fetch(good.address4, "old.test")) == "EACCES"
            assert kept.run(lambda: fetch(good.address4, "good.test")) == "I am good.test"
    assert good.count().sni == ["good.test"]


def test_a_name_granted_for_another_port_is_denied(guard: Guard, bed: Bed, good: Host) -> None:
    """Two rules, two ports, one address: a name passes on the port of its own rule only."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses, "evil.test": good.addresses})
    rules = (
        rule(hosts=("good.test",), ports=(443,), protocol="tls"),
        rule(hosts=("evil.test",), ports=(RECORDER,), protocol="tls"),
    )
    with keep_gate(guard, bed, resolver, *rules) as kept:
        kept.run(lambda: [look_up("good.test"), look_up("evil.test")])
        with judged(kept.workload, dropped(Reason.NAME_NOT_ALLOWED), dropped(Reason.NAME_NOT_ALLOWED)):
            assert kept.run(lambda: fetch(good.address4, "evil.test")) == "EACCES"
            assert kept.run(lambda: say(good.address4, Hello(sni="good.test"))) == "EACCES"
        assert good.count().bytes == 0
        with judged(kept.workload, BY_NAME, BY_NAME):
            assert kept.run(lambda: fetch(good.address4, "good.test")) == "I am good.test"
            sent = Hello(sni="evil.test").stream()
            assert kept.run(lambda: say(good.address4, Hello(sni="evil.test"))) == len(sent)


def test_encrypted_hellos_pass_where_the_granted_name_s_rule_says_so(guard: Guard, bed: Bed, good: Host) -> None:
    """`ech: allow` belongs to a rule: another name at the same address and port does not profit from it."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses, "evil.test": good.addresses})
    rules = (
        rule(hosts=("good.test",), ports=(RECORDER,), protocol="tls", allows_ech=True),
        rule(hosts=("evil.test",), ports=(RECORDER,), protocol="tls"),
    )
    hidden, plain = Hello(sni="evil.test", ech=ech()), Hello(sni="evil.test")
    allowed = Hello(sni="good.test", ech=ech())
    with keep_gate(guard, bed, resolver, *rules) as kept:
        kept.run(lambda: [look_up("good.test"), look_up("evil.test")])
        with judged(kept.workload, dropped(Reason.ECH)):
            assert kept.run(lambda: say(good.address4, hidden)) == "EACCES"
        assert good.count().bytes == 0
        with judged(kept.workload, BY_NAME, BY_NAME):
            assert kept.run(lambda: say(good.address4, plain)) == len(plain.stream())
            assert kept.run(lambda: say(good.address4, allowed)) == len(allowed.stream())
        assert good.count().bytes == len(plain.stream()) + len(allowed.stream())


def test_a_resolver_over_https_is_denied_under_a_wildcard(guard: Guard, bed: Bed, good: Host) -> None:
    """Neither its name is resolved, nor its hello let through where the address is open; its neighbours are."""
    zone = {"dns.quad9.net": good.addresses, "a.dns.quad9.net": good.addresses, "www.quad9.net": good.addresses}
    resolver = fresh_resolver(bed, zone)
    with keep_gate(guard, bed, resolver, rule(hosts=("**.quad9.net",), protocol="tls")) as kept:
        said: Said = kept.run(lambda: ask_dns("dns.quad9.net"))
        assert (said.rcode, said.records) == ("NXDOMAIN", [])
        assert "doh_host" in said.why
        assert kept.reasons() == [dropped(Reason.DOH_HOST)]
        assert resolver.questions() == []
        assert kept.run(lambda: look_up("www.quad9.net")) == [good.address4]
        with judged(kept.workload, dropped(Reason.DOH_HOST), BY_NAME):
            assert kept.run(lambda: fetch(good.address4, "dns.quad9.net")) == "EACCES"
            assert kept.run(lambda: fetch(good.address4, "www.quad9.net")) == "I am good.test"
    assert good.count().sni == ["www.quad9.net"]


def test_a_resolver_over_https_that_is_named_exactly_is_allowed(guard: Guard, bed: Bed, good: Host) -> None:
    """Somebody meant it."""
    resolver = fresh_resolver(bed, {"dns.quad9.net": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("dns.quad9.net", "**.quad9.net"), protocol="tls")) as kept:
        assert kept.run(lambda: look_up("dns.quad9.net")) == [good.address4]
        assert kept.reasons() == [RESOLVED]
        with judged(kept.workload, BY_NAME):
            assert kept.run(lambda: fetch(good.address4, "dns.quad9.net")) == "I am good.test"


def test_a_name_in_capitals_is_the_same_name(guard: Guard, bed: Bed, good: Host) -> None:
    """In the question, in the upstream's records, and in the hello."""
    resolver = fresh_resolver(bed, {"good.test": good.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test",), protocol="tls")) as kept:
        assert kept.run(lambda: look_up("GOOD.Test")) == [good.address4]
        with judged(kept.workload, BY_NAME):
            assert kept.run(lambda: fetch(good.address4, "gOOd.TEST")) == "I am good.test"
    assert [asked.name for asked in resolver.questions()] == ["good.test"]
