"""Text to ports: `443` and `8000-8010`, from 1 to 65535, each port written once; and what no rule can open."""

import re
from collections.abc import Iterable, Iterator

from exeat.core.problems import shown
from exeat.model.policy import PortRange

EVERY_PORT = PortRange(1, 65535)  # nobody listens on port 0
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_GATE_PORT = 53
# What else carries names: the kernel denies it before it looks at rules. Twin: refuse_port in bpf/judge.h.
_CLOSED = {137: "NetBIOS", 853: "DNS over TLS and QUIC", 5353: "mDNS", 5355: "LLMNR"}
NAMING_PORTS = frozenset({_GATE_PORT, *_CLOSED})  # that no rule opens


def parse_ports(text: str) -> PortRange:
    """Read `443` or `8000-8010`. Raises ValueError with a sentence."""
    first, dash, last = text.partition("-")
    if not _PORT.fullmatch(first) or (dash and not _PORT.fullmatch(last)):
        raise ValueError(f"{shown(text)} is no port: write a number from 1 to 65535, or a range like `8000-8010`")
    ports = PortRange(int(first), int(last if dash else first))
    if max(ports.first, ports.last) > EVERY_PORT.last:
        raise ValueError(f"{shown(text)} is beyond the last port: write numbers from 1 to 65535")
    if ports.first > ports.last:
        raise ValueError(f"{shown(text)} runs backwards: write `{ports.last}-{ports.first}`")
    return ports


def why_closed(ports: PortRange) -> str | None:
    """A sentence if a rule asks for one port that no rule opens. A range around it opens the others."""
    what = _CLOSED.get(ports.first) if ports.first == ports.last else None
    if what is None:
        return None
    return (
        f"port {ports.first} carries {what} around exeat's resolver and is always denied: leave it out; "
        "names are resolved on port 53, which needs no rule"
    )


def why_gated(ports: PortRange) -> str | None:
    """A sentence of warning if a rule asks for port 53 and nothing else."""
    if ports != PortRange(_GATE_PORT, _GATE_PORT):
        return None
    return (
        "port 53 goes to exeat's own resolver whatever address is meant, with or without a rule: leave it out; "
        "other resolvers are named in `dns.upstreams` or by --dns-upstream"
    )


def overlaps(ports: Iterable[PortRange]) -> Iterator[tuple[int, str]]:
    """For each entry that repeats ports of another: its index, and a sentence."""
    in_order = sorted(enumerate(ports), key=lambda entry: (entry[1], entry[0]))
    for (before, wide), (index, entry) in _with_furthest(in_order):
        if entry.first <= wide.last:
            both = f"`{wide}` and `{entry}`" if before < index else f"`{entry}` and `{wide}`"
            yield max(before, index), f"{both} overlap: write each port once"


def _with_furthest(
    in_order: list[tuple[int, PortRange]],
) -> Iterator[tuple[tuple[int, PortRange], tuple[int, PortRange]]]:
    """Each entry but the first, with the one before it that reaches furthest."""
    furthest = in_order[0] if in_order else None
    for entry in in_order[1:]:
        assert furthest is not None
        yield furthest, entry
        if entry[1].last > furthest[1].last:
            furthest = entry
