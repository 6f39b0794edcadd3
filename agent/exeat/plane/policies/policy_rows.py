"""The rows of policies and of their history. What may be changed, and what follows from it, is policies' matter.

Concurrent changes, also through several replicas, come one after the other: whoever changes policies or roll-outs calls
lock() first in its transaction.
"""

from dataclasses import dataclass
from enum import StrEnum

from exeat.plane.policies.policy_facts import Facts, parse_facts
from exeat.plane.policies.rollout_judge import Plan
from exeat.plane.store.database import News, Topic, Tx


class Action(StrEnum):
    """What somebody did to a policy."""

    APPLY = "apply"
    ROLLBACK = "rollback"
    REMOVE = "remove"
    APPROVE = "approve"


class Source(StrEnum):
    """Where a policy is kept, and so the only place where it can be changed."""

    STORE = "store"
    DIRECTORY = "directory"
    CLUSTER = "cluster"  # an object of Kubernetes


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes something, and how."""

    by: str
    reason: str
    at_ns: int
    action: Action = Action.APPLY
    plan: Plan | None = None  # None: on every node at once
    source: Source = Source.STORE


@dataclass(frozen=True, slots=True)
class KeptPolicy:
    """A policy that shall hold."""

    name: str
    revision: str
    source: Source
    changed_ns: int
    facts: Facts


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A change that was made."""

    id: int
    name: str
    revision: str  # empty: removed
    before: str  # empty: there was none
    action: Action
    by: str
    reason: str
    at_ns: int


def lock(tx: Tx) -> None:
    """Until the transaction ends, nobody else changes policies or roll-outs."""
    tx.do("UPDATE settings SET value = value WHERE name = 'step'")


def kept(tx: Tx) -> list[KeptPolicy]:
    """All, by name."""
    rows = tx.all(
        "SELECT p.name, p.revision, p.source, p.changed_ns, d.facts FROM policies p JOIN documents d "
        "ON d.revision = p.revision ORDER BY p.name"
    )
    return [
        KeptPolicy(name, revision, Source(source), at, parse_facts(facts)) for name, revision, source, at, facts in rows
    ]


def kept_one(tx: Tx, name: str) -> tuple[str, Source] | None:
    """Its revision, and where it is kept."""
    row = tx.one("SELECT revision, source FROM policies WHERE name = ?", name)
    return (row[0], Source(row[1])) if row else None


def put(tx: Tx, name: str, revision: str, change: Change) -> int:
    """Makes a revision (empty: none) the one that shall hold; the number of its entry in the history."""
    had = kept_one(tx, name)
    if not revision:
        tx.do("DELETE FROM policies WHERE name = ?", name)
    else:
        tx.do(
            "INSERT INTO policies (name, revision, source, changed_ns) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE "
            "SET revision = excluded.revision, source = excluded.source, changed_ns = excluded.changed_ns",
            *(name, revision, change.source.value, change.at_ns),
        )
    values = (name, revision, had[0] if had else "", change.action.value, change.by, change.reason, change.at_ns)
    row = tx.one(
        "INSERT INTO history (name, revision, before, action, by_whom, reason, at_ns) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "RETURNING id",
        *values,
    )
    assert row is not None
    tx.tell(News(Topic.POLICIES))
    return int(row[0])


def history(tx: Tx, name: str | None = None, limit: int = 100) -> list[HistoryEntry]:
    """The latest changes, of a policy or of all, the newest first."""
    columns = "id, name, revision, before, action, by_whom, reason, at_ns"
    if name is None:
        rows = tx.all(f"SELECT {columns} FROM history ORDER BY id DESC LIMIT ?", limit)
    else:
        rows = tx.all(f"SELECT {columns} FROM history WHERE name = ? ORDER BY id DESC LIMIT ?", name, limit)
    return [
        HistoryEntry(number, name, revision, before, Action(action), by, reason, at_ns)
        for number, name, revision, before, action, by, reason, at_ns in rows
    ]
