"""What Prometheus reads of every single workload, at a page of its own: /metrics/workloads.

As many series as there are workloads, times seven. Who scrapes it decides that it is worth it: /metrics stays small
whatever workloads do.
"""

from collections.abc import Callable, Iterable, Iterator

from exeat.metrics.readings import Readings, WorkloadCounts
from exeat.metrics.text import Kind, Sample, head, lines
from exeat.model.verdicts import Verdict

_INFO = ("unit", "container", "image", "namespace", "pod", "sandbox", "session", "user")

_Read = Callable[[WorkloadCounts], Iterable[Sample]]


def _info(one: WorkloadCounts) -> Iterator[Sample]:
    yield Sample((one.name, *(getattr(one.who, key) for key in _INFO)), 1)


def _verdicts(one: WorkloadCounts) -> Iterator[Sample]:
    for verdict in Verdict:
        yield Sample((one.name, verdict.name), one.verdicts.get(verdict, 0))


WORKLOAD_FAMILIES: tuple[tuple[str, Kind, tuple[str, ...], str, _Read], ...] = (
    ("exeat_workload_info", Kind.GAUGE, ("workload", *_INFO), "What people call a workload; always 1", _info),
    (
        "exeat_workload_verdicts_total", Kind.COUNTER, ("workload", "verdict"),
        "Judgements about a workload, the kernel's and its gate's", _verdicts,
    ),
    (
        "exeat_workload_sent_bytes_total", Kind.COUNTER, ("workload",),
        "What a workload sent, headers included", lambda one: (Sample((one.name,), one.bytes_out),),
    ),
    (
        "exeat_workload_received_bytes_total", Kind.COUNTER, ("workload",),
        "What a workload received, headers included", lambda one: (Sample((one.name,), one.bytes_in),),
    ),
)  # fmt: skip


def workloads_text(readings: Readings) -> str:
    """All of it now, in Prometheus' text format. Raises ExeatError or OSError where the kernel cannot be read."""
    counts = sorted(readings.by_workload(), key=lambda one: one.name)
    parts: list[str] = []
    for name, kind, labels, what, read in WORKLOAD_FAMILIES:
        samples = (sample for one in counts for sample in read(one))
        parts += head(name, kind, what), *lines(name, labels, samples)
    return "".join(parts).encode(errors="backslashreplace").decode()  # a cgroup's name may be any bytes
