"""A policy as its author means it: rules with owner, reason and expiry, before anything is compiled."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from exeat.model.names import HostPattern
from exeat.model.networks import Network


class Mode(StrEnum):
    """What a verdict does to the traffic. Twin: enum mode in bpf/abi.h."""

    ENFORCE = "enforce"
    MONITOR = "monitor"
    OPEN = "open"
    QUARANTINE = "quarantine"


class Protocol(StrEnum):
    """What a rule speaks about; `tls` is TCP whose ClientHello is read and must name an allowed host."""

    TLS = "tls"
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Ports from first to last, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


ALL_PORTS = PortRange(0, 65535)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that a workload may do. Hosts, networks and ports multiply: each combination is allowed."""

    name: str
    protocol: Protocol = Protocol.TLS
    hosts: tuple[HostPattern, ...] = ()
    cidrs: tuple[Network, ...] = ()
    excepts: tuple[Network, ...] = ()
    ports: tuple[PortRange, ...] = ()  # empty only for icmp, which has none
    expires: datetime | None = None  # aware; None: as long as the policy
    allows_ech: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """Which workloads a policy is for."""

    cgroups: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A named document of rules; what no rule names is denied."""

    name: str
    rules: tuple[Rule, ...] = ()
    mode: Mode = Mode.ENFORCE
    owner: str = ""
    reason: str = ""
    expires: datetime | None = None
    labels: tuple[tuple[str, str], ...] = ()
    subject: Subject = field(default_factory=Subject)
    rollout_percent: int = 100
