"""The words both sides of the control pipe use: what a host offers, and what it has counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Behaviour = Literal["echo", "sink", "record", "http"]


@dataclass(frozen=True)
class Tls:
    """HTTP/1.1 over TLS by real OpenSSL. The body says "I am <name>".

    names: what the certificate is for, by default the host's own name. A client that sends one of them as SNI is
        answered by that name (several virtual hosts at one address), any other SNI by the host's own name.
    groups: the one curve offered. "secp384r1" makes the server answer with HelloRetryRequest, for clients send a key
        share for X25519 or P-256 first.
    """

    port: int = 443
    names: tuple[str, ...] = ()
    groups: str | None = None
    fastopen: bool = False
    mptcp: bool = False


@dataclass(frozen=True)
class Tcp:
    """Plain TCP.

    echo: "I am <name>" and a newline before the first byte comes back, then every byte.
    sink: reads all, keeps the first 64 KiB, and says "I am <name>" once the client has shut down its side.
    record: reads and keeps all (the first MiB) and never says anything.
    http: as Tls, in clear.
    inline_urgent: reads urgent bytes as part of the stream; without it they are lost to the reader, as to most servers.
    """

    port: int
    behaviour: Behaviour = "echo"
    fastopen: bool = False
    mptcp: bool = False
    inline_urgent: bool = False


@dataclass(frozen=True)
class Udp:
    """Counts datagrams and answers each with "I am <name>", or is silent."""

    port: int
    answers: bool = True


Service = Tls | Tcp | Udp


@dataclass(frozen=True)
class Counts:
    """What reached a host since its making or the last reset, over all its services and addresses.

    bytes: TCP payload as read from the socket, before TLS sees it; datagram_bytes: UDP payload.
    sni: every server name OpenSSL reported, in order; None for a hello without; twice for a hello after
        HelloRetryRequest.
    """

    connections: int = 0
    bytes: int = 0
    datagrams: int = 0
    datagram_bytes: int = 0
    sni: list[str | None] = field(default_factory=list)

    @property
    def is_untouched(self) -> bool:
        """Nothing at all arrived, not even an empty connection."""
        return self == Counts()


@dataclass(frozen=True)
class Listening:
    """An order to the host process: offer a service at some addresses under a name. The paths are for Tls."""

    name: str
    addresses: tuple[str, ...]
    service: Service
    chain: str = ""
    key: str = ""
