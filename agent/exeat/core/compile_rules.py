"""A policy's rules as bits of an integer, ranked by how long they last; refused where the tables cannot hold them.

A union of rules is one integer, and its lowest bit is the rule that lasts longest (among equals, the policy's first).
So the union's end and the rule to name for it are the lowest bit, and both stay right at every moment: while any rule
of the union is in force, the one that lasts longest is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_

from exeat.model.names import NAME_MAX
from exeat.model.policy import Policy, Protocol, Rule
from exeat.model.tables import NEVER

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def until_ns(expires: datetime | None) -> int:
    """An expiry as wall-clock nanoseconds; NEVER also from the year 2554 on, where 64 bits end."""
    if expires is None:
        return NEVER
    return min(max((expires - _EPOCH) // _MICROSECOND * 1000, 0), NEVER)


@dataclass(frozen=True, slots=True)
class RankedRule:
    """A rule, its number in the policy (from 1), and when it ends: with its policy at the latest."""

    rule: Rule
    number: int
    until: int


@dataclass(frozen=True, slots=True)
class RankedRules:
    """Every rule of a policy, longest-lived first; a set of them is an integer with bit n for `ranked[n]`."""

    ranked: tuple[RankedRule, ...]
    with_ech: int  # the set of those with `ech: allow`
    with_hosts: int  # the set of those that name hosts
    gated: int  # the set of those that open an address only once a name of theirs was resolved to it

    @classmethod
    def of(cls, policy: Policy) -> "RankedRules":
        """Rank a policy's rules. Raises ValueError with a sentence for a rule that the tables cannot hold."""
        policy_until = until_ns(policy.expires)
        rules = []
        for number, rule in enumerate(policy.rules, 1):
            _refuse_what_tables_cannot_hold(number, rule)
            rules.append(RankedRule(rule, number, min(until_ns(rule.expires), policy_until)))
        rules.sort(key=lambda ranked: -ranked.until)  # stable: equals stay in policy order
        bits = [(1 << rank, ranked.rule) for rank, ranked in enumerate(rules)]
        return cls(
            ranked=tuple(rules),
            with_ech=_union(bit for bit, rule in bits if rule.allows_ech),
            with_hosts=_union(bit for bit, rule in bits if rule.hosts),
            gated=_union(bit for bit, rule in bits if not rule.cidrs),
        )

    def lasting_longest(self, rules: int) -> tuple[int, int]:
        """When a set of rules ends, and the number of the rule that lasts until then; zeros for no rules."""
        if not rules:
            return 0, 0
        longest = self.ranked[(rules & -rules).bit_length() - 1]
        return longest.until, longest.number

    def members(self, rules: int) -> Iterator[tuple[int, Rule]]:
        """Each rule of a set, with its bit."""
        while rules:
            bit = rules & -rules
            yield bit, self.ranked[bit.bit_length() - 1].rule
            rules ^= bit


def _union(bits: Iterable[int]) -> int:
    return reduce(or_, bits, 0)


def _refuse_what_tables_cannot_hold(number: int, rule: Rule) -> None:
    """Each of these would otherwise allow more, or less, than the rule says; the reader of policies says it better."""
    what = f"rule {number} ({rule.name})"
    if not rule.hosts and not rule.cidrs:
        raise ValueError(f"{what} has neither hosts nor networks: it would allow nothing")
    if rule.protocol is Protocol.TLS and not rule.hosts:
        raise ValueError(f"{what} is a tls rule without hosts: no ClientHello could name an allowed one")
    if rule.protocol is Protocol.ICMP and rule.hosts:
        raise ValueError(f"{what} names hosts, but a host that was resolved opens ports, and icmp has none")
    if rule.protocol is not Protocol.TLS and rule.hosts and rule.cidrs:
        raise ValueError(f"{what} names hosts, but nothing in {rule.protocol} names a host: its networks would be open")
    if not rule.cidrs and rule.excepts:
        raise ValueError(f"{what} has exceptions, but no networks to except them from")
    if rule.protocol is not Protocol.ICMP and not rule.ports:
        raise ValueError(f"{what} has no ports")
    for host in rule.hosts:
        if len(host.name) > NAME_MAX:
            raise ValueError(f"{what} has a host of {len(host.name)} bytes, the tables hold {NAME_MAX}: {host}")
