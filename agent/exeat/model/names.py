"""Host names and host patterns: compared lower-case, as A-labels, without the trailing dot."""

from dataclasses import dataclass
from enum import StrEnum

# An LPM trie's key holds 256 bytes: 4 for the set of names, 1 for the end mark. Twin: NAME_MAX in bpf/limits.h.
NAME_MAX = 251


class PatternKind(StrEnum):
    """How many labels stand in front of the pattern's name."""

    EXACT = ""
    ONE_LABEL = "*."
    ANY_LABELS = "**."


@dataclass(frozen=True, slots=True, order=True)
class HostPattern:
    """`api.example.com`, `*.example.com` (exactly one label more) or `**.example.com` (one or more)."""

    kind: PatternKind
    name: str  # lower-case A-labels, without the wildcard and without a trailing dot

    def __str__(self) -> str:
        return f"{self.kind.value}{self.name}"

    def matches(self, name: str) -> bool:
        """Whether this pattern covers a lower-case A-label name."""
        if self.kind is PatternKind.EXACT:
            return name == self.name
        if not name.endswith("." + self.name):
            return False
        front = name[: -len(self.name) - 1]
        return bool(front) and (self.kind is PatternKind.ANY_LABELS or "." not in front)
