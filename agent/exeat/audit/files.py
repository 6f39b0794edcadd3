"""The log's directory: which file is which, where each ends, and how one is written."""

import contextlib
import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path

from exeat.audit.chain import LINE_MAX, Head, Link, checkpoint_in, continuation_in, take_apart

CURRENT = "verdicts.jsonl"
_ROTATED = re.compile(r"verdicts-([0-9]{1,19})\.jsonl")
_ASIDE = re.compile(r"aside-([0-9]{1,19})-[0-9]+")


def number_of(path: Path) -> int:
    """The number of a rotated file's first line, by its name; 0 for another file."""
    found = _ROTATED.fullmatch(path.name)
    return int(found[1]) if found else 0


def rotated_path(directory: Path, first_seq: int) -> Path:
    """Where the current file goes when it is full."""
    return directory / f"verdicts-{first_seq:012d}.jsonl"


def rotated_files(directory: Path) -> list[Path]:
    """Oldest first."""
    return sorted((path for path in directory.iterdir() if number_of(path)), key=number_of)


def log_files(directory: Path) -> list[Path]:
    """All that belongs to the log, oldest first."""
    current = directory / CURRENT
    return [*rotated_files(directory), *([current] if current.exists() else [])]


def has_only_logs(directory: Path) -> bool:
    """Whether a directory is the log's alone, so that its mode is the log's to say. `/var/log` is not."""
    names = [path.name for path in directory.iterdir()]
    return all(name == CURRENT or _ROTATED.fullmatch(name) or _ASIDE.fullmatch(name) for name in names)


def aside_path(directory: Path, seq: int) -> Path:
    """Where something goes that is no part of the log: a name that nobody has yet."""
    taken = {path.name for path in directory.iterdir()}
    at = next(number for number in range(len(taken) + 1) if f"aside-{seq:012d}-{number}" not in taken)
    return directory / f"aside-{seq:012d}-{at}"


def drop_older(directory: Path, keep: int, next_seq: int) -> int:
    """Removes the rotated files that are too many, and what was set aside in their days.

    The first number that is left, if any was removed.
    """
    files = rotated_files(directory)
    surplus, left = files[: max(0, len(files) - keep)], files[max(0, len(files) - keep) :]
    if not surplus:
        return 0
    for path in surplus:
        path.unlink()
    oldest = number_of(left[0]) if left else next_seq
    for path in directory.iterdir():
        found = _ASIDE.fullmatch(path.name)
        if found and int(found[1]) < oldest:
            path.unlink()
    return oldest


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a file's last good line ends, and what it says."""

    size: int = 0
    head: Head | None = None
    sealed: int = 0  # the number of the last checkpoint


def ending_of(path: Path) -> Ending:
    """Looks from the end for a line of the log: what comes after it was half written, or never reached the disk."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return Ending()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            end = text.rfind(b"\n") + 1
            while end:
                begin = text.rfind(b"\n", 0, end - 1) + 1
                link = take_apart(text[begin : end - 1]) if end - begin <= LINE_MAX else None
                if link:
                    return Ending(end, link.head, _last_checkpoint(text, end))
                end = begin
    return Ending()


def _last_checkpoint(text: mmap.mmap, end: int) -> int:
    begin = text.rfind(b'\n{"checkpoint":', 0, end) + 1
    line = text[begin : text.find(b"\n", begin)]
    link = take_apart(line) if begin and checkpoint_in(line) else None
    return link.seq if link else 0


def beginning_of(path: Path) -> tuple[Link | None, int]:
    """A file's first line, and the first number that was kept when it was written (0: it does not say)."""
    with path.open("rb") as file:
        line = file.readline(LINE_MAX).removesuffix(b"\n")
    said = continuation_in(line)
    return take_apart(line), said.oldest if said else 0


class LogFile:
    """The file that is written. Either a text is in it whole, or none of it."""

    def __init__(self, path: Path, size: int, first_seq: int) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.size = size
        self.first_seq = first_seq
        self._is_torn = False

    def is_at(self, path: Path) -> bool:
        """Whether the name still leads to it."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self.fd))

    def length_by_others(self) -> int:
        """How much longer it is than what was written here."""
        if self._is_torn:
            os.ftruncate(self.fd, self.size)
            self._is_torn = False
        return os.fstat(self.fd).st_size - self.size

    def write(self, text: bytes) -> None:
        """Appends; what a failure left is cut off again, at the latest before the next text."""
        left = memoryview(text)
        try:
            while left:
                left = left[os.write(self.fd, left) :]
        except OSError:
            self._is_torn = True
            with contextlib.suppress(OSError):  # then length_by_others() tries again, and says so
                self.length_by_others()
            raise
        self.size += len(text)

    def close(self) -> None:
        """No more of it."""
        os.close(self.fd)
