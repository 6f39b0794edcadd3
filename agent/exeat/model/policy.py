"""A policy as its author means it: rules with owner, reason and expiry, before anything is compiled."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from exeat.model.names import HostPattern
from exeat.model.networks import Address, Network


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
class Pods:
    """Pods of Kubernetes; what is empty is any."""

    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()  # all must be there and equal


@dataclass(frozen=True, slots=True)
class Subject:
    """Which workloads a policy is for. Every kind that is given must match."""

    cgroups: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    nodes: tuple[tuple[str, str], ...] = ()  # labels of the nodes on which it is for them; none: on all
    images: tuple[str, ...] = ()
    pods: Pods | None = None
    session: tuple[tuple[str, str], ...] = ()  # of a signed context: session, user, tool, run

    @property
    def names_workloads(self) -> bool:
        """Whether it selects any; one that does not is for those who are given the policy by name."""
        return bool(self.cgroups or self.interfaces or self.images or self.pods or self.labels or self.session)

    @property
    def is_for_containers(self) -> bool:
        """Whether only a container can be meant."""
        return bool(self.images or self.pods)

    @property
    def may_be_for_containers(self) -> bool:
        """Whether a container's runtime must have told who it is before this can be decided."""
        return bool(self.images or self.pods or self.labels)


class Tunnel(StrEnum):
    """What happens when questions look like data being carried out."""

    OFF = "off"
    REPORT = "report"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class TunnelLimits:
    """Beyond any of these, per workload and registered domain, questions look like a tunnel."""

    names_per_minute: int = 100  # different ones
    label_length: int = 40
    entropy: float = 4.0  # bits a character, of the labels in front of the registered domain


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """An upstream resolver."""

    address: Address
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return host if self.port == 53 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Who is asked about a domain and what is below it; the longest domain that covers a name counts."""

    servers: tuple[Server, ...]
    domain: str = ""  # lower-case A-labels; empty: every name


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """How names are resolved for a policy's workloads, and how long what was resolved may be used."""

    upstreams: tuple[Upstreams, ...] = ()  # what none covers goes to the host's own resolvers
    min_grant_s: int = 600  # programs cache addresses longer than they should
    max_grants: int = 4096  # pairs of name and address per workload
    types: tuple[int, ...] = ()  # beside A, AAAA, CNAME, SRV and PTR; only for names that a rule names exactly
    tunnel: Tunnel = Tunnel.REPORT
    tunnel_limits: TunnelLimits = field(default_factory=TunnelLimits)


class Then(StrEnum):
    """What happens to a workload that is beyond a limit."""

    REPORT = "report"
    DENY = "deny"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Limit:
    """So much in a window, which begins with what is counted first after the last one has ended."""

    max: int
    per_s: int
    then: Then = Then.DENY


@dataclass(frozen=True, slots=True)
class Limits:
    """What one workload may use up."""

    bytes: Limit | None = None  # sent, headers included
    connections: Limit | None = None  # opened by TCP, destinations of UDP sockets
    destinations: Limit | None = None  # distinct addresses


class OnUndeclared(StrEnum):
    """What a destination that no rule names does to the workload that tries it."""

    DENY = "deny"
    QUARANTINE = "quarantine"


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
    dns: DnsSettings = field(default_factory=DnsSettings)
    limits: Limits = field(default_factory=Limits)
    on_undeclared: OnUndeclared = OnUndeclared.DENY
