"""Destinations as people write them: `api.example.com:443 (tls)`, `10.0.0.0/9:5432/tcp`."""

from collections.abc import Iterable
from datetime import UTC, datetime

from exeat.core.diff_reach import Kind, Stretch
from exeat.core.diff_spans import Spans, common, minus, networks_of, reach_of, spans
from exeat.core.port_text import NAMING_PORTS
from exeat.model.networks import Network
from exeat.model.policy import PortRange, Rule

_LISTED = 12  # more is read by nobody; JSON has all of them
_CANDIDATES_MAX = 500  # networks that are tried one after the other
_HOLES_MAX = 4
_SAID = {Kind.TLS: " (tls)", Kind.ECH: " (tls that hides its name, ech)", Kind.NAME: ""}


class Written:
    """Networks as the authors of some rules wrote them, where the fewest prefixes would be many and say little."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        known = {network: bool(rule.excepts) for rule in rules for network in rule.cidrs}
        if len(known) > _CANDIDATES_MAX:
            known = {one: has_holes for one, has_holes in known.items() if has_holes or len(reach_of(one)) > 1}
        self._networks = sorted(known, key=lambda network: (network.prefixlen, network.version, network))

    def networks(self, addresses: Spans) -> list[str]:
        """Addresses as networks, some of them with exceptions: what needs the fewest exceptions comes first."""
        found = []
        for holes_max in range(_HOLES_MAX + 1):
            for network in self._networks:
                reach = reach_of(network)
                inside = common(reach, addresses)
                holes = list(networks_of(minus(reach, addresses))) if inside else []
                if inside and len(holes) <= holes_max and len(holes) + 1 < len(list(networks_of(inside))):
                    found.append(_except(network, holes))
                    addresses = minus(addresses, reach)
        return [*found, *map(str, networks_of(addresses))]


def target(stretch: Stretch, networks: Iterable[str]) -> str:
    """What may be reached."""
    if stretch.kind is Kind.NAME:
        return f"resolving {stretch.names}"
    said = _SAID.get(stretch.kind, f"/{stretch.kind}")
    if stretch.addresses is None:
        return f"{stretch.names}:{ports_text(stretch.ports)}{said}"
    listed = list(networks)
    if stretch.kind is Kind.ICMP:
        return f"{_some(listed)} (icmp)"
    ports = ports_text(stretch.ports)
    where = _some([_bracketed(one) for one in listed])
    at = f"{where}:{ports}" if len(listed) == 1 else f"{where} on {ports}"
    return f"{at}{said}" if stretch.names is None else f"{stretch.names} at {at}{said}"


def ports_text(ports: Spans) -> str:
    """`443,8000-8010`. The ports that no rule opens do not tear a range apart."""
    whole = spans((*ports, *((port, port) for port in NAMING_PORTS if _is_between(port, ports))))
    return ",".join(str(PortRange(max(first, 1) if last else 0, last)) for first, last in whole)


def time_text(moment: datetime | None) -> str:
    """When something ends."""
    return "without end" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def listed_text(words: Iterable[object]) -> str:
    """`a, b and 7 more`."""
    return _some([str(word) for word in words])


def _is_between(port: int, ports: Spans) -> bool:
    lasts, firsts = {last for _, last in ports}, {first for first, _ in ports}
    return port - 1 in lasts and port + 1 in firsts


def _except(network: Network, holes: list[Network]) -> str:
    return str(network) + (f" (except {_some(list(map(str, holes)))})" if holes else "")


def _bracketed(network: str) -> str:
    written, space, excepted = network.partition(" ")
    return f"[{written}]{space}{excepted}" if ":" in written else network


def _some(words: list[str]) -> str:
    more = len(words) - _LISTED
    return ", ".join(words) if more <= 1 else f"{', '.join(words[:_LISTED])} and {more} more"
