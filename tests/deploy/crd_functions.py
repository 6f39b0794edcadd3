"""The functions for addresses that Kubernetes adds to CEL.

After its documentation, "Common Expression Language in Kubernetes": no IPv4-mapped addresses, no zones, no leading
zeros.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from cel_expr_python import cel

# The type of what cidr() makes. It has no size that CEL knew.
NETWORK = cel.Type.AbstractType("net.CIDR")


def declared(network: cel.Type) -> list[cel.FunctionDecl]:
    """All that our rules use. To evaluate them, let a network be its own text; to check their types, its own type."""
    text, boolean = cel.Type.STRING, cel.Type.BOOL

    def one(name: str, result: cel.Type, parameters: list[cel.Type], is_member: bool, does: Any) -> cel.FunctionDecl:
        return cel.FunctionDecl(name, [cel.Overload(f"{name}_of_text", result, parameters, is_member, does)])

    return [
        one("isIP", boolean, [text], False, lambda words: _address(words) is not None),
        one("isCIDR", boolean, [text], False, lambda words: "/" in words and _network(words) is not None),
        one("cidr", network, [text], False, _cidr),
        one("masked", network, [network], True, lambda words: str(ipaddress.ip_network(words, strict=False))),
        one("containsCIDR", boolean, [network, text], True, lambda whole, part: _covers(whole, _network(part))),
        one("containsIP", boolean, [network, text], True, lambda whole, part: _covers(whole, _network(part))),
    ]


def _address(words: str) -> Any:
    try:
        address = ipaddress.ip_address(words)
    except ValueError:
        return None
    if address.version == 6 and (address.scope_id or address.ipv4_mapped):
        return None
    return address


def _network(words: str) -> Any:
    address, slash, length = words.partition("/")
    if _address(address) is None or (slash and not re.fullmatch(r"0|[1-9][0-9]{0,2}", length)):
        return None
    try:
        return ipaddress.ip_network(words, strict=False)
    except ValueError:
        return None


def _cidr(words: str) -> str:
    if "/" not in words or _network(words) is None:
        raise ValueError(f"{words} is no CIDR")
    # As netip.Prefix writes it: the address is not masked.
    address, _, length = words.partition("/")
    return f"{_address(address)}/{length}"


def _covers(whole: str, part: Any) -> bool:
    network = ipaddress.ip_network(whole, strict=False)
    return part is not None and part.version == network.version and part.subnet_of(network)
