"""What somebody wants to be allowed, as they write it: `HOST|ADDRESS[:PORT][/PROTO]`."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from exeat.core.names import parse_host_pattern
from exeat.core.network_text import refuse_what_may_be_a_port
from exeat.core.port_text import EVERY_PORT
from exeat.core.problems import shown
from exeat.core.verdict_text import protocol_word
from exeat.errors import Refused, StatusWord
from exeat.model.names import HostPattern, PatternKind
from exeat.model.networks import Address
from exeat.model.policy import Protocol

_AIM = re.compile(
    r"(\[(?P<address>[^\[\]]*)\]|(?P<host>[^:/\[\]]*)|(?P<bare>[^/\[\]]*))(:(?P<port>[0-9]{1,5}))?(/(?P<protocol>[a-z]+))?"
)


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to be allowed, as far as somebody said it; the rest is read off the denials."""

    target: str  # a name in lower case, or an address, as verdicts have it
    port: int | None = None
    protocol: Protocol | None = None

    @property
    def address(self) -> Address | None:
        """None for a name."""
        return _address(self.target)

    def __str__(self) -> str:
        host = f"[{self.target}]" if ":" in self.target else self.target
        return host + (f":{self.port}" if self.port else "") + (f"/{self.protocol}" if self.protocol else "")


def parse_aim(text: str) -> Aim:
    """Read `HOST|ADDRESS[:PORT][/PROTO]`. Raises Refused."""
    match = _AIM.fullmatch(text.strip())
    if match is None:
        raise invalid(
            f"{shown(text)} is no destination: write one like `api.example.com`, `203.0.113.7:5432/tcp` or "
            "`[2001:db8::7]:443`"
        )
    target = (match["address"] or match["host"] or match["bare"] or "").lower().removesuffix(".")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not EVERY_PORT.first <= port <= EVERY_PORT.last:
        raise invalid(f"{shown(text)} has no port after the colon: write a number from 1 to {EVERY_PORT.last}")
    if match["protocol"] and match["protocol"] not in tuple(Protocol):
        raise invalid(f"{shown(match['protocol'])} is no protocol: write tls, tcp, udp or icmp after the slash")
    if match["bare"]:
        _refuse_doubtful(target)
    address = _address(target)
    if address is None:
        pattern = host_pattern(target)
        if pattern.kind is not PatternKind.EXACT:
            raise invalid(f"{pattern} was not denied, hosts were: name one of them, and ask for the wildcard beside it")
        target = pattern.name
    return Aim(str(address or target), port, Protocol(match["protocol"]) if match["protocol"] else None)


def aim_text(target: str, port: int, protocol: int, hook: str) -> str:
    """What was denied, as parse_aim() takes it: a hello was TLS, whatever else TCP carries; of a question there is only
    the name, because its port is the resolver's."""
    host = f"[{target}]" if ":" in target else target
    if hook == "query" or not target:
        return host
    return (f"{host}:{port}" if port else host) + ("" if hook == "hello" else f"/{_word(protocol)}")


def host_pattern(text: str) -> HostPattern:
    """A host as a rule holds it. Raises Refused."""
    try:
        return parse_host_pattern(text)
    except ValueError as error:
        raise invalid(str(error)) from error


def invalid(sentence: str) -> Refused:
    """Of a request that means nothing."""
    return Refused(StatusWord.INVALID, sentence)


def _word(protocol: int) -> str:
    word = protocol_word(protocol)
    return "icmp" if word == "icmpv6" else word


def _refuse_doubtful(text: str) -> None:
    try:
        refuse_what_may_be_a_port(text)
    except ValueError as error:
        raise invalid(str(error)) from error


def _address(text: str) -> Address | None:
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None
