"""A record as a line for people, and as a line of JSON for machines (documented in docs/verdicts.md)."""

import json
from datetime import UTC, datetime

from exeat.core.query_types import query_type_word
from exeat.core.stories import STORIES
from exeat.model.networks import Address
from exeat.model.record import Record
from exeat.model.verdicts import Reason, Verdict

_PROTOCOLS = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
    255: "raw",
    262: "mptcp",
}
_LEVELS = {0: "IP", 6: "TCP", 41: "IPv6"}
_WORDS = {
    Verdict.FORWARDED: "allowed",
    Verdict.DROPPED: "denied",
    Verdict.AUDIT: "would be denied",
    Verdict.ERROR: "denied (exeat failed)",
}


def protocol_word(protocol: int) -> str:
    """tcp, udp, icmp ... or the number."""
    return _PROTOCOLS.get(protocol, str(protocol))


def endpoint(address: Address | None, port: int) -> str:
    """203.0.113.7:443, [2001:db8::7]:443, or the address alone where there is no port."""
    if address is None:
        return "no address"
    if port == 0:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def subject_of(record: Record) -> str:
    """What was asked for, in a few words: it also tells one destination from another."""
    if record.reason is Reason.SOCKET_OPTION:
        level = record.detail >> 16
        return f"socket option {record.detail & 0xFFFF} of {_LEVELS.get(level, level)}"
    if record.hook == "socket":
        return f"a socket of protocol {protocol_word(record.protocol)}"
    if record.hook == "query":
        return _question(record)
    where = f"{protocol_word(record.protocol)} {endpoint(record.address, record.port)}"
    return f"{record.name} ({where})" if record.name else where


def _question(record: Record) -> str:
    name = record.name or "a question"
    if record.reason in (Reason.ADDRESS_WITHHELD, Reason.GRANT_EVICTED, Reason.TABLE_FULL):
        return f"{name} at {record.address}"
    return f"{name} (dns {query_type_word(record.detail)})" if record.detail else name


def line_for_people(record: Record) -> str:
    """One readable line: what, by whom, why, and what to do."""
    comm = "".join(letter if letter.isprintable() else "?" for letter in record.process.comm)  # its own choice
    who = f"{comm}[{record.process.pid}]" if record.process.pid else "the kernel"
    by = f"policy {record.policy}" + (f", rule {record.rule}" if record.rule else "")
    story = STORIES[record.reason] + (f" ({record.evidence})" if record.evidence else "")
    return f"exeat: {_WORDS[record.verdict]}: {subject_of(record)} by {who}: {story} [{record.reason.word}; {by}]"


def json_line(record: Record) -> str:
    """One JSON object, without a line end."""
    seconds, nanoseconds = divmod(record.time_ns, 1_000_000_000)
    when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{nanoseconds:09d}Z"
    return json.dumps(
        {
            "time": when,
            "verdict": record.verdict.name,
            "reason": record.reason.word,
            "hook": record.hook,
            "workload": record.workload,
            "policy": record.policy,
            "rule": record.rule,
            "process": {"pid": record.process.pid, "comm": record.process.comm, "uid": record.process.uid},
            "protocol": protocol_word(record.protocol),
            "destination": _endpoint_json(record.address, record.port),
            "source": _endpoint_json(record.source, record.source_port),
            "name": record.name,
            "bytes": record.bytes,
            "detail": record.detail or None,
            "judged_us": round(record.judged_ns / 1000, 3),
            "count": record.count,
            "evidence": record.evidence,
        },
        separators=(",", ":"),
    )


def _endpoint_json(address: Address | None, port: int) -> dict[str, object] | None:
    return None if address is None else {"address": str(address), "port": port}
