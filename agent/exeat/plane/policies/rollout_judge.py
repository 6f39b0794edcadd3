"""Whether a roll-out may go on: what was planned and what was seen in, a decision out. No clock, no store.

What counts as a connection, tried.py says. Denied is what was dropped, what monitor mode would have dropped, and what
failed.
"""

from dataclasses import dataclass
from enum import StrEnum

from exeat.errors import Refused, StatusWord
from exeat.plane.policies.tried import is_try

SAMPLE_MIN = 50  # connections: below that, one program that tries again and again would be a rate
_STAGES_MAX = 20
_SOAK_MAX_S = 30 * 86_400
_NAMED = 3
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How a change goes out. Raises Refused where that makes no sense."""

    stages: tuple[int, ...] = (10, 50, 100)  # percents of the nodes
    soak_s: int = 600  # how long each stage lasts at least
    max_per_mille: int = 20  # denials per 1,000 connections on the chosen nodes; more stop it

    def __post_init__(self) -> None:
        if not self.stages or len(self.stages) > _STAGES_MAX or self.stages[-1] != 100 or self.stages[0] < 1:
            raise _invalid("the stages of a roll-out are percents and end with 100, as in 10,50,100")
        if any(one >= other for one, other in zip(self.stages, self.stages[1:], strict=False)):
            raise _invalid("each stage of a roll-out must be more than the one before, as in 10,50,100")
        if not 0 <= self.soak_s <= _SOAK_MAX_S:
            raise _invalid("a stage of a roll-out lasts at most 30 days")
        if not 0 <= self.max_per_mille <= 1000:
            raise _invalid("denials are counted per 1,000 connections: write 0 to 1000; 1000 never stops a roll-out")


@dataclass(frozen=True, slots=True)
class ChosenNode:
    """A node that is to have the new revision in this stage."""

    name: str
    is_connected: bool
    is_holding: bool  # it enforces the new revision
    fault: str = ""  # why it has refused it since the stage began


@dataclass(frozen=True, slots=True)
class Counted:
    """What was tried on the chosen nodes under the policy since the stage began, and how much of it was denied."""

    tried: int = 0
    denied: int = 0

    @property
    def per_mille(self) -> float:
        """Denials per 1,000."""
        return 1000 * self.denied / self.tried if self.tried else 0.0

    def and_verdicts(self, hook: str, is_denied: bool, count: int) -> "Counted":
        """With these too."""
        return Counted(self.tried + count * is_try(hook, is_denied), self.denied + count * is_denied)

    def since(self, base: "Counted") -> "Counted":
        """What came after."""
        return Counted(max(0, self.tried - base.tried), max(0, self.denied - base.denied))


@dataclass(frozen=True, slots=True)
class Facts:
    """What a roll-out is judged by."""

    plan: Plan
    stage: int  # of plan.stages, from 0
    stage_ns: int  # when it began
    chosen: tuple[ChosenNode, ...]
    counted: Counted


class Step(StrEnum):
    """What to do."""

    WAIT = "wait"
    ADVANCE = "advance"  # to the next stage
    FINISH = "finish"  # every node has it
    STOP = "stop"  # until somebody looks at it


@dataclass(frozen=True, slots=True)
class Decision:
    """And why."""

    step: Step
    why: str = ""


def decide(facts: Facts, now_ns: int) -> Decision:
    """About the present stage."""
    for node in facts.chosen:
        if node.fault and not node.is_holding:
            return Decision(Step.STOP, f"{node.name} refuses it: {node.fault}")
    counted, most = facts.counted, facts.plan.max_per_mille
    # 1000 of 1000 is as much as there can be: then nobody wants to know.
    if counted.tried >= SAMPLE_MIN and most < 1000 and counted.denied * 1000 > most * counted.tried:
        return Decision(
            Step.STOP,
            f"{counted.per_mille:.0f} of 1,000 connections were denied on its nodes ({counted.denied} of "
            f"{counted.tried}); at most {most} may be",
        )
    waiting = [node.name for node in facts.chosen if node.is_connected and not node.is_holding]
    if waiting:
        some = ", ".join(waiting[:_NAMED]) + (" ..." if len(waiting) > _NAMED else "")
        return Decision(Step.WAIT, f"waits for {len(waiting)} of {len(facts.chosen)} nodes: {some}")
    left_s = (facts.stage_ns + facts.plan.soak_s * _SECOND - now_ns) / _SECOND
    if left_s > 0:
        return Decision(Step.WAIT, f"the stage lasts {left_s:.0f} s more")
    is_last = facts.stage == len(facts.plan.stages) - 1
    return Decision(Step.FINISH if is_last else Step.ADVANCE)


def _invalid(sentence: str) -> Refused:
    return Refused(StatusWord.INVALID, sentence)
