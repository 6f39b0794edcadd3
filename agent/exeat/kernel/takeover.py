"""What an agent before this one left in the kernel, read back: who is judged by what, and what was granted."""

import ctypes
import struct
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from exeat.core.grants import SOMEWHERE
from exeat.kernel import libbpf
from exeat.kernel.abi import NEVER, KernelMode
from exeat.kernel.entries import (
    GateKey,
    Grant,
    GrantedKey,
    GrantKey,
    HostKey,
    NetworkKey,
    Policy,
    PortKey,
    Settings,
    Workload,
)
from exeat.kernel.instance import Instance
from exeat.model.policy import Mode

GrantLeft = tuple[str, bytes, int, int]  # name, address, ports within the policy, end on the boot clock
_OWNED = (  # by ids of a policy, which stand there in a key
    ("granted", GrantedKey, GrantedKey.policy_id.offset),
    ("grants", GrantKey, GrantKey.policy_id.offset),
    ("networks", NetworkKey, NetworkKey.policy_id.offset),
    ("ports", PortKey, PortKey.ports_id.offset),
    ("hosts", HostKey, HostKey.names_id.offset),
)


@dataclass(frozen=True, slots=True)
class Left:
    """A workload as the kernel knows it."""

    policy_id: int
    mode: Mode | None  # in place of its policy's
    mode_until_ns: int  # boot clock; NEVER: until changed


def workloads_left(instance: Instance) -> dict[int, Left]:
    """By cgroup id."""
    found = {}
    fd = instance.map("workloads")
    for key in libbpf.keys(fd, 8):
        raw = libbpf.lookup(fd, key, ctypes.sizeof(Workload))
        if raw:
            entry = Workload.from_buffer_copy(raw)
            mode = Mode[KernelMode(entry.mode_override).name] if entry.mode_override else None
            found[struct.unpack("<Q", key)[0]] = Left(entry.policy_id, mode, entry.override_until_ns if mode else NEVER)
    return found


def policies_left(instance: Instance) -> dict[int, int]:
    """How many ids each policy has, by its id."""
    found = {}
    fd = instance.map("policies")
    for key in libbpf.keys(fd, 4):
        raw = libbpf.lookup(fd, key, ctypes.sizeof(Policy))
        if raw:
            found[struct.unpack("<I", key)[0]] = Policy.from_buffer_copy(raw).ids
    return found


def grants_left(instance: Instance) -> dict[int, list[GrantLeft]]:
    """By policy id. That a name was resolved at all follows from its grants."""
    found = defaultdict(list)
    fd = instance.map("grants")
    for raw_key in libbpf.keys(fd, ctypes.sizeof(GrantKey)):
        key = GrantKey.from_buffer_copy(raw_key)
        raw = libbpf.lookup(fd, raw_key, ctypes.sizeof(Grant))
        if raw is None or bytes(key.address) == SOMEWHERE:
            continue
        grant = Grant.from_buffer_copy(raw)
        name = bytes(key.reversed).rstrip(b"\0")[::-1].decode("ascii", "replace")
        ports_id = grant.ports_id and grant.ports_id - key.policy_id
        found[int(key.policy_id)].append((name, bytes(key.address), ports_id, int(grant.until_ns)))
    return found


def have_sockets_look_again(instance: Instance) -> None:
    """An agent that was killed may have bound a workload, and not yet told the sockets that were open before."""
    fd, key = instance.map("settings"), struct.pack("<I", 0)
    raw = libbpf.lookup(fd, key, ctypes.sizeof(Settings))
    settings = Settings.from_buffer_copy(raw) if raw else Settings()
    settings.epoch = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    libbpf.update(fd, key, bytes(settings))


def first_free_id(instance: Instance, policies: Mapping[int, int]) -> int:
    """No policy had this id yet, or a higher one."""
    raw = libbpf.lookup(instance.map("settings"), struct.pack("<I", 0), ctypes.sizeof(Settings))
    given = Settings.from_buffer_copy(raw).next_policy_id if raw else 0
    return max([given, 1, *(base + ids for base, ids in policies.items())])


def remove_strays(instance: Instance, policies: Mapping[int, int], newer: int) -> int:
    """Removes entries of which an agent was killed while it wrote or removed their table set; how many.

    `policies` are those that it left, with their numbers of ids. Ids from `newer` on are not touched.
    """
    bases = sorted(policies)
    count = 0
    for name, key_type, at in _OWNED:
        fd = instance.map(name)
        for key in libbpf.keys(fd, ctypes.sizeof(key_type)):
            owner = struct.unpack_from("<I", key, at)[0]
            base = bases[place - 1] if (place := bisect_right(bases, owner)) else 0
            if owner < newer and not 0 < base <= owner < base + policies.get(base, 0):
                count += libbpf.delete(fd, key)
    return count


def forget_gates(instance: Instance, workload: int) -> None:
    """Removes where gates of a workload listened that has gone."""
    fd = instance.map("gates")
    for raw_key in libbpf.keys(fd, ctypes.sizeof(GateKey)):
        if GateKey.from_buffer_copy(raw_key).workload == workload:
            libbpf.delete(fd, raw_key)
