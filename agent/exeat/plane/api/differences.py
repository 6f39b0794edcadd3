"""What is different between two documents of a policy: as texts, and in what they let be reached."""

from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import unified_diff

from exeat.core.diff import Change, What, differences
from exeat.core.policy_file import read_policy
from exeat.errors import PolicyError
from exeat.model.policy import Policy

_LINES_MAX = 4_000  # of both together: lines can be chosen so that the time grows with their number cubed


@dataclass(frozen=True, slots=True)
class Compared:
    """Both ways to see it."""

    text: tuple[str, ...]  # as `diff -u` shows it
    changes: tuple[Change, ...]


def compare(name: str, before: str | None, after: str | None, now_ns: int) -> Compared:
    """Two documents of a policy; None: there was none, or there is none any more."""
    lines = text_diff(before or "", after or "", "before", "after")
    try:
        old, new = (read_policy(text, name).policy if text is not None else Policy(name) for text in (before, after))
    except PolicyError as error:  # another version of exeat took it: it must be possible to replace it all the same
        sentence = f"what it opens and closes cannot be told, because this exeat cannot read both: {error.problems[0]}"
        return Compared(lines, (Change(What.SETS, sentence),))
    return Compared(lines, differences(old, new, datetime.fromtimestamp(now_ns / 1e9, UTC)))


def text_diff(before: str, after: str, before_name: str, after_name: str) -> tuple[str, ...]:
    """Lines as `diff -u` shows them."""
    old, new = before.splitlines(), after.splitlines()
    first = _alike(old, new)
    last = _alike(old[first:][::-1], new[first:][::-1])
    if len(old) + len(new) - 2 * (first + last) > _LINES_MAX:
        return (
            f"--- {before_name}",
            f"+++ {after_name}",
            f"@@ {len(old)} and {len(new)} lines, too many to compare @@",
        )
    return tuple(unified_diff(old, new, before_name, after_name, lineterm=""))


def _alike(one: list[str], other: list[str]) -> int:
    """How many lines are the same, from the first on."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
