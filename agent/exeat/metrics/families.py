"""Every metric: its name, its labels, and what it is read from. docs/metrics.md says the same; a test compares.

Label sets are closed, and every value of a label is one that exeat itself made up: under 1,000 series in all, whatever
workloads do.
"""

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from exeat.core.endings import THRESHOLDS_DAYS
from exeat.errors import ExeatError
from exeat.metrics.durations import Durations
from exeat.metrics.readings import Readings, Source, Use
from exeat.metrics.text import Kind, Sample, head, histogram_lines, lines
from exeat.metrics.workloads import workloads_text
from exeat.model.policy import Mode
from exeat.model.verdicts import Verdict

# Of bpf/maps.h and guest_maps.h, those whose entries can be counted; any other is added to `other`, so that the set
# stays closed.
TABLES = (
    "workloads", "policies", "networks", "ports", "hosts", "granted", "grants", "gates", "askers", "sockets", "traffic",
    "usage", "destinations", "ordinals", "interfaces", "flows", "holds",
)  # fmt: skip
_OTHER = "other"
_POLICY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_ANSWER_BUCKETS_S = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 5.0)
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Scrape:
    """One answer's readings; what two metrics stand on is read once."""

    def __init__(self, readings: Readings) -> None:
        self.readings = readings

    @cached_property
    def table_use(self) -> Mapping[str, Use]:
        """A walk over the kernel's tables."""
        return self.readings.table_use()


class Family(NamedTuple):
    """A metric, and how its samples are read."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    what: str
    read: Callable[[Scrape], Iterable[Sample]]


def _one(read: Callable[[Readings], float]) -> Callable[[Scrape], Iterable[Sample]]:
    return lambda scrape: (Sample((), read(scrape.readings)),)


def _verdicts(scrape: Scrape) -> Iterator[Sample]:
    for (verdict, reason), count in sorted(scrape.readings.counters().items()):
        if count:
            yield Sample((verdict.name, reason.word), count)


def _held_back(scrape: Scrape) -> Iterator[Sample]:
    for reason, count in sorted(scrape.readings.held_back().items()):
        yield Sample((reason.word,), count)


def _questions(scrape: Scrape) -> Iterator[Sample]:
    counts = scrape.readings.questions()
    for verdict in Verdict:
        yield Sample((verdict.name,), counts.get(verdict, 0))


def _workloads(scrape: Scrape) -> Iterator[Sample]:
    counts = scrape.readings.workloads()
    for source in Source:
        for mode in Mode:
            yield Sample((source, mode), counts.get((source, mode), 0))


def _policies(scrape: Scrape) -> Iterator[Sample]:
    counts = scrape.readings.policies()
    yield Sample(("accepted",), counts.accepted)
    yield Sample(("rejected",), counts.rejected)


def _endings(scrape: Scrape) -> Iterator[Sample]:
    counts = scrape.readings.endings_within()
    for days in THRESHOLDS_DAYS:
        yield Sample((str(days),), counts.get(days, 0))


def _table_use(at: int) -> Callable[[Scrape], Iterable[Sample]]:
    def read(scrape: Scrape) -> Iterator[Sample]:
        sums: dict[str, int] = {}
        for table, use in scrape.table_use.items():
            known = table if table in TABLES else _OTHER
            sums[known] = sums.get(known, 0) + use[at]
        for table, number in sorted(sums.items()):
            yield Sample((table,), number)

    return read


def _plane(at: int) -> Callable[[Scrape], Iterable[Sample]]:
    def read(scrape: Scrape) -> Iterator[Sample]:
        counts = scrape.readings.plane()
        if counts is not None:
            yield Sample((), float(counts[at]))

    return read


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _cpu_s(_: Readings) -> float:
    return time.process_time()


def _children_cpu_s(_: Readings) -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


FAMILIES = (
    Family(
        "exeat_verdicts_total", Kind.COUNTER, ("verdict", "reason"),
        "Judgements of the kernel, lost events included", _verdicts,
    ),
    Family(
        "exeat_guest_frames_held_back_total", Kind.COUNTER, ("reason",),
        "Frames of guests dropped without a verdict: TCP sends them again", _held_back,
    ),
    Family(
        "exeat_questions_total", Kind.COUNTER, ("verdict",),
        "Questions about names that the gates judged", _questions,
    ),
    Family(
        "exeat_events_lost_total", Kind.COUNTER, (),
        "Verdicts that fell but were not told: the ring was full, or a guest's share of it",
        _one(lambda of: of.lost_events()),
    ),
    Family(
        "exeat_verdicts_unwritten_total", Kind.COUNTER, (),
        "Verdicts that could not be written to the log", _one(lambda of: of.unwritten()),
    ),
    Family("exeat_workloads", Kind.GAUGE, ("source", "mode"), "Workloads under a policy", _workloads),
    Family("exeat_policies", Kind.GAUGE, ("state",), "Policy files in force as they are, and rejected ones", _policies),
    Family(
        "exeat_endings", Kind.GAUGE, ("within_days",),
        "Policies and rules that end within so many days", _endings,
    ),
    Family("exeat_table_entries", Kind.GAUGE, ("table",), "Entries of a table in the kernel", _table_use(0)),
    Family("exeat_table_entries_max", Kind.GAUGE, ("table",), "How many entries a table can hold", _table_use(1)),
    Family(
        "exeat_grants", Kind.GAUGE, (),
        "Pairs of name and address that may be used now", _one(lambda of: of.grants()),
    ),
    Family("exeat_plane_connected", Kind.GAUGE, (), "Whether the control plane is connected", _plane(0)),
    Family("exeat_plane_serial", Kind.GAUGE, (), "Serial of the manifest in force", _plane(1)),
    Family("exeat_plane_refused", Kind.GAUGE, (), "Whether what the plane sent last was refused", _plane(2)),
    Family("exeat_plane_unreported_lines", Kind.GAUGE, (), "Lines of the log that the plane has yet to get", _plane(3)),
    Family(
        "exeat_plane_lost_lines_total", Kind.COUNTER, (),
        "Lines of the log that were deleted before the plane had them", _plane(4),
    ),
    Family(
        "exeat_start_time_seconds", Kind.GAUGE, (),
        "When the agent started, in seconds since 1970", _one(lambda of: of.started_s()),
    ),
    Family("exeat_resident_bytes", Kind.GAUGE, (), "Resident memory of the agent", _one(lambda _: resident_bytes())),
    Family("exeat_cpu_seconds_total", Kind.COUNTER, (), "Processor time of the agent", _one(_cpu_s)),
    Family(
        "exeat_children_cpu_seconds_total", Kind.COUNTER, (),
        "Processor time of processes that the agent started and that ended: the compiler of programs",
        _one(_children_cpu_s),
    ),
)  # fmt: skip
HISTOGRAMS = (
    ("exeat_policy_application_seconds", "From a change of policy seen to enforced for every workload"),
    ("exeat_gate_answer_seconds", "From a question read by a gate to its answer sent"),
)
UNREAD = ("exeat_unread_metrics", "Metrics that could not be read this time, and are missing for that reason")


class Registry:
    """The metrics of one agent. The histograms are for the agent to fill."""

    def __init__(self, readings: Readings) -> None:
        self.policy_application = Durations(_POLICY_BUCKETS_S)
        self.gate_answer = Durations(_ANSWER_BUCKETS_S)
        self._readings = readings

    def workloads_text(self) -> str:
        """Of every single workload."""
        return workloads_text(self._readings)

    def text(self) -> str:
        """All of it now, in Prometheus' text format. What cannot be read is left out and counted, never zero."""
        parts: list[str] = []
        scrape = Scrape(self._readings)
        unread = 0
        for family in FAMILIES:
            try:
                samples = "".join(lines(family.name, family.labels, family.read(scrape)))
            except (ExeatError, OSError):
                unread += 1
                continue
            parts += head(family.name, family.kind, family.what), samples
        durations = (self.policy_application, self.gate_answer)
        for (name, what), one in zip(HISTOGRAMS, durations, strict=True):
            parts += head(name, Kind.HISTOGRAM, what), *histogram_lines(name, one.counted())
        name, what = UNREAD
        parts += head(name, Kind.GAUGE, what), *lines(name, (), [Sample((), unread)])
        return "".join(parts)
