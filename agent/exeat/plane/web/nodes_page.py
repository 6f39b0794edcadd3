"""Nodes: who enforces what, since when, and who does not."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response

from exeat.core.problems import shown
from exeat.errors import Refused, StatusWord
from exeat.plane.nodes import commands, nodes, workloads
from exeat.plane.nodes.commands import Asked
from exeat.plane.nodes.node import Holding, Node, Standing
from exeat.plane.nodes.workloads import Workload
from exeat.plane.policies import policies
from exeat.plane.store.database import Tx
from exeat.plane.web.listing import has_words, listing
from exeat.plane.web.rendering import segment
from exeat.plane.web.visit import Visit

SKEW_MS = 5_000  # beyond, what is compared by time (expiry, the order of verdicts) begins to be wrong
_COMMANDS = 20
_ORDER = (Standing.REFUSED, Standing.BEHIND, Standing.AWAY, Standing.NEVER, Standing.CURRENT, Standing.RETIRED)


@dataclass(frozen=True, slots=True)
class Line:
    """A node in the list."""

    node: Node
    standing: Standing
    policies: int
    workloads: int

    @property
    def is_skewed(self) -> bool:
        """Whether its clock is wrong enough to matter."""
        return abs(self.node.skew_ms) >= SKEW_MS


@dataclass(frozen=True, slots=True)
class Detail:
    """A node by itself."""

    node: Node
    holdings: tuple[Holding, ...]
    current: Mapping[str, str]  # revision by policy, as it shall be
    workloads: tuple[Workload, ...]
    commands: tuple[Asked, ...]


_KEYS = {
    "name": lambda line: line.node.name,
    "state": lambda line: (_ORDER.index(line.standing), line.node.name),
    "since": lambda line: line.node.acked_ns,
    "seen": lambda line: line.node.seen_ns,
    "version": lambda line: line.node.version,
    "skew": lambda line: abs(line.node.skew_ms),
    "workloads": lambda line: line.workloads,
}


async def node_list(visit: Visit) -> Response:
    """GET /nodes."""
    lines = await visit.reading(_lines, visit.now_ns)
    counts = Counter(line.standing for line in lines)
    standing, sought = visit.asked("state"), visit.asked("q")
    fitting = [line for line in lines if (not standing or line.standing == standing) and _has(line.node, sought)]
    return visit.page(
        "nodes.html",
        found=listing(fitting, visit.asked("sort"), _KEYS, "state"),
        counts=[(one.value, counts[one]) for one in Standing if counts[one]],
        total=len(lines),
        problems=visit.console.plane.directory.problems(),
    )


async def node_detail(visit: Visit) -> Response:
    """GET /nodes/NAME."""
    detail = await visit.reading(_detail, visit.part("name"))
    standing = detail.node.standing(visit.now_ns)
    return visit.page("node.html", detail=detail, node=detail.node, standing=standing, skew_max=SKEW_MS)


async def retire_now(visit: Visit) -> Response:
    """POST /nodes/NAME/retire."""
    name = visit.part("name")
    await visit.writing(nodes.retire, name)
    return visit.done(f"/nodes/{segment(name)}", f"{name} is retired: it may not come any more")


async def activate_now(visit: Visit) -> Response:
    """POST /nodes/NAME/activate."""
    name = visit.part("name")
    await visit.writing(nodes.activate, name)
    return visit.done(f"/nodes/{segment(name)}", f"{name} may come again")


def _lines(tx: Tx, now_ns: int) -> list[Line]:
    held = nodes.all_holdings(tx)
    running = Counter(one.node for one in workloads.workloads(tx))
    return [Line(one, one.standing(now_ns), len(held.get(one.name, ())), running[one.name]) for one in nodes.nodes(tx)]


def _detail(tx: Tx, name: str) -> Detail:
    found = nodes.node(tx, name)
    if found is None:
        raise Refused(StatusWord.NOT_FOUND, f"there is no node {shown(name)}")
    return Detail(
        node=found,
        holdings=nodes.holdings(tx, name),
        current={one.name: one.revision for one in policies.current(tx)},
        workloads=tuple(workloads.workloads(tx, name)),
        commands=tuple(commands.latest(tx, name, _COMMANDS)),
    )


def _has(node: Node, sought: str) -> bool:
    labels = " ".join(f"{name}={value}" for name, value in node.effective_labels.items())
    return has_words(sought, node.name, labels, node.version, node.fault, *node.complaints)
