"""Sets of ports: the union of the rules that cover some addresses, cut into prefixes of a port.

Ports are cut wherever a rule begins or ends; neighbours that say the same are joined again, then cut into prefixes.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from socket import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP
from typing import NamedTuple

from exeat.core.compile_hosts import NameSets
from exeat.core.compile_rules import RankedRules
from exeat.model.policy import PortRange, Protocol, Rule
from exeat.model.tables import PortEntry

_PORT_BITS = 16
_NUMBERS = {
    Protocol.TLS: int(IPPROTO_TCP),
    Protocol.TCP: int(IPPROTO_TCP),
    Protocol.UDP: int(IPPROTO_UDP),
    Protocol.ICMP: int(IPPROTO_ICMP),
}

# Rules by their terms (as numbered by `PortSets.terms_of`). Rules with the same terms are judged by one look at their
# bits, so a thousand rules for port 443 cost an address as much as one.
RulesByTerms = Mapping[int, int]


class Terms(NamedTuple):
    """What a rule says beside its networks, hosts and expiry."""

    protocol: int
    needs_name: bool
    ranges: tuple[tuple[int, int], ...]  # sorted, neither overlapping nor adjacent


class _Value(NamedTuple):
    """The value of a PortEntry, field for field."""

    open_until: int
    open_rule: int
    named_until: int
    named_rule: int
    named_ech_until: int
    names_id: int


class _Key(NamedTuple):
    """A PortEntry without its ports_id."""

    protocol: int
    port: int
    prefix_len: int
    value: _Value


class PortSets:
    """Gives each distinct set of ports one id, and collects the entries."""

    def __init__(self, rules: RankedRules, name_sets: NameSets, ids: Iterator[int]):
        self.entries: list[PortEntry] = []
        self._rules = rules
        self._name_sets = name_sets
        self._ids = ids
        numbers: dict[Terms, int] = {}
        self.terms_of = tuple(numbers.setdefault(_terms(ranked.rule), len(numbers)) for ranked in rules.ranked)
        self._terms = tuple(numbers)
        self._rules_of = [0] * len(numbers)  # by number of terms
        for rank, terms in enumerate(self.terms_of):
            self._rules_of[terms] |= 1 << rank
        self._id_by_rules: dict[frozenset[tuple[int, int]], int] = {frozenset(): 0}
        self._id_by_keys: dict[tuple[_Key, ...], int] = {}

    def id_of(self, rules: RulesByTerms) -> int:
        """The id of all that these rules allow; 0 for no rules."""
        known_as = frozenset(rules.items())
        ports_id = self._id_by_rules.get(known_as)
        if ports_id is None:
            ports_id = self._id_by_rules[known_as] = self._intern(tuple(self._keys(rules)))
        return ports_id

    def id_of_set(self, rules: int) -> int:
        """The same for rules that are not yet parted by their terms."""
        found: dict[int, int] = {}
        while rules:
            terms = self.terms_of[(rules & -rules).bit_length() - 1]
            found[terms] = rules & self._rules_of[terms]
            rules &= ~self._rules_of[terms]
        return self.id_of(found)

    def _intern(self, keys: tuple[_Key, ...]) -> int:
        ports_id = self._id_by_keys.get(keys)
        if ports_id is None:
            ports_id = self._id_by_keys[keys] = next(self._ids)
            self.entries.extend(PortEntry(ports_id, key.protocol, key.port, key.prefix_len, *key.value) for key in keys)
        return ports_id

    def _keys(self, rules: RulesByTerms) -> Iterator[_Key]:
        by_protocol: defaultdict[int, list[tuple[Terms, int]]] = defaultdict(list)
        for number, with_these_terms in rules.items():
            terms = self._terms[number]
            by_protocol[terms.protocol].append((terms, with_these_terms))
        for protocol, together in sorted(by_protocol.items()):
            for first, last, value in _joined(self._elementary(together)):
                for port, prefix_len in port_prefixes(first, last):
                    yield _Key(protocol, port, prefix_len, value)

    def _elementary(self, together: list[tuple[Terms, int]]) -> Iterator[tuple[int, int, _Value]]:
        """One protocol's ranges of ports, in order, within each of which the same rules speak."""
        edges: defaultdict[int, set[int]] = defaultdict(set)
        for index, (terms, _) in enumerate(together):
            for first, last in terms.ranges:
                edges[first].add(index)
                edges[last + 1].add(index)
        speaking: set[int] = set()
        since = 0
        for port in sorted(edges):
            if speaking:
                yield since, port - 1, self._value([together[index] for index in speaking])
            speaking ^= edges[port]
            since = port

    def _value(self, speaking: list[tuple[Terms, int]]) -> _Value:
        without_name = with_name = 0
        for terms, rules in speaking:
            if terms.needs_name:
                with_name |= rules
            else:
                without_name |= rules
        longest = self._rules.lasting_longest
        ech_until, _ = longest(with_name & self._rules.gated & self._rules.with_ech)
        # A gated rule has no set of names here: the kernel asks whether the name was resolved to the address.
        names_id = self._name_sets.id_of(with_name & ~self._rules.gated)
        return _Value(*longest(without_name), *longest(with_name), ech_until, names_id)


def port_prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest prefixes (port, length among 16 bits) that make up a range of ports."""
    while first <= last:
        size = first & -first or 1 << _PORT_BITS
        while size > last - first + 1:
            size >>= 1
        yield first, _PORT_BITS + 1 - size.bit_length()
        first += size


def _terms(rule: Rule) -> Terms:
    # The kernel asks for ICMP under port 0.
    ranges = ((0, 0),) if rule.protocol is Protocol.ICMP else tuple(_merged(rule.ports))
    if ranges == ((1, 65535),):
        ranges = ((0, 65535),)  # one prefix in place of sixteen: nobody listens on port 0
    return Terms(_NUMBERS[rule.protocol], rule.protocol is Protocol.TLS, ranges)


def _merged(ports: Iterable[PortRange]) -> Iterator[tuple[int, int]]:
    first = last = None
    for port in sorted(ports):
        if first is None or last is None:
            first, last = port.first, port.last
        elif port.first <= last + 1:
            last = max(last, port.last)
        else:
            yield first, last
            first, last = port.first, port.last
    if first is not None and last is not None:
        yield first, last


def _joined(ranges: Iterable[tuple[int, int, _Value]]) -> Iterator[tuple[int, int, _Value]]:
    pending: tuple[int, int, _Value] | None = None
    for first, last, value in ranges:
        if pending and pending[1] + 1 == first and pending[2] == value:
            pending = pending[0], last, value
            continue
        if pending:
            yield pending
        pending = first, last, value
    if pending:
        yield pending
