"""Large policies compile fast, so that a changed policy is enforced within a second."""

import time
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

import pytest

from exeat.core.compile import compile_policy
from exeat.model.names import HostPattern, PatternKind
from exeat.model.networks import Network
from exeat.model.policy import Policy, PortRange, Protocol, Rule


def _networks(count: int) -> tuple[Network, ...]:
    return tuple(IPv4Network((int(IPv4Address("20.0.0.0")) + 2 * number, 32)) for number in range(count))


def _nested(count: int) -> tuple[Network, ...]:
    return tuple(
        IPv6Network((0x2001_0DB8 << 96 | number << 64, prefix_len))
        for number in range(count // 32)
        for prefix_len in range(65, 97)
    )


MANY = 10_000
WIDE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
NAMED = tuple(HostPattern(PatternKind.EXACT, f"h{number}.example{number % 100}.com") for number in range(MANY))
WILD = tuple(HostPattern(PatternKind.ANY_LABELS, f"h{number}.example{number % 100}.com") for number in range(MANY))
HTTPS = (PortRange(443, 443),)
BIG = {
    "rules with a network and ports of their own": tuple(
        Rule("r", Protocol.TCP, cidrs=(network,), ports=(PortRange(port, port),))
        for port, network in enumerate(_networks(MANY), 1000)
    ),
    "hosts in one rule": (Rule("r", hosts=NAMED, cidrs=WIDE, ports=(PortRange(443, 443),)),),
    "rules with one host each": tuple(Rule("r", hosts=(n,), cidrs=WIDE, ports=(PortRange(443, 443),)) for n in NAMED),
    "resolved hosts in one rule": (Rule("r", hosts=NAMED, ports=HTTPS),),
    "rules with one resolved host each": tuple(Rule("r", hosts=(name,), ports=HTTPS) for name in NAMED),
    "rules with a resolved host and ports of their own": tuple(
        Rule("r", Protocol.TCP, hosts=(name,), ports=(PortRange(port, port),)) for port, name in enumerate(NAMED, 1000)
    ),
    "wildcards in one rule": (Rule("r", hosts=WILD, cidrs=WIDE, ports=HTTPS), Rule("r", hosts=WILD, ports=HTTPS)),
    "rules with one wildcard each": tuple(Rule("r", hosts=(wildcard,), ports=HTTPS) for wildcard in WILD),
    "networks in one rule": (Rule("r", Protocol.TCP, cidrs=_networks(MANY), ports=(PortRange(443, 443),)),),
    "nested networks in one rule": (Rule("r", Protocol.TCP, cidrs=_nested(MANY), ports=(PortRange(443, 443),)),),
    "rules with one nested network each": tuple(
        Rule("r", Protocol.TCP, cidrs=(network,), ports=(PortRange(443, 443),)) for network in _nested(MANY)
    ),
    "rules with one network each inside a wide one": (
        Rule("r", hosts=NAMED, cidrs=WIDE, ports=(PortRange(443, 443),)),
        *(Rule("r", Protocol.TCP, cidrs=(n,), ports=(PortRange(5432, 5432),)) for n in _networks(MANY)),
    ),
}


@pytest.mark.parametrize("what", BIG)
def test_ten_thousand_of_anything_compile_within_a_second(what: str) -> None:
    """So that a changed policy is enforced within a second; growth must not be quadratic."""
    began = time.process_time()
    table_set = compile_policy(Policy("big", rules=BIG[what]))
    assert len(table_set.networks) + len(table_set.hosts) >= 2
    assert time.process_time() - began < 1, what
