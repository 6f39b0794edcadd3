"""Command-line flags in place of a policy file: what may be reached, and who is asked for names.

`--allow HOST[:PORTS][/PROTO]`, `--allow-cidr CIDR[:PORTS][/PROTO]`, `--dns-upstream [DOMAIN=]ADDRESS[:PORT]`.
"""

import re
from collections.abc import Callable
from typing import TypeVar

from exeat.core.names import parse_host_pattern
from exeat.core.network_text import is_like_address, parse_network, refuse_what_may_be_a_port
from exeat.core.port_text import EVERY_PORT, overlaps, parse_ports, why_closed, why_gated
from exeat.core.problems import shown
from exeat.core.public_suffixes import why_wide
from exeat.core.server_text import parse_domain, parse_server
from exeat.errors import PolicyError
from exeat.model.policy import PortRange, Protocol, Rule, Server

_T = TypeVar("_T")
_TLS_PORTS = (PortRange(443, 443),)
# HOST, `:PORTS`, `/PROTO`.
_HOST = re.compile(r"(?P<host>[^:/\[\]@?#\\\s]*)(:(?P<ports>[^/:\s]*))?(/(?P<protocol>[^:/\s]+))?")
_HOST_EXAMPLES = "`api.example.com`, `*.example.com:443,8443` or `db.example.com:5432/tcp`"
# `scheme://user@host:port/path`, and every shorter form.
_URL = re.compile(
    r"((?P<scheme>[a-z][a-z0-9+.-]*)://)?([^/?#\\@]*@)?(?P<host>\[[^\]]*\]|[^/?#\\@:]*)(:(?P<port>[0-9]+))?([/?#\\:].*)?",
    re.IGNORECASE,
)
_SCHEMES = {
    "https": ("443", ""),
    "wss": ("443", ""),
    "http": ("80", "/tcp"),
    "ws": ("80", "/tcp"),
    "ssh": ("22", "/tcp"),
}
# `[CIDR]` or CIDR, `:PORTS`, `/PROTO`. An IPv6 network outside brackets takes all colons.
_BRACKETED = re.compile(r"\[(?P<cidr>[^\[\]]*)\](:(?P<ports>[^/:]*))?(/(?P<protocol>[^:]*))?")
_IPV6 = re.compile(r"(?P<cidr>[^/\[\]]*:[^/\[\]]*:[^/\[\]]*(/[0-9]*)?)(?P<ports>(?!))?(/(?P<protocol>[^:]*))?")
_IPV4 = re.compile(r"(?P<cidr>[^:/\[\]]*(/[0-9.]+)?)(:(?P<ports>[^/:]*))?(/(?P<protocol>[^:]*))?")
_CIDR_EXAMPLES = "`203.0.113.0/24:443,8000-8010/tcp`, `203.0.113.7` or `[2001:db8::/32]:443`"


def parse_allow(text: str) -> Rule:
    """Read `--allow`'s argument: PROTO is tls and PORTS are 443 unless given. Raises PolicyError with a sentence."""
    return _flag("--allow", text, _host_rule)


def parse_allow_cidr(text: str) -> Rule:
    """Read `--allow-cidr`'s argument: PROTO is tcp and PORTS are all unless given. Raises PolicyError likewise."""
    return _flag("--allow-cidr", text, _network_rule)


def parse_dns_upstream(text: str) -> tuple[str, Server]:
    """Read `--dns-upstream`'s argument: the domain, "" for every name, and its server. Raises PolicyError likewise."""
    return _flag("--dns-upstream", text, _upstream)


def warnings_of(rule: Rule) -> tuple[str, ...]:
    """What the giver of a flag should look at again, a sentence each, as a policy file's reader would say it."""
    doubts = [*map(why_wide, rule.hosts), *map(why_gated, rule.ports)]
    return tuple(f"{shown(rule.name)[1:-1]}: {doubt}" for doubt in doubts if doubt)


def _flag(flag: str, text: str, read: Callable[[str, str], _T]) -> _T:
    try:
        if not text.isprintable():
            raise ValueError("there are characters that cannot be seen: write it anew")
        return read(f"{flag} {text}", text)
    except ValueError as error:
        raise PolicyError([f"{flag} {shown(text)[1:-1]}: {error}"]) from error


def _host_rule(name: str, text: str) -> Rule:
    if text.partition(":")[0].partition("/")[0] in ("*", "**"):
        raise ValueError(
            "this would allow every name: name the hosts, or write `--allow-cidr 0.0.0.0/0` if any will do"
        )
    if _is_at_address(text):
        raise ValueError("this is an address or a network and no name: give it to --allow-cidr")
    if not _HOST.fullmatch(text):
        if meant := _meant(text):
            raise ValueError(f"this is not quite a host with ports and protocol: write `{meant}`, if that is meant")
        raise ValueError(f"this is no host with ports and protocol: write one like {_HOST_EXAMPLES}")
    return _plain_host_rule(name, text)


def _plain_host_rule(name: str, text: str) -> Rule:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(f"this is no host with ports and protocol: write one like {_HOST_EXAMPLES}")
    host = parse_host_pattern(match["host"])
    protocol = _protocol(match["protocol"] or Protocol.TLS, "tls, tcp or udp")
    if protocol is Protocol.ICMP:
        raise ValueError("icmp carries no names: give the address to --allow-cidr, as in `203.0.113.7/icmp`")
    if match["ports"] is not None:
        return Rule(name, protocol, hosts=(host,), ports=_ports(match["ports"]))
    if protocol is not Protocol.TLS:
        raise ValueError(f"{protocol} needs the ports: write them as in `{host}:8000-8010/{protocol}`")
    return Rule(name, protocol, hosts=(host,), ports=_TLS_PORTS)


def _is_at_address(text: str) -> bool:
    url = _URL.fullmatch(text)
    match = _BRACKETED.fullmatch(text) or _IPV6.fullmatch(text) or _IPV4.fullmatch(text)
    return bool(url and is_like_address(url["host"])) or bool(match and is_like_address(match["cidr"]))


def _meant(text: str) -> str | None:
    """The argument that the writer of a URL, of `user@host` or of `host/` may have had in mind."""
    url = _URL.fullmatch(text)
    candidates = [text.strip().rpartition("@")[2].rstrip("/")]
    if url and url["scheme"]:
        port, protocol = _SCHEMES.get(url["scheme"].lower(), ("", "/tcp"))
        port = url["port"] or port
        candidates = [url["host"] + ("" if (port, protocol) == ("443", "") else f":{port}") + protocol]
    elif url and any(c in text for c in "@?#\\"):
        candidates.append(url["host"])
    return next(filter(_is_host_rule, candidates), None)


def _is_host_rule(text: str) -> bool:
    try:
        _plain_host_rule("", text)
    except ValueError:
        return False
    return True


def _network_rule(name: str, text: str) -> Rule:
    match = _BRACKETED.fullmatch(text) or _IPV6.fullmatch(text) or _IPV4.fullmatch(text)
    if match is None:
        raise ValueError(f"this is no network with ports and protocol: write one like {_CIDR_EXAMPLES}")
    if match["protocol"] == Protocol.TLS:
        raise ValueError("tls needs the hosts' names: write --allow HOST, a policy file, or /tcp if any name will do")
    protocol = _protocol(match["protocol"] if match["protocol"] is not None else Protocol.TCP, "tcp, udp or icmp")
    if match.re is _IPV6:
        refuse_what_may_be_a_port(match["cidr"])
    if re.search("[a-z]", match["cidr"], re.IGNORECASE) and _is_host_rule(match["cidr"]):
        raise ValueError(f"{shown(match['cidr'])} is a name and no network: give it to --allow")
    network = parse_network(match["cidr"])
    if protocol is not Protocol.ICMP:
        ports = (EVERY_PORT,) if match["ports"] is None else _ports(match["ports"])
        return Rule(name, protocol, cidrs=(network,), ports=ports)
    if match["ports"] is not None:
        raise ValueError(f"icmp has no ports: write `{network}/icmp`")
    return Rule(name, protocol, cidrs=(network,))


def _protocol(text: str, choice: str) -> Protocol:
    if text not in tuple(Protocol):
        raise ValueError(f"{shown(text)} is no protocol: write {choice} after the last slash")
    return Protocol(text)


def _ports(text: str) -> tuple[PortRange, ...]:
    ports = tuple(parse_ports(entry) for entry in text.split(","))
    for _, sentence in overlaps(ports):
        raise ValueError(sentence)
    for sentence in filter(None, map(why_closed, ports)):
        raise ValueError(sentence)
    return ports


def _upstream(_: str, text: str) -> tuple[str, Server]:
    domain, equals, server = text.rpartition("=")
    return (parse_domain(domain) if equals else ""), parse_server(server)
