"""Which verdicts somebody wants to see: by outcome, workload and destination."""

import re
from dataclasses import dataclass
from ipaddress import ip_network

from exeat.core.network_text import refuse_what_may_be_a_port
from exeat.core.problems import shown
from exeat.model.networks import Network
from exeat.model.record import Record
from exeat.model.verdicts import Verdict

_PORT = re.compile(r"[0-9]{1,5}")
_BRACKETED = re.compile(r"\[(?P<host>[^\[\]]*)\](:(?P<port>.*))?")
_NAME = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE)
_EXAMPLES = "`api.example.com`, `.example.com:443`, `203.0.113.0/24`, `[2001:db8::7]:443` or `:443`"


@dataclass(frozen=True, slots=True)
class Target:
    """A destination; what is None fits everything."""

    name: str | None = None  # lower-case; from a dot on: every name that ends so
    network: Network | None = None
    port: int | None = None

    def accepts(self, record: Record) -> bool:
        """Whether the verdict was about this."""
        if self.port is not None and (record.address is None or record.port != self.port):
            return False
        if self.network is not None and (record.address is None or record.address not in self.network):
            return False
        if self.name is None:
            return True
        name = (record.name or "").lower().removesuffix(".")
        return name.endswith(self.name) if self.name.startswith(".") else name == self.name


@dataclass(frozen=True, slots=True)
class Filter:
    """All that are given must hold."""

    verdicts: frozenset[Verdict] = frozenset()  # any of these; none: all
    workload: str = ""  # a part of its cgroup's path, of its interface's name, or of what people call it
    to: Target = Target()
    is_whole: bool = False  # `workload` is no part, but all of it

    def accepts(self, record: Record) -> bool:
        """Whether somebody wants to see it."""
        return (
            (not self.verdicts or record.verdict in self.verdicts) and self._is_of(record) and self.to.accepts(record)
        )

    def _is_of(self, record: Record) -> bool:
        if self.is_whole:
            return self.workload == record.workload
        return self.workload in record.workload or bool(record.who and self.workload in record.who.name)


def parse_to(text: str) -> Target:
    """Read a name, `.ending`, an address or a network, with `:PORT` if wanted. Raises ValueError with a sentence."""
    if not text:
        return Target()
    if match := _BRACKETED.fullmatch(text):
        return Target(network=_network(text, match["host"]), port=_port(text, match["port"]))
    if text.count(":") > 1:
        refuse_what_may_be_a_port(text)
        return Target(network=_network(text, text))
    host, colon, port_text = text.partition(":")
    port = _port(text, port_text if colon else None)
    if not host and colon:
        return Target(port=port)
    if "/" in host or re.fullmatch(r"[0-9.]+", host):
        return Target(network=_network(text, host), port=port)
    if not _NAME.fullmatch(host.removesuffix(".")):
        raise ValueError(f"{shown(text)} is no destination: write one like {_EXAMPLES}")
    return Target(name=host.lower().removesuffix("."), port=port)


def _network(text: str, host: str) -> Network:
    try:
        return ip_network(host, strict=False)  # one of its addresses will do to name it
    except ValueError:
        raise ValueError(f"{shown(text)} is no address or network: write one like {_EXAMPLES}") from None


def _port(text: str, port_text: str | None) -> int | None:
    if port_text is None:
        return None
    if not _PORT.fullmatch(port_text) or not 1 <= int(port_text) <= 65535:
        raise ValueError(f"{shown(text)} has no port after the colon: write a number from 1 to 65535")
    return int(port_text)
