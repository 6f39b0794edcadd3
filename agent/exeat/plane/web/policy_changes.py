"""Between two revisions of a policy: what one opens and closes against the other, and the way back."""

from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import unified_diff

from starlette.responses import Response

from exeat.core.diff import Change as Difference
from exeat.core.diff import differences
from exeat.core.policy_file import read_policy
from exeat.errors import PolicyError, Refused, StatusWord
from exeat.model.policy import Policy
from exeat.plane.policies import policies
from exeat.plane.policies.policies import Action, Change, Placed, Source
from exeat.plane.store.database import Tx
from exeat.plane.web.rendering import segment
from exeat.plane.web.visit import Visit
from exeat.plane.web.wording import short

_LINES_MAX = 3_000


@dataclass(frozen=True, slots=True)
class Between:
    """What differs from one revision to another."""

    before: str  # revisions; empty: there was none
    after: str
    lines: tuple[str, ...]  # of the texts, as `diff -u` shows it
    left_out: int
    changes: tuple[Difference, ...]  # in words
    unreadable: str  # why there are no words


async def policy_diff(visit: Visit) -> Response:
    """GET /policies/NAME/diff?from=REVISION&to=REVISION."""
    name = visit.part("name")
    between = await visit.reading(_between, name, visit.asked("from"), visit.asked("to"), visit.now_ns)
    return visit.page("policy_diff.html", name=name, between=between)


async def rolling_back(visit: Visit) -> Response:
    """GET /policies/NAME/rollback?to=REVISION: what it would do."""
    name, to = visit.part("name"), visit.asked("to")
    now = await visit.reading(_current, name)
    between = await visit.reading(_between, name, now, to, visit.now_ns)
    return visit.page("policy_rollback.html", name=name, between=between)


async def roll_back_now(visit: Visit) -> Response:
    """POST /policies/NAME/rollback?to=REVISION."""
    name, to = visit.part("name"), visit.asked("to")
    reason = " ".join(visit.form.get("reason", "").split())
    if not reason:
        raise Refused(StatusWord.INVALID, "say why: the reason stands in the policy's history")
    change = Change(visit.person.name, reason, visit.now_ns, Action.ROLLBACK)
    await visit.writing(_roll_back, name, to, visit.form.get("now", ""), change)
    return visit.done(f"/policies/{segment(name)}", f"{name} is back at revision {short(to)}, on its way to every node")


def _roll_back(tx: Tx, name: str, to: str, seen: str, change: Change) -> Placed:
    if _current(tx, name) != seen:
        raise Refused(StatusWord.PRECONDITION, f"{name} has been changed in the meantime: look at the difference again")
    return policies.rollback(tx, name, to, change)


def _current(tx: Tx, name: str) -> str:
    kept = next((one for one in policies.current(tx) if one.name == name), None)
    if kept is None:
        return ""
    if kept.source is not Source.STORE:
        raise Refused(StatusWord.PRECONDITION, f"the policy {name} is kept {policies.where_kept(name, kept.source)}")
    return kept.revision


def _between(tx: Tx, name: str, before: str, after: str, now_ns: int) -> Between:
    texts = [policies.document(tx, revision) if revision else "" for revision in (before, after)]
    old_label, new_label = (f"{name} {short(one)}" if one else "nothing" for one in (before, after))
    lines = list(unified_diff(texts[0].splitlines(), texts[1].splitlines(), old_label, new_label, lineterm=""))
    changes: tuple[Difference, ...] = ()
    unreadable = ""
    try:
        old, new = (read_policy(text, name).policy if text else Policy(name) for text in texts)
        changes = differences(old, new, datetime.fromtimestamp(now_ns / 1e9, UTC))
    except PolicyError as error:  # another version of exeat took it
        unreadable = str(error)
    return Between(before, after, tuple(lines[:_LINES_MAX]), max(0, len(lines) - _LINES_MAX), changes, unreadable)
