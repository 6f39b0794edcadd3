"""The workloads of the fleet, by their nodes' word."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from exeat.plane.nodes.nodes import clean
from exeat.plane.store.database import News, Row, Topic, Tx
from exeat.plane.verdicts.verdict_rows import kept
from exeat.v1 import agent_pb2, plane_pb2

_SELECT = "SELECT node, name, cgroup, labels, policies, mode, mode_until_ns, source, since_ns FROM workloads"
_INSERT = (
    "INSERT INTO workloads (node, name, cgroup, labels, policies, mode, mode_until_ns, source, since_ns) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

WORKLOADS_MAX = 16_384  # of a node: bpf/limits.h. Who tells of more is not believed
_LABELS_MAX, _LABEL_MAX, _VALUE_MAX, _POLICIES_MAX = 64, 63, 253, 1000


@dataclass(frozen=True, slots=True)
class Workload:
    """One of them."""

    node: str
    name: str
    cgroup: str
    labels: Mapping[str, str]
    policies: tuple[str, ...]
    mode: str  # enforce, monitor, open or quarantine
    mode_until_ns: int  # 0: it is the policies' own, or has no end
    source: str  # subject, registration or run
    since_ns: int


def put(tx: Tx, node: str, news: plane_pb2.WorkloadNews) -> None:
    """Keeps what a node tells of them, as many as a node can have."""
    if news.is_all:
        tx.do("DELETE FROM workloads WHERE node = ?", node)
    told = {_name(one.name): one for one in news.workloads[: WORKLOADS_MAX + 1]}
    changed = sorted({*map(_name, news.gone[: WORKLOADS_MAX + 1]), *told})
    tx.many("DELETE FROM workloads WHERE node = ? AND name = ?", [(node, name) for name in changed])
    there = tx.one("SELECT COUNT(*) FROM workloads WHERE node = ?", node)
    room = max(0, WORKLOADS_MAX - (there[0] if there else 0))
    tx.many(_INSERT, [_values(node, name, one) for name, one in sorted(told.items())[:room]])
    tx.tell(News(Topic.NODES, node))


def workloads(tx: Tx, node: str | None = None) -> list[Workload]:
    """Those of a node, or all, by node and name."""
    where = "" if node is None else " WHERE node = ?"
    rows = tx.all(f"{_SELECT}{where} ORDER BY node, name", *(() if node is None else (node,)))
    return [_workload(row) for row in rows]


def workload(tx: Tx, node: str, name: str) -> Workload | None:
    """One of them."""
    row = tx.one(f"{_SELECT} WHERE node = ? AND name = ?", node, name)
    return _workload(row) if row else None


def _name(text: str) -> str:
    """Of a row: an index of PostgreSQL takes no more."""
    return kept(text, "workload")


def _values(node: str, name: str, said: plane_pb2.WorkloadState) -> tuple[object, ...]:
    mode = agent_pb2.Mode.Name(said.mode).removeprefix("MODE_").lower() if said.mode in _MODES else str(said.mode)
    policies = json.dumps([clean(one) for one in said.policies[:_POLICIES_MAX]])
    until_ns = said.mode_until.ToNanoseconds() if said.HasField("mode_until") else 0
    labels = {key[:_LABEL_MAX]: text[:_VALUE_MAX] for key, text in sorted(said.labels.items())[:_LABELS_MAX]}
    values = (node, name, clean(said.cgroup), json.dumps(labels), policies, mode, until_ns, clean(said.source))
    return (*values, said.since.ToNanoseconds())


_MODES = frozenset(agent_pb2.Mode.values())


def _workload(row: Row) -> Workload:
    node, name, cgroup, labels, policies, mode, until_ns, source, since_ns = row
    return Workload(
        node, name, cgroup, json.loads(labels), tuple(json.loads(policies)), mode, until_ns, source, since_ns
    )
