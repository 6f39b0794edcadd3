"""Turns the kernel's events into records: ids into names, boot time into wall-clock time."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from exeat.kernel.abi import Event, Hook
from exeat.model.networks import MAPPED_PREFIX, Address
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict


@dataclass(frozen=True, slots=True)
class Naming:
    """What a policy's ids stand for."""

    policy: str
    rules: tuple[str, ...]


def address_of(raw: bytes) -> Address | None:
    """An address out of the kernel's 16 bytes; None where there was none."""
    if raw in (bytes(16), MAPPED_PREFIX + bytes(4)):
        return None
    return IPv4Address(raw[12:]) if raw[:12] == MAPPED_PREFIX else IPv6Address(raw)


def escaped(raw: bytes) -> str:
    """A name for people and JSON, whatever bytes were sent as one."""
    return "".join(chr(byte) if 0x21 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in raw)


def tell(event: Event, workloads: Mapping[int, str], policies: Mapping[int, Naming]) -> Record:
    """One event in words."""
    naming = policies.get(event.policy_id, Naming(policy="", rules=()))
    name = bytes(event.name[: event.name_length])
    return Record(
        time_ns=event.at_ns + time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        verdict=Verdict(event.verdict),
        reason=Reason(event.reason),
        hook=Hook(event.hook).name.lower(),
        workload=workloads.get(event.workload, f"cgroup {event.workload}"),
        policy=naming.policy,
        rule=naming.rules[event.rule_id - 1] if 0 < event.rule_id <= len(naming.rules) else None,
        process=Process(event.pid, event.comm.decode(errors="replace"), event.uid),
        protocol=event.protocol,
        address=address_of(bytes(event.address)),
        port=int.from_bytes(bytes(event.port), "big"),
        source=address_of(bytes(event.source)),
        source_port=int.from_bytes(bytes(event.source_port), "big"),
        name=escaped(name) or None,
        bytes=event.bytes,
        detail=event.detail,
        judged_ns=event.judged_ns,
    )
