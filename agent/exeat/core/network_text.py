"""Text to network: one way to write each, so that what was written and what is enforced cannot differ."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from exeat.core.problems import shown
from exeat.model.networks import Address, Network

_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
# What URL readers take for an IPv4 address: `127.1`, `0x7f000001` (WHATWG URL, "ends in a number").
_ENDS_IN_A_NUMBER = re.compile(r"([^/]*\.)?([0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)
_MAPPED = IPv6Network("::ffff:0:0/96")


def parse_network(text: str) -> Network:
    """Read `10.0.0.0/8`, `2001:db8::/32` or a plain address. Raises ValueError with a sentence."""
    address_text, slash, length_text = text.partition("/")
    try:
        address = ip_address(address_text)
    except ValueError:
        raise ValueError(
            f"{shown(text)} is no network: write one like `10.0.0.0/8` or `2001:db8::/32`, or an address; "
            "a name belongs under `hosts`"
        ) from None
    if address.version == 6 and address.scope_id is not None:
        raise ValueError(f"{shown(text)} names an interface: write the address without `%` and what follows it")
    length = _length(text, length_text, address) if slash else address.max_prefixlen
    network = ip_network((address, length), strict=False)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError(f"{shown(text)} is IPv4 in IPv6's clothes: write it as IPv4: `{_as_ipv4(network)}`")
    if network.network_address != address:
        raise ValueError(
            f"{shown(text)} has bits set beyond /{length}: write `{network}` for the network, "
            f"or `{address}` for the address alone"
        )
    return network


def is_like_address(text: str) -> bool:
    """Whether who wrote this in place of a name meant an address or a network, well-formed or not."""
    if _ENDS_IN_A_NUMBER.fullmatch(text):
        return True
    try:
        ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return False
    return True


def refuse_what_may_be_a_port(text: str) -> None:
    """`2001:db8::1:443` is an address, but who writes it may mean `2001:db8::1` and port 443. Raises ValueError."""
    address, _, last = text.rpartition(":")
    if "/" in text or not re.fullmatch(r"[0-9]{1,5}", last) or not _is_ipv6(address):
        return
    raise ValueError(f"{shown(text)} may end in a port: write `[{address}]:{last}` if it does, else `[{text}]`")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _length(text: str, length_text: str, address: Address) -> int:
    if _LENGTH.fullmatch(length_text) and int(length_text) <= address.max_prefixlen:
        return int(length_text)
    try:
        meant = f"`{ip_network(text, strict=False)}`"  # a netmask
    except ValueError:
        meant = f"a number from 0 to {address.max_prefixlen} after the slash"
    raise ValueError(f"{shown(text)} has no prefix length that can be read: write {meant}")


def _as_ipv4(network: IPv6Network) -> IPv4Network:
    return IPv4Network((IPv4Address(network.network_address.packed[-4:]), network.prefixlen - 96))


class NetworkSet:
    """Networks, asked for those around another one: a look per prefix length, not per network."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = frozenset(networks)
        self._lengths = sorted({(network.version, network.prefixlen) for network in networks})

    def around(self, network: Network, *, strictly: bool) -> Network | None:
        """The widest network of the set that this one lies in; with `strictly`, other than itself."""
        for version, length in self._lengths:
            if version == network.version and length < network.prefixlen + (not strictly):
                wider = network.supernet(new_prefix=length)
                if wider in self._networks:
                    return wider
        return None
