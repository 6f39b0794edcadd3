"""Checks a log: every line against the chain, every checkpoint against its key, every file against the one before.

What it shows: a line that was edited, removed, inserted, moved or cut short, a file that is missing between others, a
checkpoint that nobody signed. What it cannot show is told in docs/audit.md.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from exeat.audit.chain import LINE_MAX, Head, Link, checkpoint_in, continuation_in, take_apart
from exeat.audit.files import CURRENT
from exeat.audit.keys import PublicKey
from exeat.audit.reading import VERDICT

PROBLEMS_SHOWN = 100  # one change shows at a few places; a log written by somebody else, at every line
NOTICES_SHOWN = 100
_NOTICE = b'{"notice":'
PATIENCE_S = 0.25  # for the line that exeat is just writing
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was written."""

    file: str
    line: int  # 0: the file as a whole
    seq: int | None
    what: str


@dataclass(slots=True)
class Verification:
    """What a log is found to be."""

    files: int = 0
    lines: int = 0
    verdicts: int = 0
    first_seq: int | None = None
    head: Head = field(default_factory=Head)
    checkpoints: int = 0
    unsealed: int = 0  # lines after the last good checkpoint: whoever wrote them, nobody has signed them
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)  # the first of them
    notices: list[str] = field(default_factory=list)  # what exeat itself said in the log; the first of it
    is_noted_found: bool = False

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0


def verify(
    files: Sequence[Path],
    keys: Sequence[PublicKey],
    *,
    is_whole: bool,
    noted: Head | None = None,
    patience_s: float = PATIENCE_S,
) -> Verification:
    """Reads the files of one log, oldest first. `is_whole`: they are all there should be. `noted`: a line to find."""
    walk = _Walk({key.id: key for key in keys}, noted, patience_s)
    for path in files:
        walk.read(path)
    if is_whole:
        walk.end(files)
    if noted and not walk.found.is_noted_found:
        walk.blame(
            0, None, f"line {noted.seq} with the noted hash is not there: the log was cut back, or is another one"
        )
    return walk.found


class _Walk:
    """Goes along the chain. After a line that is wrong it goes on from what that line says of itself."""

    def __init__(self, keys: dict[str, PublicKey], noted: Head | None, patience_s: float) -> None:
        self.found = Verification()
        self._patience_s = patience_s
        self._keys = keys
        self._noted = noted
        self._head: Head | None = None  # None: nothing is known yet, the first line says where it goes on
        self._oldest = 1
        self._illegible = 0  # lines since the last that could be taken apart
        self._name = ""

    def read(self, path: Path) -> None:
        """One file more."""
        self._name = path.name
        self.found.files += 1
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file, self._patience_s), 1):
                self.found.lines += 1
                self._see(number, line)

    def end(self, files: Sequence[Path]) -> None:
        """What can only be known of a whole log."""
        if files and files[-1].name != CURRENT:
            self._name = CURRENT
            self.blame(0, None, "the file is missing: exeat begins it at once when it closes the one before")
        first = self.found.first_seq
        if first is not None and first > self._oldest:
            self._name = files[0].name
            self.blame(1, first, f"lines {self._oldest} to {first - 1} are missing, and exeat did not remove them")

    def blame(self, line: int, seq: int | None, what: str) -> None:
        """One problem more."""
        self.found.problem_count += 1
        if len(self.found.problems) < PROBLEMS_SHOWN:
            self.found.problems.append(Problem(self._name, line, seq, what))

    def _see(self, number: int, line: bytes) -> None:
        self.found.unsealed += 1
        link = take_apart(line[:-1]) if line.endswith(b"\n") else None
        if link is None:
            is_cut = not line.endswith(b"\n") and len(line) < LINE_MAX
            self.blame(number, None, "this line is cut short" if is_cut else "this is no line of the log")
            self._illegible += 1
            return
        said = self._carried_over(number, line[:-1], link) if number == 1 else None
        if self._head is None:
            self.found.first_seq = link.seq
            self._head = said or Head(link.seq - 1)
        if self._follows(number, link):
            self._read_content(number, line[:-1], link)

    def _carried_over(self, number: int, line: bytes, link: Link) -> Head | None:
        """The first line of a file says where the file before ended."""
        said = continuation_in(line)
        if said is None:
            self.blame(number, link.seq, "this is not how a file begins: its first lines are missing")
            return None
        self._oldest = max(self._oldest, said.oldest)
        return said.head

    def _follows(self, number: int, link: Link) -> bool:
        """Whether a line is the next one, or a later one; what is wrong with it is noted."""
        head = self._head
        assert head
        missing = link.seq - head.seq - 1
        if missing < 0:
            self.blame(number, link.seq, f"line {link.seq} comes after line {head.seq}: it was moved or put in")
            return False
        if missing == 0 and head.over(link.covered) != link.chain:
            self.blame(number, link.seq, "this line, or the one before it, is not what was written")
        elif missing > 0 and missing != self._illegible:
            self.blame(number, link.seq, f"before this line, {missing} are missing, from line {head.seq + 1} on")
        self._illegible = 0
        self._head = self.found.head = link.head
        return True

    def _read_content(self, number: int, line: bytes, link: Link) -> None:
        if self._noted == link.head:
            self.found.is_noted_found = True
        if line.startswith(VERDICT):
            self.found.verdicts += 1
        elif line.startswith(b'{"checkpoint":'):
            self._check(number, line, link)
        elif line.startswith(_NOTICE) and len(self.found.notices) < NOTICES_SHOWN:
            self.found.notices.append(f"{self._name}:{number}: {_notice(line)}")

    def _check(self, number: int, line: bytes, link: Link) -> None:
        """What was signed is compared with the line before, whose hash is over all that came before it."""
        said = checkpoint_in(line)
        key = self._keys.get(said.key) if said else None
        if said is None:
            self.blame(number, link.seq, "this checkpoint cannot be read")
        elif key is None:
            self.blame(
                number, link.seq, f"this checkpoint was signed with the key {said.key[:16]}..., which was not given"
            )
        elif not key.has_signed(said.signed, said.signature):
            self.blame(number, link.seq, "the signature of this checkpoint is wrong")
        elif said.head.seq != link.seq - 1 or said.head.over(link.covered) != link.chain:
            self.blame(number, link.seq, "this checkpoint was signed for other lines than those before it")
        else:
            self.found.checkpoints += 1
            self.found.unsealed = 0


def _lines(file: BinaryIO, patience_s: float) -> Iterator[bytes]:
    """Lines with their ends. The last one may be half written because exeat is writing it now."""
    while line := file.readline(LINE_MAX):
        if line.endswith(b"\n") or len(line) == LINE_MAX:
            yield line
            continue
        until = time.monotonic() + patience_s
        while not line.endswith(b"\n") and time.monotonic() < until:
            time.sleep(_PAUSE_S)
            line += file.readline(LINE_MAX)
        yield line
        return


def _notice(line: bytes) -> str:
    try:
        return str(json.loads(line)["notice"])
    except (ValueError, RecursionError):
        return "what it says cannot be read"
