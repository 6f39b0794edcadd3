"""How far the cluster's policies have come, as nodes tell it: for the objects' statuses."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from exeat.core.assign import is_for_node
from exeat.plane.nodes import nodes
from exeat.plane.nodes.node import Node, Standing
from exeat.plane.policies.policy_facts import parse_facts
from exeat.plane.store.database import Tx

# A cluster that grows and shrinks leaves nodes behind that nobody has retired; no policy should wait for them.
_GONE_NS = 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Enforcing:
    """Of one policy."""

    revision: str
    nodes: int  # that should have it, and were heard of lately
    enforcing: int  # of these, that have it
    workloads: int
    refusals: tuple[str, ...] = field(default=())  # by nodes that do not have it


def enforcing(tx: Tx, now_ns: int) -> dict[str, Enforcing]:
    """Of each policy of the cluster, by its name."""
    there = [one for one in nodes.nodes(tx) if not one.is_retired and one.first_ns and now_ns - one.seen_ns < _GONE_NS]
    names = {one.name for one in there}
    holding: dict[str, set[str]] = {}
    for node, name in tx.all(
        "SELECT h.node, h.name FROM holdings h JOIN policies p ON p.name = h.name AND p.revision = h.revision "
        "WHERE p.source = 'cluster'"
    ):
        if node in names:
            holding.setdefault(name, set()).add(node)
    workloads = _workloads(tx)
    wanting: dict[tuple[tuple[str, str], ...], list[Node]] = {}
    found = {}
    for name, revision, text in tx.all(
        "SELECT p.name, p.revision, d.facts FROM policies p JOIN documents d ON d.revision = p.revision "
        "WHERE p.source = 'cluster'"
    ):
        facts = parse_facts(text)
        if facts.nodes not in wanting:
            wanting[facts.nodes] = [one for one in there if is_for_node(facts.subject, one.effective_labels)]
        wanted, having = wanting[facts.nodes], holding.get(name, set())
        behind = [one for one in wanted if one.name not in having]
        found[name] = Enforcing(
            revision, len(wanted), len(wanted) - len(behind), workloads[name], tuple(_refusals(name, behind, now_ns))
        )
    return found


def _workloads(tx: Tx) -> Counter[str]:
    """By policy."""
    found: Counter[str] = Counter()
    for names, count in tx.all("SELECT policies, COUNT(*) FROM workloads GROUP BY policies"):
        for name in json.loads(names):
            found[name] += count
    return found


def _refusals(policy: str, behind: Iterable[Node], now_ns: int) -> list[str]:
    """What nodes say of this policy. Of another one's it is not for this object's author to read."""
    found = []
    for node in behind:
        if node.standing(now_ns) is Standing.REFUSED:
            lines = [line for line in node.fault.splitlines() if line.startswith(f"{policy}:")]
            found.append(f"{node.name}: {lines[0] if lines else 'it refuses what it was sent together with this'}")
    return found
