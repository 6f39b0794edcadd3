"""What people write of interfaces and of the guests behind them: names, MAC addresses, addresses. Pure."""

import re
from ipaddress import IPv4Network, ip_address

from exeat.core.problems import shown
from exeat.model.networks import Address

_NAME_MAX = 15  # IFNAMSIZ of linux/if.h, less the NUL
_MAC = re.compile(r"[0-9a-f]{2}(?P<between>[:-])[0-9a-f]{2}((?P=between)[0-9a-f]{2}){4}", re.IGNORECASE)
_RESERVED = IPv4Network("240.0.0.0/4")
_THIS_NETWORK = IPv4Network("0.0.0.0/8")


def why_no_interface(pattern: str) -> str | None:
    """What is wrong with the name of an interface, or a pattern of such names, if anything is."""
    is_literal = not any(c in pattern for c in "*?[")
    if "/" in pattern or " " in pattern or (is_literal and len(pattern) > _NAME_MAX):
        return f"{shown(pattern)} is no interface: write at most {_NAME_MAX} characters, as in `tap-*`"
    return None


def parse_mac(text: str) -> bytes:
    """The six bytes of `52:54:00:12:34:56`. Raises ValueError with a sentence."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"{shown(text)} is no MAC address: write six bytes, as in `52:54:00:12:34:56`")
    mac = bytes.fromhex(text.replace(text[2], ""))
    if mac[0] & 1:
        raise ValueError(f"{shown(text)} is a group's MAC address: write the one that the guest sends from")
    if not any(mac):
        raise ValueError(f"{shown(text)} is nobody's MAC address: write the one that the guest sends from")
    return mac


def parse_end(text: str) -> Address:
    """An address that one end of a link can have. Raises ValueError with a sentence."""
    try:
        address = ip_address(text)
    except ValueError:
        without_length = text.partition("/")[0]
        hint = f"`{shown(without_length)[1:-1]}`, without a length" if "/" in text else "one like `172.16.0.2`"
        raise ValueError(f"{shown(text)} is no address: write {hint}") from None
    if address.version == 6:
        if address.scope_id is not None:
            raise ValueError(f"{shown(text)} names an interface: write the address without `%` and what follows it")
        if address.ipv4_mapped is not None:
            raise ValueError(f"{shown(text)} is IPv4 in IPv6's clothes: write it as IPv4: `{address.ipv4_mapped}`")
    if why := _why_no_end(address):
        raise ValueError(f"{shown(text)} {why}: write an address that one machine has")
    return address


def _why_no_end(address: Address) -> str | None:
    if address.is_multicast:
        return "is a multicast address"
    if address.is_loopback:
        return "is a loopback address"
    if address.is_unspecified or (address.version == 4 and address in _THIS_NETWORK):
        return "is nobody's address"
    if address.version == 4 and address in _RESERVED:
        return "is reserved, or means everybody"
    return None
