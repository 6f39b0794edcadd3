"""Writes table sets and bindings into the kernel, reads counters back, and asks the judge there."""

import ctypes
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from exeat.errors import KernelError
from exeat.kernel import libbpf
from exeat.kernel.abi import NEVER, REASONS, VERDICTS, KernelMode, Outcome, Question, Traffic
from exeat.kernel.entries import (
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
from exeat.kernel.usage import Usage, forget_usage, limit_fields, read_usage
from exeat.model import tables as model
from exeat.model.policy import Mode
from exeat.model.verdicts import Reason, Verdict

_ETHERNET_HEADER = 14
_NETWORK = struct.Struct("<II16s")
_PORT_KEY = struct.Struct("<IIBx")
_PORT = struct.Struct("<QQQIIIxxxx")
_HOST_KEY = struct.Struct("<II252s")
_SLOT = struct.Struct("<QQII")
_HOST_END = struct.Struct("<HBB4x")  # after two slots


def boot_ns(wall_ns: int, *, now_wall_ns: int | None = None) -> int:
    """The kernel's clock at a wall-clock time; what is past becomes 1: over, not never allowed."""
    if wall_ns >= NEVER or wall_ns == 0:
        return wall_ns
    now = time.time_ns() if now_wall_ns is None else now_wall_ns
    return max(1, wall_ns - now + time.clock_gettime_ns(time.CLOCK_BOOTTIME))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the judge in the kernel says to a question."""

    outcome: Outcome
    reason: Reason | None
    rule: int


@dataclass(frozen=True, slots=True)
class WorkloadTraffic:
    """What a workload sent and received, and how often each verdict fell."""

    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int
    verdicts: dict[Verdict, int]


class Tables:
    """The tables of one instance. Writers must be one at a time; readers are the programs."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def add(self, table_set: model.TableSet) -> int:
        """Loads a table set under fresh ids, unused until a workload is switched to it. Returns the policy's id."""
        base = self._next_id()
        self._take_ids(base + table_set.ids)
        try:
            self._add_networks(base, table_set)
            self._add_ports(base, table_set)
            self._add_hosts(base, table_set)
            policy = Policy(
                until_ns=boot_ns(table_set.until),
                ids=table_set.ids,
                mode=KernelMode[table_set.mode.name],
                allows_icmp=table_set.allows_icmp,
                has_hosts=table_set.has_hosts,
                quarantines_undeclared=table_set.quarantines_undeclared,
                **limit_fields(table_set.limits),
            )
            libbpf.update(self._instance.map("policies"), struct.pack("<I", base), bytes(policy))
        except KernelError:
            self._remove_entries([range(base, base + table_set.ids)])
            raise
        return base

    def remove(self, *policy_ids: int) -> None:
        """Collects table sets that no workload uses any more, in one walk over the tables."""
        spans = []
        for policy_id in policy_ids:
            key = struct.pack("<I", policy_id)
            raw = libbpf.lookup(self._instance.map("policies"), key, ctypes.sizeof(Policy))
            if raw is not None:
                libbpf.delete(self._instance.map("policies"), key)
                spans.append(range(policy_id, policy_id + Policy.from_buffer_copy(raw).ids))
        if spans:
            self._remove_entries(spans)

    def switch(
        self,
        cgroup: int,
        policy_id: int,
        *,
        mode: Mode | None = None,
        until_wall_ns: int = NEVER,
        until_boot_ns: int | None = None,
    ) -> None:
        """Puts a workload under a policy, by one write. A new workload is bound first: see `epoch` in bpf/abi.h."""
        key = struct.pack("<Q", cgroup)
        bound = libbpf.lookup(self._instance.map("workloads"), key, ctypes.sizeof(Workload))
        workload = Workload(
            generation=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            override_until_ns=boot_ns(until_wall_ns) if until_boot_ns is None else until_boot_ns,
            policy_id=policy_id,
            mode_override=KernelMode[mode.name] if mode else KernelMode.DEFAULT,
        )
        if bound is None:
            zeros = bytes(ctypes.sizeof(Traffic)) * libbpf.possible_cpus()
            libbpf.update(self._instance.map("traffic"), key, zeros)
        libbpf.update(self._instance.map("workloads"), key, bytes(workload))
        if bound is None:
            self._new_epoch()

    def mode_set(self, cgroup: int) -> tuple[Mode, int] | None:
        """The mode that stands in place of the policy's, and until when by the boot clock: the programs set it too."""
        raw = libbpf.lookup(self._instance.map("workloads"), struct.pack("<Q", cgroup), ctypes.sizeof(Workload))
        entry = Workload.from_buffer_copy(raw) if raw else None
        return (
            (Mode[KernelMode(entry.mode_override).name], entry.override_until_ns)
            if entry and entry.mode_override
            else None
        )

    def unbind(self, cgroup: int) -> None:
        """A workload is gone: its id is judged by nobody any more, or by the policy of the cgroup above."""
        key = struct.pack("<Q", cgroup)
        libbpf.delete(self._instance.map("workloads"), key)
        self._new_epoch()
        libbpf.delete(self._instance.map("traffic"), key)
        forget_usage(self._instance, cgroup)

    def traffic(self, cgroup: int) -> WorkloadTraffic:
        """What a workload did so far; exact, also where events were lost."""
        size = ctypes.sizeof(Traffic)
        raw = libbpf.lookup(
            self._instance.map("traffic"), struct.pack("<Q", cgroup), size * libbpf.possible_cpus()
        ) or bytes(size)
        parts = [Traffic.from_buffer_copy(raw, at) for at in range(0, len(raw), size)]
        return WorkloadTraffic(
            packets_out=sum(part.packets_out for part in parts),
            bytes_out=sum(part.bytes_out for part in parts),
            packets_in=sum(part.packets_in for part in parts),
            bytes_in=sum(part.bytes_in for part in parts),
            verdicts={verdict: sum(part.verdicts[verdict] for part in parts) for verdict in Verdict},
        )

    def usage(self, cgroup: int) -> Usage:
        """What a workload has used of its limits, in the present windows."""
        return read_usage(self._instance, cgroup)

    def counter(self, verdict: Verdict, reason: Reason) -> int:
        """How often a verdict was given for a reason."""
        return self._count(verdict * REASONS + reason)

    def counters(self) -> dict[tuple[Verdict, Reason], int]:
        """Every verdict and reason that was given, and how often."""
        counts = {(verdict, reason): self.counter(verdict, reason) for verdict in Verdict for reason in Reason}
        return {given: count for given, count in counts.items() if count}

    def held_back(self) -> dict[Reason, int]:
        """How many frames of guests were dropped without a verdict, which say nothing of them or are sent again."""
        counts = {reason: self._count(reason) for reason in Reason}  # at the places of no verdict
        return {reason: count for reason, count in counts.items() if count}

    def lost_events(self) -> int:
        """How many verdicts did not fit into the ring."""
        return self._count(0)

    def ask(
        self,
        policy_id: int,
        protocol: int,
        address: bytes,
        port: int,
        *,
        name: str = "",
        has_ech: bool = False,
        is_established: bool = False,
    ) -> Answer:
        """Asks the judge in the kernel. `address` is 16 bytes, IPv4 as ::ffff:a.b.c.d."""
        question = Question(policy_id=policy_id, protocol=protocol, is_established=is_established)
        question.name.has_ech = has_ech
        question.port[:] = port.to_bytes(2, "big")
        question.address[:] = address
        reverse = name.encode()[::-1]
        question.name.key.reversed[: len(reverse)] = reverse
        question.name.length = len(reverse)
        question.name.dots = name.count(".")
        status, data = libbpf.test_run(self._instance.program("on_question"), bytes(_ETHERNET_HEADER) + bytes(question))
        if status != 0:
            raise KernelError(f"the judge in the kernel did not answer (status {status})")
        answer = Question.from_buffer_copy(data, _ETHERNET_HEADER)
        return Answer(
            Outcome(answer.ret_outcome), Reason(answer.ret_reason) if answer.ret_reason else None, answer.ret_rule
        )

    def _count(self, index: int) -> int:
        raw = libbpf.lookup(self._instance.map("counters"), struct.pack("<I", index), 8 * libbpf.possible_cpus())
        return sum(struct.unpack(f"<{len(raw) // 8}Q", raw)) if raw else 0

    def _next_id(self) -> int:
        """No policy had it, or a higher one: stamps and events of one that has gone name nobody else."""
        return max(1, int(self._settings().next_policy_id))

    def _take_ids(self, following: int) -> None:
        settings = self._settings()
        settings.next_policy_id = following
        libbpf.update(self._instance.map("settings"), struct.pack("<I", 0), bytes(settings))

    def _new_epoch(self) -> None:
        settings = self._settings()
        settings.epoch = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        libbpf.update(self._instance.map("settings"), struct.pack("<I", 0), bytes(settings))

    def _settings(self) -> Settings:
        raw = libbpf.lookup(self._instance.map("settings"), struct.pack("<I", 0), ctypes.sizeof(Settings))
        return Settings.from_buffer_copy(raw) if raw else Settings()

    def _add_networks(self, base: int, table_set: model.TableSet) -> None:
        keys = [_NETWORK.pack(32 + entry.prefix_len, base, entry.address) for entry in table_set.networks]
        values = [struct.pack("<I", entry.ports_id and base + entry.ports_id) for entry in table_set.networks]
        self._write("networks", keys, values)

    def _add_ports(self, base: int, table_set: model.TableSet) -> None:
        keys = [
            _PORT_KEY.pack(48 + entry.prefix_len, base + entry.ports_id, entry.protocol) + entry.port.to_bytes(2, "big")
            for entry in table_set.ports
        ]
        values = [
            _PORT.pack(
                boot_ns(entry.open_until),
                boot_ns(entry.named_until),
                boot_ns(entry.named_ech_until),
                entry.open_rule,
                entry.named_rule,
                entry.names_id and base + entry.names_id,
            )
            for entry in table_set.ports
        ]
        self._write("ports", keys, values)

    def _add_hosts(self, base: int, table_set: model.TableSet) -> None:
        keys = [
            _HOST_KEY.pack(32 + 8 * len(entry.reversed_name), base + entry.names_id, entry.reversed_name)
            for entry in table_set.hosts
        ]
        slots: dict[model.HostSlot, bytes] = {}  # ten thousand hosts of one rule say the same
        for entry in table_set.hosts:
            for slot in (entry.one, entry.many):
                if slot not in slots:
                    slots[slot] = _SLOT.pack(
                        boot_ns(slot.until), boot_ns(slot.ech_until), slot.rule, slot.ports_id and base + slot.ports_id
                    )
        values = [
            slots[entry.one] + slots[entry.many] + _HOST_END.pack(entry.dots, entry.is_exact, entry.is_doh)
            for entry in table_set.hosts
        ]
        self._write("hosts", keys, values)

    def _write(self, name: str, keys: list[bytes], values: list[bytes]) -> None:
        libbpf.update_batch(self._instance.map(name), b"".join(keys), b"".join(values), len(keys))

    def _remove_entries(self, spans: Sequence[range]) -> None:
        """Removes every entry that belongs to the ids of these policies."""
        gone = {number for span in spans for number in span}
        for name, key_type, at in (
            ("granted", GrantedKey, GrantedKey.policy_id.offset),
            ("grants", GrantKey, GrantKey.policy_id.offset),
            ("networks", NetworkKey, NetworkKey.policy_id.offset),
            ("ports", PortKey, PortKey.ports_id.offset),
            ("hosts", HostKey, HostKey.names_id.offset),
        ):
            fd = self._instance.map(name)
            for key in libbpf.keys(fd, ctypes.sizeof(key_type)):
                if struct.unpack_from("<I", key, at)[0] in gone:
                    libbpf.delete(fd, key)


assert len(Verdict) == VERDICTS - 1
