"""A verdict log in few words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exeat.audit import VerdictLog, Verification, verify
from exeat.audit.chain import Head
from exeat.audit.files import CURRENT, log_files
from exeat.audit.keys import PublicKey
from exeat.core.verdict_text import json_line
from unit.record_words import any_record

SECOND = 1_000_000_000
BEGAN_NS = 1_800_000_000 * SECOND


@dataclass
class Clock:
    """Stands still unless it is told to go on."""

    now_ns: int = BEGAN_NS

    def __call__(self) -> int:
        """The wall clock."""
        return self.now_ns

    def pass_seconds(self, seconds: float) -> None:
        """Goes on, or back."""
        self.now_ns += int(seconds * SECOND)


def verdict(number: int, at_ns: int = BEGAN_NS) -> bytes:
    """One line for the log, unlike all others."""
    return json_line(any_record(time_ns=at_ns, name=f"n{number}.test")).encode()


def verdicts(begin: int, end: int, at_ns: int = BEGAN_NS) -> list[bytes]:
    """So many of them."""
    return [verdict(number, at_ns) for number in range(begin, end)]


def open_log(directory: Path, clock: Clock | None = None, **more: Any) -> VerdictLog:
    """A log that is known to write."""
    log = VerdictLog(directory, clock=clock or Clock(), **more)
    assert log.is_writing, log.why_unwritten
    return log


def checked(directory: Path, *, noted: Head | None = None) -> Verification:
    """A whole log, with its own key."""
    keys = [PublicKey.of(directory.parent / "audit.pub")]
    return verify(log_files(directory), keys, is_whole=True, noted=noted, patience_s=0)


def lines_of(directory: Path, name: str = CURRENT) -> list[bytes]:
    """The lines of a file, with their ends."""
    return (directory / name).read_bytes().splitlines(keepends=True)


def put(directory: Path, lines: Sequence[bytes], name: str = CURRENT) -> None:
    """Writes a file anew."""
    (directory / name).write_bytes(b"".join(lines))


def names_in(lines: Sequence[bytes]) -> list[str]:
    """Of the verdicts among these lines, the number that verdict() was given."""
    found = [json.loads(line) for line in lines if line.startswith(b'{"time":')]
    return [one["name"] for one in found]


def notices_in(directory: Path) -> list[str]:
    """What exeat said of itself."""
    lines = [json.loads(line) for path in log_files(directory) for line in path.read_bytes().splitlines()]
    return [line["notice"] for line in lines if "notice" in line]
