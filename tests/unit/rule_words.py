"""Short words for rules, table sets and questions, so that a test of the compiler reads as a sentence."""

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from exeat.core.compile import compile_policy
from exeat.model.names import HostPattern, PatternKind
from exeat.model.policy import Policy, PortRange, Protocol, Rule
from exeat.model.tables import TableSet
from unit.naive_judge import nanoseconds
from unit.table_walk import judge_by_tables

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOON_NS = nanoseconds(NOON)
TCP, UDP, ICMP = 6, 17, 1


def host(text: str) -> HostPattern:
    """`*.a.com` as a pattern."""
    for kind in (PatternKind.ANY_LABELS, PatternKind.ONE_LABEL):
        if text.startswith(kind.value):
            return HostPattern(kind, text.removeprefix(kind.value))
    return HostPattern(PatternKind.EXACT, text)


def rule(
    cidrs: str,
    ports: str = "443",
    protocol: Protocol | None = None,
    hosts: str = "",
    excepts: str = "",
    expires: datetime | None = None,
    allows_ech: bool = False,
) -> Rule:
    """A rule from words with blanks between them; with hosts it is a tls rule unless said otherwise."""
    ranges = [PortRange(int(text.partition("-")[0]), int(text.rpartition("-")[2])) for text in ports.split()]
    return Rule(
        name=f"{cidrs} {ports} {hosts}",
        protocol=protocol or (Protocol.TLS if hosts else Protocol.TCP),
        hosts=tuple(map(host, hosts.split())),
        cidrs=tuple(map(ip_network, cidrs.split())),
        excepts=tuple(map(ip_network, excepts.split())),
        ports=() if protocol is Protocol.ICMP else tuple(ranges),
        expires=expires,
        allows_ech=allows_ech,
    )


def tables(*rules: Rule, expires: datetime | None = None) -> TableSet:
    """The tables of a policy of these rules."""
    return compile_policy(Policy("test", rules=rules, expires=expires))


def judge(
    table_set: TableSet,
    address: str,
    port: int = 443,
    name: str | None = None,
    protocol: int = TCP,
    has_ech: bool = False,
    now_ns: int = NOON_NS,
    granted: Mapping[str, str] | None = None,
) -> int:
    """The rule that allows it; 0 if none does. Each granted name was resolved to the addresses beside it."""
    grants = {name: [ip_address(one) for one in addresses.split()] for name, addresses in (granted or {}).items()}
    return judge_by_tables(table_set, protocol, ip_address(address), port, name, has_ech, now_ns, grants).rule
