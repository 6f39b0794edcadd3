"""The command-line flag `--allow-cidr CIDR[:PORTS][/PROTO]`: one network rule without a policy file."""

import re
from ipaddress import IPv6Address

from exeat.core.network_text import parse_network
from exeat.core.port_text import EVERY_PORT, overlaps, parse_ports
from exeat.core.problems import shown
from exeat.errors import PolicyError
from exeat.model.policy import PortRange, Protocol, Rule

# `[CIDR]` or CIDR, `:PORTS`, `/PROTO`. An IPv6 network outside brackets takes all colons.
_BRACKETED = re.compile(r"\[(?P<cidr>[^\[\]]*)\](:(?P<ports>[^/:]*))?(/(?P<protocol>[^:]*))?")
_IPV6 = re.compile(r"(?P<cidr>[^/\[\]]*:[^/\[\]]*:[^/\[\]]*(/[0-9]*)?)(?P<ports>(?!))?(/(?P<protocol>[^:]*))?")
_IPV4 = re.compile(r"(?P<cidr>[^:/\[\]]*(/[0-9.]+)?)(:(?P<ports>[^/:]*))?(/(?P<protocol>[^:]*))?")
_EXAMPLES = "`203.0.113.0/24:443,8000-8010/tcp`, `203.0.113.7` or `[2001:db8::/32]:443`"


def parse_allow_cidr(text: str) -> Rule:
    """Read the flag's argument; without PORTS every port, without PROTO tcp. Raises PolicyError with a sentence."""
    name = f"--allow-cidr {text}"
    try:
        return _rule(name, text)
    except ValueError as error:
        raise PolicyError([f"--allow-cidr {shown(text)[1:-1]}: {error}"]) from error


def _rule(name: str, text: str) -> Rule:
    if not text.isprintable():
        raise ValueError("there are characters that cannot be seen: write it anew")
    match = _BRACKETED.fullmatch(text) or _IPV6.fullmatch(text) or _IPV4.fullmatch(text)
    if match is None:
        raise ValueError(f"this is no network with ports and protocol: write one like {_EXAMPLES}")
    protocol = _protocol(match["protocol"])
    if match.re is _IPV6:
        _refuse_what_may_be_a_port(match["cidr"])
    network = parse_network(match["cidr"])
    if protocol is not Protocol.ICMP:
        return Rule(name, protocol, cidrs=(network,), ports=_ports(match["ports"]))
    if match["ports"] is not None:
        raise ValueError(f"icmp has no ports: write `{network}/icmp`")
    return Rule(name, protocol, cidrs=(network,))


def _protocol(text: str | None) -> Protocol:
    if text is None:
        return Protocol.TCP
    if text == Protocol.TLS:
        raise ValueError("tls needs the hosts' names: write a policy file, or /tcp if any name will do")
    if text not in (Protocol.TCP, Protocol.UDP, Protocol.ICMP):
        raise ValueError(f"{shown(text)} is no protocol: write tcp, udp or icmp after the last slash")
    return Protocol(text)


def _ports(text: str | None) -> tuple[PortRange, ...]:
    if text is None:
        return (EVERY_PORT,)
    ports = tuple(parse_ports(entry) for entry in text.split(","))
    for _, sentence in overlaps(ports):
        raise ValueError(sentence)
    return ports


def _refuse_what_may_be_a_port(cidr: str) -> None:
    """`2001:db8::1:443` is an address, but who writes it may mean `2001:db8::1` and port 443."""
    address, _, last = cidr.rpartition(":")
    if "/" in cidr or not re.fullmatch(r"[0-9]{1,5}", last) or not _is_ipv6(address):
        return
    raise ValueError(f"{shown(cidr)} may end in a port: write `[{address}]:{last}` if it does, else `[{cidr}]`")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
