"""A compiled policy says exactly what the policy says, at every address, port, name and moment."""

from collections.abc import Iterator
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from exeat.core.compile import compile_policy
from exeat.model.networks import Address, Network
from exeat.model.policy import ALL_PORTS, Policy, PortRange, Protocol, Rule
from unit.naive_judge import NUMBERS, Granted, NaiveJudgement, may, wide, wide_address
from unit.rule_words import ICMP, NOON, NOON_NS, TCP, UDP, host
from unit.table_walk import TableJudgement, has_prefix, judge_by_tables

NETWORKS: list[Network] = [
    ip_network(text)
    for text in (
        *("0.0.0.0/0", "1.0.0.0/8", "1.2.0.0/16", "1.2.3.0/24", "1.2.3.4/32", "1.2.3.4/30", "1.3.0.0/16", "0.0.0.0/1"),
        *("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/7", "10.1.2.3/32", "127.0.0.1/32", "224.0.0.0/4", "224.0.0.0/3"),
        *("169.254.0.0/16", "169.254.169.0/24", "169.254.169.254/32", "192.0.0.0/24", "192.0.0.192/32"),
        *("100.64.0.0/10", "100.100.100.200/32", "168.63.129.16/32", "168.63.0.0/16"),
        *(
            "::/0",
            "::/1",
            "::/95",
            "::/96",
            "::1/128",
            "::ffff:0:0/96",
            "::fffe:0:0/95",
            "::ffff:102:0/112",
            "2000::/3",
        ),
        *("fc00::/7", "fd00::/8", "fd00:ec2::/64", "fd00:ec2::254/128", "64:ff9b::/96", "2002::/16", "fe80::/9"),
    )
]
HOSTS = [
    host(prefix + name)
    for name in ("com", "a.com", "x.a.com", "y.x.a.com", "b.com", "xa.com")
    for prefix in ("", "*.", "**.")
    if prefix or name != "com"
]
HOSTS += [host(name) for name in ("*.google", "**.google", "dns.google", "**.nextdns.io", "**.dns.nextdns.io")]
HOSTS += [host(name) for name in ("*.dns.nextdns.io", "**.c.dns.nextdns.io", "c.dns.nextdns.io", "d.c.dns.nextdns.io")]
NAMES = [
    None,
    "com",
    "a.com",
    "x.a.com",
    "y.x.a.com",
    "z.y.x.a.com",
    "w.a.com",
    "y.w.a.com",
    "b.com",
    "xa.com",
    "ax.a.com",
    *("dns.google", "dns64.dns.google", "xdns.google", "nextdns.io", "x.nextdns.io"),
    *("dns.nextdns.io", "c.dns.nextdns.io", "d.c.dns.nextdns.io"),
]
GRANTABLE = [ip_address(text) for text in ("1.2.3.4", "1.1.1.1", "9.9.9.9", "10.1.2.3", "2001:db8::7")]
PORT_EDGES = [1, 2, 53, 80, 81, 442, 443, 444, 8000, 8007, 65534, 65535]
ENDS = [None, None, NOON - timedelta(microseconds=1), NOON, NOON + timedelta(microseconds=1), NOON + timedelta(days=1)]
MOMENTS = [NOON_NS + shift for shift in (-(10**6), -1001, -1000, -1, 0, 999, 1000, 10**6, 86400 * 10**9)]


def _near(networks: list[Network]) -> list[Address]:
    """The first and last address of each network, and the ones just outside."""
    found: set[Address] = set()
    for network in map(wide, networks):
        first, last = int(network.network_address), int(network.broadcast_address)
        for number in (first - 1, first, last, last + 1):
            if 0 <= number < 2**128:
                address = IPv6Address(number)
                found.add(address.ipv4_mapped or address)
    return sorted(found, key=wide_address)


ADDRESSES = _near(NETWORKS)


def _ports() -> st.SearchStrategy[PortRange]:
    edge = st.sampled_from(PORT_EDGES)
    some = st.tuples(edge, edge).map(lambda ends: PortRange(min(ends), max(ends)))
    return st.one_of(edge.map(lambda port: PortRange(port, port)), some, st.just(ALL_PORTS))


@st.composite
def _policies(draw: st.DrawFn) -> Policy:
    """Rules that draw from the same few networks, hosts and ports, so that they meet."""
    networks = st.sampled_from(draw(st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=4)))
    hosts = st.sampled_from(draw(st.lists(st.sampled_from(HOSTS), min_size=1, max_size=4)))
    ports = st.sampled_from(draw(st.lists(_ports(), min_size=1, max_size=4)))
    protocols = st.sampled_from([Protocol.TLS, Protocol.TLS, Protocol.TLS, Protocol.TCP, Protocol.UDP, Protocol.ICMP])

    def new_rule() -> Rule:
        protocol = draw(protocols)
        is_gated = draw(st.booleans()) and protocol is not Protocol.ICMP
        has_hosts = is_gated or protocol is Protocol.TLS
        excepts = st.one_of(st.just([]), st.just([]), st.lists(networks, max_size=2))
        return Rule(
            name="rule",
            protocol=protocol,
            hosts=tuple(draw(st.lists(hosts, min_size=1, max_size=3))) if has_hosts else (),
            cidrs=() if is_gated else tuple(draw(st.lists(networks, min_size=1, max_size=3))),
            excepts=() if is_gated else tuple(draw(excepts)),
            ports=() if protocol is Protocol.ICMP else tuple(draw(st.lists(ports, min_size=1, max_size=3))),
            expires=draw(st.sampled_from(ENDS)),
            allows_ech=draw(st.booleans()),
        )

    rules = tuple(new_rule() for _ in range(draw(st.integers(0, 6))))
    return Policy("test", rules=rules, expires=draw(st.sampled_from(ENDS)))


POLICIES = _policies()
Question = tuple[int, Address, int, str | None, bool, int]  # protocol, address, port, name, whether ECH, now


def _questions(policy: Policy) -> st.SearchStrategy[list[Question]]:
    """Mostly about the edges of one rule: elsewhere everything is denied anyway."""
    kinds = [_about(rule) for rule in policy.rules]
    return st.lists(st.one_of(*kinds, _about(None)), min_size=10, max_size=40)


def _about(rule: Rule | None) -> st.SearchStrategy[Question]:
    protocol, addresses, ports, names = st.sampled_from([TCP, UDP, ICMP]), ADDRESSES, {*PORT_EDGES, 30000}, NAMES
    if rule:
        protocol = st.just(NUMBERS[rule.protocol])
        addresses = [*_near([*rule.cidrs, *rule.excepts]), *GRANTABLE]
        ports = {
            edge for ports in rule.ports for edge in (ports.first, ports.last, ports.last + 1) if 0 < edge <= 65535
        }
        names = [name for name in NAMES if name and any(host.matches(name) for host in rule.hosts)]
    return st.tuples(
        protocol,
        st.sampled_from(addresses),
        st.sampled_from(sorted(ports or {443})),
        st.sampled_from(names or NAMES),
        st.booleans(),
        st.sampled_from(MOMENTS),
    )


def _grants(policy: Policy) -> st.SearchStrategy[Granted]:
    """Mostly names that a rule matches, and others, as after a change of policy."""
    hosts = [host for rule in policy.rules for host in rule.hosts if not rule.cidrs]
    matched = [name for name in NAMES if name and any(host.matches(name) for host in hosts)]
    names = st.sampled_from([*matched * 4, *filter(None, NAMES)])
    addresses = st.lists(st.sampled_from(GRANTABLE), min_size=1, max_size=5, unique=True)
    return st.dictionaries(names, addresses, min_size=min(len(matched), 4), max_size=8)


ATTEMPTS = POLICIES.flatmap(lambda policy: st.tuples(st.just(policy), _questions(policy)))  # nothing is granted
GRANTED_ATTEMPTS = ATTEMPTS.flatmap(lambda attempts: st.tuples(st.just(attempts), _grants(attempts[0])))
GrantedAttempts = tuple[tuple[Policy, list[Question]], Granted]


def _judged(attempts: GrantedAttempts) -> Iterator[tuple[Question, NaiveJudgement, TableJudgement]]:
    (policy, questions), granted = attempts
    table_set = compile_policy(policy)
    for question in questions:
        yield question, may(policy, *question, granted), judge_by_tables(table_set, *question, granted)


@settings(max_examples=300, deadline=None)
@given(GRANTED_ATTEMPTS)
def test_the_tables_judge_as_the_rules_do(attempts: GrantedAttempts) -> None:
    """Allowed, denied, or asked for a name: the same by the tables as by reading rule after rule."""
    for question, expected, judged in _judged(attempts):
        assert (judged.is_allowed, judged.needs_name) == (expected.is_allowed, expected.needs_name), question


@settings(max_examples=300, deadline=None)
@given(GRANTED_ATTEMPTS)
def test_the_rule_that_is_named_is_one_that_allows_it(attempts: GrantedAttempts) -> None:
    """At that moment, that name, that address. (With ECH the table names the rule for the name, see HostSlot.)"""
    for question, expected, judged in _judged(attempts):
        has_ech = question[4]
        if judged.is_allowed and not has_ech:
            assert judged.rule in expected.rules, question


@settings(deadline=None)
@given(POLICIES)
def test_no_entry_says_what_its_encloser_says(policy: Policy) -> None:
    """Every entry costs kernel memory and a step of the walk."""
    networks = compile_policy(policy).networks
    for entry in networks:
        around = [
            other
            for other in networks
            if other.prefix_len < entry.prefix_len and has_prefix(entry.address, other.address, other.prefix_len)
        ]
        nearest = max(around, key=lambda other: other.prefix_len, default=None)
        assert entry.ports_id != (nearest.ports_id if nearest else 0)


@settings(deadline=None)
@given(POLICIES)
def test_keys_are_unique_and_every_id_is_used(policy: Policy) -> None:
    """A key written twice would lose the first value; an id that nothing uses would be a hole."""
    table_set = compile_policy(policy)
    for keys in (
        [(entry.address, entry.prefix_len) for entry in table_set.networks],
        [(entry.ports_id, entry.protocol, entry.port, entry.prefix_len) for entry in table_set.ports],
        [(entry.names_id, entry.reversed_name) for entry in table_set.hosts],
    ):
        assert len(keys) == len(set(keys))
    port_ids = {entry.ports_id for entry in table_set.ports}
    name_ids = {entry.names_id for entry in table_set.hosts} - {0}
    assert not port_ids & name_ids
    assert port_ids | name_ids == set(range(1, table_set.ids))
    granted_ids = {slot.ports_id for entry in table_set.hosts for slot in (entry.one, entry.many)}
    assert (granted_ids | {entry.ports_id for entry in table_set.networks}) - {0} == port_ids
    assert {entry.names_id for entry in table_set.ports} - {0} == name_ids
