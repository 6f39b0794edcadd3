"""From a denial to a rule: first what would come of it, then who wants it, why and for how long, then the rule.

The preview on the page is of the form as it stands. What is posted is previewed again, and applied only if it opens
what the page had shown, to the policy as it was then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from starlette.responses import Response

from exeat.core.problems import shown
from exeat.errors import ExeatError, Refused, StatusWord
from exeat.model.policy import Protocol
from exeat.plane.approval.aim import Aim, parse_aim
from exeat.plane.approval.approve import Approval, Ask, Preview, approve, preview
from exeat.plane.policies import policies
from exeat.plane.store.database import StoreError, Tx
from exeat.plane.web.rendering import segment
from exeat.plane.web.visit import Visit

DAYS = (7, 30, 90, 180, 365)
_DAYS = 90
_DAYS_MAX = 400
_DRAFT = "…"  # in place of what nobody has written yet


@dataclass(frozen=True, slots=True)
class Draft:
    """The form as it stands, and what would come of it."""

    preview: Preview | None
    problem: str  # why there is none
    owner: str  # of the policy, to begin with
    seen: str  # what the page shows, sealed


async def approving(visit: Visit) -> Response:
    """GET /denials/approve?target=...: the page, or the same with another form."""
    values = dict(visit.request.query_params)
    draft = await visit.reading(_draft, visit, values)
    policies_of = [name for name in values.get("policies", "").split("+") if name]
    return visit.page(
        "approve.html",
        draft=draft,
        seen=draft.preview,
        policies_of=policies_of,
        days=DAYS,
        chosen_days=values.get("days", str(_DAYS)),
        protocols=[one.value for one in Protocol],
    )


async def approve_now(visit: Visit) -> Response:
    """POST /denials/approve: the same form, with `seen`."""
    done = await visit.writing(_approve, visit, visit.form)
    name, rule = done.preview.policy, done.preview.rule.name
    return visit.done(
        f"/policies/{segment(name)}", f"rule {rule} is in {name} now, as revision {done.revision[:12]}, for every node"
    )


def _draft(tx: Tx, visit: Visit, values: Mapping[str, str]) -> Draft:
    owner = _owner(tx, values)
    try:
        asked = _ask(values, visit.now_ns)
        asked = replace(asked, owner=asked.owner or owner or visit.person.name, reason=asked.reason or _DRAFT)
        seen = preview(tx, asked, visit.person.name, visit.now_ns)
    except StoreError:
        raise
    except ExeatError as error:  # what is wrong with the form is said beside it
        return Draft(None, str(error), owner, "")
    return Draft(seen, "", owner, visit.console.seal.mac("approve", _sight(seen)))


def _approve(tx: Tx, visit: Visit, values: Mapping[str, str]) -> Approval:
    asked = _ask(values, visit.now_ns)
    seen = preview(tx, asked, visit.person.name, visit.now_ns)
    if not visit.console.seal.is_mac("approve", _sight(seen), values.get("seen", "")):
        sentence = f"the policy {seen.policy}, or what was denied, has changed since the preview: look at it again"
        raise Refused(StatusWord.PRECONDITION, sentence)
    return approve(tx, asked, visit.person.name, seen.token, visit.now_ns)


def _sight(seen: Preview) -> str:
    """What must not change between looking and confirming; owner, reason and end are what the form itself says."""
    rule = replace(seen.rule, expires=None)
    return f"{seen.policy}\0{seen.base}\0{rule}"


def _ask(values: Mapping[str, str], now_ns: int) -> Ask:
    days = values.get("days", "").strip() or str(_DAYS)
    if not (days.isascii() and days.isdecimal() and 1 <= int(days[:4]) <= _DAYS_MAX):
        raise Refused(StatusWord.INVALID, f"{shown(days)} is no number of days from 1 to {_DAYS_MAX}")
    return Ask(
        aim=_aim(values),
        owner=values.get("owner", "").strip(),
        reason=" ".join(values.get("reason", "").split()),
        expires=datetime.fromtimestamp(now_ns // 1_000_000_000, UTC) + timedelta(days=int(days)),
        policy=values.get("policy", "").strip(),
        workload=values.get("workload", ""),
        wildcard=values.get("wildcard", "").strip(),
    )


def _aim(values: Mapping[str, str]) -> Aim:
    target, port, protocol = (values.get(name, "").strip() for name in ("target", "port", "protocol"))
    if port and not (port.isascii() and port.isdecimal()):
        raise Refused(StatusWord.INVALID, f"{shown(port)} is no port: write a number from 1 to 65535")
    host = f"[{target}]" if ":" in target else target
    return parse_aim(host + (f":{port}" if port else "") + (f"/{protocol}" if protocol else ""))


def _owner(tx: Tx, values: Mapping[str, str]) -> str:
    """Of the policy that would get the rule, if there is but one."""
    names = {values["policy"]} if values.get("policy") else set(values.get("policies", "").split("+"))
    owners = {one.facts.owner for one in policies.current(tx) if one.name in names}
    return owners.pop() if len(owners) == 1 else ""
