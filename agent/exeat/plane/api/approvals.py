"""The API's calls that turn denials into rules: a preview, and the approval of what was previewed."""

from typing import Any

from exeat.core.diff_words import time_text as end_text
from exeat.core.policy_text import policy_document
from exeat.core.verdict_text import time_text
from exeat.model.policy import Policy
from exeat.plane.api.calls import Asked, Call
from exeat.plane.approval.aim import parse_aim
from exeat.plane.approval.approve import Approver, Ask, Preview, check_token, preview, settle
from exeat.plane.people import Role
from exeat.plane.policies import policies
from exeat.plane.store.database import Database, Tx

_DEFAULT_END = "90d"
_LISTED_MAX = 1000


def preview_json(seen: Preview) -> dict[str, Any]:
    """docs/plane-api.md tells it field by field."""
    return {
        "policy": seen.policy,
        "rule": policy_document(Policy("", (seen.rule,)))["spec"]["egress"][0],
        "base": seen.base,
        "diff": list(seen.text_diff),
        "changes": [{"what": change.what.value, "sentence": change.sentence} for change in seen.changes],
        "remarks": list(seen.remarks),
        "denials": seen.denials,
        "first_denied": time_text(seen.denied_ns),
        "expires": end_text(seen.rule.expires),
        "token": seen.token,
        "why_not": seen.why_not,
    }


def _ask(asked: Asked) -> Ask:
    body = asked.body
    return Ask(
        aim=parse_aim(body.text("destination")),
        owner=body.text("owner"),
        reason=body.text("reason"),
        expires=body.end("expires", asked.now_ns, _DEFAULT_END),
        policy=body.text("policy", ""),
        workload=body.text("workload", "", 4096),
        node=body.text("node", ""),
        wildcard=body.text("wildcard", ""),
    )


def _preview(tx: Tx, asked: Asked) -> Any:
    ask = _ask(asked)
    seen = preview(tx, ask, asked.person.name, asked.now_ns)
    return {**preview_json(seen), "asked_expires": end_text(ask.expires)}


def _approve(database: Database, asked: Asked) -> Any:
    ask, token, by = _ask(asked), asked.body.text("token"), Approver(asked.person.name, asked.now_ns)
    asked.refuse_unknown()
    with database.reading() as tx:
        seen = preview(tx, ask, by.name, by.now_ns)
    check_token(seen, token)
    drafts = policies.read_all([(seen.policy, seen.text)])
    with database.writing() as tx:
        done = settle(tx, ask, seen, by, drafts)
    return {**preview_json(done.preview), "revision": done.revision, "history": done.history_id}


def _list(tx: Tx, asked: Asked) -> Any:
    limit = asked.query.number("limit", 100, 1, _LISTED_MAX)
    rows = tx.all(
        "SELECT id, policy, rule, destination, workload, owner, reason, expires_ns, by_whom, at_ns, denied_ns "
        "FROM approvals ORDER BY id DESC LIMIT ?",
        limit,
    )
    names = (
        "id",
        "policy",
        "rule",
        "destination",
        "workload",
        "owner",
        "reason",
        "expires",
        "by",
        "at",
        "first_denied",
    )
    return {
        "approvals": [
            {
                **dict(zip(names, row, strict=True)),
                **dict(zip(("expires", "at", "first_denied"), _times(row), strict=True)),
            }
            for row in rows
        ]
    }


def _times(row: Any) -> list[str | None]:
    return [time_text(ns) if ns else None for ns in (row[7], row[9], row[10])]


CALLS = {
    ("GET", "/approvals"): Call(Role.VIEWER, _list),
    ("POST", "/approvals/preview"): Call(Role.APPROVER, _preview, has_body=True),
    ("POST", "/approvals"): Call(Role.APPROVER, _approve, is_own=True, has_body=True),
}
