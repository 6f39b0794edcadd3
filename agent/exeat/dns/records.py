"""What DNS messages say, as values: what a workload asked, what an upstream replied, and one record of an answer.

A name is lower-case text with dots between its labels and none at its end (exeat.dns.names). The only class is IN.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """The record types that the code names. Elsewhere a type is a plain int, for most of them mean nothing to us."""

    A = 1
    NS = 2
    MD = 3
    MF = 4
    CNAME = 5
    SOA = 6
    MB = 7
    MG = 8
    MR = 9
    NULL = 10
    PTR = 12
    MINFO = 14
    MX = 15
    TXT = 16
    RP = 17
    AFSDB = 18
    RT = 21
    PX = 26
    AAAA = 28
    SRV = 33
    NAPTR = 35
    KX = 36
    DNAME = 39
    OPT = 41
    SVCB = 64
    HTTPS = 65
    TSIG = 250
    IXFR = 251
    AXFR = 252
    ANY = 255


class Rcode(IntEnum):
    """How a question ended. BADVERS is too large for a header: its upper bits stand in the OPT record (RFC 6891)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `wire` is the question section as the client wrote it: only an echo may use it."""

    name: str
    kind: int
    wire: bytes


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed question of a workload. `payload_size` is what its UDP socket takes: 512 without EDNS, at least."""

    ident: int
    flags: int
    question: Question
    has_edns: bool
    payload_size: int
    dnssec_ok: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `data` stands by itself: names inside are spelled out, so it may be put into any message."""

    name: str
    kind: int
    ttl: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What an upstream replied: its answer section. A truncated reply has no records, for nobody may use half a set.

    `negative_ttl` says for how long a "no" holds (RFC 2308), if the authority section has a SOA record that says so.
    """

    rcode: int
    is_truncated: bool
    records: tuple[Record, ...]
    negative_ttl: int | None
