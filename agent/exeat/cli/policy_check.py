"""`exeat policy check`: what is wrong with policies, and what is doubtful."""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from exeat.cli.policy_files import add_output, name_of, refuse_stdin_twice, text_of
from exeat.cli.tables import plain, several
from exeat.core.compile import compile_policy
from exeat.core.lint import Lines, lint
from exeat.core.policy_file import read_policy
from exeat.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in one file."""

    file: str
    policy: str | None
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "check",
        help="say what is wrong with policies, and what is doubtful",
        description="Reads policies and says file:line: what is wrong, and what is doubtful. Exits with 1 if something "
        "is wrong, with --strict also if something is doubtful.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a policy; - for standard input")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if there are warnings")
    add_output(parser)
    parser.set_defaults(act=act, parser=parser)


def act(options: argparse.Namespace) -> int:
    """Checks the files."""
    refuse_stdin_twice(options, options.files)
    now = datetime.now(UTC)
    first: dict[str, str] = {}  # the file in which a policy's name was seen first
    checked = [_check(path, first, now) for path in options.files]
    errors = sum(len(one.errors) for one in checked)
    warnings = sum(len(one.warnings) for one in checked)
    if options.output == "json":
        print(json.dumps([asdict(one) for one in checked], indent=2))
    else:
        for one in checked:
            for error in one.errors:
                print(plain(error))
            for warning in one.warnings:
                print(plain(_marked(warning, one.file)))
        told = several(len(checked), "file"), several(errors, "error"), several(warnings, "warning")
        print(", ".join(told), file=sys.stderr)
    return 1 if errors or (options.strict and warnings) else 0


def _check(path: str, first: dict[str, str], now: datetime) -> Checked:
    file = name_of(path)
    try:
        text = text_of(path)
        reading = read_policy(text, file)
    except PolicyError as error:
        return Checked(file, None, tuple(error.problems), ())
    policy, lines = reading.policy, Lines.of(text)
    errors = []
    try:
        compile_policy(policy)
    except ValueError as error:
        errors.append(f"{file}:{lines.spec}: {error}")
    if policy.name in first:
        errors.append(
            f"{file}:{lines.name}: the policy in {first[policy.name]} is named `{policy.name}` too: "
            "give each its own name, because verdicts say which one it was"
        )
    first.setdefault(policy.name, file)
    warnings = {*reading.warnings, *lint(policy, lines, file, now)}

    def place(warning: str) -> tuple[int, str]:
        return int(warning.removeprefix(f"{file}:").partition(":")[0]), warning

    return Checked(file, policy.name, tuple(errors), tuple(sorted(warnings, key=place)))


def _marked(warning: str, file: str) -> str:
    line, _, sentence = warning.removeprefix(f"{file}:").partition(": ")
    return f"{file}:{line}: warning: {sentence}"
