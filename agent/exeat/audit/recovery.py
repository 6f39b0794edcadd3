"""Where the log goes on after a start: what a crash left half written is set aside, and said."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from exeat.audit.chain import Head
from exeat.audit.files import CURRENT, Ending, LogFile, aside_path, beginning_of, ending_of, number_of, rotated_files


@dataclass(slots=True)
class Recovered:
    """What a directory said."""

    head: Head
    oldest: int
    unsealed: int  # lines after the last checkpoint
    file: LogFile | None  # None: there is no current file
    notices: list[str] = field(default_factory=list)


def recover(directory: Path) -> Recovered:
    """Reads where the log stands. What is no line at the end of the current file is moved out of it."""
    current = directory / CURRENT
    ending = ending_of(current) if current.exists() else Ending()
    if ending.head is None:
        return _without_current(directory, current)
    link, oldest = beginning_of(current)
    head = ending.head
    file = LogFile(current, ending.size, link.seq if link else head.seq)
    found = Recovered(head, oldest or 1, head.seq - (ending.sealed or file.first_seq - 1), file)
    try:
        torn = file.length_by_others()
        if torn:
            aside = aside_path(directory, head.seq)
            _copy_end(current, ending.size, aside)
            os.ftruncate(file.fd, ending.size)
            found.notices.append(f"{torn} bytes after line {head.seq} were no whole line; they are in {aside.name}")
    except OSError:
        file.close()
        raise
    return found


def _without_current(directory: Path, current: Path) -> Recovered:
    rotated = rotated_files(directory)
    head = (ending_of(rotated[-1]).head if rotated else None) or Head()
    oldest = beginning_of(rotated[-1])[1] if rotated else 0
    first = number_of(rotated[0]) if rotated else 1
    found = Recovered(head, oldest or first, 0, None)
    if current.exists() and current.stat().st_size == 0:
        current.unlink()
    elif current.exists():
        aside = aside_path(directory, head.seq)
        current.rename(aside)
        found.notices.append(f"{CURRENT} had no line of the log in it; it is now {aside.name}")
    return found


def _copy_end(path: Path, begin: int, target: Path) -> None:
    with path.open("rb") as source, open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
        source.seek(begin)
        while block := source.read(1 << 20):
            copy.write(block)
