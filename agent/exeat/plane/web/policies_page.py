"""Policies: what shall hold, who has it, and how it came to be so."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.responses import PlainTextResponse, Response

from exeat.core.policy_file import read_policy
from exeat.core.policy_text import policy_head, policy_rows
from exeat.core.problems import shown
from exeat.errors import PolicyError, Refused, StatusWord
from exeat.plane.nodes import nodes
from exeat.plane.policies import policies, rollouts
from exeat.plane.policies.policies import HistoryEntry, KeptPolicy
from exeat.plane.policies.rollouts import Rollout
from exeat.plane.store.database import Tx
from exeat.plane.web.listing import has_words, listing
from exeat.plane.web.visit import Visit

_ROWS_MAX = 300
_HISTORY_MAX = 100
_LATEST = 15


@dataclass(frozen=True, slots=True)
class Line:
    """A policy in the list."""

    kept: KeptPolicy
    holding: int  # nodes that enforce this revision
    others: int  # that enforce another one
    rollout: Rollout | None


@dataclass(frozen=True, slots=True)
class Holder:
    """A node that enforces some revision of it."""

    node: str
    revision: str
    since_ns: int


@dataclass(frozen=True, slots=True)
class Detail:
    """A policy by itself."""

    name: str
    kept: KeptPolicy | None  # None: it was removed
    text: str
    history: tuple[HistoryEntry, ...]
    holders: tuple[Holder, ...]
    rollout: Rollout | None


_KEYS = {
    "name": lambda line: line.kept.name,
    "changed": lambda line: line.kept.changed_ns,
    "expires": lambda line: (line.kept.facts.expires_ns == 0, line.kept.facts.expires_ns),
    "rules": lambda line: line.kept.facts.rules,
    "owner": lambda line: (line.kept.facts.owner, line.kept.name),
    "nodes": lambda line: line.holding,
}


async def policy_list(visit: Visit) -> Response:
    """GET /policies."""
    lines, latest = await visit.reading(_lines)
    sought = visit.asked("q")
    fitting = [line for line in lines if has_words(sought, line.kept.name, line.kept.facts.owner)]
    return visit.page(
        "policies.html",
        found=listing(fitting, visit.asked("sort"), _KEYS, "name"),
        total=len(lines),
        latest=latest,
        problems=visit.console.plane.directory.problems(),
    )


async def policy_detail(visit: Visit) -> Response:
    """GET /policies/NAME."""
    name = visit.part("name")
    detail = await visit.reading(_detail, name)
    facts, rows, unreadable = _told(detail, datetime.fromtimestamp(visit.now_ns / 1e9, UTC))
    return visit.page(
        "policy.html",
        detail=detail,
        facts=facts,
        rows=rows[:_ROWS_MAX],
        left_out=max(0, len(rows) - _ROWS_MAX),
        unreadable=unreadable,
        revisions=Counter(holder.revision for holder in detail.holders),
    )


async def policy_text(visit: Visit) -> Response:
    """GET /policies/NAME/text?revision=REVISION: the document as it was written."""
    revision = visit.asked("revision")
    text = await visit.reading(policies.document, revision)
    if visit.asked("as") == "file":
        return PlainTextResponse(text)
    return visit.page("policy_text.html", name=visit.part("name"), revision=revision, lines=text.splitlines())


def _lines(tx: Tx) -> tuple[list[Line], list[HistoryEntry]]:
    held: Mapping[str, Counter[str]] = _held(tx)
    underway = rollouts.underway(tx)
    lines = []
    for one in policies.current(tx):
        counts = held.get(one.name, Counter())
        holding = counts[one.revision]
        lines.append(Line(one, holding, counts.total() - holding, underway.get(one.name)))
    return lines, policies.history(tx, None, _LATEST)


def _held(tx: Tx) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for holdings in nodes.all_holdings(tx).values():
        for one in holdings:
            found.setdefault(one.name, Counter())[one.revision] += 1
    return found


def _detail(tx: Tx, name: str) -> Detail:
    kept = next((one for one in policies.current(tx) if one.name == name), None)
    history = tuple(policies.history(tx, name, _HISTORY_MAX))
    if kept is None and not history:
        raise Refused(StatusWord.NOT_FOUND, f"there is no policy {shown(name)}")
    holders = tuple(
        Holder(node, one.revision, one.since_ns)
        for node, holdings in nodes.all_holdings(tx).items()
        for one in holdings
        if one.name == name
    )
    text = policies.document(tx, kept.revision) if kept else ""
    return Detail(name, kept, text, history, holders, rollouts.underway(tx).get(name))


def _told(detail: Detail, now: datetime) -> tuple[list[tuple[str, str]], list[tuple[str, ...]], str]:
    if not detail.text:
        return [], [], ""
    try:
        policy = read_policy(detail.text, detail.name).policy
    except PolicyError as error:  # another version of exeat took it
        return [], [], str(error)
    return policy_head(policy, now), policy_rows(policy, now), ""
