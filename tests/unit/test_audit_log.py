"""The verdict log is written: in order, chained, sealed, rotated, and again after every sort of failure."""

import json
import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from exeat.audit import VerdictLog
from exeat.audit.files import CURRENT, log_files
from exeat.audit.log import SEAL_LINES
from exeat.audit.syncing import Syncing
from unit.audit_words import (
    BEGAN_NS,
    SECOND,
    Clock,
    checked,
    lines_of,
    names_in,
    notices_in,
    open_log,
    put,
    verdict,
    verdicts,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the log is; its key is beside it."""
    return tmp_path / "log"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system to fill it")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "exeat-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_line_is_the_verdict_with_its_number_and_its_hash(directory: Path) -> None:
    """The chain as docs/audit.md tells it, reckoned here by hand."""
    log = open_log(directory)
    log.append(verdicts(0, 3))
    log.close()
    chain = bytes(32)
    lines = lines_of(directory)
    for number, line in enumerate(lines, 1):
        text = line.decode().removesuffix("\n")
        said = json.loads(text)
        covered = text[: text.rindex(',"chain":')] + "}"
        chain = sha256(chain + covered.encode()).digest()
        assert list(said)[-2:] == ["seq", "chain"]
        assert (said["seq"], said["chain"]) == (number, chain.hex())
    written = [{key: said[key] for key in said if key not in ("seq", "chain")} for said in map(json.loads, lines)]
    assert [said for said in written if "time" in said] == [json.loads(line) for line in verdicts(0, 3)]
    assert log.head.seq == len(lines)
    assert log.head.chain == chain


def test_the_log_is_its_owners_and_only_its_owners(directory: Path) -> None:
    """Names and addresses tell what somebody works on."""
    directory.mkdir(mode=0o755)
    log = open_log(directory, max_bytes=3000)
    log.append(verdicts(0, 3))
    log.append(verdicts(3, 6))
    log.close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *log_files(directory))}
    assert modes == {"log": 0o700, "verdicts-000000000001.jsonl": 0o600, CURRENT: 0o600}
    assert stat.S_IMODE((directory.parent / "audit.key").stat().st_mode) == 0o600


def test_a_directory_that_is_others_too_keeps_its_mode(directory: Path) -> None:
    """`/var/log`, say: the files are still nobody else's."""
    directory.mkdir(mode=0o755)
    (directory / "syslog").touch()
    open_log(directory).close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert stat.S_IMODE((directory / CURRENT).stat().st_mode) == 0o600
    assert checked(directory).problems == []


def test_checkpoints_come_at_the_start_after_many_lines_after_a_while_and_at_the_end(directory: Path) -> None:
    """And not between."""
    clock = Clock()
    log = open_log(directory, clock)
    assert checked(directory).checkpoints == 1
    log.append(verdicts(0, 10))
    log.append([])
    assert (checked(directory).checkpoints, checked(directory).unsealed) == (1, 10)
    log.append([verdict(11)] * (SEAL_LINES - 10))
    assert (checked(directory).checkpoints, checked(directory).unsealed) == (2, 0)
    clock.pass_seconds(120)
    log.append([])
    assert checked(directory).checkpoints == 2, "there was nothing to seal"
    log.append([verdict(12)])
    assert (checked(directory).checkpoints, checked(directory).unsealed) == (3, 0)
    log.append([verdict(13)])
    clock.pass_seconds(-3600)
    log.append([])
    assert checked(directory).checkpoints == 4, "a clock that jumped back must not end the sealing"
    log.append([verdict(14)])
    log.close()
    found = checked(directory)
    assert (found.checkpoints, found.unsealed, found.problems) == (5, 0, [])


def test_full_files_are_rotated_and_the_oldest_go(directory: Path) -> None:
    """What is left is one chain, and says since when."""
    log = open_log(directory, max_bytes=4000, keep=2)
    for number in range(60):
        log.append([verdict(number)])
    log.close()
    files = log_files(directory)
    assert len(files) == 3
    assert all(path.stat().st_size < 6000 for path in files)
    found = checked(directory)
    assert found.problems == []
    assert found.first_seq == int(files[0].stem.partition("-")[2]) > 1
    names = names_in([line for path in files for line in path.read_bytes().splitlines()])
    assert names == [f"n{number}.test" for number in range(60 - len(names), 60)]


def test_a_rotation_by_hand_begins_a_sealed_file(directory: Path) -> None:
    """As before a backup."""
    log = open_log(directory)
    log.append(verdicts(0, 5))
    log.rotate()
    found = checked(directory)
    assert (found.files, found.verdicts, found.unsealed, found.problems) == (2, 5, 0, [])
    log.close()


def test_the_chain_goes_on_after_a_restart(directory: Path) -> None:
    """With a word about it, and with the same key."""
    for number in range(3):
        log = open_log(directory)
        log.append(verdicts(10 * number, 10 * number + 5))
        log.close()
    found = checked(directory)
    assert (found.problems, found.verdicts, found.first_seq) == ([], 15, 1)
    assert found.notices == [
        f"verdicts.jsonl:{at}: exeat started; 0 lines before this were not sealed" for at in (9, 17)
    ]


def test_after_a_crash_the_half_written_line_is_set_aside(directory: Path) -> None:
    """Counted, kept, told; and how much had not been sealed."""
    crashed = open_log(directory)
    crashed.append(verdicts(0, 5))
    half = verdict(6)[:100]
    with (directory / CURRENT).open("ab") as file:
        file.write(half)
    assert [problem.what for problem in checked(directory).problems] == ["this line is cut short"]
    os.close(crashed._owned)  # type: ignore[arg-type]  # as the end of the process would do
    time.sleep(0.2)  # a child that another thread just begins has the lock too, until it is another program
    log = open_log(directory)
    log.append(verdicts(5, 7))
    log.close()
    found = checked(directory)
    assert (found.problems, found.verdicts) == ([], 7)
    assert notices_in(directory) == [
        "100 bytes after line 7 were no whole line; they are in aside-000000000007-0",
        "exeat started; 5 lines before this were not sealed",
    ]
    assert (directory / "aside-000000000007-0").read_bytes() == half


@pytest.mark.parametrize("rest", [bytes(5000), b"\n\n\n", b"{}\n", b'{"time":"x","seq":9,"chain":"00"}\nx'])
def test_what_is_no_line_at_the_end_is_set_aside_too(directory: Path, rest: bytes) -> None:
    """A power cut may leave zeros."""
    log = open_log(directory)
    log.append(verdicts(0, 2))
    log.close()
    with (directory / CURRENT).open("ab") as file:
        file.write(rest)
    open_log(directory).close()
    assert checked(directory).problems == []
    assert (directory / "aside-000000000005-0").read_bytes() == rest


@pytest.mark.parametrize("content", [b"", b"nothing of ours"])
def test_a_current_file_without_a_line_does_not_break_the_chain(directory: Path, content: bytes) -> None:
    """A crash in the middle of a rotation."""
    log = open_log(directory)
    log.append(verdicts(0, 2))
    log.rotate()
    log.close()
    rotated = log_files(directory)[0]
    before = rotated.read_bytes()
    put(directory, [content])
    open_log(directory).close()
    found = checked(directory)
    assert found.files == 2
    if content:
        assert (directory / "aside-000000000005-0").read_bytes() == content
        assert found.notices[0].endswith("verdicts.jsonl had no line of the log in it; it is now aside-000000000005-0")
    assert rotated.read_bytes() == before
    assert found.problems == []


def test_a_full_disk_is_counted_and_told_when_there_is_room_again(small_disk: Path) -> None:
    """Nothing is raised, no half line stays, and each verdict is either there or counted."""
    clock = Clock()
    directory = small_disk / "log"
    log = open_log(directory, clock, key=small_disk.parent / "audit.key")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(150_000))
    given = 0
    while not log.unwritten:
        log.append(verdicts(given, given + 20))
        given += 20
        assert given < 1000
    assert "No space left on device" in log.why_unwritten
    assert not log.is_writing
    clock.pass_seconds(5)
    log.append(verdicts(given, given + 100))
    given += 100
    size = (directory / CURRENT).stat().st_size
    assert (directory / CURRENT).read_bytes().endswith(b"}\n")
    ballast.unlink()
    clock.pass_seconds(1)
    log.append(verdicts(given, given + 3))
    given += 3
    assert log.is_writing
    assert (directory / CURRENT).stat().st_size > size
    log.close()
    (small_disk / "audit.pub").write_bytes((small_disk.parent / "audit.pub").read_bytes())
    found = checked(directory)
    assert found.problems == []
    assert found.verdicts + log.unwritten == given
    assert log.unwritten == 120
    assert notices_in(directory) == [
        "120 verdicts were not written between 2027-01-15T08:00:00.000000000Z and 2027-01-15T08:00:05.000000000Z: "
        f"{directory / CURRENT}: No space left on device"
    ]


def test_a_disk_that_is_full_at_the_start_is_waited_for(small_disk: Path) -> None:
    """Not even a key can be made."""
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(1_000_000))
    directory = small_disk / "state" / "log"
    log = VerdictLog(directory, clock=Clock())
    assert not log.is_writing
    log.append(verdicts(0, 4))
    assert (log.unwritten, log.head.seq) == (4, 0)
    ballast.unlink()
    log.append(verdicts(4, 6))
    log.close()
    found = checked(directory)
    assert (found.problems, found.verdicts) == ([], 2)
    assert notices_in(directory)[0].startswith("4 verdicts were not written between")


def test_a_file_or_directory_that_is_taken_away_is_begun_again(directory: Path) -> None:
    """And the missing lines are missed."""
    log = open_log(directory)
    log.append(verdicts(0, 3))
    (directory / CURRENT).unlink()
    log.append(verdicts(3, 5))
    assert names_in(lines_of(directory)) == ["n3.test", "n4.test"]
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    log.append(verdicts(5, 6))
    log.close()
    assert (log.unwritten, names_in(lines_of(directory))) == (0, ["n5.test"])
    found = checked(directory)
    assert [problem.what for problem in found.problems] == ["lines 1 to 9 are missing, and exeat did not remove them"]
    assert "moved or removed while it was written; line 9 was its last" in found.notices[0]


def test_a_file_that_somebody_else_writes_is_noticed(directory: Path) -> None:
    """As logrotate with copytruncate would."""
    log = open_log(directory)
    log.append(verdicts(0, 3))
    os.truncate(directory / CURRENT, 0)
    log.append(verdicts(3, 4))
    log.close()
    found = checked(directory)
    assert "somebody else changed verdicts.jsonl" in found.notices[0]
    assert not found.is_good


def test_two_do_not_write_one_log(directory: Path) -> None:
    """The second says so, and goes on when the first has gone."""
    first = open_log(directory)
    second = VerdictLog(directory, clock=Clock())
    second.append(verdicts(0, 2))
    assert second.unwritten == 2
    assert "another exeat writes its log there" in second.why_unwritten
    first.append(verdicts(2, 3))
    first.close()
    second.append(verdicts(3, 4))
    second.close()
    assert checked(directory).problems == []
    assert names_in(lines_of(directory)) == ["n2.test", "n3.test"]


@pytest.mark.parametrize("key", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_key_that_is_none_is_said_and_never_replaced(directory: Path, key: bytes) -> None:
    """Whoever put a new one in its place could sign another log."""
    path = directory.parent / "audit.key"
    path.write_bytes(key)
    log = VerdictLog(directory, clock=Clock())
    log.append(verdicts(0, 1))
    assert log.unwritten == 1
    assert "restore it, or move it away for a new one" in log.why_unwritten
    assert path.read_bytes() == key
    path.unlink()
    log.append(verdicts(1, 2))
    log.close()
    assert (log.unwritten, names_in(lines_of(directory))) == (1, ["n1.test"])


@pytest.mark.parametrize("line", [b"", b"{}", b'{"time":"x"}\n', b'{"checkpoint":{}}', b'{"time":"x"'])
def test_what_is_no_verdict_does_not_get_into_the_log(directory: Path, line: bytes) -> None:
    """It could pretend to be a checkpoint, or break the lines."""
    log = open_log(directory)
    log.append([verdict(0), line, verdict(1)])
    log.close()
    assert log.unwritten == 1
    found = checked(directory)
    assert (found.problems, found.verdicts) == ([], 2)
    assert found.notices[0].endswith("they were no verdicts in JSON, which is a mistake in exeat")


def test_after_the_end_nothing_is_written(directory: Path) -> None:
    """It is counted."""
    log = open_log(directory)
    log.close()
    log.close()
    log.append(verdicts(0, 2))
    assert (log.unwritten, log.why_unwritten) == (2, "the log is closed")


def test_verdicts_are_read_back_since_a_time_across_files(directory: Path) -> None:
    """Whole files that are older are passed by; notices and checkpoints are no verdicts."""
    clock = Clock()
    log = open_log(directory, clock, max_bytes=4000)
    for number in range(40):
        log.append([verdict(number, clock.now_ns)])
        clock.pass_seconds(1)
    assert len(log_files(directory)) > 3
    for since in (0, 1, 17, 39, 40):
        names = names_in(list(log.read_since(BEGAN_NS + since * SECOND)))
        assert names == [f"n{number}.test" for number in range(since, 40)]
    assert names_in(list(log.read_since(0)))[0] == "n0.test"
    reading = log.read_since(BEGAN_NS)
    next(reading)
    log.rotate()
    assert len(list(reading)) == 39, "a rotation takes nothing from who reads"
    log.close()


def test_several_threads_write_one_chain(directory: Path) -> None:
    """The kernel's ring is read by one, each gate by another."""
    log = open_log(directory, max_bytes=100_000)
    threads = [
        threading.Thread(
            target=lambda first=first: [log.append(verdicts(n, n + 3)) for n in range(first, first + 300, 3)]
        )
        for first in range(0, 1200, 300)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = checked(directory)
    assert (found.problems, found.verdicts, log.unwritten) == ([], 1200, 0)
    names = names_in([line for path in log_files(directory) for line in path.read_bytes().splitlines()])
    assert sorted(names) == sorted(f"n{number}.test" for number in range(1200))


def test_what_the_disk_does_not_keep_is_known(tmp_path: Path) -> None:
    """A pipe has nothing to keep, and says so; a file does."""
    readable, writable = os.pipe()
    syncing = Syncing()
    with (tmp_path / "file").open("wb") as file:
        syncing.ask(file.fileno())
        syncing.finish()
        assert syncing.take_failure() is None
    syncing = Syncing()
    syncing.ask(writable)
    syncing.finish()
    assert isinstance(syncing.take_failure(), OSError)
    assert syncing.take_failure() is None
    os.close(readable)
    os.close(writable)
