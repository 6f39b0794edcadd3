"""What a run reached, as a policy: it allows that again, by name where it can, and nothing that was not seen."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeat.core.compile import compile_policy
from exeat.core.policy_file import read_policy
from exeat.core.propose import Learned
from exeat.core.reached import is_special
from exeat.core.resolvable import Resolvable
from exeat.core.yaml_nodes import TEXT_MAX
from exeat.model.networks import Address, mapped
from exeat.model.policy import Mode, Policy, Protocol
from exeat.model.record import Record
from exeat.model.verdicts import Reason, Verdict
from unit.naive_judge import DNS_PORTS, may, nanoseconds
from unit.record_words import any_record

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
TCP, UDP, ICMP = 6, 17, 1
A, AAAA, PTR, MX, TXT, SRV, HTTPS, AXFR = 1, 28, 12, 15, 16, 33, 65, 252
SITE, OTHER, INSIDE = "203.0.113.1", "203.0.113.2", "10.1.2.3"


def record(
    hook: str = "hello",
    address: str | None = SITE,
    port: int = 443,
    name: str | None = None,
    protocol: int = TCP,
    detail: int = 0,
    count: int = 1,
    verdict: Verdict = Verdict.FORWARDED,
    reason: Reason = Reason.OPEN_MODE,
    evidence: str | None = None,
) -> Record:
    """A verdict of a run in open mode."""
    return any_record(
        verdict=verdict,
        reason=reason,
        hook=hook,
        protocol=protocol,
        address=ip_address(address) if address else None,
        port=port,
        name=name,
        detail=detail,
        count=count,
        evidence=evidence,
    )


def question(name: str | None, kind: int = A, **others: object) -> Record:
    """The gate was asked, and answered."""
    return record("query", "203.0.113.53", 53, name, UDP, kind, **others)  # type: ignore[arg-type]


class Run:
    """A run that reaches things, and the policy that is learned from it."""

    def __init__(self) -> None:
        self.learned = Learned()

    def saw(self, one: Record, *names: str) -> "Run":
        """One verdict, at an address that the gate resolved these names to."""
        self.learned.saw(one, names)
        return self

    @property
    def text(self) -> str:
        """The proposal."""
        return self.learned.policy_text("learned", "curl https://a.test", NOW)

    @property
    def policy(self) -> Policy:
        """The proposal as the reader takes it: without a warning."""
        reading = read_policy(self.text, "learned.yaml")
        assert reading.warnings == ()
        return reading.policy

    @property
    def rules(self) -> list[str]:
        """Its rules, a line each."""
        return [
            " ".join(
                [rule.protocol, ",".join(map(str, rule.ports)), *map(str, rule.hosts), *map(str, rule.cidrs)],
            ).replace("  ", " ")
            for rule in self.policy.rules
        ]

    @property
    def comments(self) -> str:
        """What the head says."""
        return "\n".join(line for line in self.text.splitlines() if line.startswith("#"))


def test_a_run_that_reached_nothing_may_reach_nothing() -> None:
    """An empty list, and not a missing one."""
    run = Run()
    assert run.policy.rules == ()
    assert run.policy.mode is Mode.ENFORCE
    assert run.policy.name == "learned"
    assert "in no rule" not in run.comments


@pytest.mark.parametrize(
    ("one", "names", "rules"),
    [
        (record(name="a.test"), ["a.test"], ["tls 443 a.test"]),
        (record(name="A.Test", port=8443), ["a.test", "b.test"], ["tls 8443 a.test"]),
        (record(name="a.test"), [], ["tls 443 a.test 203.0.113.1/32"]),
        (record(name="a.test"), ["b.test"], ["tls 443 a.test 203.0.113.1/32"]),
        (record(name="a.test", address="2001:db8::1"), [], ["tls 443 a.test 2001:db8::1/128"]),
        (record(name="a.test", address=INSIDE), ["a.test"], ["tls 443 a.test 10.1.2.3/32"]),
        (record(name="localhost", address="127.0.0.1"), [], ["tls 443 localhost 127.0.0.1/32"]),
        (record(port=22), ["a.test"], ["tcp 22 a.test"]),
        (record(port=22), ["a.test", "_x.test", "b.test"], ["tcp 22 a.test b.test"]),
        (record(port=22), ["_x.test"], ["tcp 22 203.0.113.1/32"]),
        (record(port=22), [], ["tcp 22 203.0.113.1/32"]),
        (record(port=22, address=INSIDE), ["a.test"], ["tcp 22 10.1.2.3/32"]),
        (record("connect", port=80, reason=Reason.NETWORK_ALLOWED), [], ["tcp 80 203.0.113.1/32"]),
        (record("connect", port=80, reason=Reason.GRANTED), ["a.test"], ["tcp 80 a.test"]),
        (record("send", port=123, protocol=UDP), ["a.test"], ["udp 123 a.test"]),
        (record("send", port=123, protocol=UDP, address="2001:db8::1"), [], ["udp 123 2001:db8::1/128"]),
        (record("connect", port=80, protocol=UDP, address="127.0.0.1"), [], ["udp 80 127.0.0.1/32"]),
        (record("packet", port=0, protocol=ICMP), ["a.test"], ["icmp 203.0.113.1/32"]),
        (record("packet", port=0, protocol=58, address="2001:db8::1"), [], ["icmp 2001:db8::1/128"]),
        (question("a.test"), [], ["tls 443 a.test"]),
        (question("a.test", HTTPS), [], ["tls 443 a.test"]),
        (question("_ldap._tcp.a.test", SRV), [], ["tls 443 a.test"]),
        (record("connect", port=8080, address="127.0.0.1", reason=Reason.OWN_LOOPBACK), [], []),
        (question("localhost", reason=Reason.RESOLVED), [], []),
        (question("x.localhost", AAAA, reason=Reason.RESOLVED), [], []),
    ],
)
def test_what_was_reached_becomes_a_rule(one: Record, names: list[str], rules: list[str]) -> None:
    """By the name in the hello, else by the names of the address, else by the address."""
    assert Run().saw(one, *names).rules == rules


@pytest.mark.parametrize(
    ("one", "names", "comment"),
    [
        (record("socket", None, 0, protocol=255, detail=255), [], "a socket of protocol raw: no rule can allow it"),
        (record("socket", None, 0, protocol=262, detail=262), [], "a socket of protocol mptcp: no rule can allow it"),
        (record("socket", None, 0, protocol=ICMP, detail=1), [], "an icmp rule allows pings, not raw ones"),
        (
            record("option", detail=6 << 16 | 30, reason=Reason.SOCKET_OPTION),
            [],
            "socket option 30 of TCP: no rule can allow it",
        ),
        (record(port=853), ["a.test"], "tcp 203.0.113.1:853: never allowed"),
        (record("send", "224.0.0.251", 5353, protocol=UDP), [], "udp 224.0.0.251:5353: never allowed"),
        (record("connect", port=53, protocol=UDP), [], "udp 203.0.113.1:53: never allowed"),
        (record("packet", port=40000), [], "write a rule for the other side's network and ports"),
        (record("connect", port=0, protocol=UDP), [], "nobody listens on port 0"),
        (record("connect", None, 443), [], "no rule can allow it"),
        (record("connect", protocol=132), [], "sctp 203.0.113.1:443: no rule can allow it"),
        (record(name=r"a\x00b.test"), ["a.test"], r"a\x00b.test (tcp 203.0.113.1:443): no rule can hold this name"),
        (record(name="*.a.test"), ["a.test"], "*.a.test (tcp 203.0.113.1:443): no rule can hold this name"),
        (record(name="a_b.test"), ["a_b.test"], "a_b.test (tcp 203.0.113.1:443): no rule can hold this name"),
        (record(name="192.0.2.1"), [], "no rule can hold this name"),
        (question("_dmarc.a.test", A), [], "_dmarc.a.test (dns): no rule can hold this name"),
        (question(None, A), [], ". (dns): no rule can hold this name"),
        (question("1.113.0.203.in-addr.arpa", PTR), [], "answered for the addresses of allowed names"),
        (
            question("x.a.test", verdict=Verdict.AUDIT, reason=Reason.TUNNEL, evidence="a.test: 101 names"),
            [],
            "x.a.test (dns A): tunnel even while learning (a.test: 101 names)",
        ),
        (question("x.a.test", verdict=Verdict.ERROR, reason=Reason.UPSTREAM_FAILED), [], "upstream_failed"),
    ],
)
def test_what_no_rule_can_allow_becomes_a_comment(one: Record, names: list[str], comment: str) -> None:
    """And no rule: whoever reads it knows what stays denied."""
    run = Run().saw(one, *names).saw(one, *names)
    assert run.rules == []
    assert "# Seen, and in no rule:" in run.comments
    assert comment in run.comments
    assert "(2 times)" in run.comments


def test_destinations_that_share_all_else_share_a_rule() -> None:
    """Sorted, each with its count; the ports of one name never open those of another."""
    run = Run()
    for name, port, count in (("b.test", 443, 1), ("a.test", 443, 12), ("c.test", 443, 1), ("c.test", 8443, 2)):
        run.saw(record(name=name, port=port, count=count), name)
    for address in (OTHER, "198.51.100.9", "2001:db8::1"):
        run.saw(record(port=22, address=address))
    run.saw(record("send", port=22, protocol=UDP))
    assert run.rules == [
        "tls 443 a.test b.test",
        "tls 443,8443 c.test",
        "tcp 22 198.51.100.9/32 203.0.113.2/32 2001:db8::1/128",
        "udp 22 203.0.113.1/32",
    ]
    assert [rule.name for rule in run.policy.rules] == [
        "tls-443",
        "tls-443-8443",
        "tcp-22-addresses",
        "udp-22-addresses",
    ]
    assert '    - "a.test"  # 12 connections\n    - "b.test"  # 1 connection\n' in run.text
    assert '    - "c.test"  # 3 connections\n' in run.text
    assert '    - "203.0.113.1/32"  # once\n' in run.text


def test_hosts_at_addresses_share_a_rule_only_with_the_same_addresses() -> None:
    """Otherwise one host would be allowed at the other's."""
    run = Run()
    for name, address in (("a.test", SITE), ("b.test", SITE), ("c.test", SITE), ("c.test", OTHER), ("d.test", OTHER)):
        run.saw(record(name=name, address=address))
    assert run.rules == [
        "tls 443 a.test b.test 203.0.113.1/32",
        "tls 443 c.test 203.0.113.1/32 203.0.113.2/32",
        "tls 443 d.test 203.0.113.2/32",
    ]
    assert [rule.name for rule in run.policy.rules] == [
        "tls-443-addresses",
        "tls-443-addresses (2)",
        "tls-443-addresses (3)",
    ]


def test_a_name_that_is_in_a_rule_is_not_listed_as_only_resolved() -> None:
    """Reached once, by whatever protocol, it resolves."""
    run = Run().saw(question("a.test")).saw(question("b.test")).saw(question("c.test"))
    run.saw(record(port=22), "a.test").saw(record(name="b.test"))
    assert run.rules == ["tls 443 b.test 203.0.113.1/32", "tcp 22 a.test", "tls 443 c.test"]
    assert run.policy.rules[-1].name == "only-resolved"
    assert '    - "c.test"  # only resolved, never reached\n' in run.text


def test_resolving_a_name_does_not_open_quic_to_it() -> None:
    """getaddrinfo() connects UDP sockets to what it found; that sends nothing, and under the policy it is let pass."""
    probe = record("connect", port=443, protocol=UDP)
    run = Run().saw(probe, "a.test").saw(record(name="a.test"), "a.test")
    assert run.rules == ["tls 443 a.test"]
    assert "udp port 443 of a.test: only connect()" in run.comments
    inside = record("connect", address=INSIDE, protocol=UDP)
    assert Run().saw(inside, "a.test").saw(record(name="a.test", address=INSIDE), "a.test").rules == [
        "tls 443 a.test 10.1.2.3/32"
    ]
    for port in (0, 65535):
        assert Run().saw(record("connect", port=port, protocol=UDP), "a.test").rules == []


def test_a_connection_without_a_byte_is_believed_and_one_that_spoke_is_not_twice_a_rule() -> None:
    """Open mode tells a connect() at once, and its first bytes later: a refused connection has none."""
    begun = record("connect", port=22)
    assert Run().saw(begun, "a.test").rules == ["tcp 22 a.test"]
    assert Run().saw(begun).rules == ["tcp 22 203.0.113.1/32"]
    assert Run().saw(record("connect"), "a.test").saw(record(name="a.test"), "a.test").rules == ["tls 443 a.test"]
    assert Run().saw(begun, "a.test").saw(record(port=22), "a.test").rules == ["tcp 22 a.test"]
    assert "1 connection\n" in Run().saw(begun, "a.test").saw(record(port=22), "a.test").text


def test_a_connected_udp_socket_is_believed_where_nothing_else_explains_it() -> None:
    """Its datagrams are not told one by one: without a rule a time client would be denied."""
    assert Run().saw(record("connect", port=123, protocol=UDP), "a.test").rules == ["udp 123 a.test"]
    run = (
        Run()
        .saw(record("connect", port=443, protocol=UDP), "a.test", "b.test")
        .saw(record("send", port=443, protocol=UDP), "b.test")
    )
    assert run.rules == ["udp 443 a.test b.test"]
    assert "only connect()" not in run.comments


def test_other_types_of_question_are_allowed_with_the_name() -> None:
    """Only those that a policy can list, and for names that a rule can hold."""
    run = Run().saw(question("a.test", TXT)).saw(question("b.test", TXT)).saw(question("b.test", MX))
    run.saw(question("a.test", 1234)).saw(question("_dmarc.a.test", 99)).saw(question("a.test", AXFR))
    assert run.policy.dns.types == (MX, TXT, 1234)
    assert run.rules == ["tls 443 a.test b.test"]
    assert "    - TXT  # asked for a.test and 1 more\n" in run.text
    assert "a.test (dns AXFR): no policy can allow this type of question" in run.comments


def test_a_resolver_over_https_is_marked() -> None:
    """Named exactly, a rule opens it, and with it every name there is."""
    run = Run().saw(record(name="dns.google"), "dns.google").saw(record(name="a.test"), "a.test")
    assert '"dns.google"  # 1 connection; resolves names over HTTPS' in run.text
    assert '"a.test"  # 1 connection\n' in run.text


def test_a_private_address_is_marked() -> None:
    """Nobody should allow the metadata endpoint without seeing that it is one."""
    run = (
        Run().saw(record(port=80, address="169.254.169.254")).saw(record(port=80)).saw(record(port=80, address=INSIDE))
    )
    assert '"169.254.169.254/32"  # once; metadata\n' in run.text
    assert '"10.1.2.3/32"  # once; private\n' in run.text
    assert '"203.0.113.1/32"  # once\n' in run.text


def test_the_head_says_when_and_from_what() -> None:
    """In UTC; and whatever the command holds, the comment ends with its line."""
    learned = Learned()
    command = "sh -c 'a\nspec: {mode: open}\r\x1b[2J\u2028\u202e\ud800'"
    text = learned.policy_text("p", command, NOW.astimezone(timezone(timedelta(hours=5))))
    assert text.startswith("# Learned by exeat on 2026-06-01T12:00:00Z from: sh -c 'a\\nspec: {mode: open}\\r\\x1b[2J")
    assert read_policy(text, "p").policy.mode is Mode.ENFORCE
    assert all(line.isprintable() for line in text.splitlines())


def test_the_same_run_gives_the_same_text() -> None:
    """In whatever order the verdicts came, and however often it is asked for."""
    seen = [(record(name=f"n{n}.test", port=443 + n % 2), f"n{n}.test") for n in range(9)]
    seen += [(record(port=22, address=f"198.51.100.{n}"), "") for n in range(9)]
    seen += [(question(f"q{n}.test", TXT), "") for n in range(9)]
    seen += [(record("connect", port=443, protocol=UDP), f"n{n}.test") for n in range(9)]
    seen += [(record(name=f"at{n % 3}.test", address=f"198.51.100.{n}"), "") for n in range(9)]
    texts = set()
    for order in (seen, seen[::-1]):
        run = Run()
        for one, name in order:
            run.saw(one, *filter(None, [name]))
        texts |= {run.text, run.text}
    assert len(texts) == 1


@pytest.mark.parametrize(
    "kind", ["reached", "reached elsewhere", "asked", "addresses", "shared", "probed", "odd", "notes"]
)
def test_a_run_that_reaches_everything_gives_a_policy_that_can_be_read(kind: str) -> None:
    """What goes beyond is counted, so that nobody takes the policy for the whole."""
    run = Run()
    for number in range(12_000):
        name = f"{number:x}.{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 50}.test"
        address = str(ip_address(int(ip_address("2001:db8::")) + number))
        match kind:
            case "reached":
                run.saw(record(name=name, port=1024 + number), name)
            case "reached elsewhere":
                run.saw(record(name=name, address=address))
            case "asked":
                run.saw(question(name, 2000 + number))
            case "addresses":
                run.saw(record(address=address, port=6000 + number))
            case "shared":
                run.saw(record(port=22), *(f"{number}.{one}.{name[20:]}" for one in range(10)))
            case "probed":
                run.saw(record("connect", port=6000 + number, protocol=UDP), name)
            case "odd":
                run.saw(record(name="\U000e0001" * 250 + str(number)))
            case "notes":
                run.saw(question(f"_{name}", AXFR))
    assert len(run.text.encode()) < TEXT_MAX
    assert max(map(len, run.text.splitlines())) < 1200
    assert len(run.learned._probes) < 12_000
    assert run.policy.rules or kind in ("odd", "notes")
    if kind not in ("odd", "notes"):
        assert "more destinations than a policy can hold" in run.comments


NAMES = st.sampled_from(["a.test", "b.test", "c.a.test", "dns.google", "localhost"])
ODD = st.text(max_size=20) | st.sampled_from(
    ["_x.test", "*.a.test", "a.test.", "a..test", '"', "a.test # x", "1.2.3.4", "-"]
)
ADDRESSES = st.sampled_from(
    [SITE, OTHER, INSIDE, "127.0.0.1", "169.254.169.254", "2001:db8::1", "fd00:ec2::254", "224.0.0.1"]
)
PORTS = st.sampled_from([0, 22, 53, 80, 443, 853, 5353, 8443, 65535])
FLOWS = st.builds(
    record,
    hook=st.sampled_from(["hello", "connect", "send", "packet"]),
    address=ADDRESSES,
    port=PORTS,
    name=st.none() | NAMES | ODD,
    protocol=st.sampled_from([TCP, UDP, ICMP, 58, 132]),
)
OTHERS = st.builds(
    record,
    hook=st.sampled_from(["socket", "option", "query", "packet"]),
    address=st.none() | ADDRESSES,
    name=st.none() | ODD,
    detail=st.integers(0, 70000),
    verdict=st.sampled_from(Verdict),
    reason=st.sampled_from(Reason),
    evidence=st.none() | st.text(max_size=20),
)
QUESTIONS = st.builds(question, NAMES | ODD, st.sampled_from([A, AAAA, PTR, TXT, SRV, HTTPS, AXFR, 0, 65535]))
SEEN = st.lists(st.tuples(FLOWS | OTHERS | QUESTIONS, st.lists(NAMES | ODD, max_size=3, unique=True)), max_size=25)


@settings(max_examples=300, deadline=None)
@given(SEEN, st.text(max_size=40))
def test_the_policy_holds_nothing_that_was_not_seen(seen: list[tuple[Record, list[str]]], command: str) -> None:
    """Whatever names programs make up: each combination that a rule allows was one verdict's."""
    run = Run()
    allowed: set[tuple[Protocol, int, str | None, Address | None]] = set()
    for one, names in seen:
        run.saw(one, *names)
        if one.verdict is not Verdict.FORWARDED:
            continue
        if one.hook == "query" and one.name:
            allowed.add((Protocol.TLS, 443, one.name.lower(), None))
            allowed.add((Protocol.TLS, 443, one.name.lower().split(".", 2)[-1], None))
        if one.hook in ("socket", "option", "query") or one.address is None:
            continue
        protocols = {TCP: [Protocol.TCP, Protocol.TLS], UDP: [Protocol.UDP]}.get(one.protocol, [Protocol.ICMP])
        for protocol in protocols:
            port = 0 if protocol is Protocol.ICMP else one.port
            allowed |= {(protocol, port, name, None) for name in names if protocol is not Protocol.TLS}
            sni = one.name.lower() if one.name and protocol is Protocol.TLS else None
            allowed |= {(protocol, port, sni, one.address), (protocol, port, sni, None)}
    text = run.learned.policy_text("p", command, NOW)
    policy = read_policy(text, "p.yaml").policy
    for rule in policy.rules:
        assert rule.hosts or rule.cidrs
        for host in rule.hosts or [None]:
            for network in rule.cidrs or [None]:
                for port in range(rule.ports[0].first, rule.ports[0].last + 1) if rule.ports else [0]:
                    address = network.network_address if network else None
                    assert (rule.protocol, port, str(host) if host else None, address) in allowed
    assert all(rule.ports[0].first == rule.ports[0].last for rule in policy.rules if rule.ports)
    assert all("*" not in str(host) for rule in policy.rules for host in rule.hosts)


@settings(max_examples=300, deadline=None)
@given(SEEN)
def test_the_same_run_under_the_policy_is_denied_nothing_that_it_could_be_allowed(
    seen: list[tuple[Record, list[str]]],
) -> None:
    """Judged by the rules as any policy is: each flow passes again, and each name resolves again."""
    run = Run()
    granted: defaultdict[str, set[Address]] = defaultdict(set)
    for one, names in seen:
        run.saw(one, *names)
        for name in names:
            if one.address:
                granted[name].add(one.address)
    policy = run.policy
    resolvable = Resolvable(compile_policy(policy))
    held = {name: ends for name, ends in granted.items() if resolvable.find(name)}
    spoke = {(one.address, one.port) for one, _ in seen if one.hook == "hello"}
    for one, names in seen:
        if one.verdict is not Verdict.FORWARDED or one.reason is Reason.OWN_LOOPBACK:
            continue
        if one.hook == "query":
            if one.name in ("a.test", "b.test", "c.a.test", "dns.google") and one.detail != PTR:
                assert resolvable.find(one.name), one
            continue
        if one.hook not in ("hello", "connect", "send") or one.protocol not in (TCP, UDP):
            continue
        if one.hook == "connect" and one.protocol == TCP and (one.address, one.port) in spoke:
            continue
        if not one.address or one.port in (0, *DNS_PORTS) or (one.hook == "connect" and one.protocol == UDP and names):
            continue
        is_hello = one.protocol == TCP and one.name
        if is_hello and one.name not in ("a.test", "b.test", "c.a.test", "dns.google", "localhost"):
            continue
        sni = one.name if is_hello else None
        leads = {
            name: {end for end in ends if not is_special(end) or _covers(policy, end)} for name, ends in held.items()
        }
        assert may(policy, one.protocol, one.address, one.port, sni, False, nanoseconds(NOW), leads).is_allowed, one


def _covers(policy: Policy, address: Address) -> bool:
    """Whether the gate may let a name lead to a special address."""
    return Resolvable(compile_policy(policy)).allows_special(mapped(address))


def test_a_special_address_is_one_of_the_list() -> None:
    """The proposal and the gate must agree about which."""
    for text in (SITE, INSIDE, "127.0.0.1", "169.254.169.254", "2001:db8::1", "fe80::1", "fd00::1"):
        assert is_special(ip_address(text)) is Resolvable.is_special(mapped(ip_address(text))), text
    assert is_special(ip_network("10.0.0.0/8").network_address)
