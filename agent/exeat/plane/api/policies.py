"""The API's calls about policies: what shall hold, what did, and how it is changed."""

from collections.abc import Callable, Sequence
from typing import Any

from exeat.core.assign import is_for_node
from exeat.core.problems import shown
from exeat.core.verdict_text import time_text
from exeat.errors import Refused, StatusWord
from exeat.plane.api.calls import Asked, Call
from exeat.plane.api.differences import Compared, compare
from exeat.plane.api.nodes import time_or_none
from exeat.plane.nodes import nodes
from exeat.plane.people import Role
from exeat.plane.policies import policies, rollouts
from exeat.plane.policies.policies import Change, Draft, Placed, Plan
from exeat.plane.store.database import Database, Tx

_DOCUMENTS_MAX = 32 * 1024 * 1024  # of a body
_LISTED_MAX = 1000
_DIGITS_MIN = 6


def calls(directory_problems: Callable[[], Sequence[str]]) -> dict[tuple[str, str], Call]:
    """All of them. The problems are those of policies that are kept in a directory."""

    def listed(tx: Tx, asked: Asked) -> Any:
        return {"policies": _list(tx), "directory_problems": list(directory_problems())}

    return {
        ("GET", "/policies"): Call(Role.VIEWER, listed),
        ("POST", "/policies"): Call(Role.ADMIN, _apply, is_own=True, has_body=True, longest=_DOCUMENTS_MAX),
        ("POST", "/policies/diff"): Call(Role.VIEWER, _diff, is_own=True, has_body=True, longest=_DOCUMENTS_MAX),
        ("GET", "/policies/{name}"): Call(Role.VIEWER, _one),
        ("DELETE", "/policies/{name}"): Call(Role.ADMIN, _remove, is_writing=True),
        ("GET", "/policies/{name}/history"): Call(Role.VIEWER, _history),
        ("GET", "/policies/{name}/diff"): Call(Role.VIEWER, _between),
        ("POST", "/policies/{name}/rollback"): Call(Role.ADMIN, _rollback, is_writing=True, has_body=True),
        ("GET", "/history"): Call(Role.VIEWER, _history),
    }


def changes_json(compared: Compared) -> list[dict[str, str]]:
    """What a change opens and closes, in words."""
    return [{"what": change.what.value, "sentence": change.sentence} for change in compared.changes]


def _list(tx: Tx) -> list[dict[str, Any]]:
    there = [node for node in nodes.nodes(tx) if not node.is_retired]
    held: dict[tuple[str, str], set[str]] = {}
    for node, holdings in nodes.all_holdings(tx).items():
        for one in holdings:
            held.setdefault((one.name, one.revision), set()).add(node)
    underway = rollouts.underway(tx)
    found = []
    for policy in policies.current(tx):
        facts = policy.facts
        wanting = {node.name for node in there if is_for_node(facts.subject, node.effective_labels)}
        rollout = underway.get(policy.name)
        found.append(
            {
                "name": policy.name,
                "revision": policy.revision,
                "source": policy.source.value,
                "mode": facts.mode,
                "owner": facts.owner,
                "rules": facts.rules,
                "size": facts.size,
                "expires": time_or_none(facts.expires_ns),
                "nodes": dict(facts.nodes),
                "changed": time_text(policy.changed_ns),
                "nodes_wanted": len(wanting),
                "nodes_holding": len(wanting & held.get((policy.name, policy.revision), set())),
                "rollout": rollout.id if rollout else None,
            }
        )
    return found


def _one(tx: Tx, asked: Asked) -> Any:
    name = asked.path["name"]
    present = _present(tx, name)
    revision = _revision(tx, name, asked.query.text("revision", "")) or present
    if revision is None:
        raise _unknown(name)
    text = policies.document(tx, revision)
    return {"name": name, "revision": revision, "is_current": revision == present, "text": text}


def _history(tx: Tx, asked: Asked) -> Any:
    name = asked.path.get("name")
    found = policies.history(tx, name, asked.query.number("limit", 50, 1, _LISTED_MAX))
    if name is not None and not found:
        raise _unknown(name)
    return {
        "history": [
            {
                "id": one.id,
                "name": one.name,
                "revision": one.revision,
                "before": one.before,
                "action": one.action.value,
                "by": one.by,
                "reason": one.reason,
                "at": time_text(one.at_ns),
            }
            for one in found
        ]
    }


def _between(tx: Tx, asked: Asked) -> Any:
    name = asked.path["name"]
    before = _revision(tx, name, asked.query.text("from"))
    after = _revision(tx, name, asked.query.text("to", "")) or _present(tx, name)
    if before is None or after is None:
        raise _unknown(name)
    compared = compare(name, policies.document(tx, before), policies.document(tx, after), asked.now_ns)
    return {"from": before, "to": after, "diff": list(compared.text), "changes": changes_json(compared)}


def _diff(database: Database, asked: Asked) -> Any:
    drafts = _drafts(asked)
    asked.refuse_unknown()
    with database.reading() as tx:
        befores = [_present(tx, draft.policy.name) for draft in drafts]
    compared = _compared(database, drafts, befores, asked.now_ns)
    return {"policies": [_draft_json(draft, one) for draft, one in zip(drafts, compared, strict=True)]}


class _OnlyLooked(Exception):
    """So that a transaction is taken back."""


def _apply(database: Database, asked: Asked) -> Any:
    """Large documents are read before the store's only writer is kept busy, and compared afterwards: that takes longest
    of all, and agents need not wait for it."""
    drafts = _drafts(asked)
    change = _change(asked, asked.body.text("reason", ""), _plan(asked))
    is_dry = asked.body.is_true("dry_run")
    asked.refuse_unknown()
    placed: tuple[Placed, ...] = ()
    try:
        with database.writing() as tx:
            placed = policies.place(tx, drafts, change)
            if is_dry:
                raise _OnlyLooked
    except _OnlyLooked:
        pass  # what would become of it is known, and nothing did
    compared = _compared(database, drafts, [one.before for one in placed], asked.now_ns)
    return {
        "policies": [
            {**_draft_json(draft, one), **_placed_json(became), "rollout": None if is_dry else became.rollout or None}
            for draft, one, became in zip(drafts, compared, placed, strict=True)
        ]
    }


def _remove(tx: Tx, asked: Asked) -> Any:
    change = _change(asked, asked.query.text("reason", ""), None)
    return _placed_json(policies.remove(tx, asked.path["name"], change))


def _rollback(tx: Tx, asked: Asked) -> Any:
    revision = asked.body.text("revision", "") or None
    change = _change(asked, asked.body.text("reason", ""), _plan(asked))
    return _placed_json(policies.rollback(tx, asked.path["name"], revision, change))


def _drafts(asked: Asked) -> tuple[Draft, ...]:
    given = asked.body.objects("documents")
    texts = [(one.text("where", "the policy", 4096), one.text("text", longest=_DOCUMENTS_MAX)) for one in given]
    for one in given:
        one.refuse_unknown()
    return policies.read_all(texts)


def _compared(
    database: Database, drafts: Sequence[Draft], befores: Sequence[str | None], now_ns: int
) -> list[Compared]:
    with database.reading() as tx:
        texts = [policies.document(tx, before) if before else None for before in befores]
    return [compare(draft.policy.name, text, draft.text, now_ns) for draft, text in zip(drafts, texts, strict=True)]


def _draft_json(draft: Draft, compared: Compared) -> dict[str, Any]:
    return {
        "name": draft.policy.name,
        "revision": draft.revision,
        "diff": list(compared.text),
        "changes": changes_json(compared),
        "warnings": list(draft.warnings),
    }


def _placed_json(placed: Placed) -> dict[str, Any]:
    return {
        "name": placed.name,
        "before": placed.before,
        "revision": placed.revision,
        "is_changed": placed.is_change,
        "history": placed.history_id or None,
        "rollout": placed.rollout or None,
    }


def _change(asked: Asked, reason: str, plan: Plan | None) -> Change:
    return Change(by=asked.person.name, reason=reason, at_ns=asked.now_ns, plan=plan)


def _plan(asked: Asked) -> Plan | None:
    given = asked.body.object_or_none("rollout")
    if given is None:
        return None
    default = Plan()
    stages = tuple(given.numbers("stages")) or default.stages
    soak_s = given.number("soak_s", default.soak_s, 0, 10**9)
    max_per_mille = given.number("max_per_mille", default.max_per_mille, 0, 10**9)
    given.refuse_unknown()
    return Plan(stages, soak_s, max_per_mille)


def _present(tx: Tx, name: str) -> str | None:
    row = tx.one("SELECT revision FROM policies WHERE name = ?", name)
    return str(row[0]) if row else None


def _revision(tx: Tx, name: str, beginning: str) -> str | None:
    """A revision by its first digits; None for none."""
    if not beginning:
        return None
    if len(beginning) < _DIGITS_MIN or set(beginning) - set("0123456789abcdef"):
        sentence = f"{shown(beginning)} is no revision: write at least {_DIGITS_MIN} of its hexadecimal digits"
        raise Refused(StatusWord.INVALID, sentence)
    rows = tx.all("SELECT revision FROM documents WHERE name = ? AND revision LIKE ?", name, f"{beginning}%")
    if len(rows) != 1:
        what = "could be several revisions" if rows else "is no revision"
        raise Refused(
            StatusWord.NOT_FOUND, f"{beginning} {what} of {name}: `exeat plane policies history {name}` lists them"
        )
    return str(rows[0][0])


def _unknown(name: str) -> Refused:
    return Refused(StatusWord.NOT_FOUND, f"there is no policy {shown(name)}: `exeat plane policies` lists them")
