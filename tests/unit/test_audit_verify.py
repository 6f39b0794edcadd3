"""`exeat audit verify` finds whatever was done to a real log, and nothing in one that was left alone."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.audit import verify
from exeat.audit.chain import Draft, Head, take_apart
from exeat.audit.files import CURRENT, log_files
from exeat.audit.keys import PublicKey
from exeat.cli.main import main
from unit.audit_words import Clock, checked, lines_of, open_log, put, verdict, verdicts

ROTATED = "verdicts-000000000001.jsonl"
Lines = list[bytes]


def written(top: Path) -> Path:
    """A log of two files: continuation, checkpoint, ten verdicts, checkpoint in each, and all sealed."""
    directory = top / "log"
    log = open_log(directory)
    log.append(verdicts(0, 10))
    log.rotate()
    log.append(verdicts(10, 20))
    log.close()
    return directory


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be touched."""
    return written(tmp_path_factory.mktemp("original"))


@pytest.fixture
def directory(original: Path, tmp_path: Path) -> Path:
    """A copy with its keys."""
    shutil.copytree(original.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "log"


def rechained(lines: Lines, head: Head, begin: int) -> Lines:
    """The lines from `begin` on with their numbers and hashes reckoned anew, as somebody without the key could."""
    out = lines[:begin]
    for line in lines[begin:]:
        link = take_apart(line[:-1])
        assert link
        draft = Draft(head)
        bare = link.covered
        draft.add([bare[: bare.rindex(b',"seq":')] + b"}"])
        head = draft.head
        out.append(draft.text())
    return out


def edit(lines: Lines) -> Lines:
    """Another name in the fifth verdict."""
    return [line.replace(b'"n4.test"', b'"nX.test"') for line in lines]


def edit_and_rechain(lines: Lines) -> Lines:
    """The same, by somebody who knows how the chain is reckoned."""
    link = take_apart(lines[5][:-1])
    assert link
    return rechained(edit(lines), link.head, 6)


def remove(lines: Lines) -> Lines:
    """The fifth verdict, which is the seventh line."""
    return lines[:6] + lines[7:]


def remove_three(lines: Lines) -> Lines:
    """From the fifth verdict on."""
    return lines[:6] + lines[9:]


def swap(lines: Lines) -> Lines:
    """The fifth and the sixth."""
    return [*lines[:6], lines[7], lines[6], *lines[8:]]


def insert(lines: Lines) -> Lines:
    """A verdict that never fell, with a good hash."""
    link = take_apart(lines[5][:-1])
    assert link
    draft = Draft(link.head)
    draft.add([verdict(99)])
    return [*lines[:6], draft.text(), *lines[6:]]


def repeat(lines: Lines) -> Lines:
    """The fifth, twice."""
    return [*lines[:7], lines[6], *lines[7:]]


def cut_a_line(lines: Lines) -> Lines:
    """The fifth ends in the middle."""
    return [*lines[:6], lines[6][:200] + b"\n", *lines[7:]]


def cut_the_end(lines: Lines) -> Lines:
    """As if the writer had been stopped."""
    return [*lines[:-1], lines[-1][:50]]


def forget_the_beginning(lines: Lines) -> Lines:
    """The continuation and the first checkpoint."""
    return lines[2:]


def forge_a_checkpoint(lines: Lines) -> Lines:
    """Another signature, and a good chain."""
    said = json.loads(lines[-1])
    forged = lines[-1].replace(said["signature"].encode(), ("A" * 86 + "==").encode())
    link = take_apart(lines[-2][:-1])
    assert link
    return rechained([*lines[:-1], forged], link.head, len(lines) - 1)


def test_a_log_that_was_left_alone_is_good(original: Path) -> None:
    """The twin of all that follows."""
    found = checked(original)
    assert found.is_good
    assert (found.files, found.verdicts, found.checkpoints, found.unsealed) == (2, 20, 4, 0)


@pytest.mark.parametrize(
    ("change", "line", "sentence"),
    [
        (edit, 7, "this line, or the one before it, is not what was written"),
        (edit_and_rechain, 13, "this checkpoint was signed for other lines than those before it"),
        (remove, 7, "before this line, 1 are missing, from line 7 on"),
        (remove_three, 7, "before this line, 3 are missing, from line 7 on"),
        (swap, 7, "before this line, 1 are missing, from line 7 on"),
        (insert, 8, "line 7 comes after line 7: it was moved or put in"),
        (repeat, 8, "line 7 comes after line 7: it was moved or put in"),
        (cut_a_line, 7, "this is no line of the log"),
        (cut_the_end, 13, "this line is cut short"),
        (forget_the_beginning, 1, "this is not how a file begins: its first lines are missing"),
        (forge_a_checkpoint, 13, "the signature of this checkpoint is wrong"),
    ],
)
def test_what_was_done_to_a_file_is_found_where_it_was_done(
    directory: Path, change: Callable[[Lines], Lines], line: int, sentence: str
) -> None:
    """With the file and the line."""
    put(directory, change(lines_of(directory, ROTATED)), ROTATED)
    found = checked(directory)
    problem = found.problems[0]
    assert (problem.file, problem.line, problem.what) == (ROTATED, line, sentence)
    assert problem.seq in (None, line, line + 1, line + 3, line - 1, 3)


def test_lines_that_are_gone_at_the_end_of_a_file_show_in_the_next(directory: Path) -> None:
    """Whole lines, so that the file itself looks well."""
    put(directory, lines_of(directory, ROTATED)[:-3], ROTATED)
    problems = checked(directory).problems
    assert (problems[0].file, problems[0].line) == (CURRENT, 1)
    assert problems[0].what == "before this line, 3 are missing, from line 11 on"


@pytest.mark.parametrize("name", [ROTATED, "verdicts-000000000014.jsonl", CURRENT])
def test_a_missing_file_is_found(tmp_path: Path, name: str) -> None:
    """The first, one between others, and the last."""
    log = open_log(tmp_path / "log")
    for number in range(3):
        log.append(verdicts(10 * number, 10 * number + 10))
        log.rotate()
    log.close()
    assert checked(tmp_path / "log").is_good
    (tmp_path / "log" / name).unlink()
    whats = [problem.what for problem in checked(tmp_path / "log").problems]
    expected = {
        ROTATED: "lines 1 to 13 are missing, and exeat did not remove them",
        CURRENT: "the file is missing: exeat begins it at once when it closes the one before",
    }
    assert whats == [expected.get(name, "before this line, 13 are missing, from line 14 on")]


def test_a_tail_that_nobody_has_signed_is_said_to_be_unsealed(tmp_path: Path) -> None:
    """It may be exeat's own, of the last minute, or anybody's: that is what a checkpoint is for."""
    directory = tmp_path / "log"
    log = open_log(directory)
    log.append(verdicts(0, 10))
    put(directory, edit_and_rechain(lines_of(directory)))
    found = checked(directory)
    assert (found.is_good, found.unsealed) == (True, 10)
    log.close()
    assert not checked(directory).is_good, "exeat goes on from what it wrote itself"


def test_a_log_that_was_cut_back_to_a_checkpoint_shows_only_to_who_noted_more(directory: Path) -> None:
    """So notes of the last line belong somewhere else."""
    head = checked(directory).head
    assert checked(directory, noted=head).is_good
    put(directory, lines_of(directory)[:2])
    assert checked(directory).is_good
    found = checked(directory, noted=head)
    assert [problem.what for problem in found.problems] == [
        "line 26 with the noted hash is not there: the log was cut back, or is another one"
    ]


def test_a_log_signed_with_another_key_is_not_believed(directory: Path, tmp_path: Path) -> None:
    """Whoever replaces the log, its key and its public key beside it: the public key belongs somewhere else, too."""
    (tmp_path / "other").mkdir()
    other = written(tmp_path / "other")
    assert checked(other).is_good
    (other.parent / "audit.pub").write_bytes((directory.parent / "audit.pub").read_bytes())
    assert checked(other).problem_count == checked(directory).checkpoints
    assert "which was not given" in checked(other).problems[0].what


def test_a_log_may_have_been_signed_with_two_keys(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both have to be given then."""
    first = directory.parent / "audit.pub"
    first.rename(directory.parent / "first.pub")
    (directory.parent / "audit.key").unlink()
    open_log(directory).close()
    keys = ["--key", str(first), "--key", str(directory.parent / "first.pub")]
    assert main(["audit", "verify", str(directory)]) == 1
    assert main(["audit", "verify", str(directory), *keys]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


@given(at=st.integers(0, 2**32), flip=st.integers(1, 255), name=st.sampled_from([ROTATED, CURRENT]))
def test_any_byte_that_is_changed_in_a_sealed_log_is_found(original: Path, at: int, flip: int, name: str) -> None:
    """All of it was sealed."""
    path = original / name
    before = path.read_bytes()
    after = bytearray(before)
    after[at % len(before)] ^= flip
    try:
        path.write_bytes(after)
        assert not checked(original).is_good
    finally:
        path.write_bytes(before)


@given(st.data())
def test_any_run_of_bytes_that_is_taken_out_is_found(original: Path, data: st.DataObject) -> None:
    """Unless it is the end, from a checkpoint on, which the test above tells."""
    path = original / ROTATED
    before = path.read_bytes()
    begin = data.draw(st.integers(0, len(before) - 1))
    end = data.draw(st.integers(begin + 1, len(before)))
    try:
        path.write_bytes(before[:begin] + before[end:])
        assert not checked(original).is_good
    finally:
        path.write_bytes(before)


def test_the_command_says_what_is_wrong_and_exits_with_1(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for machines; one file can be given alone."""
    assert main(["audit", "verify", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "2 files, 26 lines, 1 to 26: 20 verdicts" in out
    assert out.endswith("nothing is wrong\n")
    assert main(["audit", "verify", str(directory / CURRENT)]) == 0
    put(directory, edit(lines_of(directory, ROTATED)), ROTATED)
    capsys.readouterr()
    assert main(["audit", "verify", str(directory)]) == 1
    assert f"WRONG  {ROTATED}:7: this line" in capsys.readouterr().out
    assert main(["audit", "verify", "-o", "json", *map(str, reversed(log_files(directory)))]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["is_good"] is False
    assert said["problems"][0] == {
        "file": ROTATED,
        "line": 7,
        "seq": 7,
        "what": "this line, or the one before it, is not what was written",
    }
    assert main(["audit", "verify", "--noted", said["head"], str(directory / CURRENT)]) == 0
    assert main(["audit", "verify", "--noted", "1:" + "0" * 64, str(directory / CURRENT)]) == 1


def test_the_command_says_what_it_cannot_read(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No directory, no log, no key, a key that is none, a note that is none."""
    empty = tmp_path / "empty"
    empty.mkdir()
    log = str(directory)
    for words, sentence in (
        ([str(tmp_path / "none")], "give one directory, or the files of one log"),
        ([str(empty)], "there is no verdict log in this directory"),
        ([log, log], "give one directory, or the files of one log"),
        (["--key", str(tmp_path / "none"), log], "the key cannot be read"),
        (["--key", str(directory / CURRENT), log], "this is no public key"),
        (["--noted", "7", log], "write a line's number, a colon"),
    ):
        assert main(["audit", "verify", *words]) == 125
        assert sentence in capsys.readouterr().err
    (directory.parent / "audit.pub").unlink()
    assert main(["audit", "verify", log]) == 125
    assert "say with --key where it is" in capsys.readouterr().err
    for words in ([], ["verify"], ["key"], ["verify", "--rest", log]):
        with pytest.raises(SystemExit) as ended:
            main(["audit", *words])
        assert ended.value.code == 2


def test_a_line_that_is_just_being_written_is_waited_for(directory: Path) -> None:
    """A batch is one write, and a reader may see half of it."""
    lines = lines_of(directory)
    put(directory, [*lines[:-1], lines[-1][:50]])
    keys = [PublicKey.of(directory.parent / "audit.pub")]
    assert not verify(log_files(directory), keys, is_whole=True, patience_s=0).is_good

    def finish() -> None:
        with (directory / CURRENT).open("ab") as file:
            file.write(lines[-1][50:])

    writer = threading.Timer(0.1, finish)
    writer.start()
    assert verify(log_files(directory), keys, is_whole=True, patience_s=30).is_good
    writer.join()


def test_a_notice_cannot_move_the_terminals_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever forged it."""
    directory = tmp_path / "log"
    open_log(directory, Clock()).close()
    link = take_apart(lines_of(directory)[-1][:-1])
    assert link
    draft = Draft(link.head)
    draft.add([b'{"notice":"\\u001b[2J"}', b'{"notice":[7]}', b'{"notice":' + b"[" * 5000 + b"}"])
    put(directory, [*lines_of(directory), draft.text()])
    assert main(["audit", "verify", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "?[2J" in out
    assert "\x1b" not in out
