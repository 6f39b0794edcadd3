"""From what an agent reports to what the store keeps: a row for each verdict, and counts by the hour. Pure.

Whatever an agent sends becomes something that both databases take. No agent must be able to make the store refuse,
because what is refused comes again and again: PostgreSQL takes no NUL in a text, no number beyond 63 bits, and no key
of more than 2,700 bytes. Times are the agent's word; absurd ones count as the time of arrival.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from ipaddress import ip_address

from exeat.v1 import plane_pb2 as pb
from exeat.v1 import verdict_pb2

HOUR_NS = 3_600_000_000_000
OTHERS = "(others)"  # the target that stands for all beyond DESTINATIONS_MAX
# Of one workload on one node in an hour. A scan of the internet would be counted for a year, each address by itself.
DESTINATIONS_MAX = 2_000
_DAY_NS = 24 * HOUR_NS
_BODY_MAX = 32 << 10  # bytes of a record
_TEXT_MAX = 4_096  # characters of each text of one that has more: as long as a cgroup's path may be
_LATE_NS = 400 * _DAY_NS  # a verdict that is older than all that is kept was not made then
_MOST = {"workload": 800, "policy": 400, "rule": 200, "target": 600, "hook": 32}  # bytes; with a node's 255, of 2,700
_INT32 = 2**31 - 1

VERDICT_COLUMNS = ("at_ns", "node", "log", "number", "verdict", "workload", "target", "body")
TALLY_KEY = (
    "hour_ns", "node", "workload", "policy", "rule", "target", "port", "protocol", "hook", "verdict", "reason",
)  # fmt: skip

VerdictRow = tuple[int, str, str, int, int, str, str, bytes]
# As a verdict has it: the hour's number, texts as they came, the name or else the address.
_Key = tuple[int, str, str, str, str | bytes, int, int, str, int, int]
TallyKey = tuple[int, str, str, str, str, str, int, int, str, int, int]


class Tally:
    """Of verdicts that are alike."""

    __slots__ = ("count", "first_ns", "key", "last_ns")

    def __init__(self, key: TallyKey, at_ns: int) -> None:
        self.key = key
        self.count = 0
        self.first_ns = self.last_ns = at_ns

    def add(self, other: "Tally") -> None:
        """The same, counted elsewhere."""
        self.count += other.count
        self.first_ns = min(self.first_ns, other.first_ns)
        self.last_ns = max(self.last_ns, other.last_ns)


class Spread:
    """How many destinations each workload has been counted with in an hour; remembered for a few hours."""

    def __init__(self) -> None:
        self._hours: dict[int, dict[tuple[str, str], set[int]]] = {}

    def has_room(self, hour_ns: int, node: str, workload: str, target: str) -> bool:
        """Whether the destination is counted by itself."""
        if hour_ns not in self._hours:
            self._hours[hour_ns] = {}
            if len(self._hours) > 3:
                del self._hours[next(iter(self._hours))]
        known = self._hours[hour_ns].setdefault((node, workload), set())
        mark = hash(target)  # one taken for another is counted by itself as well: no harm
        if mark not in known and len(known) >= DESTINATIONS_MAX:
            return False
        known.add(mark)
        return True


class Sheet:
    """What is to be stored of one log of a node."""

    def __init__(self, node: str, log: str, spread: Spread) -> None:
        self.node, self.log = node, log
        self.rows: list[VerdictRow] = []
        self._spread = spread
        self._seen: dict[_Key, tuple[Tally, str, str]] = {}  # with the workload and the target as they are kept

    def tallies(self) -> Iterator[Tally]:
        """A key may come twice."""
        return (tally for tally, _, _ in self._seen.values())

    def add(self, verdicts: Iterable[pb.NumberedVerdict], after: int, now_ns: int) -> None:
        """Those with a number beyond `after`."""
        earliest, latest = now_ns - _LATE_NS, now_ns + _DAY_NS
        node, log, append, seen = self.node, self.log, self.rows.append, self._seen
        for numbered in verdicts:
            number = numbered.number
            if number <= after:
                continue
            record = numbered.verdict
            time = record.time
            at_ns = time.seconds * 1_000_000_000 + time.nanos
            if not earliest <= at_ns <= latest:
                at_ns = now_ns
            destination, verdict = record.destination, record.verdict
            key = (
                at_ns // HOUR_NS, called(record), record.policy, record.rule, record.name or destination.address,
                destination.port, record.protocol, record.hook, verdict, record.reason,
            )  # fmt: skip
            found = seen.get(key)
            if found is None:
                found = seen[key] = self._begin(key, at_ns)
            tally, workload, target = found
            tally.count += record.count or 1
            if at_ns < tally.first_ns:
                tally.first_ns = at_ns
            elif at_ns > tally.last_ns:
                tally.last_ns = at_ns
            body = record.SerializeToString()
            if len(body) > _BODY_MAX:
                body = _cut(record)
            append((at_ns, node, log, number, verdict, workload, target, body))

    def _begin(self, key: _Key, at_ns: int) -> tuple[Tally, str, str]:
        hour, raw_workload, policy, rule, name_or_address, port, protocol, hook, verdict, reason = key
        hour_ns = hour * HOUR_NS
        workload, target = kept(raw_workload, "workload"), kept(_target(name_or_address), "target")
        port, protocol = min(port, _INT32), min(protocol, _INT32)
        has_room = self._spread.has_room(hour_ns, self.node, workload, target)
        where = (target, port) if has_room else (OTHERS, 0)
        words = (workload, kept(policy, "policy"), kept(rule, "rule"))
        tally_key = (hour_ns, self.node, *words, *where, protocol, kept(hook, "hook"), verdict, reason)
        return Tally(tally_key, at_ns), workload, target


def called(record: verdict_pb2.VerdictRecord) -> str:
    """What people call its workload; else where it is. A container has another cgroup each time."""
    return record.who.name or record.workload


def _cut(record: verdict_pb2.VerdictRecord) -> bytes:
    """A record that nobody honest makes, as far as it is worth to be kept."""
    small = verdict_pb2.VerdictRecord()
    small.CopyFrom(record)
    small.DiscardUnknownFields()
    small.who.ClearField("labels")
    for one in (small, small.process, small.who):
        for field, value in one.ListFields():
            if isinstance(value, str):
                setattr(one, field.name, value[:_TEXT_MAX])
    for end in (small.destination, small.source):
        end.address = end.address[:16]
    return small.SerializeToString()


def kept(text: str, column: str) -> str:
    """A text as it can be kept: without NUL, and cut where it is too long, with a hash of the whole."""
    most = _MOST[column]
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    if len(text) * 4 <= most or len(text.encode()) <= most:
        return text
    mark = f"...{sha256(text.encode()).hexdigest()[:16]}"
    return text.encode()[: most - len(mark)].decode(errors="ignore") + mark


def _target(name_or_address: str | bytes) -> str:
    if isinstance(name_or_address, str):
        return name_or_address.lower().removesuffix(".")
    try:
        return str(ip_address(name_or_address)) if name_or_address else ""
    except ValueError:
        return name_or_address.hex()
