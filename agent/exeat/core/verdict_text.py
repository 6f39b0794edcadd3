"""A record as a line for people, and as a line of JSON for machines (documented in docs/verdicts.md)."""

from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted

from exeat.core.query_types import query_type_word
from exeat.core.stories import STORIES
from exeat.core.who_text import who_json
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
_PROTOCOL_NUMBERS = {word: number for number, word in _PROTOCOLS.items()}
_PROTOCOL_MAX = 65_535
_LEVELS = {0: "IP", 6: "TCP", 41: "IPv6", 263: "packet sockets", 283: "XDP"}
# Microseconds with three decimals hold no more exactly: thirteen days, which no judgement takes.
JUDGED_NS_MAX = 2**50
_ADDRESSES_KEPT = 4096  # those of a busy host's hour; a scan drives them out, and costs a microsecond each
_WORDS = {
    Verdict.FORWARDED: "allowed",
    Verdict.DROPPED: "denied",
    Verdict.AUDIT: "would be denied",
    Verdict.ERROR: "denied (exeat failed)",
}


def protocol_word(protocol: int) -> str:
    """tcp, udp, icmp ... or the number."""
    return _PROTOCOLS.get(protocol, str(protocol))


def protocol_number(word: str) -> int | None:
    """The other way round; None for what protocol_word() never says."""
    if word in _PROTOCOL_NUMBERS:
        return _PROTOCOL_NUMBERS[word]
    number = int(word) if word.isascii() and word.isdecimal() and len(word) <= len(str(_PROTOCOL_MAX)) else None
    return number if number is not None and number <= _PROTOCOL_MAX and protocol_word(number) == word else None


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
    if record.hook == "agent":
        return f"policy {record.policy}"
    if record.hook == "query":
        return _question(record)
    if record.hook in ("guest", "frame") and record.address is None:
        return "a frame"
    where = f"{protocol_word(record.protocol)} {endpoint(record.address, record.port)}"
    return f"{record.name} ({where})" if record.name else where


def _question(record: Record) -> str:
    name = record.name or "a question"
    if record.reason in (Reason.ADDRESS_WITHHELD, Reason.GRANT_EVICTED, Reason.TABLE_FULL):
        return f"{name} at {record.address}"
    return f"{name} (dns {query_type_word(record.detail)})" if record.detail else name


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def line_for_people(record: Record) -> str:
    """One readable line: what, by whom, why, and what to do."""
    if record.hook == "agent":
        what = _printable(record.evidence or "")
        return f"exeat: notice: {what}: {STORIES[record.reason]} [{record.reason.word}; policy {record.policy}]"
    by = f"policy {record.policy}" + (f", rule {record.rule}" if record.rule else "")
    story = STORIES[record.reason] + (f" ({record.evidence})" if record.evidence else "")
    return (
        f"exeat: {_WORDS[record.verdict]}: {subject_of(record)} by {_who(record)}: {story} [{record.reason.word}; {by}]"
    )


def _who(record: Record) -> str:
    if record.process.pid:
        return f"{_printable(record.process.comm)}[{record.process.pid}]"  # its own choice
    if record.hook == "guest" or (record.hook == "query" and not record.workload.startswith("/")):
        return f"the guest ({record.source})" if record.source else "the guest"  # nobody sees its processes
    return "a packet socket" if record.hook == "frame" else "the kernel"


def json_line(record: Record) -> str:
    """One JSON object, without a line end.

    Put together by hand, in a third of the time that json.dumps() takes; a test compares the two.
    """
    process = record.process
    return (
        f'{{"time":"{time_text(record.time_ns)}"'
        f',"verdict":"{record.verdict.name}"'
        f',"reason":"{record.reason.word}"'
        f',"hook":{_quoted(record.hook)}'
        f',"workload":{_quoted(record.workload)}'
        f',"policy":{_quoted(record.policy)}'
        f',"rule":{_quoted_or_null(record.rule)}'
        f',"process":{{"pid":{process.pid},"comm":{_quoted(process.comm)},"uid":{process.uid}}}'
        f',"protocol":"{protocol_word(record.protocol)}"'
        f',"destination":{_endpoint_json(record.address, record.port)}'
        f',"source":{_endpoint_json(record.source, record.source_port)}'
        f',"name":{_quoted_or_null(record.name)}'
        f',"bytes":{record.bytes}'
        f',"detail":{record.detail or "null"}'
        f',"judged_us":{round(record.judged_ns / 1000, 3)!r}'
        f',"count":{record.count}'
        f',"evidence":{_quoted_or_null(record.evidence)}'
        f',"who":{who_json(record.who) if record.who else "null"}}}'
    )


def time_text(wall_ns: int) -> str:
    """RFC 3339 in UTC, always of one length: as texts they sort as the times do."""
    seconds, nanoseconds = divmod(wall_ns, 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds:09d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _quoted_or_null(text: str | None) -> str:
    return "null" if text is None else _quoted(text)


def _endpoint_json(address: Address | None, port: int) -> str:
    return "null" if address is None else f'{{"address":"{_address_text(address)}","port":{port}}}'


@lru_cache(maxsize=_ADDRESSES_KEPT)
def _address_text(address: Address) -> str:
    return str(address)
