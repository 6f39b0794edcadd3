"""`exeat`: finds the command and runs it. docs/exit-codes.md is the table of what it ends with."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TextIO

from exeat.cli.tables import plain
from exeat.errors import AgentUnavailable, ExeatError, LaunchError, Refused, StatusWord

# Each is a module beside this one. Only the one that is called is imported: they need very different things.
COMMANDS = (
    "run", "agent", "status", "workloads", "verdicts", "grants", "explain", "top", "mode", "allow", "quarantine",
    "register", "attach", "unregister", "session", "reload", "policy", "audit", "plane", "doctor", "detach",
    "completion",
)  # fmt: skip
NO = 1
USAGE = 2
NOT_RUNNING = 4
FAILED = 125
_REFUSALS = {
    StatusWord.INVALID: USAGE,
    StatusWord.NOT_FOUND: NO,
    StatusWord.PRECONDITION: NO,
    StatusWord.UNAVAILABLE: NOT_RUNNING,
}


class _Parser(argparse.ArgumentParser):
    """`exeat run` promises 125 for every failure of its own, also for a flag it does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(FAILED if self.prog.endswith(" run") else USAGE, f"{self.prog}: {message}\n")


def parser_of(names: Sequence[str] = COMMANDS) -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser, and those of these commands."""
    parser = _Parser(prog="exeat", description="Decides which network destinations a workload may reach.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name in names:
        importlib.import_module(f"exeat.cli.{name}").add(commands)
    return parser, commands.choices


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser, commands = parser_of(arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # parse_args() would have the parser without a command complain
        commands[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        status = int(options.act(options))
        sys.stdout.flush()  # here, where a full disk can still be told
        return status
    except (ExeatError, OSError) as error:
        _give_up(sys.stdout)
        if isinstance(error, BrokenPipeError) and options.command != "run":  # `exeat verdicts | head`
            return 128 + signal.SIGPIPE
        _complain(error)
        return _status_of(error, options.command)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        _give_up(sys.stderr)  # `exeat run ... 2>&1 | head -1`


def _give_up(stream: TextIO) -> None:
    """What cannot be written now, the interpreter would try again at its end, and exit with a status of its own."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _status_of(error: Exception, command: str) -> int:
    if isinstance(error, LaunchError):
        return error.exit_status
    if command == "run":  # everything below 125 is the command's own
        return FAILED
    if isinstance(error, AgentUnavailable):
        return NOT_RUNNING
    return _REFUSALS.get(error.word, FAILED) if isinstance(error, Refused) else FAILED


def _complain(error: Exception) -> None:
    for line in str(error).splitlines():
        print(f"exeat: {plain(line)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
