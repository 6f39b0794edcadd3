"""The session context of a workload, as it is kept: the token itself, which is checked again whenever it is read."""

from dataclasses import dataclass, replace
from typing import Any

_TIME_MAX = 1 << 64


@dataclass(frozen=True, slots=True)
class SessionContext:
    """Without a token it has ended; its workload stays managed, and an older token is refused."""

    token: str
    digest: str  # of the token: it is not taken again once it has ended
    subject: str  # the workload that it is for
    issued_ns: int  # wall clock
    until_ns: int  # wall clock
    until_boot_ns: int  # the same by the boot clock, when it was taken: nobody sets that one back
    by: str

    def is_over(self, wall_ns: int, now_ns: int) -> bool:
        """Whether it has ended, by either clock. `now_ns`: by the boot clock."""
        return not self.token or self.until_ns <= wall_ns or self.until_boot_ns <= now_ns

    def ended(self) -> "SessionContext":
        """What is kept of it then."""
        return replace(self, token="")


def read_context(fields: dict[str, Any]) -> SessionContext:
    """From JSON. Raises TypeError or ValueError for anything else."""
    read = SessionContext(**fields)
    texts = (read.token, read.digest, read.subject, read.by)
    times = (read.issued_ns, read.until_ns, read.until_boot_ns)
    is_right = all(isinstance(one, str) for one in texts) and all(
        type(one) is int and 0 <= one < _TIME_MAX for one in times
    )
    if not is_right:
        raise ValueError("a word about a session is of the wrong kind")
    return read
