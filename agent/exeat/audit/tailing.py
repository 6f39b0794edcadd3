"""Follows the log from any of its numbers on, while it is written, rotated, moved or removed.

    tail = LogTail(directory)
    stretch = tail.read(after=1200, limit=500, head=log.head.seq)

Keeps one file open and where it is in it, and never more than a block of it in memory. It reads what the writer says
is written, and no further: what a full disk left half done is cut off again, and its numbers are given anew.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from exeat.audit.chain import LINE_MAX, Link, take_apart
from exeat.audit.files import beginning_of, log_files, number_of
from exeat.audit.reading import VERDICT

_BLOCK = 1 << 18
_BYTES_MAX = 1 << 20  # of one stretch's lines


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the log without a hole: each line is a verdict in here, or is none, or is lost."""

    first: int
    through: int
    verdicts: tuple[tuple[int, bytes], ...]  # each with its number; lines without their ends
    lost: int  # lines that were deleted, or cannot be read


@dataclass(slots=True)
class _Open:
    """A file of the log, and where the next line begins."""

    fd: int
    first: int  # the number of its first line
    offset: int = 0

    def is_cut(self) -> bool:
        return os.fstat(self.fd).st_size < self.offset


class LogTail:
    """One reader. Close it in the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: _Open | None = None
        self._at = 0  # the number that was read last

    def read(self, after: int, limit: int, head: int) -> Stretch | None:
        """What comes after a number, through `head` at most: so many verdicts, or fewer. None: there is nothing yet."""
        if after != self._at:
            self.close()
            self._at = after
        reading = _Reading(after, limit, head)
        while (file := self._opened()) is not None:
            if file.is_cut():
                file.offset = _offset_after(file.fd, self._at)
            is_at_end = reading.read_lines(file)
            self._at = reading.at
            if not is_at_end or not self._go_on(file):
                break
        return reading.stretch()

    def close(self) -> None:
        """No more of it, or anew."""
        if self._file:
            os.close(self._file.fd)
        self._file = None

    def _opened(self) -> _Open | None:
        """Where the next line is looked for."""
        if self._file is None:
            files = self._files()
            before = [one for one in files if one[0] <= self._at + 1]
            if files:
                first, path = before[-1] if before else files[0]
                self._open(path, first)
                if self._file is not None:
                    self._file.offset = _offset_after(self._file.fd, self._at)
        return self._file

    def _go_on(self, file: _Open) -> bool:
        """After the end of a file. Once there is another one, the one before it grows no more."""
        later = next((one for one in self._files() if one[0] > file.first), None)
        if later is None:
            return False
        if _has_line(file):
            return True
        self.close()
        self._open(later[1], later[0])
        return self._file is not None

    def _files(self) -> list[tuple[int, Path]]:
        """All with the number of their first lines, oldest first; one that has none yet is not there yet."""
        try:
            return sorted((first, path) for path in log_files(self._directory) if (first := _first_of(path)))
        except OSError:  # rotated or removed in this very moment
            return []

    def _open(self, path: Path, first: int) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        found = None if number_of(path) else _beginning_in(fd)
        if found and found.seq != first:  # another one has this name now
            os.close(fd)
            return
        self._file = _Open(fd, first)


class _Reading:
    """A stretch in the making."""

    def __init__(self, after: int, limit: int, head: int) -> None:
        self.at = after
        self._after = after
        self._limit = limit
        self._head = head
        self._size = 0
        self._lost = 0
        self._verdicts: list[tuple[int, bytes]] = []

    def read_lines(self, file: _Open) -> bool:
        """Whether the file has no more whole lines, and there is room for those of the next one."""
        while True:
            block = os.pread(file.fd, _BLOCK, file.offset)
            end = block.rfind(b"\n") + 1
            if not end and len(block) == _BLOCK:
                block = os.pread(file.fd, LINE_MAX, file.offset)
                end = block.rfind(b"\n") + 1 or (len(block) if len(block) == LINE_MAX else 0)  # that is no line
            if not end:
                return True
            for line in block[:end].splitlines(keepends=True):
                if not self._take(line):
                    return False
                file.offset += len(line)

    def stretch(self) -> Stretch | None:
        """What was read."""
        if self.at == self._after:
            return None
        return Stretch(self._after + 1, self.at, tuple(self._verdicts), self._lost)

    def _take(self, line: bytes) -> bool:
        """False: it is for another time."""
        link = take_apart(line[:-1])
        if link is None or link.seq <= self.at:
            return True  # its number will be missing; or it stands here a second time
        if link.seq > self._head or len(self._verdicts) >= self._limit or self._size >= _BYTES_MAX:
            return False
        self._lost += link.seq - self.at - 1
        self.at = link.seq
        self._size += len(line)
        if line.startswith(VERDICT):
            self._verdicts.append((link.seq, line[:-1]))
        return True


def _beginning_in(fd: int) -> Link | None:
    """The first line of an open file."""
    line, newline, _ = os.pread(fd, LINE_MAX, 0).partition(b"\n")
    return take_apart(line) if newline else None


def _first_of(path: Path) -> int:
    """The number of a file's first line; 0: it has none yet."""
    link = None if number_of(path) else beginning_of(path)[0]
    return link.seq if link else number_of(path)


def _has_line(file: _Open) -> bool:
    return b"\n" in os.pread(file.fd, LINE_MAX, file.offset)


def _offset_after(fd: int, number: int) -> int:
    """Near the first line with a larger number, and not beyond it: numbers grow, so that halving finds it."""
    low, high = 0, os.fstat(fd).st_size
    while high - low > _BLOCK:
        middle = (low + high) // 2
        found = _line_from(fd, middle, high)
        if found is None or found[1] > number:
            high = middle
        else:
            low = found[0]
    return low


def _line_from(fd: int, offset: int, end: int) -> tuple[int, int] | None:
    """Where the first good line beyond an offset begins, and its number."""
    block = os.pread(fd, min(LINE_MAX, end - offset), offset)
    begin = block.find(b"\n") + 1
    while begin and (newline := block.find(b"\n", begin)) >= 0:
        link = take_apart(block[begin:newline])
        if link:
            return offset + begin, link.seq
        begin = newline + 1
    return None
