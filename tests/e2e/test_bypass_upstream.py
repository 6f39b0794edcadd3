"""What the gate's upstream gets to see, and what it can do.

Nothing of the workload's but a name and a type travels, and nothing comes back but what answers exactly that.
"""

import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import dns.edns
import dns.message
import dns.name
import pytest

from bed import Bed, Host, Manner, Sniffer
from e2e.bypasses import over_tcp, patient
from e2e.escapes import dial, dropped, got, udp
from e2e.gatekeeper import PLENTY_S, SOMEBODY, Kept, Said, ask_dns, at, fresh_resolver, keep_gate, look_up, read_answer
from e2e.guard import Guard, rule
from exeat.kernel import libbpf
from exeat.model.policy import DnsSettings, Tunnel, TunnelLimits
from exeat.model.verdicts import Reason, Verdict

SECRET = b"secretword"
IDENT = 0xBEEF
QUESTION_S = 2.0  # after which the gate gives up on its upstream; before any client's own patience ends
A, TXT, NULL, ANY, AXFR, IXFR, OPT = 1, 16, 10, 255, 252, 251, 41
IN, CHAOS = 1, 3
RESOLVED, DENIED = (Verdict.FORWARDED, Reason.RESOLVED), (Verdict.DROPPED, Reason.NAME_NOT_ALLOWED)


@pytest.fixture
def kept(guard: Guard, bed: Bed, good: Host) -> Iterator[Kept]:
    """A workload that may ask for shop.test and what is one label below it."""
    zone = {"shop.test": good.addresses, "*.shop.test": good.addresses, "evil.test": good.addresses}
    resolver = fresh_resolver(bed, zone)
    with keep_gate(guard, bed, resolver, rule(hosts=("shop.test", "*.shop.test"), ports=(7,))) as kept:
        yield kept


def wire_name(name: str) -> bytes:
    """Labels as they are, without a thought for what may stand in one."""
    labels = name.encode().split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def message(
    name: str | bytes, *, kind: int = A, klass: int = IN, flags: int = 0x0100, counts: str = "1000", tail: bytes = b""
) -> bytes:
    """A message of one question, and whatever else is wanted behind it."""
    wire = wire_name(name) if isinstance(name, str) else name
    return struct.pack("!HH4H", IDENT, flags, *map(int, counts)) + wire + struct.pack("!HH", kind, klass) + tail


def opt(options: bytes = b"", flags: int = 0, size: int = 4096) -> bytes:
    """An OPT record."""
    return b"\0" + struct.pack("!HHIH", OPT, size, flags, len(options)) + options


def option(code: int, data: bytes) -> bytes:
    """An EDNS option."""
    return struct.pack("!HH", code, len(data)) + data


def of_upstream(name: str, kind: int = A) -> bytes:
    """What the gate may send for a question, behind the id: the lower-case name, RD, an empty OPT of 1,232 bytes."""
    head = struct.pack("!H4H", 0x0100, 1, 0, 0, 1)
    return head + wire_name(name) + struct.pack("!HH", kind, IN) + opt(size=1232)


# What surrounds a name, and may carry as much as the name itself. {}: the name to ask for.
PASSING: dict[str, Callable[[str], bytes]] = {
    "plain": lambda name: message(name),
    "case": lambda name: message("".join(c.upper() if i % 2 else c for i, c in enumerate(name))),
    "z-bits": lambda name: message(name, flags=0x0170),
    "no-recursion": lambda name: message(name, flags=0x0000),
    "answer-flags": lambda name: message(name, flags=0x0785),  # AA, TC, RA and an rcode, in a query
    "cookie": lambda name: message(name, counts="1001", tail=opt(option(10, SECRET[:8]))),
    "padding": lambda name: message(name, counts="1001", tail=opt(option(12, SECRET * 20))),
    "subnet": lambda name: message(name, counts="1001", tail=opt(option(8, b"\0\x01\x18\0\xcb\0\x71"))),
    "private": lambda name: message(name, counts="1001", tail=opt(option(65001, SECRET))),
    "dnssec": lambda name: message(name, counts="1001", tail=opt(flags=0x8000)),
    "edns-z": lambda name: message(name, counts="1001", tail=opt(flags=0x7FFF)),
    "record-beside": lambda name: message(
        name, counts="1001", tail=wire_name("x") + struct.pack("!HHIH", TXT, IN, 0, 10) + SECRET
    ),
}
REFUSED: dict[str, tuple[Callable[[str], bytes], str]] = {
    "trailing": (lambda name: message(name, tail=SECRET), "FORMERR"),
    "two-questions": (lambda name: message(name, counts="2000", tail=message(name)[12:]), "FORMERR"),
    "no-question": (lambda name: message(name, counts="0000"), "FORMERR"),
    "answer-in-query": (
        lambda name: message(name, counts="1100", tail=b"\xc0\x0c" + struct.pack("!HHIH", TXT, IN, 0, 10) + SECRET),
        "FORMERR",
    ),
    "authority-in-query": (
        lambda name: message(name, counts="1010", tail=b"\xc0\x0c" + struct.pack("!HHIH", TXT, IN, 0, 10) + SECRET),
        "FORMERR",
    ),
    "two-opts": (lambda name: message(name, counts="1002", tail=opt() + opt(option(65001, SECRET))), "FORMERR"),
    "chaos": (lambda name: message(name, klass=CHAOS), "REFUSED"),
    "any-class": (lambda name: message(name, klass=255), "REFUSED"),
    "update": (lambda name: message(name, flags=5 << 11), "NOTIMP"),
    "notify": (lambda name: message(name, flags=4 << 11), "NOTIMP"),
    "status": (lambda name: message(name, flags=2 << 11), "NOTIMP"),
    "edns-1": (lambda name: message(name, counts="1001", tail=opt(flags=1 << 16)), "BADVERS"),
    "loop": (lambda _: message(b"\x04shop\xc0\x0c"), "FORMERR"),
    "label-0x40": (lambda _: message(b"\x44shop\x04test\0"), "FORMERR"),
    "label-0x80": (lambda _: message(b"\x84shop\x04test\0"), "FORMERR"),
    "cut": (lambda name: message(name)[:-3], "FORMERR"),
}
QUIET: dict[str, Callable[[str], bytes]] = {  # an answer to these could be one to a gate, and then to this one
    "response": lambda name: message(name, flags=0x8180),
    "short": lambda name: message(name)[:11],
    "empty": lambda _: b"",
}
# Names that a careless reader takes for something below shop.test.
ODD = {
    "dot-in-label": b"\x0aevil.te.st\x04shop\x04test\0",
    "nul-in-label": b"\x06evil\0x\x04shop\x04test\0",
    "space": b"\x06evil x\x04shop\x04test\0",
    "high-bytes": b"\x05ev\xc3\xadl\x04shop\x04test\0",
    "escaped": b"\x07evil\\.x\x04shop\x04test\0",
    "newline": b"\x06evil\nx\x04shop\x04test\0",
    "two-labels": b"\x01a\x01b\x04shop\x04test\0",
    "suffix-only": b"\x08evilshop\x04test\0",
    "behind": b"\x04shop\x04test\x04evil\x04test\0",
    "root": b"\0",
}


def ask_raw(data: bytes, patience_s: float = PLENTY_S) -> Any:
    """The answer to a message of whatever bytes; or the name of the errno."""

    def ask() -> bytes:
        with udp(SOMEBODY) as sock:
            sock.settimeout(patience_s)
            sock.connect((SOMEBODY, 53))
            sock.send(data)
            return sock.recv(1 << 16)

    return got(ask)


def test_nothing_of_a_message_travels_but_name_and_type(kept: Kept, bed: Bed, good: Host, wire: Sniffer) -> None:
    """Whatever stood around a name, upstream sees the same bytes; its own id is not the client's."""
    names = {way: f"{way}.shop.test" for way in PASSING}
    answers = kept.run(lambda: {way: ask_raw(make(names[way])) for way, make in PASSING.items()})
    for way, answer in answers.items():
        assert read_answer(answer).addresses == [good.address4], way
        assert answer[:2] == IDENT.to_bytes(2, "big")
    assert answers["case"][12 : 12 + 16] == PASSING["case"](names["case"])[12 : 12 + 16]  # the client may insist on it
    asked = bed.host("resolver.test").questions()
    assert [one.raw[2:] for one in asked] == [of_upstream(name) for name in names.values()]
    assert {one.raw[:2] for one in asked} != {IDENT.to_bytes(2, "big")}
    assert len({one.raw[:2] for one in asked}) > 1
    assert len({one.source_port for one in asked}) > 1
    assert not wire.saw(SECRET)
    assert kept.reasons() == [RESOLVED] * len(PASSING)


def test_what_is_no_plain_question_goes_nowhere(kept: Kept, bed: Bed, wire: Sniffer) -> None:
    """For an allowed name: an answer is due, and says what is wrong; upstream is not asked, and each is counted."""
    name = "secretword.shop.test"
    answers = kept.run(lambda: {way: ask_raw(make(name)) for way, (make, _) in REFUSED.items()})
    for way, (_, rcode) in REFUSED.items():
        assert isinstance(answers[way], bytes), (way, answers[way])
        low = answers[way][3] & 0xF
        said = "BADVERS" if rcode == "BADVERS" and low == 0 else dns.rcode.to_text(dns.rcode.Rcode(low))
        assert said == rcode, way
        assert answers[way][:2] == IDENT.to_bytes(2, "big"), way
    assert kept.run(lambda: [ask_raw(make(name), 0.1) for make in QUIET.values()]) == ["TIMEOUT"] * len(QUIET)
    told = kept.asked()
    assert {(one.verdict, one.reason) for one in told} == {(Verdict.DROPPED, Reason.QUERY_MALFORMED)}
    assert bed.host("resolver.test").questions() == []
    assert not wire.saw(SECRET)
    assert read_answer(kept.run(lambda: ask_raw(message(name)))).rcode == "NOERROR"
    assert wire.saw(SECRET)  # the twin: in a plain question of an allowed name it does travel


def test_a_denied_name_never_leaves_in_any_form(kept: Kept, bed: Bed, wire: Sniffer) -> None:
    """However it is wrapped, over UDP and TCP."""
    name = "secretword.evil.test"
    messages = [make(name) for make in (*PASSING.values(), *(make for make, _ in REFUSED.values()))]
    messages += [message(name, kind=kind) for kind in (5, 12, 28, 33, 65, TXT, NULL, ANY, AXFR, IXFR)]

    def do() -> list[Any]:
        return [ask_raw(one) for one in messages] + [
            got(lambda one=one: over_tcp(SOMEBODY, "", one)) for one in messages
        ]

    for answer in kept.run(do):
        assert isinstance(answer, bytes), answer
        assert answer[6:8] == b"\0\0"  # no records
    assert bed.host("resolver.test").questions() == []
    assert not wire.saw(SECRET)
    assert kept.run(lambda: look_up("secretword.shop.test"))
    assert wire.saw(SECRET)


@pytest.mark.parametrize("way", ODD)
def test_a_name_that_only_looks_allowed_is_not(kept: Kept, bed: Bed, way: str) -> None:
    """What a string would show as evil.shop.test is not that name, and is not asked for."""
    answer = kept.run(lambda: ask_raw(message(ODD[way])))
    assert answer[6:8] == b"\0\0"
    assert answer[3] & 0xF in (1, 3), "FORMERR or NXDOMAIN"
    assert bed.host("resolver.test").questions() == []
    assert kept.run(lambda: look_up("evil.shop.test"))


@pytest.mark.parametrize("kind", ["TXT", "NULL", "ANY", "MX", "AXFR", "IXFR", "TYPE65280"])
def test_a_type_that_carries_data_is_not_asked_for(kept: Kept, bed: Bed, kind: str) -> None:
    """Also not of an allowed name."""
    assert kept.run(lambda: ask_dns("shop.test", kind)).records == []
    assert kept.reasons() == [(Verdict.DROPPED, Reason.QUERY_TYPE)]
    assert bed.host("resolver.test").questions() == []
    assert kept.run(lambda: look_up("shop.test"))


SIGNS = {
    "many names": ([f"n{number}.shop.test" for number in range(7)], 5, "more than 5 names in a minute"),
    "a long label": (["a" * 31 + ".shop.test"], 0, "a label of 31 characters"),
    "a random label": (["q7w2e9r4t6y1u8i3o5p0.shop.test"], 0, "bits a character"),
}


@pytest.mark.parametrize("tunnel", [Tunnel.OFF, Tunnel.REPORT, Tunnel.BLOCK])
@pytest.mark.parametrize("sign", SIGNS)
def test_a_tunnel_is_shown_by_its_evidence_and_blocked_if_asked(
    guard: Guard, bed: Bed, good: Host, sign: str, tunnel: Tunnel
) -> None:
    """Below a wildcard: report asks upstream and says so, block does not ask, off says nothing."""
    names, innocent, evidence = SIGNS[sign]
    resolver = fresh_resolver(bed, {"*.shop.test": good.addresses})
    dns = DnsSettings(tunnel=tunnel, tunnel_limits=TunnelLimits(names_per_minute=5, label_length=30))
    hosts = rule(hosts=("*.shop.test",), protocol="tls")
    with keep_gate(guard, bed, resolver, hosts, dns=dns) as kept:
        answers = kept.run(lambda: [ask_dns(name) for name in names])
        told = kept.asked()
        asked = [one.name for one in resolver.questions()]
    expected = {
        Tunnel.OFF: RESOLVED,
        Tunnel.REPORT: (Verdict.AUDIT, Reason.TUNNEL),
        Tunnel.BLOCK: (Verdict.DROPPED, Reason.TUNNEL),
    }[tunnel]
    assert [(one.verdict, one.reason) for one in told[:innocent]] == [RESOLVED] * innocent
    assert [(one.verdict, one.reason) for one in told[innocent:]] == [expected] * (len(names) - innocent)
    assert all((evidence in (one.evidence or "")) == (tunnel is not Tunnel.OFF) for one in told[innocent:])
    reached = names[:innocent] if tunnel is Tunnel.BLOCK else names
    assert asked == reached
    assert [answer.rcode for answer in answers] == ["NOERROR" if name in reached else "NXDOMAIN" for name in names]


def granted(kept: Kept, address: str) -> bool:
    """Whether the kernel's tables hold a grant of this address, of whatever policy."""
    instance = kept.workload.guard.instance
    in_names = any(key[:16] == at(address) for key in libbpf.keys(instance.map("grants"), 16 + 4 + 4 + 252))
    return in_names or any(key[4:20] == at(address) for key in libbpf.keys(instance.map("granted"), 20))


LIES = ("id", "question", "kind", "class", "query", "opcode", "port", "garbage", "short", "empty")


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_passed_over_and_grants_nothing(kept: Kept, bed: Bed, good: Host, evil: Host, lie: str) -> None:
    """A reply that does not fit comes first: the right one is taken. If none comes the gate gives up in time."""
    resolver = bed.host("resolver.test")
    resolver.behave(Manner(lies=(lie,), lie_address=evil.address4))  # type: ignore[arg-type]
    assert kept.run(lambda: look_up("shop.test")) == [good.address4]
    assert (granted(kept, good.address4), granted(kept, evil.address4)) == (True, False)
    kept.workload.told()
    assert kept.run(lambda: dial(evil.address4)) == "EPERM"
    assert kept.workload.reasons() == [dropped(Reason.NOT_RESOLVED)]
    assert evil.count().is_untouched
    assert kept.run(lambda: dial(good.address4)) == b"I am good.test\nhello"


def timed(kept: Kept, name: str) -> tuple[Said, float]:
    """An answer, and how long it took inside."""

    def do() -> tuple[Said, float]:
        began = time.monotonic()
        return ask_dns(name), time.monotonic() - began

    return kept.run(do)


def test_an_upstream_that_only_lies_or_says_nothing_ends_in_time(kept: Kept, bed: Bed, good: Host, evil: Host) -> None:
    """SERVFAIL before a client's patience ends; meanwhile a denied name is denied at once, and then all is well."""
    resolver = bed.host("resolver.test")
    lies = tuple(lie for lie in LIES if lie != "port")
    manners = (Manner(is_silent=True), Manner(is_silent=True, lies=lies * 8, lie_address=evil.address4))  # type: ignore[arg-type]
    for number, manner in enumerate(manners):
        resolver.behave(manner)
        said, took_s = timed(kept, f"n{number}.shop.test")
        assert said.rcode == "SERVFAIL"
        assert took_s < QUESTION_S + 1.5
        said, took_s = timed(kept, "evil.test")
        assert (said.rcode, took_s < 1.0) == ("NXDOMAIN", True)
    assert not granted(kept, evil.address4)
    assert set(kept.reasons()) == {(Verdict.ERROR, Reason.UPSTREAM_FAILED), DENIED}
    resolver.behave(None)
    deadline = (
        time.monotonic() + 3 * PLENTY_S
    )  # a sick server gets another chance after ten seconds, a lone one at once
    while not kept.run(lambda: look_up("shop.test")):
        assert time.monotonic() < deadline
    assert granted(kept, good.address4)


def test_records_that_nobody_asked_for_are_neither_told_nor_granted(
    kept: Kept, bed: Bed, good: Host, evil: Host
) -> None:
    """Beside the answer, in its authority and additional sections, for other names and for this one."""
    poison = tuple(f"{name}. 300 IN A {evil.address4}" for name in ("evil.test", "www.shop.test", "ns.shop.test"))
    authority = ("shop.test. 300 IN NS ns.shop.test.",)
    more = (f"shop.test. 300 IN A {evil.address4}",)
    bed.host("resolver.test").behave(Manner(answers=poison, authorities=authority, additionals=poison + more))
    assert kept.run(lambda: ask_dns("shop.test")).records == [f"A {good.address4}"]
    assert not granted(kept, evil.address4)
    assert kept.run(lambda: dial(evil.address4)) == "EPERM"
    assert evil.count().is_untouched
    bed.host("resolver.test").behave(None)
    assert kept.run(lambda: look_up("www.shop.test")) == [good.address4]  # not from a poisoned cache
    assert kept.run(lambda: dial(good.address4)) == b"I am good.test\nhello"


def test_an_upstream_where_nobody_listens_fails_at_once(guard: Guard, bed: Bed, good: Host) -> None:
    """ICMP says so: no client waits, and no other resolver is tried."""
    fresh_resolver(bed, {"shop.test": good.addresses})
    with keep_gate(guard, bed, good, rule(hosts=("shop.test",), ports=(7,))) as kept:
        said, took_s = timed(kept, "shop.test")
        assert (said.rcode, said.addresses) == ("SERVFAIL", [])
        assert took_s < QUESTION_S + 1.5
        assert kept.reasons() == [(Verdict.ERROR, Reason.UPSTREAM_FAILED)]
        assert kept.run(lambda: dial(good.address4)) == "EPERM"


def test_a_slow_upstream_holds_up_nobody_else(kept: Kept, bed: Bed, good: Host) -> None:
    """While one name waits for its server, others are answered."""
    resolver = bed.host("resolver.test")
    resolver.behave(Manner(delay_s=0.3), "slow.shop.test")

    def do() -> list[bytes]:
        with patient(udp(SOMEBODY)) as sock:
            sock.connect((SOMEBODY, 53))
            for name in ("slow.shop.test", "quick.shop.test", "evil.test"):
                sock.send(message(name))
            return [sock.recv(1 << 16) for _ in range(3)]

    answers = [dns.message.from_wire(answer) for answer in kept.run(do)]
    names = [answer.question[0].name for answer in answers]
    assert names[-1] == dns.name.from_text("slow.shop.test")
    assert [bool(answer.answer) for answer in answers] == [name != dns.name.from_text("evil.test") for name in names]
