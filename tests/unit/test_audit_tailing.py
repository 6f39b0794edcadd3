"""The log is followed: in order, through rotation and removal, without a hole that nobody counts."""

import os
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exeat.audit import VerdictLog
from exeat.audit.chain import take_apart
from exeat.audit.files import CURRENT, log_files, number_of, rotated_files
from exeat.audit.tailing import LogTail, Stretch
from unit.audit_words import lines_of, names_in, open_log, put, verdicts


@dataclass
class Followed:
    """A log, its reader, and what it has read so far."""

    log: VerdictLog
    directory: Path
    tail: LogTail
    at: int = 0
    lost: int = 0
    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def read(self, limit: int = 100) -> Stretch | None:
        """One stretch."""
        stretch = self.tail.read(self.at, limit, self.log.head.seq)
        if stretch:
            assert stretch.first == self.at + 1
            self.at, self.lost = stretch.through, self.lost + stretch.lost
            self.lines += [line for _, line in stretch.verdicts]
            self.numbers += [number for number, _ in stretch.verdicts]
        return stretch

    def read_all(self, limit: int = 100) -> list[str]:
        """Until there is nothing more; the names in all that was read."""
        while self.read(limit):
            pass
        return self.names

    @property
    def names(self) -> list[str]:
        """Of the verdicts read so far."""
        return names_in(self.lines)


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    """A log of small files."""
    directory = tmp_path / "log"
    log = open_log(directory, max_bytes=4000, keep=100)
    tail = LogTail(directory)
    yield Followed(log, directory, tail)
    tail.close()
    log.close()


def names(begin: int, end: int) -> list[str]:
    """As verdict() calls them."""
    return [f"n{number}.test" for number in range(begin, end)]


def numbers_of(directory: Path) -> list[int]:
    """Of every verdict that is in the files, by taking them apart here."""
    lines = [line for path in log_files(directory) for line in lines_of(directory, path.name)]
    return [int(line.split(b',"seq":')[1].split(b",")[0]) for line in lines if line.startswith(b'{"time":"')]


def test_every_verdict_is_read_once_with_its_own_number(followed: Followed) -> None:
    """What is no verdict has a number too, and is no hole."""
    followed.log.append(verdicts(0, 5))
    followed.log.append(verdicts(5, 7))
    assert followed.read_all() == names(0, 7)
    assert followed.numbers == numbers_of(followed.directory)
    assert (followed.at, followed.lost) == (followed.log.head.seq, 0)
    assert followed.read() is None


def test_a_stretch_has_no_more_verdicts_than_asked_for(followed: Followed) -> None:
    """And the next one goes on right behind it."""
    followed.log.append(verdicts(0, 7))
    sizes = []
    while stretch := followed.read(limit=3):
        sizes.append(len(stretch.verdicts))
    assert sizes[:3] == [3, 3, 1]
    assert followed.names == names(0, 7)


def test_reading_goes_on_in_the_next_file(followed: Followed) -> None:
    """Also when the file was renamed while it was open, more than once."""
    for begin in range(0, 60, 3):
        followed.log.append(verdicts(begin, begin + 3))
        followed.read()
    assert followed.read_all() == names(0, 60)
    assert len(rotated_files(followed.directory)) > 3
    assert followed.lost == 0


def test_a_file_that_grows_and_is_rotated_while_its_end_is_seen_is_read_to_its_end(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the file and the look at the directory the writer may do both."""
    followed.log.append(verdicts(0, 3))
    followed.read(limit=1)
    files = followed.tail._files

    def late() -> list[tuple[int, Path]]:
        monkeypatch.setattr(followed.tail, "_files", files)
        followed.log.append(verdicts(3, 6))
        followed.log.rotate()
        followed.log.append(verdicts(6, 9))
        return files()

    monkeypatch.setattr(followed.tail, "_files", late)
    assert followed.read_all() == names(0, 9)
    assert followed.lost == 0


def test_a_reader_that_comes_late_reads_all_files(followed: Followed) -> None:
    """From the first line on."""
    for begin in range(0, 60, 3):
        followed.log.append(verdicts(begin, begin + 3))
    assert followed.read_all() == names(0, 60)
    assert followed.lost == 0


@pytest.mark.parametrize("after", [1, 7, 30, 61])
def test_reading_begins_anywhere(followed: Followed, after: int) -> None:
    """The file is found by its name, the line within it."""
    for begin in range(0, 60, 3):
        followed.log.append(verdicts(begin, begin + 3))
    followed.at = after
    followed.read_all()
    assert followed.numbers == [number for number in numbers_of(followed.directory) if number > after]
    assert followed.lost == 0


def test_what_was_deleted_unread_is_counted(tmp_path: Path) -> None:
    """A file that is open when it is deleted is read to its end; the numbers between it and the next are lost."""
    log = open_log(tmp_path / "log", max_bytes=4000, keep=2)
    followed = Followed(log, tmp_path / "log", LogTail(tmp_path / "log"))
    log.append(verdicts(0, 3))
    followed.read(limit=1)
    with (followed.directory / CURRENT).open("rb") as open_one:
        for begin in range(3, 90, 3):
            log.append(verdicts(begin, begin + 3))
        last = take_apart(open_one.read().splitlines()[-1])
    kept = numbers_of(followed.directory)
    followed.read_all()
    assert last
    assert followed.numbers[-len(kept) :] == kept
    assert followed.lost == number_of(rotated_files(followed.directory)[0]) - 1 - last.seq > 20
    assert followed.at == log.head.seq
    followed.tail.close()
    log.close()


def test_a_file_that_was_removed_while_it_is_open_is_read_to_its_end(followed: Followed) -> None:
    """And then the one that the log begins in its place."""
    followed.log.append(verdicts(0, 3))
    followed.read(limit=1)
    (followed.directory / CURRENT).unlink()
    followed.log.append(verdicts(3, 6))
    assert followed.read_all() == names(0, 6)
    assert followed.lost == 0


def test_a_directory_that_was_moved_away_loses_what_was_unread(followed: Followed) -> None:
    """The log begins anew in its place, and goes on counting."""
    followed.log.append(verdicts(0, 3))
    followed.read_all()
    followed.tail.close()  # as after a restart
    followed.log.append(verdicts(3, 6))
    shutil.move(followed.directory, followed.directory.with_name("elsewhere"))
    followed.log.append(verdicts(6, 9))
    assert followed.read_all() == names(0, 3) + names(6, 9)
    assert followed.lost == 3


def test_what_the_writer_has_not_confirmed_is_not_read(followed: Followed) -> None:
    """A full disk may take a whole line back, and give its number to another one."""
    followed.log.append(verdicts(0, 3))
    head = followed.log.head.seq
    followed.log.append(verdicts(3, 6))
    stretch = followed.tail.read(0, 100, head)
    assert stretch
    assert stretch.through == head
    assert names_in([line for _, line in stretch.verdicts]) == names(0, 3)
    rest = followed.tail.read(head, 100, followed.log.head.seq)
    assert rest
    assert names_in([line for _, line in rest.verdicts]) == names(3, 6)


def test_a_half_written_line_waits_for_its_other_half(tmp_path: Path) -> None:
    """Another process may be the writer."""
    whole = open_log(tmp_path / "log")
    whole.append(verdicts(0, 3))
    whole.close()
    lines = lines_of(tmp_path / "log")
    put(tmp_path / "log", [*lines[:3], lines[3][:50]])
    tail = LogTail(tmp_path / "log")
    first = tail.read(0, 100, 1000)
    assert first
    assert first.through == 3
    put(tmp_path / "log", lines)
    second = tail.read(3, 100, 1000)
    assert second
    assert (second.first, second.through, second.lost) == (4, len(lines), 0)


def test_lines_that_are_none_are_lost_and_those_behind_them_are_read(followed: Followed) -> None:
    """A byte more in a line, a megabyte of something else: the next good line is found, and the holes are counted."""
    followed.log.append(verdicts(0, 6))
    lines = lines_of(followed.directory)
    at = next(number for number, line in enumerate(lines) if b"n3.test" in line)
    lines[at] = lines[at].replace(b'"chain"', b'"chian"')
    lines.insert(at - 1, b"x" * 3_000_000 + b"\n")
    put(followed.directory, lines)
    assert followed.read_all() == [*names(0, 3), *names(4, 6)]
    assert followed.lost == 1


def test_a_line_that_stands_there_twice_is_read_once(followed: Followed) -> None:
    """Numbers only grow."""
    followed.log.append(verdicts(0, 3))
    lines = lines_of(followed.directory)
    put(followed.directory, [*lines, *lines])
    assert followed.read_all() == names(0, 3)
    assert followed.lost == 0


def test_no_directory_is_nothing_to_read(tmp_path: Path) -> None:
    """Not an error: the log makes it when it can."""
    assert LogTail(tmp_path / "nowhere").read(0, 10, 100) is None


def test_a_large_log_is_begun_in_its_middle_without_reading_it(tmp_path: Path) -> None:
    """The bytes that are read, by the kernel's count, and the memory, stay far below the file's size."""
    log = open_log(tmp_path / "log", max_bytes=1 << 30)
    for begin in range(0, 60_000, 5_000):
        log.append(verdicts(begin, begin + 5_000))
    size = (tmp_path / "log" / CURRENT).stat().st_size
    assert size > 20_000_000
    tail = LogTail(tmp_path / "log")
    tracemalloc.start()
    before = _read_bytes()
    stretch = tail.read(55_000, 500, log.head.seq)
    read, (_, peak) = _read_bytes() - before, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stretch
    assert (stretch.first, len(stretch.verdicts), stretch.lost) == (55_001, 500, 0)
    assert read < size / 2
    assert peak < 8_000_000
    before = _read_bytes()
    assert tail.read(stretch.through, 500, log.head.seq)
    assert _read_bytes() - before < 2_000_000, "the next stretch goes on where this one ended"
    log.close()


def test_files_are_closed_again(followed: Followed) -> None:
    """However many were read."""
    for begin in range(0, 60, 3):
        followed.log.append(verdicts(begin, begin + 3))
    followed.read_all()
    assert len(_open_to_read(followed.directory)) == 1
    followed.tail.close()
    assert _open_to_read(followed.directory) == []


def _open_to_read(directory: Path) -> list[str]:
    """The log itself opens its files to write."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            where = os.readlink(f"/proc/self/fd/{fd}")
            flags = int(Path(f"/proc/self/fdinfo/{fd}").read_text().split("flags:")[1].split()[0], 8)
            if where.startswith(f"{directory}/") and flags & os.O_ACCMODE == os.O_RDONLY:
                found.append(where)
    return found


def _read_bytes() -> int:
    """All that this process has read, out of the page cache too."""
    said = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(said["rchar"])
