"""The difference of two policies is what a judge that loops over rules says of each destination, and nothing else."""

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from exeat.core.diff_patterns import NamedPorts, difference
from exeat.core.diff_reach import Kind, Stretch, beyond
from exeat.core.diff_spans import Spans, common, minus, networks_of, span_of, spans
from exeat.model.names import HostPattern, PatternKind
from exeat.model.networks import Address, mapped
from exeat.model.policy import Policy
from unit.naive_judge import is_doh, may, resolving_rules
from unit.rule_words import NOON, NOON_NS
from unit.test_compile_properties import ADDRESSES, HOSTS, NAMES, POLICIES, PORT_EDGES

NUMBERS = {Kind.TCP: 6, Kind.UDP: 17, Kind.ICMP: 1, Kind.TLS: 6, Kind.ECH: 6}
NOWHERE = ip_address("2001:db8:ffff::1")  # where names lead to: 2000::/3 holds it, so a test takes that network away
PORTS = sorted({edge for port in PORT_EDGES for edge in (port, port + 1) if edge <= 65535} | {5432, 30000})
QUESTIONS = st.lists(
    st.tuples(
        st.sampled_from(list(NUMBERS)), st.sampled_from(ADDRESSES), st.sampled_from(PORTS), st.sampled_from(NAMES[1:])
    ),
    min_size=60,
    max_size=60,
)
NAMED = [name for name in NAMES if name]


def holds(numbers: Spans, number: int) -> bool:
    """Whether a number is in one of them."""
    return any(first <= number <= last for first, last in numbers)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """A policy and a changed one: some rules went, some came, some moved."""
    old, other = draw(POLICIES), draw(POLICIES)
    kept = [rule for rule in old.rules if draw(st.booleans())]
    came = [rule for rule in other.rules if draw(st.booleans())]
    new = tuple(draw(st.permutations([*kept, *came])))
    return old, replace(old, rules=new, expires=draw(st.sampled_from([old.expires, other.expires])))


PAIRS = _pairs()


def matches(pattern: HostPattern, name: str) -> bool:
    """No wildcard holds a resolver over HTTPS."""
    return pattern.matches(name) and (pattern.kind is PatternKind.EXACT or not is_doh(name))


def tells(stretch: Stretch, kind: Kind, address: Address | None, port: int, name: str) -> bool:
    """Whether a difference speaks of a destination."""
    if stretch.kind is not kind or (stretch.addresses is None) != (address is None):
        return False
    if address is not None and not holds(stretch.addresses or (), int.from_bytes(mapped(address), "big")):
        return False
    if not holds(stretch.ports, port):
        return False
    is_named = stretch.names is None or matches(stretch.names, name)
    return is_named and not any(matches(one, name) for one in stretch.excepts)


def reaches(policy: Policy, kind: Kind, address: Address | None, port: int, name: str) -> bool:
    """What the naive judge says: of an address to which nothing was resolved, or of a name that leads elsewhere."""
    granted = {} if address is not None else {name: [NOWHERE]}
    said = name if kind in (Kind.TLS, Kind.ECH) else None
    where = NOWHERE if address is None else address
    return may(policy, NUMBERS[kind], where, port, said, kind is Kind.ECH, NOON_NS, granted).is_allowed


def without_nowhere(policy: Policy) -> Policy:
    """No network of it holds the address to which the test's names lead."""
    where = span_of_address(NOWHERE)
    return replace(
        policy,
        rules=tuple(
            replace(rule, cidrs=kept)
            if (kept := tuple(c for c in rule.cidrs if not holds((span_of(c),), where)))
            else rule
            for rule in policy.rules
            if not rule.cidrs or any(not holds((span_of(c),), where) for c in rule.cidrs)
        ),
    )


def span_of_address(address: Address) -> int:
    """As the tables see it."""
    return int.from_bytes(mapped(address), "big")


@settings(max_examples=300, deadline=None)
@given(PAIRS, QUESTIONS)
def test_what_opens_and_closes_is_where_two_naive_judgements_differ(
    pair: tuple[Policy, Policy], questions: list[tuple[Kind, Address, int, str]]
) -> None:
    """At addresses, by name, for each way to speak; and in one place only."""
    old, new = map(without_nowhere, pair)
    opened, closed = beyond(new, old, NOON), beyond(old, new, NOON)
    edges = [(kind, address, port, name) for kind, address, port, name in questions]
    for kind, somewhere, port, name in edges:
        for address in (somewhere, None):
            if kind is Kind.ICMP:
                if address is None:
                    continue
                port = 0
            before, after = (reaches(policy, kind, address, port, name) for policy in (old, new))
            asked = kind, address, port, name
            assert sum(tells(one, *asked) for one in opened) == (after and not before), asked
            assert sum(tells(one, *asked) for one in closed) == (before and not after), asked


@settings(max_examples=200, deadline=None)
@given(PAIRS)
def test_a_name_resolves_newly_where_no_rule_named_it(pair: tuple[Policy, Policy]) -> None:
    """The gate asks nobody about names that no rule names."""
    old, new = (replace(one, expires=None, rules=tuple(replace(r, expires=None) for r in one.rules)) for one in pair)
    found = [one for one in beyond(new, old, NOON) if one.kind is Kind.NAME]
    for name in NAMED:
        newly = bool(resolving_rules(new, name)) and not resolving_rules(old, name)
        assert any(tells(one, Kind.NAME, None, 0, name) for one in found) == newly, name


@given(POLICIES)
def test_nothing_differs_from_itself(policy: Policy) -> None:
    """Nor from itself in another order."""
    assert beyond(policy, policy, NOON) == ()
    assert beyond(policy, replace(policy, rules=policy.rules[::-1]), NOON) == ()


NUMBERS_SETS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)).map(lambda at: (at[0], at[0] + at[1])))


@given(NUMBERS_SETS, NUMBERS_SETS)
def test_spans_are_sets(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> None:
    """Told number by number."""
    mine = {number for first, last in these for number in range(first, last + 1)}
    others = {number for first, last in those for number in range(first, last + 1)}
    for found, expected in (
        (spans(these), mine),
        (minus(spans(these), spans(those)), mine - others),
        (common(spans(these), spans(those)), mine & others),
    ):
        assert {number for number in range(60) if holds(found, number)} == expected
        assert all(before[1] + 1 < after[0] for before, after in zip(found, found[1:], strict=False))


@given(st.lists(st.sampled_from(ADDRESSES), min_size=2, max_size=6))
def test_networks_are_the_addresses_again(addresses: list[Address]) -> None:
    """IPv4 as IPv4, also where a span goes beyond it."""
    numbers = sorted(map(span_of_address, addresses))
    where = spans(zip(numbers[::2], numbers[1::2], strict=False))
    assert spans(map(span_of, networks_of(where))) == where


TABLES = st.dictionaries(st.sampled_from([None, *HOSTS]), st.sampled_from([((1, 9),), ((5, 20),), ((2, 2), (7, 7))]))


@given(TABLES, TABLES, st.sampled_from(NAMED), st.integers(0, 21))
def test_names_and_ports_are_sets_too(these: dict, those: dict, name: str, port: int) -> None:  # type: ignore[type-arg]
    """One gap for each name and port that only these have."""

    def has(table: dict) -> bool:  # type: ignore[type-arg]
        return any((key is None or matches(key, name)) and holds(ports, port) for key, ports in table.items())

    gaps = [
        gap
        for gap in difference(NamedPorts(these), NamedPorts(those))
        if holds(gap.ports, port)
        and (gap.names is None or matches(gap.names, name))
        and not any(matches(one, name) for one in gap.excepts)
    ]
    assert bool(gaps) == (has(these) and not has(those))
