"""An object's status: what became of it, in the words of Kubernetes. Pure: time is an argument."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from exeat.plane.cluster.enforcing import Enforcing
from exeat.plane.cluster.objects import Outcome, Reason
from exeat.plane.cluster.shelf import Seen

_DIGITS = 12  # of a revision, as `exeat plane policies` shows it
_COUNTS = ("nodes", "enforcing", "workloads")
_MESSAGE_MAX = 1024


def status_of(seen: Seen, outcome: Outcome, now: Enforcing | None, at: datetime) -> dict[str, Any]:
    """What should be written. `now`: of the policy in force; None: there is none."""
    # What waits for its turn has been looked at, but nothing is known of it yet.
    is_judged = outcome.reason is not Reason.PENDING
    generation = seen.generation if is_judged else seen.status.get("observedGeneration", 0)
    kept = (
        "" if outcome.reason is Reason.ACCEPTED or now is None else f"revision {now.revision[:_DIGITS]} stays in force"
    )
    message = "\n".join(one for one in (outcome.message, kept) if one)
    accepted = ("Accepted", outcome.reason is Reason.ACCEPTED, outcome.reason.value, message)
    return {
        "observedGeneration": generation,
        "policy": seen.key.policy if now or seen.text else None,
        "revision": now.revision[:_DIGITS] if now else None,
        "nodes": now.nodes if now else 0,
        "enforcing": now.enforcing if now else 0,
        "workloads": now.workloads if now else 0,
        "conditions": [_condition(*one, seen, at) for one in (accepted, ("Enforced", *_enforced(now)))],
    }


class Differs(IntEnum):
    """How far an object's status is from what should be written."""

    NOT = 0
    COUNTS = 1  # it says the same in other numbers
    YES = 2


def difference(wanted: Mapping[str, Any], seen: Seen) -> Differs:
    """A field that is to be taken away is None."""
    found = Differs.NOT
    for name, value in wanted.items():
        if name == "conditions":
            found = max(found, _differ(_conditions(value), _conditions(seen.status.get(name))))
        elif value != seen.status.get(name):
            found = max(found, Differs.COUNTS if name in _COUNTS else Differs.YES)
    return found


def _differ(wanted: Mapping[str, dict[str, Any]], there: Mapping[str, dict[str, Any]]) -> Differs:
    if wanted == there:
        return Differs.NOT
    if wanted.keys() != there.keys():
        return Differs.YES
    words = {(kind, name) for kind, one in wanted.items() for name in one if one[name] != there[kind].get(name)}
    return Differs.COUNTS if words == {("Enforced", "message")} else Differs.YES


def _enforced(now: Enforcing | None) -> tuple[bool | None, str, str]:
    if now is None:
        return False, "NotAccepted", "no revision of this object is in force"
    told = f"{now.enforcing} of {now.nodes} nodes enforce revision {now.revision[:_DIGITS]}"
    if not now.nodes:
        return None, "NoNodes", "no node that it is for has been heard of within an hour"
    if now.enforcing == now.nodes:
        return True, "Enforced", told
    if now.refusals:
        return False, "NodesRefused", f"{told}; {now.refusals[0]}"[:_MESSAGE_MAX]
    return False, "NodesBehind", told


def _condition(kind: str, is_true: bool | None, reason: str, message: str, seen: Seen, at: datetime) -> dict[str, Any]:
    status = "Unknown" if is_true is None else str(is_true)
    before = _conditions(seen.status.get("conditions")).get(kind, {})
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": seen.generation,
        "lastTransitionTime": since if isinstance(since, str) else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _conditions(said: Any) -> dict[Any, dict[str, Any]]:
    listed = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    return {one["type"]: one for one in listed if isinstance(one.get("type"), str)}
