"""What upstream said, for as long as it may be repeated. Pure: time is an argument, in nanoseconds of any steady clock.

Least recently used entries go first, and both their number and their size are bounded, because what is in here is
chosen by whoever answers the names that a workload may ask for.
"""

from collections import OrderedDict
from dataclasses import dataclass

from exeat.dns.records import Kind, Rcode, Record, Reply

_S = 1_000_000_000
TTL_MAX_S = 86_400  # no grant lives longer than a day, so nobody is told to keep an answer for longer
HERD_S = 1  # a TTL of 0 forbids to keep an answer, but those who ask at the same moment may share it
NEGATIVE_MIN_S = 1
NEGATIVE_MAX_S = 300  # RFC 2308, 5 allows hours; a name that is put up while its user waits should not take as long
NO_SOA_S = 5  # RFC 2308, 5 forbids to keep what has no SOA; a program in a loop must not reach upstream each time
FAILURE_S = 1  # RFC 9520, 3.2: failures are kept for a second at least

# What one takes in CPython beside names and data, by tracemalloc on 3.11 (410 and 140), rounded up.
_ENTRY_BYTES = 450
_RECORD_BYTES = 150

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer that was kept. `reply` is None where nobody answered."""

    reply: Reply | None
    stored_ns: int
    expires_ns: int
    size: int

    def records(self, now_ns: int) -> tuple[Record, ...]:
        """The answer's records, with their TTLs counted down to now and never longer than a day."""
        if self.reply is None:
            return ()
        age_s = max(0, now_ns - self.stored_ns) // _S
        return tuple(  # dataclasses.replace() takes twice as long, and most answers come from here
            Record(record.name, record.kind, max(0, min(record.ttl, TTL_MAX_S) - age_s), record.data)
            for record in self.reply.records
        )


class Cache:
    """Answers by question."""

    def __init__(self, limit: int = 10_000, limit_bytes: int = 16 << 20) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """About so many bytes are taken."""
        return self._bytes

    def get(self, name: str, kind: int, now_ns: int) -> Entry | None:
        """The entry that still answers this question, if there is one."""
        key = (name, kind)
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_ns <= now_ns:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, name: str, kind: int, reply: Reply | None, now_ns: int) -> Entry:
        """Keep what was answered to this question, instead of what was kept; None: nobody answered."""
        key = (name, kind)
        entry = Entry(reply, now_ns, now_ns + lifetime_s(reply, kind) * _S, _size(name, reply))
        if key in self._entries:
            self._drop(key)
        if entry.size > self._limit_bytes:
            return entry
        self._entries[key] = entry
        self._bytes += entry.size
        while len(self._entries) > self._limit or self._bytes > self._limit_bytes:
            self._drop(next(iter(self._entries)))
        return entry

    def clear(self) -> None:
        """Forget all, as when the upstream resolvers have changed."""
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: Key) -> None:
        self._bytes -= self._entries.pop(key).size


def lifetime_s(reply: Reply | None, kind: int) -> int:
    """How long an answer may be repeated."""
    if reply is None or reply.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
        return FAILURE_S
    ttls = [record.ttl for record in reply.records]
    if reply.rcode == Rcode.NOERROR and any(kind in (record.kind, Kind.ANY) for record in reply.records):
        return min(max(min(ttls), HERD_S), TTL_MAX_S)
    # An alias to what does not exist lives as long as the shorter of the two facts.
    negative = NO_SOA_S if reply.negative_ttl is None else reply.negative_ttl
    return min(max(min([negative, *ttls]), NEGATIVE_MIN_S), NEGATIVE_MAX_S)


def _size(name: str, reply: Reply | None) -> int:
    records = reply.records if reply else ()
    return _ENTRY_BYTES + len(name) + sum(_RECORD_BYTES + len(record.name) + len(record.data) for record in records)
