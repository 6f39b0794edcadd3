"""Sets of numbers as spans: ports, and addresses as the kernel's tables see them, IPv4 as ::ffff:a.b.c.d.

A network is worth what the compiled tables make of it: a special range inside a wider network is not part of it.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, summarize_address_range

from exeat.model.networks import SPECIAL_NETWORKS, Network, mapped_prefix
from exeat.model.policy import Rule

Span = tuple[int, int]  # first and last, both included
Spans = tuple[Span, ...]  # sorted, neither overlapping nor adjacent

_ADDRESS_BITS = 128
_IPV4_FIRST = 0xFFFF << 32
_IPV4_LAST = _IPV4_FIRST + 2**32 - 1


def spans(pairs: Iterable[Span]) -> Spans:
    """Put spans into order, and together where they touch."""
    found: list[Span] = []
    for first, last in sorted(pairs):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return tuple(found)


def union(these: Spans, those: Spans) -> Spans:
    """What is in either."""
    return spans((*these, *those))


def minus(these: Spans, those: Spans) -> Spans:
    """What is in these and not in those."""
    found: list[Span] = []
    holes = iter(those)
    hole = next(holes, None)
    for start, last in these:
        first = start
        while hole is not None and hole[1] < first:
            hole = next(holes, None)
        while hole is not None and hole[0] <= last:
            if first < hole[0]:
                found.append((first, hole[0] - 1))
            first = hole[1] + 1
            if first > last:
                break
            hole = next(holes, None)
        if first <= last:
            found.append((first, last))
    return tuple(found)


def common(these: Spans, those: Spans) -> Spans:
    """What is in both."""
    return minus(these, minus(these, those))


def addresses_of(rule: Rule) -> Spans:
    """What a rule's networks cover, without its exceptions."""
    covered = spans(span for network in rule.cidrs for span in reach_of(network))
    return minus(covered, spans(map(span_of, rule.excepts)))


@lru_cache(maxsize=4096)
def reach_of(network: Network) -> Spans:
    """What a network covers: without the special ranges that it is wider than."""
    first, last = span_of(network)
    inside = [span for span in _SPECIAL if first <= span[0] and span[1] <= last and span != (first, last)]
    return minus(((first, last),), spans(inside))


def span_of(network: Network) -> Span:
    """The first and the last address."""
    packed, prefix_len = mapped_prefix(network)
    first = int.from_bytes(packed, "big")
    return first, first + (1 << _ADDRESS_BITS - prefix_len) - 1


def networks_of(addresses: Spans) -> Iterator[Network]:
    """The fewest networks that are these addresses."""
    ipv4 = ((_IPV4_FIRST, _IPV4_LAST),)
    for first, last in common(addresses, ipv4):
        yield from summarize_address_range(IPv4Address(first - _IPV4_FIRST), IPv4Address(last - _IPV4_FIRST))
    for first, last in minus(addresses, ipv4):
        yield from summarize_address_range(IPv6Address(first), IPv6Address(last))


_SPECIAL = tuple(span_of(network) for _, network in SPECIAL_NETWORKS)
