"""The manual pages say what `--help` says: every command, flag and word of it; and readers of pages take them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exeat.cli.manual import Command, every_command, whole

MANUAL = (sys.executable, "-m", "exeat.cli.manual")
DAY = "1790000000"  # 2026-09-21
COMMANDS = [command for command, _above in every_command(whole())]


def write(directory: Path) -> Path:
    """The pages, as whoever builds a package has them written."""
    subprocess.run([*MANUAL, directory], check=True, env={**os.environ, "SOURCE_DATE_EPOCH": DAY}, timeout=60)
    return directory


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of them."""
    return write(tmp_path_factory.mktemp("man"))


def mandoc(*arguments: str | Path) -> str:
    """What it prints."""
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed: apt-get install mandoc")
    done = subprocess.run(["mandoc", *arguments], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def plain(text: str) -> str:
    """Overstruck letters become one: mandoc writes bold as `a\\ba`, and underlines as `_\\ba`."""
    return " ".join(re.sub(".\b", "", text).split())


def words_of(text: str) -> list[str]:
    """Every flag, and what stands to the right of a flag, an argument or a command."""
    right = [match[1] for line in text.splitlines() if (match := re.match(r"  +\S.*?  +(\S.*)$", line))]
    return re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text) + [" ".join(sentence.split()) for sentence in right]


def test_every_command_has_a_page_and_nothing_else_has(pages: Path) -> None:
    """Also those of policy, audit and plane, and the plane's policies' own."""
    assert {path.name for path in pages.iterdir()} == {f"{command.page}.1" for command in COMMANDS}
    assert {"exeat.1", "exeat-run.1", "exeat-plane-policies-apply.1"} <= {path.name for path in pages.iterdir()}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.page)
def test_a_page_says_every_line_of_help(command: Command, pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its reader sees it."""
    monkeypatch.setenv("COLUMNS", "4000")
    words = words_of(command.parser.format_help())
    page = plain(mandoc("-T", "ascii", "-O", "width=1000", pages / f"{command.page}.1"))
    assert "--help" in words
    assert [each for each in words if each not in page] == []
    assert " ".join((command.parser.description or "").split()) in page


def test_the_readers_of_pages_find_nothing_to_complain_of(pages: Path) -> None:
    """mandoc's lint, and groff's warnings."""
    every = sorted(pages.iterdir())
    assert mandoc("-T", "lint", "-W", "warning", *every) == ""
    if not shutil.which("man"):
        pytest.skip("man is not installed: apt-get install man-db")
    for path in every[:3]:
        reader = ["man", "--warnings", "-l", path]
        done = subprocess.run(reader, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert "SYNOPSIS" in done.stdout


def test_the_same_source_makes_the_same_bytes(pages: Path, tmp_path: Path) -> None:
    """For packages that anybody can make again."""
    again = write(tmp_path / "again")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in pages.iterdir()
    }
    assert '"2026-09-21"' in (pages / "exeat.1").read_text()
