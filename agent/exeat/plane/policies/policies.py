"""The policies that shall hold, and every change of them.

Each function takes a transaction. Reading a large document takes some tenths of a second: who does not want to keep the
store's only writer waiting calls read_all() first, and then place() in the transaction.

    drafts = read_all([("coder.yaml", text)])
    with database.writing() as tx:
        place(tx, drafts, Change(by="alice", reason="a mirror moved", at_ns=time.time_ns()))
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from exeat.core.diff import differences
from exeat.core.policy_file import read_policy
from exeat.core.problems import shown
from exeat.errors import PolicyError, Refused, StatusWord
from exeat.model.policy import Policy, Subject
from exeat.plane.policies import rollouts
from exeat.plane.policies.assign import Placement, Version
from exeat.plane.policies.policy_facts import Facts, facts_of, facts_text, parse_facts
from exeat.plane.policies.policy_rows import (
    Action,
    Change,
    HistoryEntry,
    KeptPolicy,
    Source,
    history,
    kept,
    kept_one,
    lock,
    put,
)
from exeat.plane.policies.rollout_judge import Plan
from exeat.plane.store.database import Tx

__all__ = [
    "Action", "Change", "Draft", "HistoryEntry", "KeptPolicy", "Placed", "Plan", "Source", "apply", "current", "diff",
    "document", "documents", "history", "place", "place_one", "placements", "read_all", "remove", "rollback",
    "where_kept",
]  # fmt: skip

TOGETHER_MAX = 24 << 20  # of all: a node may get every one in a message, of which agents take 32 MiB
_PREFIX_MIN = 6


@dataclass(frozen=True, slots=True)
class Draft:
    """A document that was read, and may be made to hold."""

    where: str  # what its author calls it, for sentences
    text: str
    revision: str
    policy: Policy
    facts: Facts
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of a draft."""

    name: str
    before: str  # empty: there was none
    revision: str
    warnings: tuple[str, ...] = ()
    history_id: int = 0  # 0: it was so already
    rollout: int = 0  # 0: on every node at once

    @property
    def is_change(self) -> bool:
        """Whether it was not so already."""
        return self.history_id != 0


def read_all(texts: Iterable[tuple[str, str]]) -> tuple[Draft, ...]:
    """Reads documents, each with what its author calls it. Raises PolicyError with every problem of every one."""
    drafts: list[Draft] = []
    problems: list[str] = []
    for where, text in texts:
        try:
            drafts.append(_read(where, text))
        except PolicyError as error:
            problems += error.problems
    problems += _same_names(drafts)
    if problems:
        raise PolicyError(problems)
    return tuple(drafts)


def apply(tx: Tx, texts: Iterable[tuple[str, str]], change: Change) -> tuple[Placed, ...]:
    """Reads documents and makes them hold: all, or none. Raises PolicyError and Refused."""
    return place(tx, read_all(texts), change)


def place(tx: Tx, drafts: Sequence[Draft], change: Change) -> tuple[Placed, ...]:
    """Makes documents hold, each under its policy's name: all, or none. Raises Refused."""
    lock(tx)
    placed = tuple(place_one(tx, draft, change) for draft in drafts)
    total = sum(one.facts.size for one in kept(tx))
    if total > TOGETHER_MAX:
        raise Refused(
            StatusWord.PRECONDITION,
            f"all policies together would have {-(-total >> 20)} MiB, of which an agent takes {TOGETHER_MAX >> 20}: "
            "put hosts that share an ending into one pattern, or remove policies that nobody needs",
        )
    return placed


def place_one(tx: Tx, draft: Draft, change: Change) -> Placed:
    """The same of one document, for those who have locked, and see to TOGETHER_MAX themselves. Raises Refused."""
    name, revision = draft.policy.name, draft.revision
    had = _own(tx, name, change) or ""
    if had == revision:
        return Placed(name, had, revision, draft.warnings)
    tx.do(
        "INSERT INTO documents (revision, name, text, facts, first_ns) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (revision) DO NOTHING",
        *(revision, name, draft.text, facts_text(draft.facts), change.at_ns),
    )
    overtaken = rollouts.overtake(tx, name, f"{change.by} has changed the policy again")
    entry = put(tx, name, revision, change)
    # Nodes that the overtaken one had not reached go on with what they have.
    elsewhere = overtaken.before if overtaken else had
    number = 0
    if change.plan is not None and elsewhere != revision:
        number = rollouts.begin(tx, name, elsewhere, revision, change)
    return Placed(name, had, revision, draft.warnings, entry, number)


def remove(tx: Tx, name: str, change: Change) -> Placed:
    """No node is to have it any more, at once. Raises Refused."""
    if change.plan is not None:
        raise Refused(StatusWord.INVALID, "a policy is removed from every node at once: leave the roll-out out")
    lock(tx)
    had = _own(tx, name, change)
    if had is None:
        raise _unknown(name)
    rollouts.overtake(tx, name, f"{change.by} has removed the policy")
    return Placed(name, had, "", (), put(tx, name, "", replace(change, action=Action.REMOVE)))


def rollback(tx: Tx, name: str, revision: str | None, change: Change) -> Placed:
    """Makes an older document hold again: of a revision (its first digits are enough), or of before the last change."""
    lock(tx)
    entries = history(tx, name, limit=1)
    if not entries:
        raise _unknown(name)
    wanted = _revision_of(tx, name, revision) if revision else entries[0].before
    if not wanted:
        raise Refused(StatusWord.PRECONDITION, f"there was nothing before this revision of {name}: remove it instead")
    return place(tx, read_all([(name, document(tx, wanted))]), replace(change, action=Action.ROLLBACK))[0]


def current(tx: Tx) -> list[KeptPolicy]:
    """The policies that shall hold, by name."""
    return kept(tx)


def placements(tx: Tx) -> tuple[Placement, ...]:
    """The same with what is underway, as assign wants it."""
    underway = rollouts.underway(tx)
    found = []
    for one in kept(tx):
        version, rollout = Version(one.revision, one.facts.subject), underway.get(one.name)
        if rollout is None:
            found.append(Placement(one.name, version))
        else:
            before = Version(rollout.before, _subject_of(tx, rollout.before)) if rollout.before else None
            found.append(Placement(one.name, version, before, rollout.percent))
    return tuple(found)


def document(tx: Tx, revision: str) -> str:
    """Its text. Raises Refused."""
    row = tx.one("SELECT text FROM documents WHERE revision = ?", revision)
    if row is None:
        raise Refused(StatusWord.NOT_FOUND, f"there is no revision {shown(revision)}: the policy's history lists them")
    return str(row[0])


def documents(tx: Tx, revisions: Iterable[str]) -> dict[str, str]:
    """Texts by revision, as many as are there."""
    rows = (tx.one("SELECT revision, text FROM documents WHERE revision = ?", one) for one in sorted(set(revisions)))
    return {row[0]: row[1] for row in rows if row}


def diff(tx: Tx, name: str, text: str, now_ns: int) -> list[str]:
    """What a text would open and close as the policy of a name, in sentences. Raises PolicyError."""
    new = read_all([(name, text)])[0].policy
    had = kept_one(tx, name)
    old = read_policy(document(tx, had[0]), name).policy if had else Policy(name)
    return [change.sentence for change in differences(old, new, datetime.fromtimestamp(now_ns / 1e9, UTC))]


def where_kept(name: str, source: Source) -> str:
    """And what to do there, for whoever would change it elsewhere."""
    match source:
        case Source.DIRECTORY:
            return "in the plane's directory of policies: change its file there"
        case Source.CLUSTER:
            return "as an object of the cluster: change it there (kubectl get egpol,cegpol -A lists them)"
        case Source.STORE:
            return f"in the plane's store: remove it there first (exeat plane policies remove {name})"


def refuse_same_names(drafts: Sequence[Draft]) -> None:
    """Raises PolicyError where two have the same name."""
    if problems := _same_names(drafts):
        raise PolicyError(problems)


def _same_names(drafts: Sequence[Draft]) -> list[str]:
    first: dict[str, str] = {}
    problems = []
    for draft in drafts:
        name = draft.policy.name
        if name in first:
            problems.append(
                f"{draft.where}:1: {first[name]} is a policy named {shown(name)} too: leave one of them out"
            )
        first.setdefault(name, draft.where)
    return problems


def _read(where: str, text: str) -> Draft:
    reading = read_policy(text, where)
    content = text.encode()
    revision = hashlib.sha256(content).hexdigest()
    return Draft(where, text, revision, reading.policy, facts_of(reading.policy, len(content)), reading.warnings)


def _own(tx: Tx, name: str, change: Change) -> str | None:
    """The revision that holds. Raises Refused where it is kept elsewhere."""
    had = kept_one(tx, name)
    if had and had[1] is not change.source:
        raise Refused(StatusWord.PRECONDITION, f"the policy {name} is kept {where_kept(name, had[1])}")
    return had[0] if had else None


def _revision_of(tx: Tx, name: str, beginning: str) -> str:
    if len(beginning) < _PREFIX_MIN or set(beginning) - set("0123456789abcdef"):
        sentence = f"{shown(beginning)} is no revision: write at least {_PREFIX_MIN} of its hexadecimal digits"
        raise Refused(StatusWord.INVALID, sentence)
    rows = tx.all("SELECT revision FROM documents WHERE name = ? AND revision LIKE ?", name, f"{beginning}%")
    if not rows:
        sentence = f"{name} has had no revision {beginning}: exeat plane policies history {name} lists them"
        raise Refused(StatusWord.NOT_FOUND, sentence)
    if len(rows) > 1:
        raise Refused(StatusWord.PRECONDITION, f"{beginning} could be several revisions of {name}: write more of it")
    return str(rows[0][0])


def _subject_of(tx: Tx, revision: str) -> Subject:
    row = tx.one("SELECT facts FROM documents WHERE revision = ?", revision)
    assert row is not None
    return parse_facts(row[0]).subject


def _unknown(name: str) -> Refused:
    return Refused(StatusWord.NOT_FOUND, f"there is no policy {shown(name)}: exeat plane policies lists them")
