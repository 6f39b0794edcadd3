"""Roll-outs: a change on its way to all nodes, in stages.

Several replicas may look at the same roll-out at the same time: a step is taken by one UPDATE that names the stage
which was judged, so that each is taken once.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from exeat.core.assign import is_for_node
from exeat.core.rollout import is_chosen
from exeat.errors import Refused, StatusWord
from exeat.plane.nodes.node import Node
from exeat.plane.nodes.nodes import nodes
from exeat.plane.policies.policy_facts import parse_facts
from exeat.plane.policies.policy_rows import Action, Change, Source, kept_one, lock, put
from exeat.plane.policies.rollout_judge import ChosenNode, Counted, Decision, Facts, Plan, Step, decide
from exeat.plane.store.database import Database, News, Row, Topic, Tx

_HOUR = 3600 * 1_000_000_000
_COLUMNS = (
    "id, name, before, revision, stages, soak_s, max_per_mille, stage, state, why, by_whom, began_ns, stage_ns, tried, "
    "denied"
)


class State(StrEnum):
    """Of a roll-out."""

    RUNNING = "running"
    STOPPED = "stopped"  # by somebody or by what was seen; the nodes that have it keep it
    DONE = "done"
    CANCELLED = "cancelled"  # taken back, or overtaken by another change


UNDERWAY = (State.RUNNING, State.STOPPED)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One of them."""

    id: int
    name: str
    before: str  # what nodes have that are not chosen yet; empty: nothing
    revision: str
    plan: Plan
    stage: int
    state: State
    why: str
    by: str
    began_ns: int
    stage_ns: int
    base: Counted  # what had been counted when the stage began

    @property
    def percent(self) -> int:
        """Of the nodes that are to have the new revision."""
        return 100 if self.state is State.DONE else self.plan.stages[self.stage]

    @property
    def is_underway(self) -> bool:
        """Whether some nodes are to have the old revision, and others the new one."""
        return self.state in UNDERWAY


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a roll-out is, for people."""

    rollout: Rollout
    chosen: tuple[ChosenNode, ...]
    counted: Counted
    decision: Decision


def begin(tx: Tx, name: str, before: str, revision: str, change: Change) -> int:
    """Its id. Whoever calls has locked, and ended what was underway."""
    plan = change.plan
    assert plan is not None
    stages = json.dumps(plan.stages)
    values = (name, before, revision, stages, 0, plan.soak_s, plan.max_per_mille, State.RUNNING.value, "", change.by)
    row = tx.one(
        "INSERT INTO rollouts (name, before, revision, stages, stage, soak_s, max_per_mille, state, why, by_whom, "
        "began_ns, stage_ns, tried, denied) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0) RETURNING id",
        *(*values, change.at_ns, change.at_ns),
    )
    assert row is not None
    _begin_stage(tx, rollout(tx, row[0]), nodes(tx))
    return int(row[0])


def overtake(tx: Tx, name: str, why: str) -> Rollout | None:
    """Ends what is underway for a policy, because another change has come."""
    found = underway(tx).get(name)
    if found:
        tx.do("UPDATE rollouts SET state = ?, why = ? WHERE id = ?", State.CANCELLED.value, why, found.id)
    return found


def underway(tx: Tx) -> dict[str, Rollout]:
    """By policy: there is at most one for each."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM rollouts WHERE state IN ('running', 'stopped') ORDER BY id")
    return {row[1]: _rollout(row) for row in rows}


def rollouts(tx: Tx, limit: int = 100) -> list[Rollout]:
    """The latest, the newest first."""
    return [_rollout(row) for row in tx.all(f"SELECT {_COLUMNS} FROM rollouts ORDER BY id DESC LIMIT ?", limit)]


def rollout(tx: Tx, number: int) -> Rollout:
    """One of them. Raises Refused."""
    row = tx.one(f"SELECT {_COLUMNS} FROM rollouts WHERE id = ?", number)
    if row is None:
        raise Refused(StatusWord.NOT_FOUND, f"there is no roll-out {number}: exeat plane rollouts lists them")
    return _rollout(row)


def pause(tx: Tx, number: int, change: Change) -> None:
    """Nodes that have the new revision keep it, and no other gets it."""
    found = _locked(tx, number)
    if found.state is not State.RUNNING:
        raise _not_now(found, "only one that is running can be paused")
    _set(tx, number, State.STOPPED, f"paused by {change.by}" + (f": {change.reason}" if change.reason else ""))


def resume(tx: Tx, number: int, change: Change) -> None:
    """The present stage begins anew: its time, and what is counted."""
    found = _locked(tx, number)
    if found.state is not State.STOPPED:
        raise _not_now(found, "only one that was stopped can be resumed")
    tx.do("UPDATE rollouts SET state = 'running', why = '', stage_ns = ? WHERE id = ?", change.at_ns, number)
    _begin_stage(tx, rollout(tx, number), nodes(tx))


def cancel(tx: Tx, number: int, change: Change) -> None:
    """Back to the revision before, everywhere."""
    found = _locked(tx, number)
    if not found.is_underway:
        raise _not_now(found, "it cannot be cancelled any more; roll the policy back instead")
    held = kept_one(tx, found.name)
    if held and held[1] is Source.DIRECTORY:
        raise _not_now(
            found, "the policy is kept in the directory of policies: take its change back there, or pause this"
        )
    why = f"cancelled by {change.by}" + (f": {change.reason}" if change.reason else "")
    _set(tx, number, State.CANCELLED, why)
    reason = f"roll-out {number} {why}"
    action = Action.ROLLBACK if found.before else Action.REMOVE
    put(tx, found.name, found.before, Change(change.by, reason, change.at_ns, action))


def finish(tx: Tx, number: int, change: Change) -> None:
    """To every node, now."""
    found = _locked(tx, number)
    if not found.is_underway:
        raise _not_now(found, "there is nothing left to finish")
    _set(tx, number, State.DONE, f"finished by {change.by}" + (f": {change.reason}" if change.reason else ""))


def progress(tx: Tx, number: int, now_ns: int) -> Progress:
    """How far it is."""
    found = rollout(tx, number)
    facts = _facts(tx, found, nodes(tx))
    return Progress(found, facts.chosen, facts.counted, decide(facts, now_ns))


def look(database: Database, now_ns: int) -> list[tuple[Rollout, Decision]]:
    """Judges every roll-out that is running, and takes the steps that are due; those that were taken."""
    with database.reading() as tx:
        running = [one for one in underway(tx).values() if one.state is State.RUNNING]
        if not running:
            return []
        there = nodes(tx)
        judged = [(one, decide(_facts(tx, one, there), now_ns)) for one in running]
    due = [(one, decision) for one, decision in judged if decision.step is not Step.WAIT]
    if not due:
        return []
    with database.writing() as tx:
        lock(tx)
        return [(one, decision) for one, decision in due if _take(tx, one, decision, now_ns)]


def _take(tx: Tx, judged: Rollout, decision: Decision, now_ns: int) -> bool:
    """False: somebody else was faster."""
    state, stage, stage_ns = State.RUNNING, judged.stage, judged.stage_ns
    if decision.step is Step.ADVANCE:
        stage, stage_ns = judged.stage + 1, now_ns
    else:
        state = State.DONE if decision.step is Step.FINISH else State.STOPPED
    is_taken = tx.do(
        "UPDATE rollouts SET state = ?, why = ?, stage = ?, stage_ns = ? "
        "WHERE id = ? AND stage = ? AND stage_ns = ? AND state = 'running'",
        *(state.value, decision.why, stage, stage_ns, judged.id, judged.stage, judged.stage_ns),
    )
    if is_taken:
        if decision.step is Step.ADVANCE:
            _begin_stage(tx, rollout(tx, judged.id), nodes(tx))
        tx.tell(News(Topic.POLICIES))
    return is_taken > 0


def _begin_stage(tx: Tx, begun: Rollout, there: Iterable[Node]) -> None:
    counted = _counted(tx, begun, {node.name for node in _chosen(tx, begun, there)})
    tx.do("UPDATE rollouts SET tried = ?, denied = ? WHERE id = ?", counted.tried, counted.denied, begun.id)
    tx.tell(News(Topic.POLICIES))


def _facts(tx: Tx, judged: Rollout, there: Iterable[Node]) -> Facts:
    chosen = _chosen(tx, judged, there)
    holding = {
        row[0]
        for row in tx.all("SELECT node FROM holdings WHERE name = ? AND revision = ?", judged.name, judged.revision)
    }
    told = tuple(
        ChosenNode(
            node.name,
            node.is_connected,
            node.name in holding,
            node.fault if node.fault_ns >= judged.stage_ns else "",
        )
        for node in chosen
    )
    counted = _counted(tx, judged, {node.name for node in chosen}).since(judged.base)
    return Facts(judged.plan, judged.stage, judged.stage_ns, told, counted)


def _chosen(tx: Tx, judged: Rollout, there: Iterable[Node]) -> list[Node]:
    """The nodes that the new revision is for, as far as the present stage goes."""
    row = tx.one("SELECT facts FROM documents WHERE revision = ?", judged.revision)
    assert row is not None
    subject = parse_facts(row[0]).subject
    return [
        node
        for node in there
        if not node.is_retired
        and is_for_node(subject, node.effective_labels)
        and is_chosen(node.name, judged.name, judged.percent)
    ]


def _counted(tx: Tx, judged: Rollout, chosen: set[str]) -> Counted:
    """On these nodes under this policy, from the full hour on in which the stage began."""
    counted = Counted()
    for node, policy, hook, is_denied, count in tx.all(
        "SELECT node, policy, hook, CASE WHEN verdict = 1 THEN 0 ELSE 1 END AS is_denied, SUM(count) FROM tallies "
        "WHERE hour_ns >= ? GROUP BY node, policy, hook, is_denied",
        judged.stage_ns - judged.stage_ns % _HOUR,
    ):
        # Several policies in force for a workload are united to one, and their names by plus signs.
        if node in chosen and judged.name in policy.split("+"):
            counted = counted.and_verdicts(hook, is_denied == 1, int(count))
    return counted


def _locked(tx: Tx, number: int) -> Rollout:
    lock(tx)
    return rollout(tx, number)


def _set(tx: Tx, number: int, state: State, why: str) -> None:
    tx.do("UPDATE rollouts SET state = ?, why = ? WHERE id = ?", state.value, why, number)
    tx.tell(News(Topic.POLICIES))


def _not_now(found: Rollout, what: str) -> Refused:
    return Refused(StatusWord.PRECONDITION, f"roll-out {found.id} of {found.name} is {found.state}: {what}")


def _rollout(row: Row) -> Rollout:
    stages, soak_s, max_per_mille, stage, state, why, by, began_ns, stage_ns, tried, denied = row[4:]
    plan = Plan(tuple(json.loads(stages)), soak_s, max_per_mille)
    what: Row = (*row[:4], plan, stage, State(state), why, by, began_ns, stage_ns, Counted(tried, denied))
    return Rollout(*what)
