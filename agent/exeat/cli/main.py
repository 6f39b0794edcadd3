"""`exeat`: finds the command and runs it. Exit codes: 0 done, 2 wrong usage, 125 exeat failed; docs/exit-codes.md."""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from exeat.cli import detach, doctor, run
from exeat.errors import ExeatError, LaunchError

FAILED = 125


class _Parser(argparse.ArgumentParser):
    """`exeat run` promises 125 for every failure of its own, also for a flag it does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(FAILED if self.prog.endswith(" run") else 2, f"{self.prog}: {message}\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="exeat", description="Decides which network destinations a workload may reach.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for module in (run, doctor, detach):
        module.add(commands)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # parse_args() would have the parser without a command complain
        commands.choices[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status."""
    options = _parse(arguments)
    try:
        return int(options.act(options))
    except LaunchError as error:
        _complain(error)
        return error.exit_status
    except (ExeatError, OSError) as error:
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _complain(error: Exception) -> None:
    for line in str(error).splitlines():
        print(f"exeat: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
