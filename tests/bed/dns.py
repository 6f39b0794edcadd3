"""What a Dns host answers, with dnspython: from its zone, in its manner. Runs inside the host process (bed.server)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from bed.services import Asked, Dns, Lie, Manner, Zone

if TYPE_CHECKING:
    from bed.server import Ledger

PLAIN_LIMIT = 512  # bytes over UDP for who sends no EDNS (RFC 1035, 4.2.1)
TTL = 300
CHAIN_LIMIT = 64
TRICKLE_S = 0.001
PLAIN = Manner()

Later = Callable[[float, Callable[[], None]], None]
Transport = Literal["udp", "tcp"]


@dataclass(frozen=True)
class Utterance:
    """One message to send; `is_from_elsewhere`: from another port than the one that was asked."""

    wire: bytes
    is_from_elsewhere: bool = False


class Resolver:
    """The zone of a host and its manners: queries in, messages out, no sockets."""

    def __init__(self, service: Dns) -> None:
        self._negative_ttl = service.negative_ttl
        self._manners: dict[str | None, Manner] = {}
        self._zone: dict[str, dict[int, dns.rrset.RRset]] = {}
        self.set_zone(service.zone)

    def set_zone(self, zone: Zone) -> None:
        """Answer from this zone from now on. Raises ValueError for a record that cannot be read."""
        try:
            self._zone = {_plain(name): _record_sets(name, records) for name, records in zone.items()}
        except dns.exception.DNSException as error:  # plain, so that it survives the pipe
            raise ValueError(str(error)) from None

    def set_manner(self, manner: Manner | None, name: str | None) -> None:
        """Answer so for this name, or for all others; without either, plainly whatever is asked."""
        key = name if name is None else _plain(name)
        if manner is None and name is None:
            self._manners.clear()
        elif manner is None:
            self._manners.pop(key, None)
        else:
            self._manners[key] = manner

    def read(self, wire: bytes, transport: Transport, peer: tuple[str, int]) -> Asked:
        """What a message asks; of one that cannot be read only the bytes are told."""
        try:
            question = dns.message.from_wire(wire, ignore_trailing=True).question[0]
        except (dns.exception.DNSException, IndexError):
            return Asked("", "", transport, *peer, wire)
        name = question.name.to_text(omit_final_dot=True)
        return Asked(name, dns.rdatatype.to_text(question.rdtype), transport, *peer, wire)

    def manner(self, asked: Asked) -> Manner:
        """How this question is to be answered."""
        return self._manners.get(_plain(asked.name), self._manners.get(None, PLAIN))

    def utterances(self, asked: Asked) -> list[Utterance]:
        """All messages that a question gets, the lies first."""
        if not asked.kind:
            return []
        manner = self.manner(asked)
        said = [Utterance(_lie(asked.raw, lie, manner.lie_address), lie == "port") for lie in manner.lies]
        if not manner.is_silent:
            said.append(Utterance(self._answer(asked, manner)))
        return said

    def _answer(self, asked: Asked, manner: Manner) -> bytes:
        if manner.raw is not None:
            return asked.raw[:2] + manner.raw
        query = dns.message.from_wire(asked.raw, ignore_trailing=True)
        reply = dns.message.make_response(query, recursion_available=True)
        if manner.rcode:
            reply.set_rcode(dns.rcode.from_text(manner.rcode))
            return reply.to_wire()
        self._look_up(reply)
        for section, lines in (
            (reply.answer, manner.answers),
            (reply.authority, manner.authorities),
            (reply.additional, manner.additionals),
        ):
            section.extend(_line(line) for line in lines)
        if manner.reverses:
            reply.answer.reverse()
        wire = reply.to_wire(max_size=65_535, want_shuffle=False)  # else dnspython deals the records out at random
        limit = max(PLAIN_LIMIT, query.payload) if query.edns >= 0 else PLAIN_LIMIT
        if asked.transport == "udp" and (manner.truncates or len(wire) > limit):
            reply.answer.clear()
            reply.authority.clear()
            reply.additional.clear()
            reply.flags |= dns.flags.TC
            wire = reply.to_wire()
        return wire

    def _look_up(self, reply: dns.message.Message) -> None:
        question = reply.question[0]
        name = question.name
        for _ in range(CHAIN_LIMIT):
            found = self._records(name)
            if found is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
                break
            owned = {kind: _owned(records, name) for kind, records in found.items()}
            alias = owned.get(dns.rdatatype.CNAME)
            if question.rdtype == dns.rdatatype.ANY:
                reply.answer.extend(owned.values())
                return
            if question.rdtype in owned:
                reply.answer.append(owned[question.rdtype])
                return
            if alias is None:
                break
            if alias in reply.answer:
                return
            reply.answer.append(alias)
            name = alias[0].target
        if self._negative_ttl is not None:
            ttl = self._negative_ttl
            apex = dns.name.Name(name.labels[-2:])
            reply.authority.append(
                dns.rrset.from_text(apex, ttl, "IN", "SOA", f"ns.invalid. me.invalid. 1 1 1 1 {ttl}")
            )

    def _records(self, name: dns.name.Name) -> Mapping[int, dns.rrset.RRset] | None:
        text = _plain(name.to_text())
        found = self._zone.get(text)
        while found is None and "." in text:
            text = text.partition(".")[2]
            found = self._zone.get(f"*.{text}")
        return found


class DatagramServer:
    """One UDP socket of a Dns host."""

    def __init__(self, resolver: Resolver, sock: socket.socket, ledger: Ledger, later: Later) -> None:
        self._resolver, self._socket, self._ledger, self._later = resolver, sock, ledger, later
        self._elsewhere: socket.socket | None = None

    def ready(self, _: int) -> None:
        """Read and answer what has come."""
        with contextlib.suppress(OSError):  # none left, or the ICMP error of an earlier answer
            while True:
                data, sender = self._socket.recvfrom(1 << 16)
                self._ledger.datagrams.append(data)
                self._answer(data, sender)

    def _answer(self, data: bytes, sender: Any) -> None:
        asked = self._resolver.read(data, "udp", sender[:2])
        self._ledger.questions.append(asked)
        said = self._resolver.utterances(asked)

        def send() -> None:
            for utterance in said:
                sock = self._other_port() if utterance.is_from_elsewhere else self._socket
                with contextlib.suppress(OSError):  # the client has gone, or its namespace
                    sock.sendto(utterance.wire, sender)

        self._later(self._resolver.manner(asked).delay_s, send)

    def _other_port(self) -> socket.socket:
        if self._elsewhere is None:
            self._elsewhere = socket.socket(self._socket.family, socket.SOCK_DGRAM)
            self._elsewhere.bind((self._socket.getsockname()[0], 0))
        return self._elsewhere


class Stream:
    """One TCP connection of a Dns host, as a Conversation (bed.conversations)."""

    def __init__(
        self, resolver: Resolver, ledger: Ledger, peer: tuple[str, int], say: Callable[[bytes], None], later: Later
    ) -> None:
        self.is_over = False
        self._resolver, self._ledger, self._peer, self._say, self._later = resolver, ledger, peer, say, later
        self._pending = b""

    def hear(self, data: bytes) -> bytes:
        """The answers that are due at once; the others follow by themselves."""
        self._pending += data
        answers = b""
        while len(self._pending) >= 2:
            end = 2 + int.from_bytes(self._pending[:2], "big")
            if len(self._pending) < end:
                break
            message, self._pending = self._pending[2:end], self._pending[end:]
            answers += self._answer(message)
        return answers

    def _answer(self, message: bytes) -> bytes:
        asked = self._resolver.read(message, "tcp", self._peer)
        self._ledger.questions.append(asked)
        manner = self._resolver.manner(asked)
        data = b"".join(_framed(utterance.wire) for utterance in self._resolver.utterances(asked))
        is_last = manner.tcp in ("closes", "half", "length too long", "length too short")
        data = _bent(data, manner.tcp)
        if manner.tcp == "trickles":
            for at in range(len(data)):
                self._later(manner.delay_s + (at + 1) * TRICKLE_S, self._sayer(data[at : at + 1], is_last))
            return b""
        if manner.delay_s:
            self._later(manner.delay_s, self._sayer(data, is_last))
            return b""
        self.is_over |= is_last
        return data

    def _sayer(self, data: bytes, is_last: bool) -> Callable[[], None]:
        def say() -> None:
            self.is_over |= is_last
            self._say(data)

        return say

    def end(self) -> bytes:
        """Nothing more."""
        return b""


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _record_sets(name: str, records: Any) -> dict[int, dns.rrset.RRset]:
    if not isinstance(records, Mapping):
        addresses = list(records)
        records = {
            "A": [address for address in addresses if ":" not in address],
            "AAAA": [address for address in addresses if ":" in address],
        }
    ttl = records.get("ttl", TTL)
    sets = [dns.rrset.from_text(name, ttl, "IN", kind, *lines) for kind, lines in records.items() if kind != "ttl"]
    return {one.rdtype: one for one in sets if one}


def _owned(records: dns.rrset.RRset, name: dns.name.Name) -> dns.rrset.RRset:
    """The same records under the name asked for: of a wildcard, or in another case."""
    return dns.rrset.from_rdata_list(name, records.ttl, list(records))


def _line(text: str) -> dns.rrset.RRset:
    name, ttl, _class, kind, data = text.split(maxsplit=4)
    return dns.rrset.from_text(name, int(ttl), "IN", kind, data)


def _lie(raw: bytes, lie: Lie, address: str) -> bytes:
    """A message that an attacker, or a broken server, would send instead of an answer."""
    if lie == "garbage":
        return raw[:2] + b"\xa5" * 62
    if lie == "short":
        return raw[:2] + b"\x81\x80\x00\x01\x00"
    if lie == "empty":
        return b""
    query = dns.message.from_wire(raw, ignore_trailing=True)
    reply = dns.message.make_response(query, recursion_available=True)
    name, kind = query.question[0].name, query.question[0].rdtype
    if lie == "id":
        reply.id ^= 0x5555
    elif lie == "question":
        name = dns.name.from_text("other.test.")
    elif lie == "kind":
        kind = dns.rdatatype.TXT if kind == dns.rdatatype.A else dns.rdatatype.A
    elif lie == "query":
        reply.flags &= ~dns.flags.QR
    elif lie == "opcode":
        reply.flags |= 2 << 11
    reply.question = [dns.rrset.RRset(name, dns.rdataclass.CH if lie == "class" else dns.rdataclass.IN, kind)]
    owner_kind = "AAAA" if ":" in address else "A"
    reply.answer = [dns.rrset.from_text(query.question[0].name, TTL, "IN", owner_kind, address)]
    return reply.to_wire()


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def _bent(data: bytes, manner: str) -> bytes:
    """A framed answer as a server of this manner writes it."""
    if manner in ("silent", "closes"):
        return b""
    if manner == "half":
        return data[: len(data) // 2]
    if manner == "length too long":
        return b"\xff\xff" + data[2:]
    if manner == "length too short":
        return b"\x00\x10" + data[2:]
    if manner == "length 0":
        return b"\x00\x00" + data
    return data
