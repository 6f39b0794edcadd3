"""The API's calls about nodes and workloads."""

from typing import Any

from exeat.core.problems import shown
from exeat.core.verdict_text import time_text
from exeat.errors import Refused, StatusWord
from exeat.plane.api.calls import Asked, Call
from exeat.plane.nodes import nodes, workloads
from exeat.plane.nodes.node import Holding, Node
from exeat.plane.nodes.workloads import Workload
from exeat.plane.people import Role
from exeat.plane.store.database import Tx


def time_or_none(ns: int) -> str | None:
    """A time of the store's; 0 is none."""
    return time_text(ns) if ns else None


def workload_json(one: Workload) -> dict[str, Any]:
    """docs/plane-api.md tells it field by field."""
    return {
        "node": one.node,
        "name": one.name,
        "cgroup": one.cgroup,
        "labels": dict(one.labels),
        "policies": list(one.policies),
        "mode": one.mode,
        "mode_until": time_or_none(one.mode_until_ns),
        "source": one.source,
        "since": time_or_none(one.since_ns),
    }


def _node_json(one: Node, held: tuple[Holding, ...], workload_count: int, now_ns: int) -> dict[str, Any]:
    return {
        "name": one.name,
        "state": one.standing(now_ns).value,
        "labels": one.effective_labels,
        "pinned": dict(one.pinned),
        "version": one.version,
        "kernel": one.kernel,
        "features": list(one.features),
        "first_seen": time_or_none(one.first_ns),
        "last_seen": time_or_none(one.seen_ns),
        "is_connected": one.is_connected,
        "replica": one.replica,
        "serial": one.serial,
        "acked_serial": one.acked,
        "acked": time_or_none(one.acked_ns),
        "took_ms": one.took_ns / 1e6,
        "fault": one.fault,
        "fault_since": time_or_none(one.fault_ns),
        "failures": list(one.failures),
        "complaints": list(one.complaints),
        "skew_ms": one.skew_ms,
        "lost_events": one.lost_events,
        "unreported": one.unreported,
        "holdings": [
            {"name": held_one.name, "revision": held_one.revision, "since": time_text(held_one.since_ns)}
            for held_one in held
        ],
        "workload_count": workload_count,
    }


def _list(tx: Tx, asked: Asked) -> Any:
    held = nodes.all_holdings(tx)
    counts: dict[str, int] = dict(tx.all("SELECT node, COUNT(*) FROM workloads GROUP BY node"))
    return {
        "nodes": [
            _node_json(one, held.get(one.name, ()), counts.get(one.name, 0), asked.now_ns) for one in nodes.nodes(tx)
        ]
    }


def _one(tx: Tx, asked: Asked) -> Any:
    return _details(tx, asked.path["name"], asked.now_ns)


def _details(tx: Tx, name: str, now_ns: int) -> dict[str, Any]:
    found = _node(tx, name)
    there = workloads.workloads(tx, name)
    logs = tx.all("SELECT log, through, lost, at_ns FROM logs WHERE node = ? ORDER BY at_ns DESC", name)
    return {
        **_node_json(found, nodes.holdings(tx, name), len(there), now_ns),
        "workloads": [workload_json(one) for one in there],
        "logs": [
            {"log": log, "through": through, "lost": lost, "at": time_or_none(at_ns)}
            for log, through, lost, at_ns in logs
        ],
    }


def _add(tx: Tx, asked: Asked) -> Any:
    name, labels = asked.body.text("name"), asked.body.labels("labels")
    nodes.add(tx, name)
    if labels:
        nodes.pin(tx, name, labels)
    return _details(tx, name, asked.now_ns)


def _retire(tx: Tx, asked: Asked) -> Any:
    nodes.retire(tx, asked.path["name"])
    return _details(tx, asked.path["name"], asked.now_ns)


def _activate(tx: Tx, asked: Asked) -> Any:
    nodes.activate(tx, asked.path["name"])
    return _details(tx, asked.path["name"], asked.now_ns)


def _label(tx: Tx, asked: Asked) -> Any:
    name = asked.path["name"]
    wanted, gone = asked.body.labels("set"), asked.body.texts("remove")
    pinned = _node(tx, name).pinned
    unknown = sorted(set(gone) - set(pinned))
    if unknown:
        sentence = f"{shown(unknown[0])} is not set here: what a node says of itself, its own settings change"
        raise Refused(StatusWord.NOT_FOUND, sentence)
    nodes.pin(tx, name, {**{key: value for key, value in pinned.items() if key not in gone}, **wanted})
    return _details(tx, name, asked.now_ns)


def _workloads(tx: Tx, asked: Asked) -> Any:
    query = asked.query
    node, policy, mode = (query.text(name, "") for name in ("node", "policy", "mode"))
    part = query.text("workload", "", 4096)
    found = [
        workload_json(one)
        for one in workloads.workloads(tx, node or None)
        if (not policy or policy in one.policies)
        and (not mode or mode == one.mode)
        and (part in one.name or part in one.cgroup)
    ]
    return {"workloads": found}


def _node(tx: Tx, name: str) -> Node:
    found = nodes.node(tx, name)
    if found is None:
        sentence = f"there is no node {shown(name)}: `exeat plane nodes` lists them"
        raise Refused(StatusWord.NOT_FOUND, sentence)
    return found


CALLS = {
    ("GET", "/nodes"): Call(Role.VIEWER, _list),
    ("POST", "/nodes"): Call(Role.ADMIN, _add, is_writing=True, has_body=True),
    ("GET", "/nodes/{name}"): Call(Role.VIEWER, _one),
    ("POST", "/nodes/{name}/retire"): Call(Role.ADMIN, _retire, is_writing=True),
    ("POST", "/nodes/{name}/activate"): Call(Role.ADMIN, _activate, is_writing=True),
    ("POST", "/nodes/{name}/labels"): Call(Role.ADMIN, _label, is_writing=True, has_body=True),
    ("GET", "/workloads"): Call(Role.VIEWER, _workloads),
}
