"""The plane's own settings, as values: /etc/exeat/plane.yaml, which settings_file reads."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

from exeat.model.networks import Network
from exeat.plane.policies.rollout_judge import Plan
from exeat.settings import Listen

DEFAULT_FILE = Path("/etc/exeat/plane.yaml")


class Enroll(StrEnum):
    """Which nodes are let in, beside having a certificate of the agents' authority."""

    CERTIFICATE = "certificate"  # each that has one
    LISTED = "listed"  # those that an operator has added


@dataclass(frozen=True, slots=True)
class AgentsDoor:
    """Where agents connect, and how both ends know each other."""

    certificate: Path
    key: Path
    ca: Path  # who vouches for nodes
    listen: Listen = Listen(ip_address("0.0.0.0"), 9470)


@dataclass(frozen=True, slots=True)
class Oidc:
    """People whom a proxy has signed in; it tells who they are by headers."""

    user_header: str
    groups_header: str
    trusted_proxies: tuple[Network, ...]  # the headers of anybody else are passed over
    viewer_groups: tuple[str, ...] = ()
    approver_groups: tuple[str, ...] = ()
    admin_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WebDoor:
    """Where people and tools connect."""

    listen: Listen = Listen(ip_address("127.0.0.1"), 9471)
    certificate: Path | None = None  # None: plain HTTP
    key: Path | None = None
    is_behind_proxy: bool = False  # which ends TLS
    url: str = ""  # what people type; empty: made of the above
    oidc: Oidc | None = None

    @property
    def origin(self) -> str:
        """As a browser sees it: scheme, host and port."""
        return self.url or f"{'https' if self.certificate else 'http'}://{self.listen}"

    @property
    def is_secure(self) -> bool:
        """Whether what a browser sends travels encrypted."""
        return self.origin.startswith("https:")


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where the store is, or who knows: a connection string may hold a password, which belongs into no settings."""

    url: str = "sqlite:/var/lib/exeat-plane/plane.db"
    file: Path | None = None  # instead: its first line
    environment: str = ""  # instead: this variable


@dataclass(frozen=True, slots=True)
class ClusterPlace:
    """A Kubernetes cluster whose EgressPolicy objects hold: its API server, and how both know each other."""

    server: str  # https://HOST:PORT; empty: that of the cluster in which the plane runs itself
    ca: Path
    token: Path  # read anew for each request: they are exchanged every hour


@dataclass(frozen=True, slots=True)
class Retention:
    """How long is kept what was judged."""

    verdicts: timedelta = timedelta(days=30)  # one by one
    tallies: timedelta = timedelta(days=400)  # counted by the hour


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """All that a plane is told about itself."""

    agents: AgentsDoor
    name: str  # of this replica: welcomes and the nodes' table show it
    web: WebDoor = field(default_factory=WebDoor)
    store: StorePlace = field(default_factory=StorePlace)
    policies: Path | None = None  # a directory, beside those in the store
    rollout: Plan | None = None  # how changes of that directory go out; None: to every node at once
    cluster: ClusterPlace | None = None  # policies that are objects of Kubernetes
    signing_key: Path | None = None  # None: manifests and commands are not signed
    enroll: Enroll = Enroll.CERTIFICATE
    retention: Retention = field(default_factory=Retention)
