"""Files that policy tools read: `-` is standard input, and an error says which file it was."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from exeat.core.policy_file import read_policy
from exeat.core.replay import Recorded
from exeat.core.verdict_reading import read_line
from exeat.errors import ExeatError, PolicyError
from exeat.model.policy import Policy

STDIN = "-"
_NO_VERDICT = ('{"checkpoint"', '{"notice"', '{"continues"')  # lines of the verdict log that are about the log


def name_of(path: str) -> str:
    """A file as errors name it."""
    return "standard input" if path == STDIN else path


def text_of(path: str) -> str:
    """A whole file. Raises PolicyError where it cannot be read."""
    try:
        return sys.stdin.buffer.read().decode() if path == STDIN else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError([f"{name_of(path)}: cannot be read: {_why(error)}"]) from error


def policy_of(path: str) -> Policy:
    """A file's policy. Raises PolicyError with all that is wrong with it; what is merely doubtful, `check` says."""
    return read_policy(text_of(path), name_of(path)).policy


def recorded_in(paths: list[str]) -> Recorded:
    """All verdicts of some files. Raises ExeatError for a line that is none."""
    recorded = Recorded()
    for path in paths:
        for number, line in _lines(path):
            if line.strip() and not line.startswith(_NO_VERDICT):
                recorded.add(read_line(line, f"{name_of(path)}:{number}"))
    return recorded


def refuse_stdin_twice(options: argparse.Namespace, paths: list[str]) -> None:
    """Wrong usage: it can be read once."""
    if paths.count(STDIN) > 1:
        refuse(options, "standard input can be read only once: give `-` once")


def refuse(options: argparse.Namespace, sentence: str) -> NoReturn:
    """Ends with the usage and a sentence."""
    parser: argparse.ArgumentParser = options.parser
    parser.error(sentence)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the choice between a table and JSON."""
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table", help="how to show it")


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        if path == STDIN:
            yield from enumerate((line.decode() for line in sys.stdin.buffer), 1)
            return
        with Path(path).open(encoding="utf-8") as file:
            yield from enumerate(file, 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ExeatError(f"{name_of(path)}: cannot be read: {_why(error)}") from error


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is no UTF-8"
