"""Roll-outs: how far each is, what it waits for, and the hand on the lever."""

from dataclasses import dataclass

from starlette.responses import Response

from exeat.core.problems import shown
from exeat.errors import Refused, StatusWord
from exeat.plane.policies import rollouts
from exeat.plane.policies.policies import Change
from exeat.plane.policies.rollouts import Progress, Rollout, State
from exeat.plane.store.database import Tx
from exeat.plane.web.visit import Visit

_STEPS = {
    "pause": (rollouts.pause, "is paused: nodes that have the new revision keep it, and no other gets it"),
    "resume": (rollouts.resume, "goes on: its stage begins anew"),
    "finish": (rollouts.finish, "is finished: every node gets the new revision now"),
    "cancel": (rollouts.cancel, "is cancelled: every node gets back what it had"),
}


@dataclass(frozen=True, slots=True)
class Underway:
    """One that has not ended."""

    progress: Progress

    @property
    def rollout(self) -> Rollout:
        """The roll-out itself."""
        return self.progress.rollout

    @property
    def is_stopped(self) -> bool:
        """By somebody, or by what was seen."""
        return self.rollout.state is State.STOPPED

    @property
    def has_it(self) -> int:
        """Chosen nodes that enforce the new revision."""
        return sum(1 for node in self.progress.chosen if node.is_holding)

    @property
    def stages(self) -> list[tuple[int, str]]:
        """Each stage's percents, and whether it is past, now, halted or to come."""
        at = self.rollout.stage
        now = "halted" if self.is_stopped else "now"
        words = ["past" if place < at else now if place == at else "ahead" for place in range(len(self._percents))]
        return list(zip(self._percents, words, strict=True))

    @property
    def _percents(self) -> tuple[int, ...]:
        return self.rollout.plan.stages


async def rollout_list(visit: Visit) -> Response:
    """GET /rollouts."""
    underway, past = await visit.reading(_read, visit.now_ns)
    return visit.page("rollouts.html", underway=underway, past=past)


async def step_now(visit: Visit) -> Response:
    """POST /rollouts/NUMBER/STEP."""
    number, name = int(visit.part("number")), visit.part("step")
    if name not in _STEPS:
        raise Refused(StatusWord.NOT_FOUND, f"nobody can {shown(name)} a roll-out")
    step, words = _STEPS[name]
    reason = " ".join(visit.form.get("reason", "").split())
    await visit.writing(step, number, Change(visit.person.name, reason, visit.now_ns))
    return visit.done("/rollouts", f"roll-out {number} {words}")


def _read(tx: Tx, now_ns: int) -> tuple[list[Underway], list[Rollout]]:
    every = rollouts.rollouts(tx)
    underway = [Underway(rollouts.progress(tx, one.id, now_ns)) for one in every if one.is_underway]
    return underway, [one for one in every if not one.is_underway]
