"""What one policy lets a workload reach at a moment, and another does not. Pure set arithmetic over the rules.

Addresses are cut wherever a network of either policy begins or ends; between two cuts the same rules speak, and what
they say is compared once. What opens an address only once a name was resolved to it is compared by name.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from exeat.core.diff_patterns import Gap, NamedPorts, Names, difference
from exeat.core.diff_spans import Spans, addresses_of, minus, spans, union
from exeat.core.port_text import NAMING_PORTS
from exeat.model.names import HostPattern
from exeat.model.policy import Policy, Protocol, Rule

_NO_PORT: Spans = ((0, 0),)  # of what has no ports
_CLOSED = spans((port, port) for port in NAMING_PORTS)


class Kind(StrEnum):
    """What may be said: whoever may send anything over TCP may send a hello too."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    TLS = "tls"
    ECH = "tls with an Encrypted ClientHello"
    NAME = "resolving the name"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Destinations of one kind that only one of two policies allows."""

    kind: Kind
    addresses: Spans | None  # None: wherever exeat's resolver says that the name is
    names: Names
    ports: Spans
    excepts: tuple[HostPattern, ...] = ()


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a rule says beside its networks."""

    protocol: Protocol
    hosts: tuple[HostPattern, ...]
    ports: Spans
    allows_ech: bool

    @classmethod
    def of(cls, rule: Rule) -> "_Terms":
        return cls(rule.protocol, rule.hosts, ports_of(rule), rule.allows_ech)

    @property
    def names(self) -> tuple[Names, ...]:
        return self.hosts or (None,)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return _kinds(self.protocol, self.allows_ech)


_Sides = tuple[list[_Terms], list[_Terms]]


def ends(policy: Policy, rule: Rule) -> datetime | None:
    """When a rule ends: with its policy at the latest."""
    both = [end for end in (policy.expires, rule.expires) if end is not None]
    return min(both, default=None)


def in_force(policy: Policy, moment: datetime) -> tuple[Rule, ...]:
    """The rules that have not ended."""
    return tuple(rule for rule in policy.rules if (end := ends(policy, rule)) is None or end > moment)


def ports_of(rule: Rule) -> Spans:
    """A rule's ports, without those that no rule opens."""
    if rule.protocol is Protocol.ICMP:
        return _NO_PORT
    return minus(spans((ports.first, ports.last) for ports in rule.ports), _CLOSED)


def kinds_of(rule: Rule) -> tuple[Kind, ...]:
    """What a rule lets be said."""
    return _kinds(rule.protocol, rule.allows_ech)


def beyond(these: Policy, those: Policy, moment: datetime) -> tuple[Stretch, ...]:
    """What these let be reached at a moment and those do not."""
    mine, others = in_force(these, moment), in_force(those, moment)
    found: dict[Stretch, Spans | None] = {}
    for kind, gap in _compared(_by_name(mine), _by_name(others)):
        found[Stretch(kind, None, gap.names, gap.ports, gap.excepts)] = None
    for addresses, sides in _cells(mine, others):
        for kind, gap in _compared(_tables(sides[0]), _tables(sides[1])):
            key = Stretch(kind, (), gap.names, gap.ports, gap.excepts)
            found[key] = union(found.get(key) or (), addresses)
    return tuple(Stretch(key.kind, addresses, key.names, key.ports, key.excepts) for key, addresses in found.items())


def _compared(mine: Mapping[Kind, NamedPorts], others: Mapping[Kind, NamedPorts]) -> Iterator[tuple[Kind, Gap]]:
    nothing = NamedPorts({})
    for kind in Kind:
        for gap in difference(mine.get(kind, nothing), others.get(kind, nothing)):
            yield kind, gap


def _by_name(rules: Iterable[Rule]) -> dict[Kind, NamedPorts]:
    """What resolving opens, and what may be resolved."""
    gated = [_Terms.of(rule) for rule in rules if not rule.cidrs]
    named = _Terms(Protocol.TLS, tuple({host: None for rule in rules for host in rule.hosts}), _NO_PORT, False)
    return _tables(gated) | ({Kind.NAME: _table((named,))} if named.hosts else {})


def _tables(terms: list[_Terms]) -> dict[Kind, NamedPorts]:
    return {kind: _table(one for one in terms if kind in one.kinds) for kind in Kind}


def _table(terms: Iterable[_Terms]) -> NamedPorts:
    spoken: defaultdict[Names, list[tuple[int, int]]] = defaultdict(list)
    for one in terms:
        for names in one.names:
            spoken[names].extend(one.ports)
    return NamedPorts({names: spans(pairs) for names, pairs in spoken.items()})


def _cells(mine: tuple[Rule, ...], others: tuple[Rule, ...]) -> Iterator[tuple[Spans, _Sides]]:
    """Addresses at which the two sides say different things, and what they say there."""
    numbers: dict[_Terms, int] = {}
    changes: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for side, rules in enumerate((mine, others)):
        for rule in rules:
            number = numbers.setdefault(_Terms.of(rule), len(numbers))
            for first, last in addresses_of(rule) if rule.cidrs else ():
                changes[first].append((side, number, 1))
                changes[last + 1].append((side, number, -1))
    speaking: tuple[Counter[int], Counter[int]] = Counter(), Counter()
    found: defaultdict[tuple[frozenset[int], frozenset[int]], list[tuple[int, int]]] = defaultdict(list)
    since = 0
    for address in sorted(changes):
        both = frozenset(speaking[0]), frozenset(speaking[1])
        if both[0] != both[1]:
            found[both].append((since, address - 1))
        for side, number, step in changes[address]:
            speaking[side][number] += step
            if not speaking[side][number]:
                del speaking[side][number]
        since = address
    terms = list(numbers)
    for both, pairs in found.items():
        yield spans(pairs), ([terms[number] for number in both[0]], [terms[number] for number in both[1]])


def _kinds(protocol: Protocol, allows_ech: bool) -> tuple[Kind, ...]:
    if protocol is Protocol.TCP:
        return Kind.TCP, Kind.TLS, Kind.ECH
    if protocol is Protocol.TLS:
        return (Kind.TLS, Kind.ECH) if allows_ech else (Kind.TLS,)
    return (Kind(protocol.value),)
