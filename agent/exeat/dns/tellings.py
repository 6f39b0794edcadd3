"""Every question is a verdict, but a program that asks a thousand times is told of in two lines: the first at once, the
rest as a number. Counts are exact. Time is an argument."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from exeat.model.networks import Address
from exeat.model.verdicts import Reason, Verdict

QUIET_NS = 10_000_000_000  # long enough to gather a loop's questions, short enough for somebody who watches
DIFFERENT_MAX = 4096  # more different questions than that within QUIET_NS are told one by one


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and what became of it."""

    verdict: Verdict
    reason: Reason
    rule: str | None
    name: str
    kind: int
    protocol: int
    port: int  # from which it was asked
    size: int
    address: bytes | None = None  # what was withheld
    evidence: str = ""
    count: int = 1
    took_ns: int = 0
    source: Address | None = None  # a guest's; all others ask from loopback


@dataclass(slots=True)
class _Quiet:
    last: Asked
    count: int
    due_ns: int


class Tellings:
    """Counts questions, and tells what is news."""

    def __init__(self, tell: Callable[[Asked], None]) -> None:
        self.counts: dict[Verdict, int] = dict.fromkeys(Verdict, 0)
        self._tell = tell
        self._quiet: dict[tuple[Verdict, Reason, str, int], _Quiet] = {}  # in the order in which they are due

    def note(self, asked: Asked, now_ns: int) -> None:
        """Counts a question; tells it unless the same was told just now."""
        self.counts[asked.verdict] += asked.count
        key = (asked.verdict, asked.reason, asked.name, asked.kind)
        quiet = self._quiet.get(key)
        if quiet is not None:
            quiet.last = asked
            quiet.count += asked.count
            return
        if len(self._quiet) < DIFFERENT_MAX:
            self._quiet[key] = _Quiet(asked, 0, now_ns + QUIET_NS)
        self._tell(asked)

    def tell_due(self, now_ns: int | None) -> None:
        """Tells what was repeated, and how often, of all whose time has come; None: of all."""
        while self._quiet:
            key, quiet = next(iter(self._quiet.items()))
            if now_ns is not None and now_ns < quiet.due_ns:
                return
            del self._quiet[key]
            if quiet.count:
                self._tell(replace(quiet.last, count=quiet.count))
