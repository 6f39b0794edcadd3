"""`python -m exeat.cli.manual DIRECTORY`: a manual page for each command, made from the same parsers as `--help`."""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exeat import __version__
from exeat.cli.main import parser_of

_WIDE = 10_000  # a formatter that wraps nothing: troff does
_FILES = (
    ("/etc/exeat/exeat.yaml", "the agent's settings"),
    ("/etc/exeat/policies.d", "its policies, a file each"),
    ("/etc/exeat/plane.yaml", "the plane's settings"),
    ("/run/exeat/agent.sock", "where the agent is asked"),
    ("/sys/fs/bpf/exeat", "what is pinned in the kernel"),
)
_ESCAPES = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga"})
_EXIT_STATUS = re.compile(r"^exit status: ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Command:
    """One command, as its page needs it."""

    parser: argparse.ArgumentParser
    does: str  # what the list of commands says of it
    inner: tuple["Command", ...] = ()

    @property
    def page(self) -> str:
        """exeat-plane-nodes"""
        return self.parser.prog.replace(" ", "-")


def command_of(parser: argparse.ArgumentParser, does: str) -> Command:
    """A parser with all below it."""
    inner = [
        command_of(action.choices[choice.dest], choice.help or "")
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    ]
    return Command(parser, does, tuple(inner))


def every_command(command: Command, above: tuple[Command, ...] = ()) -> Iterator[tuple[Command, tuple[Command, ...]]]:
    """It and all below it, each with those that it is a command of."""
    yield command, above
    for one in command.inner:
        yield from every_command(one, (*above, command))


def page_of(command: Command, above: Sequence[Command], at: float) -> str:
    """Its manual page, in the language of man(7)."""
    parser = command.parser
    day = time.strftime("%Y-%m-%d", time.gmtime(at))
    lines = [f'.TH {command.page.upper()} 1 "{day}" "exeat {__version__}" "exeat"', ".nh", ".ad l"]
    lines += [".SH NAME", f"{_text(command.page)} \\- {_text(command.does)}"]
    lines += [".SH SYNOPSIS", *_synopsis(parser)]
    lines += [".SH DESCRIPTION", _text(parser.description or command.does)]
    if command.inner:
        lines += [".SH COMMANDS"]
        for one in command.inner:
            lines += [".TP", f"\\fB{_text(one.parser.prog)}\\fR", _text(one.does)]
    lines += _arguments(parser)
    if parser.epilog:
        has_status = _EXIT_STATUS.match(parser.epilog)
        lines += [".SH EXIT STATUS" if has_status else ".SH NOTES", _text(_EXIT_STATUS.sub("", parser.epilog))]
    if not above:
        lines += [".SH FILES"]
        for path, what in _FILES:
            lines += [".TP", f"\\fI{_text(path)}\\fR", _text(what)]
    lines += [".SH SEE ALSO", *_see([*above, *command.inner])]
    return "\n".join(lines) + "\n"


def _see(pages: Sequence[Command]) -> list[str]:
    marks = [","] * (len(pages) - 1) + [""]
    return [f".BR {_text(one.page)} (1){mark}" for one, mark in zip(pages, marks, strict=True)]


def _synopsis(parser: argparse.ArgumentParser) -> list[str]:
    formatter = argparse.HelpFormatter(parser.prog, width=_WIDE)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    ways = [line.strip() for line in formatter.format_help().removeprefix("usage: ").splitlines() if line.strip()]
    lines: list[str] = []
    for way in ways:
        arguments = way.removeprefix(parser.prog).strip()
        lines += [*([".br"] if lines else []), f"\\fB{_text(parser.prog)}\\fR {_text(arguments)}"]
    return lines


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    lines: list[str] = []
    formatter = argparse.HelpFormatter(parser.prog, width=_WIDE)
    for group in parser._action_groups:
        shown = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)
        ]
        if not shown:
            continue
        lines += [f".SH {_text((group.title or 'options').removesuffix(':').upper())}"]
        if group.description:
            lines += [_text(group.description)]
        for action in shown:
            lines += [".TP", _invocation(action), _text(formatter._expand_help(action) if action.help else "")]
    return lines


def _invocation(action: argparse.Action) -> str:
    if action.choices is not None:
        value = _text("|".join(str(choice) for choice in action.choices))
    else:
        value = _text(str(action.metavar or action.dest))
    if not action.option_strings:
        return f"\\fI{value}\\fR"
    flags = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in action.option_strings)
    return flags if action.nargs == 0 else f"{flags} \\fI{value}\\fR"


def _text(text: str) -> str:
    """Words that troff leaves as they are."""
    escaped = " ".join(text.split()).translate(_ESCAPES)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def whole() -> Command:
    """exeat itself."""
    return command_of(parser_of()[0], "decides which network destinations a workload may reach")


def write_pages(directory: Path, at: float) -> None:
    """Writes every page."""
    directory.mkdir(parents=True, exist_ok=True)
    for command, above in every_command(whole()):
        (directory / f"{command.page}.1").write_text(page_of(command, above, at), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m exeat.cli.manual DIRECTORY")
    # As whoever builds packages says it, so that the same source makes the same bytes.
    write_pages(Path(sys.argv[1]), float(os.environ.get("SOURCE_DATE_EPOCH") or time.time()))
