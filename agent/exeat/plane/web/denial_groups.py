"""Denials as people look at them: what one workload could not reach, however many ways it tried. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from exeat.core.stories import STORIES
from exeat.core.verdict_text import protocol_word
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.approval.rule import can_rule
from exeat.plane.verdicts.denials import Denial

_QUERY = "query"
_REASONS = frozenset(Reason)


@dataclass(frozen=True, slots=True)
class Group:
    """All denials of a workload, under a policy, for one name or address."""

    workload: str
    policy: str
    target: str  # empty: it was a socket that was denied, and it went nowhere yet
    parts: tuple[Denial, ...]

    @property
    def count(self) -> int:
        """Of all its parts."""
        return sum(part.count for part in self.parts)

    @property
    def first_ns(self) -> int:
        """Of the first of them."""
        return min(part.first_ns for part in self.parts)

    @property
    def last_ns(self) -> int:
        """Of the last of them."""
        return max(part.last_ns for part in self.parts)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where it happened; of many, some."""
        return tuple(sorted({node for part in self.parts for node in part.nodes}))

    @property
    def node_count(self) -> int:
        """On how many, at least."""
        return max(len(self.nodes), *(part.node_count for part in self.parts))

    @property
    def ways(self) -> tuple[str, ...]:
        """`443/tcp`, `dns`: how it was tried."""
        return tuple(sorted({_way(part) for part in self.parts}))

    @property
    def reasons(self) -> tuple[tuple[str, str], ...]:
        """Word and story of each."""
        return tuple((reason_word(one), reason_story(one)) for one in sorted({part.reason for part in self.parts}))

    @property
    def is_audit(self) -> bool:
        """Whether all of it would have been denied, had the mode been enforce."""
        return all(part.verdict == Verdict.AUDIT for part in self.parts)

    @property
    def can_approve(self) -> bool:
        """Whether a rule may open it."""
        return bool(self.target) and any(
            part.reason in _REASONS and can_rule(Reason(part.reason)) for part in self.parts
        )


def grouped(found: Iterable[Denial]) -> list[Group]:
    """By workload, policy and target."""
    groups: dict[tuple[str, str, str], list[Denial]] = {}
    for one in found:
        groups.setdefault((one.workload, one.policy, one.target), []).append(one)
    return [Group(*key, tuple(parts)) for key, parts in groups.items()]


def reason_word(number: int) -> str:
    """Also of one that a newer agent has told."""
    return Reason(number).word if number in _REASONS else f"reason {number}"


def reason_story(number: int) -> str:
    """What it means."""
    return STORIES[Reason(number)] if number in _REASONS else "a newer agent's reason; update the plane to read it"


def _way(part: Denial) -> str:
    if part.hook == _QUERY:
        return "dns"
    protocol = protocol_word(part.protocol)
    return f"{part.port}/{protocol}" if part.port else protocol
