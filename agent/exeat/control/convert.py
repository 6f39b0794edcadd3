"""Verdicts between the agent's own form and the API's."""

from functools import lru_cache
from ipaddress import ip_address

from exeat.core.who_text import TEXTS
from exeat.errors import ExeatError
from exeat.model.identity import Who
from exeat.model.networks import Address
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict
from exeat.v1 import verdict_pb2 as pb

_SECOND = 1_000_000_000


def to_wire(record: Record) -> pb.VerdictRecord:
    """For the asker. Text that is no Unicode, as a cgroup's name may be, is escaped."""
    message = pb.VerdictRecord(
        verdict=pb.Verdict.ValueType(record.verdict),
        reason=pb.Reason.ValueType(record.reason),
        hook=record.hook,
        workload=_text(record.workload),
        policy=_text(record.policy),
        process=pb.Process(pid=record.process.pid, comm=_text(record.process.comm), uid=record.process.uid),
        protocol=record.protocol,
        bytes=record.bytes,
        detail=record.detail,
        judged_ns=record.judged_ns,
        count=record.count,
    )
    message.time.seconds, message.time.nanos = divmod(record.time_ns, _SECOND)
    if record.address is not None:
        message.destination.address, message.destination.port = record.address.packed, record.port
    if record.source is not None:
        message.source.address, message.source.port = record.source.packed, record.source_port
    if record.rule is not None:
        message.rule = _text(record.rule)
    if record.name is not None:
        message.name = _text(record.name)
    if record.evidence is not None:
        message.evidence = _text(record.evidence)
    if record.who is not None:
        message.who.CopyFrom(who_to_wire(record.who))
    return message


@lru_cache(maxsize=4096)
def who_to_wire(who: Who) -> pb.Who:
    """Not to be changed by who gets it: the next verdict of the workload carries it too."""
    return pb.Who(**{key: _text(getattr(who, key)) for key in TEXTS}, labels=dict(who.labels))


def who_from_wire(message: pb.Who) -> Who:
    """At the other end."""
    texts = {key: getattr(message, key) for key in TEXTS}
    return Who(**texts, labels=tuple(sorted(message.labels.items())))


def from_wire(message: pb.VerdictRecord) -> Record:
    """At the asker's end. Raises ExeatError where it is of a newer exeat, or no verdict."""
    try:
        return Record(
            time_ns=message.time.seconds * _SECOND + message.time.nanos,
            verdict=Verdict(message.verdict),
            reason=Reason(message.reason),
            hook=message.hook,
            workload=message.workload,
            policy=message.policy,
            rule=message.rule or None,
            process=Process(message.process.pid, message.process.comm, message.process.uid),
            protocol=message.protocol,
            address=_address(message.destination.address),
            port=message.destination.port,
            source=_address(message.source.address),
            source_port=message.source.port,
            name=message.name or None,
            bytes=message.bytes,
            detail=message.detail,
            judged_ns=message.judged_ns,
            count=message.count,
            evidence=message.evidence or None,
            who=who_from_wire(message.who) if message.HasField("who") else None,
        )
    except ValueError as error:
        raise ExeatError(f"the agent told a verdict that this exeat does not know ({error}): update it") from error


def _address(packed: bytes) -> Address | None:
    return ip_address(packed) if packed else None


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text
