"""What dnspython makes of a DNS message, brought to our terms: each rule in which we differ on purpose has a name here.

Where we are laxer, LAXER tells dnspython to look away; where we are stricter, STRICTER is asked after it has accepted.
Nothing else may differ: neither what is accepted, nor what is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire
from dns.rdatatype import RdataType as Type
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.OPT import OPT
from dns.rdtypes.ANY.RP import RP

from exeat.dns.records import Rcode, Record, Reply

IN = dns.rdataclass.IN
READ = {
    *(Type.A, Type.AAAA, Type.NS, Type.CNAME, Type.SOA, Type.PTR, Type.MX, Type.RP, Type.AFSDB, Type.RT, Type.PX),
    *(Type.SRV, Type.NAPTR, Type.KX, Type.DNAME),
}
UNKNOWN_TO_DNSPYTHON = {3: CNAME, 4: CNAME, 7: CNAME, 8: CNAME, 9: CNAME, 14: RP}  # MD MF MB MG MR MINFO, by form
PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789_-"


class Said(NamedTuple):
    """A query as far as we tell of it."""

    ident: int
    flags: int
    name: str
    kind: int
    wire: bytes
    has_edns: bool
    payload_size: int
    dnssec_ok: bool


class Refused(NamedTuple):
    """A message that is no query, and the answer that is due."""

    rcode: Rcode | None


def expected_query(message: bytes) -> Said | Refused:
    """What parse_query must make of these bytes."""
    if len(message) < 12 or message[2] & 0x80:
        return Refused(None)
    if message[2] & 0x78:
        return Refused(Rcode.NOTIMP)
    # Stricter: no pointers anywhere in a query, for no client writes them.
    with looking_away(compression=False, reads_data=False):
        read = accepted(message)
    # Stricter: one question, and no records before the additional ones.
    if read is None or message[4:10] != b"\0\1\0\0\0\0":
        return Refused(Rcode.FORMERR)
    asked = read.question[0]
    for rcode, is_refused in {Rcode.BADVERS: read.edns > 0, Rcode.REFUSED: asked.rdclass != IN}.items():
        if is_refused:
            return Refused(rcode)
    wire = message[12 : 12 + len(asked.name.to_wire()) + 4]
    has_edns, dnssec_ok = read.edns == 0, bool(read.ednsflags & dns.flags.DO)
    payload = max(read.payload, 512) if has_edns else 512
    return Said(read.id, int(read.flags), text(asked.name), asked.rdtype, wire, has_edns, payload, dnssec_ok)


STRICTER: dict[str, Callable[[dns.message.Message], bool]] = {
    "one question, of class IN": lambda read: [asked.rdclass for asked in read.question] != [IN],
    "the question is spelled out": lambda read: (
        not read.wire[12:].lower().startswith(read.question[0].name.to_wire().lower())
    ),
    "answers and authorities are of class IN": lambda read: any(
        rrset.rdclass != IN for rrset in (*read.answer, *read.authority)
    ),
}


def expected_reply(message: bytes, ident: int, name: str, kind: int) -> Reply | None:
    """What parse_reply must make of these bytes."""
    with looking_away(compression=True, reads_data=True):
        begun = accepted(message, question_only=True)
        if begun is None or begun.id != ident or int(begun.flags) & 0xF800 != 0x8000:
            return None
        # Laxer: of a truncated reply only the question counts, the rest may be cut anywhere.
        read = begun if begun.flags & dns.flags.TC else accepted(message)
    if read is None or any(is_broken(read) for is_broken in STRICTER.values()):
        return None
    if text(read.question[0].name) != name or read.question[0].rdtype != kind:
        return None
    if read is begun:
        return Reply(int(read.flags) & 15, True, (), None)
    records = tuple(
        Record(text(rrset.name), rrset.rdtype, rrset.ttl, data.to_wire()) for rrset in read.answer for data in rrset
    )
    lives = [
        min(rrset.ttl, data.minimum if data.minimum < 1 << 31 else 0)
        for rrset in read.authority
        for data in rrset
        if data.rdtype == Type.SOA
    ]
    return Reply(int(read.rcode()), False, records, min(lives, default=None))


def text(name: dns.name.Name) -> str:
    """A name as exeat.dns.names writes it."""
    return ".".join(
        "".join(chr(byte) if byte in PLAIN else f"\\{byte:03}" for byte in label.lower()) for label in name.labels[:-1]
    )


def accepted(message: bytes, question_only: bool = False) -> dns.message.Message | None:
    """What dnspython reads, each record by itself; None if it does not accept the message."""
    try:
        return dns.message.from_wire(message, keyring=False, one_rr_per_rrset=True, question_only=question_only)
    except dns.exception.DNSException:
        return None


@contextlib.contextmanager
def looking_away(*, compression: bool, reads_data: bool) -> Iterator[None]:
    """Make dnspython as lax as we are, in these ways only.

    LAXER: the data of records whose type or class means nothing to us is opaque (all of it, in queries), and so is what
    EDNS options say; a TSIG record need not be the last; a name may have more than 16 pointers; DNAME and KX may have
    them too.
    """
    whole_class = dns.rdata.get_rdata_class

    def class_of(klass: int, kind: int, use_generic: bool = True) -> Any:
        if kind == Type.OPT:
            return OPT
        if klass == IN and reads_data and (kind in READ or kind in UNKNOWN_TO_DNSPYTHON):
            return UNKNOWN_TO_DNSPYTHON.get(kind) or whole_class(klass, kind, use_generic)
        return dns.rdata.GenericRdata

    judge = dns.message.Message._parse_special_rr_header

    def judge_opt(self: Any, section: int, count: int, at: int, name: Any, klass: int, kind: int) -> Any:
        if kind == Type.TSIG and section == dns.message.MessageSection.ADDITIONAL:
            return klass, kind, None, False
        return judge(self, section, count, at, name, klass, kind)

    def get_name(self: Any, origin: Any = None, decompress: bool = False) -> dns.name.Name:
        return dns.name.from_wire_parser(self, compression)

    with (
        mock.patch.object(dns.rdata, "get_rdata_class", class_of),
        mock.patch.object(dns.edns, "get_option_class", return_value=dns.edns.GenericOption),
        mock.patch.object(dns.message.Message, "_parse_special_rr_header", judge_opt),
        mock.patch.object(dns.name, "MAX_COMPRESSION_POINTER_CHAIN", 1 << 16),
        mock.patch.object(dns.wire.Parser, "get_name", get_name),
    ):
        yield
