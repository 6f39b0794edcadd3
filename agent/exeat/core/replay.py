"""Recorded verdicts judged again, by another policy: what would newly be denied, what newly allowed.

A verdict does not tell everything. Which name led to an address without a hello is not in it, so each name that the
workload had resolved may have been the one: only if all of them come to the same, that is the answer. Else it is
undecided, and said so. What no policy decides (a broken hello, a raw socket) is not judged again.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol as Interface

from exeat.core.cases import Attempt, Ruling
from exeat.core.query_types import QUERY_TYPES
from exeat.core.steps import step_of
from exeat.core.verdict_text import subject_of
from exeat.model.names import NAME_MAX
from exeat.model.networks import Address
from exeat.model.policy import Protocol
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict

_R = Reason
_PROTOCOLS = {1: Protocol.ICMP, 58: Protocol.ICMP, 6: Protocol.TCP, 17: Protocol.UDP}
_FLOWS = ("connect", "send", "hello", "packet")
_QUESTIONS = frozenset((_R.RESOLVED, _R.OPEN_MODE, _R.NAME_NOT_ALLOWED, _R.DOH_HOST, _R.RULE_EXPIRED, _R.QUERY_TYPE))
_ALWAYS = frozenset((_R.POLICY_EXPIRED, _R.QUARANTINED, _R.UPSTREAM_FAILED, _R.NO_POLICY))  # judged like an allowance
_DESTINATION = frozenset(
    (
        *(_R.NETWORK_ALLOWED, _R.NAME_ALLOWED, _R.GRANTED, _R.OPEN_MODE, _R.ADDRESS_NOT_ALLOWED, _R.PORT_NOT_ALLOWED),
        *(_R.RULE_EXPIRED, _R.POLICY_EXPIRED, _R.QUARANTINED, _R.LOOPBACK_NOT_OWN, _R.NOT_RESOLVED, _R.GRANT_EXPIRED),
        *(_R.DNS_ELSEWHERE, _R.DNS_OVER_TLS, _R.MULTICAST_DNS, _R.LLMNR, _R.NETBIOS, _R.NO_POLICY, _R.ECH),
        *(_R.NAME_NOT_ALLOWED, _R.NAME_NOT_RESOLVED, _R.NAME_ELSEWHERE, _R.DOH_HOST, _R.NOT_TLS, _R.SNI_MISSING),
    )
)
_BY_GRANT = frozenset(
    (_R.GRANTED, _R.OPEN_MODE, _R.PORT_NOT_ALLOWED, _R.RULE_EXPIRED, _R.GRANT_EXPIRED, _R.NOT_TLS, _R.SNI_MISSING)
)
_UNRESOLVED = frozenset((_R.NAME_NOT_RESOLVED, _R.NAME_ELSEWHERE))
_WANTS_HELLO = frozenset((_R.NOT_TLS, _R.SNI_MISSING))
_ADDRESSES = frozenset((QUERY_TYPES["A"], QUERY_TYPES["AAAA"]))
_NOBODY = Process(0, "", 0)
_CANDIDATES_MAX = 64  # names that may have led to an address; with more it is undecided


class Judge(Interface):
    """A policy that says what would come of things."""

    @property
    def allows_icmp(self) -> bool:
        """Whether sockets for pings may be made."""

    def question(self, name: str, kind: int) -> Ruling:
        """What the gate says to a question."""

    def attempt(self, attempt: Attempt) -> Ruling:
        """What would come of it."""

    def withholds(self, address: Address) -> bool:
        """Whether the gate takes an address out of answers."""


@dataclass(frozen=True, slots=True)
class Row:
    """What happened to one destination, then and now."""

    subject: str
    count: int
    was_allowed: bool
    was: Reason
    was_by: str | None  # the rule, as the recorded policy names it
    now: Ruling | None  # None: undecided


@dataclass(frozen=True, slots=True)
class Replay:
    """All of it: rows of what changed, most frequent first, and counts of what did not."""

    newly_denied: tuple[Row, ...]
    newly_allowed: tuple[Row, ...]
    undecided: tuple[Row, ...]
    still_allowed: int
    still_denied: int
    not_judged: tuple[tuple[str, int], ...]  # by reason, and how often


class Recorded:
    """Verdicts, the equal ones together: a log of a month has few different ones."""

    def __init__(self) -> None:
        self._counts: Counter[Record] = Counter()
        self._asked: defaultdict[str, set[str]] = defaultdict(set)  # by workload: names that were resolved
        self._said: defaultdict[tuple[str, Address], set[str]] = defaultdict(set)  # names of hellos there
        self._spoke: set[tuple[str, Address, int]] = set()

    def add(self, record: Record) -> None:
        """Take a verdict in, in whatever order."""
        anonymous = replace(
            record, time_ns=0, process=_NOBODY, source=None, source_port=0, bytes=0, judged_ns=0, count=1, evidence=None
        )
        self._counts[anonymous] += record.count
        if record.hook == "query" and record.name and record.verdict is not Verdict.DROPPED:
            if record.detail not in _ADDRESSES:
                return
            self._asked[record.workload].add(record.name.lower())
        elif step_of(record) == "hello" and record.address is not None:
            self._spoke.add((record.workload, record.address, record.port))
            if record.name and record.reason not in _UNRESOLVED:
                self._said[record.workload, record.address].add(record.name.lower())

    def records(self) -> Iterable[Record]:
        """Each different verdict once, with its count."""
        return (replace(record, count=count) for record, count in self._counts.items())

    def names_at(self, record: Record) -> tuple[str, ...]:
        """The names that were resolved, as far as is known, to where a verdict is about: those of hellos there."""
        if record.address is None:
            return ()
        return tuple(sorted(self._said[record.workload, record.address] & self._asked[record.workload]))

    def attempts(self, record: Record) -> tuple[Attempt, ...] | None:
        """What the program may have tried, each of them possible; None: nothing that a policy decides."""
        protocol = _PROTOCOLS.get(record.protocol)
        step = step_of(record)
        if record.reason not in _DESTINATION or step not in _FLOWS or protocol is None or not record.address:
            return None
        if step != "hello" and (record.workload, record.address, record.port) in self._spoke:
            return None  # its hello says more
        plain = Attempt(protocol, record.port if protocol is not Protocol.ICMP else 0, None, record.address)
        if record.name and record.reason not in _WANTS_HELLO:
            return tuple(self._hellos(record, plain, record.name.lower()))
        if record.reason not in _BY_GRANT or protocol is Protocol.ICMP:
            return (plain,)
        if said := self.names_at(record):
            return tuple(replace(plain, name=name) for name in said)
        names = sorted(self._asked[record.workload])
        if len(names) > _CANDIDATES_MAX:
            return ()
        possible = tuple(replace(plain, name=name) for name in names)
        return possible if record.reason is Reason.GRANTED else (plain, *possible)  # it may have known the address

    def _hellos(self, record: Record, plain: Attempt, name: str) -> Iterable[Attempt]:
        if len(name) > NAME_MAX or not name.isascii():
            return
        hello = replace(plain, protocol=Protocol.TLS, name=name, has_ech=record.reason is Reason.ECH)
        is_asked = name in self._asked[record.workload]
        if is_asked and record.reason not in _UNRESOLVED:
            yield hello
        else:
            yield replace(hello, is_resolved=False)
            if record.reason is Reason.NAME_ALLOWED:  # who asked for it may not be in the log
                yield hello


def replay(recorded: Recorded, judge: Judge) -> Replay:
    """Judges everything again."""
    rows: defaultdict[tuple[str, bool, Reason, str | None, Ruling | None], int] = defaultdict(int)
    still: Counter[bool] = Counter()
    not_judged: Counter[str] = Counter()
    for record in recorded.records():
        is_judged, ruling = _judged(record, recorded, judge)
        was_allowed = record.verdict is Verdict.FORWARDED
        if not is_judged:
            not_judged[record.reason.word] += record.count
        elif ruling is not None and ruling.is_allowed is was_allowed:
            still[was_allowed] += record.count
        else:
            rows[subject_of(record), was_allowed, record.reason, record.rule, ruling] += record.count
    found = [Row(subject, count, was, reason, by, now) for (subject, was, reason, by, now), count in rows.items()]
    found.sort(key=lambda row: (-row.count, row.subject))
    return Replay(
        newly_denied=tuple(row for row in found if row.now and row.was_allowed),
        newly_allowed=tuple(row for row in found if row.now and not row.was_allowed),
        undecided=tuple(row for row in found if row.now is None),
        still_allowed=still[True],
        still_denied=still[False],
        not_judged=tuple(sorted(not_judged.items())),
    )


def _judged(record: Record, recorded: Recorded, judge: Judge) -> tuple[bool, Ruling | None]:
    """Whether a policy decides it at all, and how this one does; None: undecided."""
    if record.verdict is Verdict.ERROR:
        return False, None
    if record.hook == "query":
        return _question(record, judge)
    if record.hook == "socket":
        is_icmp = _PROTOCOLS.get(record.protocol) is Protocol.ICMP
        if not is_icmp or record.reason not in (Reason.ICMP_NOT_ALLOWED, Reason.OPEN_MODE):
            return False, None
        return True, Ruling(
            judge.allows_icmp, Reason.NETWORK_ALLOWED if judge.allows_icmp else _R.ICMP_NOT_ALLOWED, None
        )
    attempts = recorded.attempts(record)
    if attempts is None:
        return False, None
    return True, _agreed(record, attempts, judge)


def _question(record: Record, judge: Judge) -> tuple[bool, Ruling | None]:
    name = (record.name or "").lower()
    if record.detail == QUERY_TYPES["PTR"]:
        return False, None  # answered from what was granted
    if record.reason is Reason.ADDRESS_WITHHELD and record.address is not None:
        ruling = judge.question(name, QUERY_TYPES["A"])
        if ruling.is_allowed and judge.withholds(record.address):
            ruling = replace(ruling, is_allowed=False, reason=Reason.ADDRESS_WITHHELD)
        return True, ruling
    if not name or record.reason not in _QUESTIONS | _ALWAYS:
        return False, None
    return True, judge.question(name, record.detail)


def _agreed(record: Record, attempts: tuple[Attempt, ...], judge: Judge) -> Ruling | None:
    """The ruling to which every possible attempt comes."""
    plain = [replace(attempt, name=None) for attempt in attempts[:1] if attempt.protocol is not Protocol.TLS]
    for attempt in plain:
        ruling = judge.attempt(attempt)
        if ruling.is_allowed:  # by a network, whatever was resolved
            return ruling
    rulings = [judge.attempt(attempt) for attempt in attempts]
    if not rulings or len({ruling.is_allowed for ruling in rulings}) > 1:
        return None
    ruling = rulings[0]
    if ruling.reason in _WANTS_HELLO:
        return replace(ruling, reason=record.reason) if record.reason in _WANTS_HELLO else None
    return ruling
