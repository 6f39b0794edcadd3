"""What a policy means, said as dumbly as possible: loops over rules. The compiled tables are tested against this."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from exeat.core.names import parse_host_pattern
from exeat.model.names import HostPattern, PatternKind
from exeat.model.networks import SPECIAL_NETWORKS, Address, Network
from exeat.model.policy import Policy, Protocol, Rule
from exeat.model.tables import NEVER

NUMBERS = {Protocol.TLS: 6, Protocol.TCP: 6, Protocol.UDP: 17, Protocol.ICMP: 1}
DNS_PORTS = (53, 137, 853, 5353, 5355)  # names are resolved by the gate alone. Twin: refuse_port in bpf/judge.h

Granted = Mapping[str, Collection[Address]]  # what the gate answered, by name; nothing of it has expired


class NaiveJudgement(NamedTuple):
    """Whether it is allowed, whether a name had to be asked for, and the numbers of all rules that allow it."""

    is_allowed: bool
    needs_name: bool
    rules: frozenset[int]


def may(
    policy: Policy,
    protocol: int,
    address: Address,
    port: int,
    name: str | None,
    has_ech: bool,
    now_ns: int,
    granted: Granted | None = None,
) -> NaiveJudgement:
    """Judge one attempt by going through every rule. A rule without networks covers what its names were resolved to."""
    without_name = set()
    by_name = set()
    is_name_asked = False
    if port in DNS_PORTS and protocol in (NUMBERS[Protocol.TCP], NUMBERS[Protocol.UDP]):
        return NaiveJudgement(False, False, frozenset())
    names_here = {name for name, addresses in (granted or {}).items() if address in addresses}
    for number, rule in enumerate(policy.rules, 1):
        if now_ns >= ends_ns(policy, rule) or protocol != NUMBERS[rule.protocol]:
            continue
        is_covered = covers_address(rule, address) if rule.cidrs else any(covers_name(rule, one) for one in names_here)
        if not is_covered or not covers_port(rule, port):
            continue
        if rule.protocol is not Protocol.TLS:
            without_name.add(number)
            continue
        is_name_asked = True
        if name is None or (has_ech and not rule.allows_ech):
            continue
        if covers_name(rule, name) and (rule.cidrs or name in names_here):
            by_name.add(number)
    if without_name:
        return NaiveJudgement(True, False, frozenset(without_name))
    return NaiveJudgement(bool(by_name), is_name_asked, frozenset(by_name))


def resolving_rules(policy: Policy, name: str) -> frozenset[int]:
    """The numbers of all rules for which the gate resolves a name, expired ones too."""
    return frozenset(number for number, rule in enumerate(policy.rules, 1) if covers_name(rule, name))


def ends_ns(policy: Policy, rule: Rule) -> int:
    """The earlier of the rule's and the policy's end."""
    return min([nanoseconds(expires) for expires in (rule.expires, policy.expires) if expires], default=NEVER)


def nanoseconds(time: datetime) -> int:
    """Since 1970, without floating point."""
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000


def covers_port(rule: Rule, port: int) -> bool:
    """ICMP has no ports. Who opens every port from 1 on opens 0 too, where nobody listens: it is one prefix less."""
    if rule.protocol is Protocol.ICMP:
        return True
    if port == 0 and all(covers_port(rule, edge) for edge in _edges(rule)):
        return bool(rule.ports)
    return any(ports.first <= port <= ports.last for ports in rule.ports)


def _edges(rule: Rule) -> set[int]:
    """Where a gap between 1 and 65535 would begin or end."""
    near = {ports.last + 1 for ports in rule.ports} | {ports.first - 1 for ports in rule.ports} | {1, 65535}
    return {edge for edge in near if 1 <= edge <= 65535}


def covers_name(rule: Rule, name: str) -> bool:
    """Some pattern matches, which for a resolver over HTTPS must be the very name."""
    exactly = PatternKind.EXACT
    return any(host.matches(name) and (host.kind is exactly or not is_doh(name)) for host in rule.hosts)


@cache
def is_doh(name: str) -> bool:
    """Whether some line of the list matches."""
    return any(pattern.matches(name) for pattern in doh_patterns())


@cache
def doh_patterns() -> tuple[HostPattern, ...]:
    """The list, read as a policy's hosts are."""
    lines = files("exeat.core").joinpath("doh_hosts.txt").read_text(encoding="ascii").splitlines()
    return tuple(parse_host_pattern(line) for line in lines if line and not line.startswith("#"))


def covers_address(rule: Rule, address: Address) -> bool:
    """Some network covers it, no exception does."""
    where = wide_address(address)
    if any(where in wide(excepted) for excepted in rule.excepts):
        return False
    return any(network_covers(wide(network), where) for network in rule.cidrs)


def network_covers(network: IPv6Network, where: IPv6Address) -> bool:
    """It holds the address, and lies inside every special range that does."""
    specials = [wide(special) for _, special in SPECIAL_NETWORKS if where in wide(special)]
    return where in network and all(network.subnet_of(special) for special in specials)


def wide_address(address: Address) -> IPv6Address:
    """IPv4 as ::ffff:a.b.c.d."""
    return address if isinstance(address, IPv6Address) else IPv6Address(f"::ffff:{address}")


def wide(network: Network) -> IPv6Network:
    """IPv4 as ::ffff:a.b.c.d."""
    if isinstance(network, IPv6Network):
        return network
    mapped = ip_network(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    assert isinstance(mapped, IPv6Network)
    return mapped
