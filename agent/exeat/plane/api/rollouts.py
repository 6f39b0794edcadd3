"""The API's calls about changes on their way to all nodes."""

from collections.abc import Callable
from typing import Any

from exeat.core.verdict_text import time_text
from exeat.plane.api.calls import Asked, Call
from exeat.plane.people import Role
from exeat.plane.policies import rollouts
from exeat.plane.policies.policies import Change
from exeat.plane.policies.rollouts import Rollout
from exeat.plane.store.database import Tx

_LISTED_MAX = 1000
_ID_MAX = 2**63 - 1


def _json(one: Rollout) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "before": one.before,
        "revision": one.revision,
        "stages": list(one.plan.stages),
        "stage": one.stage,
        "percent": one.percent,
        "soak_s": one.plan.soak_s,
        "max_per_mille": one.plan.max_per_mille,
        "state": one.state.value,
        "why": one.why,
        "by": one.by,
        "began": time_text(one.began_ns),
        "stage_began": time_text(one.stage_ns),
    }


def _list(tx: Tx, asked: Asked) -> Any:
    limit, is_all = asked.query.number("limit", 100, 1, _LISTED_MAX), asked.query.is_true("all")
    found = rollouts.rollouts(tx, limit) if is_all else list(rollouts.underway(tx).values())
    return {"rollouts": [_json(one) for one in found]}


def _one(tx: Tx, asked: Asked) -> Any:
    seen = rollouts.progress(tx, _number(asked), asked.now_ns)
    return {
        **_json(seen.rollout),
        "nodes": [
            {"name": one.name, "is_connected": one.is_connected, "is_holding": one.is_holding, "fault": one.fault}
            for one in seen.chosen
        ],
        "tried": seen.counted.tried,
        "denied": seen.counted.denied,
        "next": seen.decision.why,
    }


def _step(take: Callable[[Tx, int, Change], None]) -> Callable[[Tx, Asked], Any]:
    def act(tx: Tx, asked: Asked) -> Any:
        number = _number(asked)
        take(tx, number, Change(by=asked.person.name, reason=asked.body.text("reason", ""), at_ns=asked.now_ns))
        return _json(rollouts.rollout(tx, number))

    return act


def _number(asked: Asked) -> int:
    return min(int(asked.path["id"]), _ID_MAX)  # what no database can hold is no roll-out's either


CALLS = {
    ("GET", "/rollouts"): Call(Role.VIEWER, _list),
    ("GET", "/rollouts/{id:int}"): Call(Role.VIEWER, _one),
    **{
        ("POST", f"/rollouts/{{id:int}}/{word}"): Call(Role.ADMIN, _step(take), is_writing=True, has_body=True)
        for word, take in (
            ("pause", rollouts.pause),
            ("resume", rollouts.resume),
            ("cancel", rollouts.cancel),
            ("finish", rollouts.finish),
        )
    },
}
