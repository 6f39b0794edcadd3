"""Turns the kernel's events into records: ids into names, boot time into wall-clock time."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from exeat.kernel.abi import Hook
from exeat.kernel.clock import clock_offset_ns
from exeat.kernel.events import Event
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.model.identity import Who
from exeat.model.networks import MAPPED_PREFIX, Address
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict

_NOWHERE = (bytes(16), MAPPED_PREFIX + bytes(4))
_HOOKS = {hook.value: hook.name.lower() for hook in Hook}
_VERDICTS = {verdict.value: verdict for verdict in Verdict}
_REASONS = {reason.value: reason for reason in Reason}
# A busy host's last minutes. What a workload makes up, to drive them out, costs it more than us.
_ADDRESSES_KEPT = 4096
_NAMES_KEPT = 1024
_PROCESSES_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Naming:
    """What a policy's ids stand for."""

    policy: str
    rules: tuple[str, ...]


_UNNAMED = Naming(policy="", rules=())
_NOBODY: Mapping[int, Who] = {}


@lru_cache(maxsize=_ADDRESSES_KEPT)
def address_of(raw: bytes) -> Address | None:
    """An address out of the kernel's 16 bytes; None where there was none."""
    if raw in _NOWHERE:
        return None
    return IPv4Address(raw[12:]) if raw[:12] == MAPPED_PREFIX else IPv6Address(raw)


@lru_cache(maxsize=_NAMES_KEPT)
def escaped(raw: bytes) -> str:
    """A name for people and JSON, whatever bytes were sent as one."""
    return "".join(chr(byte) if 0x21 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in raw)


@lru_cache(maxsize=_PROCESSES_KEPT)
def _process(pid: int, comm: bytes, uid: int) -> Process:
    return Process(pid, comm.partition(b"\0")[0].decode(errors="replace"), uid)


def _unknown(workload: int) -> str:
    """One that has gone, before its last verdict was read."""
    is_guest = workload & INTERFACE_BIT
    return f"interface {workload & ~INTERFACE_BIT}" if is_guest else f"cgroup {workload}"


def tell(
    event: Event, workloads: Mapping[int, str], policies: Mapping[int, Naming], whos: Mapping[int, Who] = _NOBODY
) -> Record:
    """One event in words."""
    naming = policies.get(event.policy_id, _UNNAMED)
    rule = event.rule_id
    return Record(
        time_ns=event.at_ns + clock_offset_ns(),
        verdict=_VERDICTS.get(event.verdict) or Verdict(event.verdict),
        reason=_REASONS.get(event.reason) or Reason(event.reason),
        hook=_HOOKS.get(event.hook) or Hook(event.hook).name.lower(),
        workload=workloads.get(event.workload) or _unknown(event.workload),
        policy=naming.policy,
        rule=naming.rules[rule - 1] if 0 < rule <= len(naming.rules) else None,
        process=_process(event.pid, event.comm, event.uid),
        protocol=event.protocol,
        address=address_of(event.address),
        port=int.from_bytes(event.port, "big"),
        source=address_of(event.source),
        source_port=int.from_bytes(event.source_port, "big"),
        name=escaped(event.name[: event.name_length]) if event.name_length else None,
        bytes=event.bytes,
        detail=event.detail,
        judged_ns=event.judged_ns,
        who=whos.get(event.workload),
    )
