"""Policies in a directory: what is in the files holds, all of it or nothing, on both databases."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exeat.plane.policies import git_author, policies, rollouts
from exeat.plane.policies.directory import PolicyDirectory, look_on
from exeat.plane.policies.policies import Action, Plan, Source
from exeat.plane.store.database import Database, StoreError, open_database
from plane.stores import KINDS, SECOND, T0, change, open_store, policy_text

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed: apt-get install git")
GIT = ("git", "-c", "user.name=Bob Brown", "-c", "user.email=bob@example.com", "-c", "init.defaultBranch=main")


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store."""
    with open_store(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory."""
    made = tmp_path / "policies"
    made.mkdir()
    return made


def write(path: Path, text: str, at_s: int = 0) -> None:
    """A file that was written some time ago."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(T0 + at_s * SECOND, T0 + at_s * SECOND))


def look(directory: PolicyDirectory, database: Database, after_s: float = 1000) -> list[str]:
    """The policies that were changed."""
    return [placed.name for placed in directory.look(database, T0 + round(after_s * SECOND))]


def names(database: Database) -> list[str]:
    """Of the policies that shall hold."""
    with database.reading() as tx:
        return [one.name for one in policies.current(tx)]


def test_files_hold_change_and_go(database: Database, place: Path) -> None:
    """In subdirectories too; what begins with a dot, or is no YAML, is passed over."""
    directory = PolicyDirectory(place)
    write(place / "a.yaml", policy_text("a"))
    write(place / "team" / "b.yml", policy_text("b"))
    for odd in (".hidden.yaml", "README.md", ".git/x.yaml", "a.yaml~"):
        write(place / odd, "no policy")
    assert look(directory, database) == ["a", "b"]
    assert look(directory, database) == []
    write(place / "a.yaml", policy_text("a", "other.example"), 1)
    assert look(directory, database) == ["a"]
    (place / "team" / "b.yml").unlink()
    assert look(directory, database) == ["b"]
    assert names(database) == ["a"]
    with database.reading() as tx:
        assert policies.current(tx)[0].source is Source.DIRECTORY
        told = [(one.name, one.action, one.by) for one in policies.history(tx)]
        assert told[0] == ("b", Action.REMOVE, "directory")
        assert sorted(told[1:]) == [("a", Action.APPLY, "directory")] * 2 + [("b", Action.APPLY, "directory")]
    assert directory.problems() == ()


def test_one_bad_file_keeps_everything_as_it_was(database: Database, place: Path) -> None:
    """Every problem is told, until it is mended."""
    directory = PolicyDirectory(place)
    write(place / "a.yaml", policy_text("a"))
    look(directory, database)
    write(place / "a.yaml", policy_text("a", "new.example"), 1)
    write(place / "b.yaml", policy_text("b").replace("egress", "egres"), 1)
    write(place / "c.yaml", policy_text("a"), 1)
    (place / "d.yaml").write_bytes(b"\xff")
    (place / "e.yaml").symlink_to("nowhere")
    assert look(directory, database) == []
    assert any(problem.startswith("e.yaml:1: it cannot be read") for problem in directory.problems())
    (place / "e.yaml").unlink()
    os.utime(place / "d.yaml", ns=(T0, T0))
    assert look(directory, database) == []
    told = "\n".join(directory.problems())
    assert "b.yaml:5: " in told
    assert "d.yaml:1: this is no UTF-8 text" in told
    assert look(directory, database) == []
    with database.reading() as tx:
        assert len(policies.history(tx)) == 1
    write(place / "b.yaml", policy_text("b"), 2)
    (place / "d.yaml").unlink()
    assert look(directory, database) == []
    assert directory.problems() == ("c.yaml:1: a.yaml is a policy named `a` too: leave one of them out",)
    (place / "c.yaml").unlink()
    assert look(directory, database) == ["a", "b"]
    assert directory.problems() == ()


def test_a_directory_that_is_not_there_removes_nothing(database: Database, place: Path) -> None:
    """Nor one in which there is nothing at all: it may not be mounted. One with another file in it does."""
    directory = PolicyDirectory(place)
    write(place / "a.yaml", policy_text("a"))
    look(directory, database)
    (place / "a.yaml").unlink()
    assert look(directory, database) == []
    assert "is it mounted?" in directory.problems()[0]
    place.rmdir()
    assert look(directory, database) == []
    assert "it cannot be read" in directory.problems()[0]
    assert names(database) == ["a"]
    place.mkdir()
    write(place / "README.md", "nothing is allowed any more")
    assert look(directory, database) == ["a"]
    assert names(database) == []


def test_an_empty_directory_is_well_where_none_was_full(database: Database, place: Path) -> None:
    """At the first start."""
    directory = PolicyDirectory(place)
    assert look(directory, database) == []
    assert directory.problems() == ()


def test_what_is_still_being_written_is_waited_for(database: Database, place: Path) -> None:
    """A checkout takes a moment; a clock that went backwards does not keep it for ever."""
    directory = PolicyDirectory(place)
    write(place / "a.yaml", policy_text("a"), 100)
    assert look(directory, database, 100.1) == []
    assert look(directory, database, 100.3) == ["a"]
    write(place / "a.yaml", policy_text("a", "b.example"), 9000)
    assert look(directory, database, 200) == ["a"]


def test_a_name_that_the_store_has_is_left_to_it(database: Database, place: Path) -> None:
    """And nothing else of the directory holds, until that is settled."""
    directory = PolicyDirectory(place)
    with database.writing() as tx:
        policies.apply(tx, [("a", policy_text("a"))], change())
    write(place / "a.yaml", policy_text("a", "x.example"))
    write(place / "b.yaml", policy_text("b"))
    assert look(directory, database) == []
    assert "is kept in the plane's store: remove it there first" in directory.problems()[0]
    assert names(database) == ["a"]
    with database.writing() as tx:
        policies.remove(tx, "a", change())
    assert look(directory, database) == ["a", "b"]
    with database.reading() as tx:
        assert {one.source for one in policies.current(tx)} == {Source.DIRECTORY}


def test_changes_go_out_as_planned(database: Database, place: Path) -> None:
    """Removals at once."""
    directory = PolicyDirectory(place, Plan((50, 100)))
    write(place / "a.yaml", policy_text("a"))
    write(place / "b.yaml", policy_text("b"))
    assert all(placed.rollout for placed in directory.look(database, T0 + 1000 * SECOND))
    (place / "b.yaml").unlink()
    assert look(directory, database) == ["b"]
    with database.reading() as tx:
        assert set(rollouts.underway(tx)) == {"a"}


def test_a_second_replica_finds_everything_done(database: Database, place: Path) -> None:
    """And a plane that has restarted."""
    write(place / "a.yaml", policy_text("a"))
    assert look(PolicyDirectory(place), database) == ["a"]
    assert look(PolicyDirectory(place), database) == []


def test_a_store_that_is_away_is_asked_again(place: Path, tmp_path: Path) -> None:
    """The directory has not changed since, and holds all the same."""
    directory = PolicyDirectory(place)
    write(place / "a.yaml", policy_text("a"))
    closed = open_database(f"sqlite:{tmp_path}/plane.db")
    closed.close()
    with pytest.raises(StoreError):
        look(directory, closed)
    assert look_on(directory, closed, lambda: T0 + 1000 * SECOND)
    opened = open_database(f"sqlite:{tmp_path}/plane.db")
    assert look_on(directory, opened, lambda: T0 + 1000 * SECOND) == ""
    assert names(opened) == ["a"]
    opened.close()


def test_warnings_are_kept_beside_what_is_in_force(database: Database, place: Path) -> None:
    """As `exeat policy check` tells them; also after a look at which nothing had changed."""
    directory = PolicyDirectory(place)
    text = policy_text("a") + "    protocol: udp\n    ports: [53]\n"
    write(place / "a.yaml", text)
    assert look(directory, database) == ["a"]
    assert look(directory, database) == []
    assert directory.warnings() == policies.read_all([("a.yaml", text)])[0].warnings != ()


def git(place: Path, *words: str) -> None:
    """One command of it."""
    subprocess.run([*GIT, "-C", str(place), *words], check=True, capture_output=True, timeout=30)


@needs_git
def test_who_committed_a_policy_stands_in_its_history(database: Database, place: Path) -> None:
    """Only where the file is as it was committed: nobody is said to have written what they have not."""
    git(place, "init")
    write(place / "sub" / "a.yaml", policy_text("a"))
    write(place / "b.yaml", policy_text("b"))
    git(place, "add", ".")
    git(place, "commit", "-m", "Let coders reach\tthe mirror")
    directory = PolicyDirectory(place)
    look(directory, database)
    write(place / "b.yaml", policy_text("b", "dirty.example"), 1)
    look(directory, database)
    git(place, "rm", "--quiet", "sub/a.yaml")
    git(place, "commit", "-m", "Away with a")
    look(directory, database)
    with database.reading() as tx:
        entries = {(one.name, one.action): one for one in policies.history(tx)[::-1]}
        first = next(one for one in policies.history(tx) if one.before == "" and one.name == "a")
    assert first.by == "Bob Brown <bob@example.com>"
    assert first.reason.endswith(": Let coders reach the mirror")
    assert first.reason.startswith("commit ")
    assert entries["b", Action.APPLY].by == "directory"
    assert entries["a", Action.REMOVE].by == "Bob Brown <bob@example.com>"


@needs_git
def test_a_repository_cannot_have_programs_run(place: Path, tmp_path: Path) -> None:
    """Whoever may write policies must not become the plane."""
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    git(place, "init")
    write(place / "a.yaml", policy_text("a"))
    git(place, "add", ".")
    git(place, "commit", "-m", "x")
    for name in ("core.fsmonitor", "gpg.program", "core.pager", "pager.log", "core.sshCommand"):
        git(place, "config", name, str(program))
    git(place, "config", "log.showSignature", "true")
    assert git_author.author_of(place, [("a.yaml", policy_text("a"))]) is not None
    assert not ran.exists()
    assert git_author.author_of(place, [("a.yaml", policy_text("a", "other.example"))]) is None
    assert git_author.author_of(tmp_path, [("a.yaml", policy_text("a"))]) is None
