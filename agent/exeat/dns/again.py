"""Answers that were just given are given again without a thought, for a second at most: grants and time limits are no
more than that behind. What was answered so is counted, and brought into the verdicts later."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from exeat.dns.tellings import Asked

AGAIN_NS = 10**9
AGAIN_MAX = 4096
SIZE_MAX = 512  # of a question: more is padding, which would only fill the memory


@dataclass(slots=True)
class Given:
    """An answer without its id, as long as it is fresh."""

    tail: bytes
    until_ns: int
    asked: Asked
    count: int = 0


class Again:
    """Answers by question, both as bytes behind the id. `given` is read for each datagram, so it is a plain dict."""

    def __init__(self, note: Callable[[Asked, int], None]) -> None:
        self.given: dict[bytes, Given] = {}
        self._note = note

    def keep(self, message: bytes, answer: bytes, asked: Asked, now_ns: int, until_ns: int) -> None:
        """Have this answer given again until it is no longer fresh."""
        if until_ns <= now_ns or len(message) > SIZE_MAX:
            return
        if len(self.given) >= AGAIN_MAX:
            self.fold(now_ns)
            self.given.clear()
        before = self.given.get(message[2:])
        if before and before.count:  # they got that answer, which may have been another
            self._note(replace(before.asked, count=before.count), now_ns)
        self.given[message[2:]] = Given(answer[2:], min(until_ns, now_ns + AGAIN_NS), asked)

    def fold(self, now_ns: int, gone: Collection[str] = ()) -> None:
        """Brings the counts in, and drops what is no longer fresh, and what is about names that are gone."""
        for message, given in list(self.given.items()):
            if given.count:
                self._note(replace(given.asked, count=given.count), now_ns)
                given.count = 0
            if given.until_ns <= now_ns or given.asked.name in gone:
                del self.given[message]

    def clear(self, now_ns: int) -> None:
        """Brings the counts in, and drops everything."""
        self.fold(now_ns)
        self.given.clear()
