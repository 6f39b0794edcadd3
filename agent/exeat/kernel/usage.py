"""Limits on their way into the kernel, and what the programs have counted against them."""

import ctypes
import struct
import time
from dataclasses import dataclass
from typing import Any

from exeat.kernel import libbpf
from exeat.kernel.abi import DestinationKey, Limited, OrdinalKey
from exeat.kernel.abi import Usage as UsageEntry
from exeat.kernel.entries import LIMITS, Limit, Policy, Workload
from exeat.kernel.instance import Instance
from exeat.model.policy import Limits, Then

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Used:
    """What was counted in one limit's present window; nothing where the last one has ended."""

    count: int = 0
    max: int | None = None  # None: no such limit
    ends_boot_ns: int = 0  # 0: no window has begun


@dataclass(frozen=True, slots=True)
class Usage:
    """A workload's limits, and how far it is from each."""

    bytes: Used
    connections: Used
    destinations: Used


def limit_fields(limits: Limits) -> dict[str, Any]:
    """The fields of a policy's entry that say what its workloads may use up."""
    entries = (Limit * LIMITS)()
    limited = denies = quarantines = 0
    for place in Limited:
        limit = getattr(limits, place.name.lower())
        if limit is None:
            continue
        entries[place] = Limit(limit.max, limit.per_s * _SECOND_NS)
        limited |= 1 << place
        denies |= (limit.then is not Then.REPORT) << place
        quarantines |= (limit.then is Then.QUARANTINE) << place
    return {"limits": entries, "limited": limited, "denies": denies, "quarantines": quarantines}


def read_usage(instance: Instance, cgroup: int) -> Usage:
    """What a workload has used up by now, as the programs would count on."""
    key = struct.pack("<Q", cgroup)
    used = UsageEntry.from_buffer_copy(_entry(instance, "usage", key, UsageEntry))
    bound = Workload.from_buffer_copy(_entry(instance, "workloads", key, Workload))
    policy = Policy.from_buffer_copy(_entry(instance, "policies", struct.pack("<I", bound.policy_id), Policy))
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def of(place: Limited) -> Used:
        if not policy.limited >> place & 1:
            return Used()
        window, limit = used.windows[place], policy.limits[place]
        ends_ns = window.start_ns + limit.per_ns
        is_running = window.start_ns != 0 and now_ns < ends_ns
        return Used(window.count if is_running else 0, limit.max, ends_ns if is_running else 0)

    return Usage(of(Limited.BYTES), of(Limited.CONNECTIONS), of(Limited.DESTINATIONS))


def forget_usage(instance: Instance, cgroup: int) -> None:
    """A workload is gone: what was counted for it goes too, and the addresses that it reached."""
    if not libbpf.delete(instance.map("usage"), struct.pack("<Q", cgroup)):
        return  # it never had a limit, and so no addresses
    for name, key_type in (("destinations", DestinationKey), ("ordinals", OrdinalKey)):
        fd = instance.map(name)
        for key in libbpf.keys(fd, ctypes.sizeof(key_type)):
            if struct.unpack_from("<Q", key)[0] == cgroup:
                libbpf.delete(fd, key)


def _entry(instance: Instance, name: str, key: bytes, kind: type[ctypes.Structure]) -> bytes:
    size = ctypes.sizeof(kind)
    return libbpf.lookup(instance.map(name), key, size) or bytes(size)
