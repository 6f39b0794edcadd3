"""The agent's settings of interfaces: which are managed, and where the gates of guests listen. Read by settings.py."""

from dataclasses import dataclass
from ipaddress import ip_address

from exeat.core.interface_text import parse_end, why_no_interface
from exeat.core.problems import Problems, shown
from exeat.core.yaml_fields import Fields, read_list, read_parsed, read_text
from exeat.core.yaml_nodes import Node
from exeat.model.networks import SPECIAL_NETWORKS, Address

_FIELDS = ("managed", "gate")
# Nobody else's: 169.254/16 is never routed, and fd65:7865:6174 ("exeat" in ASCII) is a prefix of exeat's own.
GATE_ADDRESSES: tuple[Address, ...] = (ip_address("169.254.101.120"), ip_address("fd65:7865:6174::53"))
_EXAMPLE = f"as in `[{GATE_ADDRESSES[0]}, '{GATE_ADDRESSES[1]}']`"


@dataclass(frozen=True, slots=True)
class InterfaceSettings:
    """The guests of this host."""

    managed: tuple[str, ...] = ()  # patterns of names; without a policy, everything is denied behind them
    gate: tuple[Address, ...] = GATE_ADDRESSES  # put on `lo`; at most one of each family


def read_interfaces(spec: Fields, problems: Problems) -> InterfaceSettings:
    """The field `interfaces`."""
    fields = spec.mapping(spec.get("interfaces"), "`interfaces`", _FIELDS)
    if fields is None:
        return InterfaceSettings()
    return InterfaceSettings(
        _managed(fields.get("managed"), problems), _gate(fields.get("gate"), problems) or GATE_ADDRESSES
    )


def _managed(node: Node | None, problems: Problems) -> tuple[str, ...]:
    patterns = []
    for one in read_list(node, "`managed`", problems):
        pattern = read_text(one, "an entry of `managed`", problems)
        if pattern is None:
            continue
        if why := why_no_interface(pattern):
            problems.add(one.line, why)
        patterns.append(pattern)
    return tuple(dict.fromkeys(patterns))


def _gate(node: Node | None, problems: Problems) -> tuple[Address, ...]:
    found: dict[int, Address] = {}
    for one in read_list(node, "`gate`", problems):
        address = read_parsed(one, "an entry of `gate`", _parse_gate, problems)
        if address is None:
            continue
        if address.version in found:
            text = f"`gate` has two addresses of IPv{address.version}: write one of each family, {_EXAMPLE}"
            problems.add(one.line, text)
        found.setdefault(address.version, address)
    return tuple(found.values())


def _parse_gate(text: str) -> Address:
    address = parse_end(text)
    if address.version == 6 and address.is_link_local:
        raise ValueError(f"{shown(text)} is known on one link only: write an address like `{GATE_ADDRESSES[1]}`")
    for kind, network in SPECIAL_NETWORKS:
        if kind.startswith("metadata") and address in network:
            raise ValueError(f"{shown(text)} is where clouds tell secrets: write an address like `{GATE_ADDRESSES[0]}`")
    return address
