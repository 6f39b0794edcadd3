"""The words both sides of the control pipe use: what a host offers, and what it has counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Behaviour = Literal["echo", "sink", "record", "http"]
Lie = Literal["id", "question", "kind", "class", "query", "opcode", "port", "garbage", "short", "empty"]
TcpManner = Literal["plain", "silent", "closes", "half", "trickles", "length too long", "length too short", "length 0"]
Records = Mapping[str, Sequence[str] | int]
Zone = Mapping[str, Records | Sequence[str]]


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


@dataclass(frozen=True)
class Dns:
    """A DNS server on UDP and TCP that answers from a zone and notes every question. Kept, and bent, by the test:

        resolver = bed.add("resolver", Dns({"shop.test": shop.addresses}), also=("8.8.8.8",))
        resolver.set_zone({"shop.test": {"A": ["203.0.113.10"], "ttl": 0}, "www.shop.test": {"CNAME": ["shop.test."]}})
        resolver.behave(Manner(delay_s=0.5), "shop.test")
        assert [asked.name for asked in resolver.questions()] == ["shop.test"]

    zone: by name (`*.shop.test` stands for all that is below and not named), the records as zone files write them, by
        kind, with a "ttl" (default 300); or only addresses. A CNAME is followed inside the zone, also in circles. Other
        names do not exist (NXDOMAIN, with a SOA).
    negative_ttl: of that SOA; None leaves it out.
    """

    zone: Zone = field(default_factory=dict)
    port: int = 53
    negative_ttl: int | None = 60
    fastopen: bool = False
    mptcp: bool = False


@dataclass(frozen=True)
class Manner:
    """How a Dns server answers, if not plainly. Everything combines.

    lies: sent in front of the answer, in this order, each with `lie_address` for whatever address is asked: under a
        wrong id, to another question (name, kind or class), as a query (QR clear), with another opcode, from another
        port, or as garbage of 64 bytes, 7 bytes and none. With is_silent only these are sent.
    rcode: such as "SERVFAIL", with no records.
    truncates: over UDP no records and TC; over TCP all is well.
    answers, authorities, additionals: records as text ("evil.test. 300 IN A 203.0.113.66") beside the right ones.
    reverses: the answer's record sets stand in reverse order, so that a CNAME follows its target.
    raw: the reply is the id and these bytes.
    tcp: over TCP the server says nothing; closes instead of answering; closes half-way through the answer; writes it
        byte by byte, 1 ms apart; or announces another length than it sends, and closes.
    """

    is_silent: bool = False
    delay_s: float = 0.0
    lies: tuple[Lie, ...] = ()
    lie_address: str = "203.0.113.66"
    rcode: str | None = None
    truncates: bool = False
    answers: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()
    additionals: tuple[str, ...] = ()
    reverses: bool = False
    raw: bytes | None = None
    tcp: TcpManner = "plain"


@dataclass(frozen=True)
class Asked:
    """One question as it reached a Dns server. name: as it was written, without the last dot; kind: such as "A"."""

    name: str
    kind: str
    transport: Literal["udp", "tcp"]
    source: str
    source_port: int
    raw: bytes


Service = Tls | Tcp | Udp | Dns


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
