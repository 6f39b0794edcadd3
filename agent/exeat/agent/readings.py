"""The agent's numbers, as its metrics ask for them: from the kernel and from the parts that know, when asked."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

from exeat.agent.host import Host
from exeat.agent.hub import Hub
from exeat.agent.sets import Sets
from exeat.agent.standing import Standing
from exeat.audit.log import VerdictLog
from exeat.core.endings import Ending, count_within, upcoming
from exeat.dns.gate import boot_ns
from exeat.kernel.tables import Tables
from exeat.metrics.readings import PlaneCounts, PolicyCounts, Source, Use, WorkloadCounts
from exeat.model.identity import Who
from exeat.model.policy import Mode
from exeat.model.verdicts import Reason, Verdict

LIMITS = {  # twins: bpf/limits.h
    "workloads": 16_384,
    "policies": 16_384,
    "networks": 4_194_304,
    "ports": 4_194_304,
    "hosts": 4_194_304,
    "grants": 262_144,
    "gates": 16_384,
}
_NOBODY = Who()
GUEST_LIMITS = {"interfaces": 16_384, "flows": 2_097_152, "holds": 8_192}  # twins: bpf/guest_abi.h


class AgentReadings:
    """Called from the metrics' thread and from the control loop."""

    def __init__(self, host: Host, sets: Sets, tables: Tables, log: VerdictLog, started_ns: int) -> None:
        self.hub: Hub | None = None
        self.standing: Standing | None = None  # with the plane, if there is one
        self._host = host
        self._sets = sets
        self._tables = tables
        self._log = log
        self._started_ns = started_ns

    def counters(self) -> Mapping[tuple[Verdict, Reason], int]:
        """The kernel's verdicts."""
        return self._tables.counters()

    def held_back(self) -> Mapping[Reason, int]:
        """Frames of guests that were dropped without a verdict."""
        return self._tables.held_back()

    def questions(self) -> Mapping[Verdict, int]:
        """The gates' verdicts."""
        counts: Counter[Verdict] = Counter()
        for bound in list(self._host.enforcer.bound.values()):
            counts.update(bound.house.counts)
        return counts

    def lost_events(self) -> int:
        """Verdicts for which there was no room."""
        return self._tables.lost_events() + (self.hub.unheard if self.hub else 0)

    def unwritten(self) -> int:
        """Verdicts that are not in the log."""
        return self._log.unwritten

    def workloads(self) -> Mapping[tuple[Source, Mode], int]:
        """By who brought them and mode."""
        now_ns = boot_ns()
        counts: Counter[tuple[Source, Mode]] = Counter()
        for bound in list(self._host.enforcer.bound.values()):
            registration = self._host.registration(bound.id)
            source = Source(registration.source) if registration else Source.SUBJECT
            counts[source, bound.mode(now_ns)] += 1
        return counts

    def by_workload(self) -> list[WorkloadCounts]:
        """Every one, as `exeat workloads` counts them."""
        found = []
        bounds = list(self._host.enforcer.bound.values())
        times = Counter(bound.name for bound in bounds)  # a container may be called like a registered workload
        for bound in bounds:
            name = bound.name if times[bound.name] == 1 else f"{bound.name} {bound.path}"
            traffic, asked = self._tables.traffic(bound.id), bound.house.counts
            verdicts = {verdict: traffic.verdicts[verdict] + asked.get(verdict, 0) for verdict in Verdict}
            who = self._host.enforcer.whos.get(bound.id, _NOBODY)
            found.append(WorkloadCounts(name, who, verdicts, traffic.bytes_out, traffic.bytes_in))
        return found

    def policies(self) -> PolicyCounts:
        """In force as they are, and rejected."""
        shelf = self._host.shelf
        held = (*shelf.held, *shelf.given.held)
        rejected = sum(bool(one.errors) for one in held)
        return PolicyCounts(len(held) - rejected, rejected)

    def endings_within(self) -> Mapping[int, int]:
        """By days."""
        return count_within(endings_of(self._host))

    def table_use(self) -> Mapping[str, Use]:
        """By the map's name; counted here, because the kernel does not count."""
        used: Counter[str] = Counter()
        for one in self._sets.all:
            used.update(one.entries)
        used["workloads"] = len(self._host.enforcer.bound) + len(self._host.enforcer.left)
        used["policies"] = len(self._sets.all)
        used["grants"] = self.grants()
        used["gates"] = sum(len(bound.house.networks) for bound in list(self._host.enforcer.bound.values()))
        of_guests = self._host.roll.interfaces.table_use()
        return {name: Use(used[name], limit) for name, limit in LIMITS.items()} | {
            name: Use(count, GUEST_LIMITS[name]) for name, count in of_guests.items()
        }

    def grants(self) -> int:
        """Pairs of name and address."""
        return sum(len(one.ledger.book) for one in self._sets.all)

    def plane(self) -> PlaneCounts | None:
        """How the agent stands with its plane."""
        one = self.standing
        if one is None:
            return None
        serial = one.bundle.serial if one.bundle else 0
        return PlaneCounts(one.is_connected, serial, bool(one.refused), one.unreported(), one.lost())

    def started_s(self) -> float:
        """When it started."""
        return self._started_ns / 1e9


def endings_of(host: Host) -> tuple[Ending, ...]:
    """What of the policies ends within 14 days."""
    policies = [held.policy for held in host.shelf.in_force.values() if held.policy]
    return upcoming(policies, datetime.now(UTC))
