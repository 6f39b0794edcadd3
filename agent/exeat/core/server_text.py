"""Text to upstream resolver, `203.0.113.53` or `[2001:db8::53]:5353`, and to the domain for which it is asked."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address

from exeat.core.names import parse_host_pattern
from exeat.core.network_text import is_like_address, refuse_what_may_be_a_port
from exeat.core.port_text import parse_ports
from exeat.core.problems import shown
from exeat.model.names import PatternKind
from exeat.model.networks import Address
from exeat.model.policy import Server, Upstreams

# `[ADDRESS]` or ADDRESS, `:PORT`. An IPv6 address outside brackets takes all colons.
_BRACKETED = re.compile(r"\[(?P<address>[^\[\]]*)\](:(?P<port>[^:]*))?")
_IPV6 = re.compile(r"(?P<address>[^\[\]]*:[^\[\]]*:[^\[\]]*)(?P<port>(?!))?")
_IPV4 = re.compile(r"(?P<address>[^:\[\]]*)(:(?P<port>[^:]*))?")
_EXAMPLES = "`203.0.113.53`, `203.0.113.53:5353` or `[2001:db8::53]:5353`"
_BROADCAST = IPv4Address("255.255.255.255")
_TLS_PORT = 853
_DOMAIN = re.compile(r"[^/:@?#\\\s*]+")  # whatever else it is, it is no URL and no wildcard


def parse_server(text: str) -> Server:
    """Read an upstream resolver; without a port it is asked on 53. Raises ValueError with a sentence."""
    match = _BRACKETED.fullmatch(text) or _IPV6.fullmatch(text) or _IPV4.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is no resolver's address: write {_EXAMPLES}")
    if match.re is _IPV6:
        refuse_what_may_be_a_port(text)
    address = _address(match["address"], text)
    return Server(address) if match["port"] is None else Server(address, _port(match["port"], address))


def parse_domain(text: str) -> str:
    """Read the domain of a split horizon: itself and all below it. Raises ValueError with a sentence."""
    bare = re.sub(r"^(\*{0,2}\.)+", "", text)
    if set(text) <= set("*."):
        raise ValueError(f"{shown(text)} would be every name: write the resolver's address without a domain")
    if bare != text:
        raise ValueError(f"{shown(text)} is more than a domain: write `{shown(bare)[1:-1]}`; it covers all names below")
    if not _DOMAIN.fullmatch(text) or is_like_address(text):
        raise ValueError(f"{shown(text)} is no domain: write one like `corp.example`")
    pattern = parse_host_pattern(text)
    assert pattern.kind is PatternKind.EXACT
    return pattern.name


def gather_upstreams(servers: Iterable[tuple[str, Server]]) -> tuple[Upstreams, ...]:
    """Pairs of domain ("" for every name) and server, in order: one Upstreams a domain, each server once."""
    by_domain: dict[str, dict[Server, None]] = {}
    for domain, server in servers:
        by_domain.setdefault(domain, {})[server] = None
    return tuple(Upstreams(tuple(by_domain[domain]), domain) for domain in by_domain)


def _address(text: str, whole: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{shown(whole)} is no resolver's address: write {_EXAMPLES}") from None
    if address.version == 6:
        if address.scope_id is not None or address.is_link_local:
            raise ValueError(f"{shown(whole)} is known on one interface only: write an address that is routed")
        if address.ipv4_mapped:
            raise ValueError(f"{shown(whole)} is IPv4 in IPv6's clothes: write it as IPv4: `{address.ipv4_mapped}`")
    if address.is_multicast or address.is_unspecified or address == _BROADCAST:
        raise ValueError(f"{shown(whole)} is no single host's address: write {_EXAMPLES}")
    return address


def _port(text: str, address: Address) -> int:
    ports = parse_ports(text)
    if ports.first != ports.last or "-" in text:
        raise ValueError(f"{shown(text)} is a range: write the one port on which the resolver listens")
    if ports.first == _TLS_PORT:
        raise ValueError(
            f"port 853 speaks DNS over TLS, and resolvers are asked in plain DNS: write `{Server(address)}` for port 53"
        )
    return ports.first
