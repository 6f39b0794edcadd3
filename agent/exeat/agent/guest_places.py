"""What programs are told of an interface, out of its addresses, its bridge's, and the words of a registration. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import TypeVar

from exeat.agent.guest_said import GuestSaid
from exeat.core.interface_text import parse_end, parse_mac
from exeat.errors import Refused, StatusWord
from exeat.kernel.guests import GuestPlace
from exeat.kernel.network_links import NetworkLink
from exeat.model.networks import Address, mapped

_T = TypeVar("_T")
_MAC_BYTES = 6
_NOTHING = GuestSaid()


@dataclass(frozen=True, slots=True)
class GateEnds:
    """Where the gates for guests listen."""

    network: int  # cookie of this network namespace
    addresses: tuple[Address, ...]


def place_of(link: NetworkLink, bridge: NetworkLink | None, said: GuestSaid | None, gate: GateEnds) -> GuestPlace:
    """What holds behind an interface. Raises Refused with a sentence for words that cannot be meant.

    What nobody said is taken from the host: whose frames the interface or its bridge takes in, and which networks it
    is on. In these, the guest may take the addresses that nobody else has.
    """
    if not link.is_ethernet or len(link.mac) != _MAC_BYTES:
        raise _refused(
            f"{link.name} carries no Ethernet frames: exeat judges taps and veths; "
            "for a tun or a tunnel, name the cgroup of the process behind it"
        )
    said = said or _NOTHING
    host = bridge or link
    gateway_macs = tuple(dict.fromkeys((host.mac, *_mac(said.gateway_mac))))
    guest_mac = next(iter(_mac(said.mac)), None)
    if guest_mac in gateway_macs:
        raise _refused(f"{said.mac} is the gateway's MAC address: write the one that the guest sends from")
    addresses = tuple(dict.fromkeys(_read(parse_end, text) for text in said.addresses))
    gateways = tuple(
        dict.fromkeys((*(one.ip for one in host.addresses), *(_read(parse_end, t) for t in said.gateways)))
    )
    learn = _learn(host, {address.version for address in addresses})
    _refuse_taken(addresses, gateways, gate)
    beside = tuple(
        one for one in gate.addresses if any(one in network for network in learn)
    )  # the guest may not take it
    return GuestPlace(
        network=gate.network,
        gate=tuple(mapped(address) for address in gate.addresses),
        guest_mac=guest_mac,
        gateway_macs=gateway_macs,
        addresses=tuple(mapped(address) for address in addresses),
        gateways=tuple(mapped(address) for address in dict.fromkeys((*gateways, *beside))),
        learn=learn,
        allows_dhcp=said.allows_dhcp,
    )


def _learn(host: NetworkLink, said_versions: set[int]) -> tuple[IPv4Network | IPv6Network, ...]:
    """The host's networks there, the first of each family in which no address was said."""
    found: dict[int, IPv4Network | IPv6Network] = {}
    for one in host.addresses:
        if one.version not in said_versions and _has_neighbours(one):
            found.setdefault(one.version, one.network)
    return tuple(found.values())


def _has_neighbours(one: IPv4Interface | IPv6Interface) -> bool:
    if one.version == 6 and one.is_link_local:
        return False  # programs learn these by themselves
    return one.network.prefixlen < one.max_prefixlen


def _refuse_taken(addresses: tuple[Address, ...], gateways: tuple[Address, ...], gate: GateEnds) -> None:
    for address in addresses:
        if address in gate.addresses:
            raise _refused(f"{address} is where exeat's resolver listens: give the guest another address")
        if address in gateways:
            raise _refused(f"{address} is the host's own, or a gateway's: give the guest another address")
    for address in gateways:
        if address in gate.addresses:
            raise _refused(f"{address} is where exeat's resolver listens, and no gateway: leave it out")


def _mac(text: str) -> tuple[bytes, ...]:
    return (_read(parse_mac, text),) if text else ()


def _read(parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise _refused(str(error)) from None


def _refused(sentence: str) -> Refused:
    return Refused(StatusWord.INVALID, sentence)
