"""How the agent is: what it answers to `exeat status`, to Prometheus and to health checks."""

import os
import time
from collections import Counter
from dataclasses import dataclass, field

from exeat import __version__
from exeat.agent.enforcer import Bound
from exeat.agent.host import Host, wall_of
from exeat.agent.hub import Hub
from exeat.agent.readings import AgentReadings, endings_of
from exeat.agent.sets import Sets
from exeat.agent.standing import Standing
from exeat.agent.views import ending_view, policy_views, stamp
from exeat.audit.log import VerdictLog
from exeat.core.endings import Ending
from exeat.dns.gate import boot_ns
from exeat.gate_thread import GateThread
from exeat.kernel.instance import own_build
from exeat.kernel.tables import Tables
from exeat.kernel.telling import address_of
from exeat.metrics.families import resident_bytes
from exeat.v1 import agent_pb2 as pb

_SHOWN_MAX = 50


@dataclass(slots=True)
class Story:
    """What happened to the agent itself."""

    started_boot_ns: int = field(default_factory=lambda: _process_started_ns())
    started_ns: int = field(init=False)
    in_control_ms: int = 0
    last_seen_ns: int = 0  # of the agent before this one; 0: there was none
    build: str = ""  # of the programs in the kernel
    notes: dict[str, str] = field(default_factory=dict)  # complaints, each under a word of its own
    is_ready: bool = False

    def note(self, word: str, complaint: str) -> None:
        """A complaint, or none any more."""
        if complaint:
            self.notes[word] = complaint
        else:
            self.notes.pop(word, None)

    def __post_init__(self) -> None:
        self.started_ns = self.started_boot_ns - boot_ns() + time.time_ns()


class Vitals:
    """Reads it from where it is; asked from several threads."""

    def __init__(
        self,
        host: Host,
        sets: Sets,
        tables: Tables,
        thread: GateThread,
        log: VerdictLog,
        readings: AgentReadings,
        story: Story,
    ) -> None:
        self.hub: Hub | None = None
        self.plane: Standing | None = None  # None: there is no plane
        self._host = host
        self._sets = sets
        self._tables = tables
        self._readings = readings
        self._thread = thread
        self._log = log
        self._story = story

    def status(self) -> pb.GetStatusResponse:
        """For `exeat status`."""
        story = self._story
        view = pb.GetStatusResponse(
            version=__version__,
            started=stamp(story.started_ns),
            in_control_ms=story.in_control_ms,
            programs=story.build,
            own_programs=own_build(),
            policies=self.policies(),
            workloads=len(self._host.enforcer.bound),
            table_sets=len(self._sets.all),
            lost_events=self.lost_events(),
            unwritten_verdicts=self.unwritten(),
            complaints=self.complaints(),
            endings=[ending_view(ending) for ending in self.endings()],
            tables=[
                pb.TableUse(name=name, used=use.used, max=use.limit) for name, use in self._readings.table_use().items()
            ],
            resident_bytes=resident_bytes(),
        )
        if story.last_seen_ns:
            view.last_seen.CopyFrom(stamp(story.last_seen_ns))
        if self.plane:
            view.plane.CopyFrom(self.plane.view())
        return view

    def policies(self) -> list[pb.PolicyStatus]:
        """Every policy file, and what the plane gave."""
        users = Counter(name for bound in list(self._host.enforcer.bound.values()) for name in _names(bound))
        return policy_views(self._host.shelf, users)

    def complaints(self) -> list[str]:
        """What is not as it should be."""
        host = self._host
        said = [*host.shelf.complaints, *host.wishes.complaints, *host.wishes.unkept, *self._story.notes.values()]
        if self.plane:
            said += self.plane.complaints(time.time_ns())
        if self._sets.complaint:
            said.append(self._sets.complaint)
        said += [f"{held.file} is not in force: {held.errors[0]}" for held in host.shelf.held if held.errors]
        said += dict.fromkeys([*host.failures.values(), *host.roll.interfaces.complaints])
        said += host.assigning.complaints + host.complaints
        left = len(host.enforcer.left)
        if left:
            said.append(f"{left} workloads are judged by policies that nobody knows any more: register them anew")
        if self._log.unwritten:
            said.append(f"{self._log.unwritten} verdicts are not in the log: {self._log.why_unwritten}")
        lost = self.lost_events()
        if lost:
            said.append(f"{lost} verdicts were lost before they could be read: they are counted, not told")
        said += [f"the gate failed at something: {failure!r}" for failure in self._thread.failures[-3:]]
        if self.hub and self.hub.failure:
            said.append(f"verdicts are told late or not at all: {self.hub.failure}")
        return said[:_SHOWN_MAX]

    def ailments(self) -> list[str]:
        """For /healthz: which of the agent's parts has ended."""
        parts = {
            "the gates' thread": self._thread.is_alive,
            "the verdicts' thread": bool(self.hub and self.hub.is_alive),
        }
        return [f"{name} has ended" for name, is_alive in parts.items() if not is_alive]

    def hindrances(self) -> list[str]:
        """For /readyz."""
        return [] if self._story.is_ready else ["policies are not applied yet"]

    def grants(self, bound: Bound) -> list[pb.Grant]:
        """For `exeat grants`."""
        ledger, now_ns = bound.table_set.ledger, boot_ns()
        alive = self._thread.do(
            lambda: sorted((one.name, one.address, one.until_ns) for one in ledger.book.alive(now_ns))
        )
        views = []
        for name, address, until_ns in alive:
            view = pb.Grant(name=name, until=stamp(wall_of(until_ns)))
            if place := address_of(address):
                view.address = place.packed
            used_ns = ledger.used(address)
            if used_ns:
                view.used.CopyFrom(stamp(wall_of(used_ns)))
            views.append(view)
        return views

    def endings(self) -> tuple[Ending, ...]:
        """What of the policies ends within 14 days."""
        return endings_of(self._host)

    def lost_events(self) -> int:
        """Verdicts for which there was no room."""
        return self._readings.lost_events()

    def unwritten(self) -> int:
        """Verdicts that are not in the log."""
        return self._log.unwritten


def _names(bound: Bound) -> set[str]:
    return {origin for origin in bound.table_set.united.origins if origin} or {bound.table_set.united.policy.name}


def _process_started_ns() -> int:
    """On the boot clock: what the interpreter needed to read the modules belongs to the agent's start."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    return ticks * 10**9 // os.sysconf("SC_CLK_TCK")
