"""`exeat policy propose`: a policy from recorded verdicts, as `exeat run --learn` writes one from a run."""

import argparse
import re
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from exeat.cli.policy_files import name_of, recorded_in, refuse, refuse_stdin_twice
from exeat.core.propose import Learned
from exeat.errors import PolicyError
from exeat.model.record import Record
from exeat.model.verdicts import Reason, Verdict

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "propose",
        help="write a policy from recorded verdicts",
        description="Writes a policy that allows what recorded verdicts say was let pass. What was denied becomes a "
        "comment.",
    )
    parser.add_argument("verdicts", nargs="+", metavar="VERDICTS", help="lines of JSON; - for standard input")
    parser.add_argument("--name", default="proposed", help="the policy's name")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE, not to standard output")
    parser.set_defaults(act=act, parser=parser)


def act(options: argparse.Namespace) -> int:
    """Writes it."""
    refuse_stdin_twice(options, options.verdicts)
    if not _NAME.fullmatch(options.name):
        refuse(options, f"--name {options.name}: write at most 63 small letters, digits and hyphens")
    recorded = recorded_in(options.verdicts)
    learned = Learned()
    for record in recorded.records():
        learned.saw(_passed(record), recorded.names_at(record))
    source = "exeat policy propose " + shlex.join(map(name_of, options.verdicts))
    text = learned.policy_text(options.name, source, datetime.now(UTC))
    if options.output:
        try:
            options.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise PolicyError([f"{options.output}: cannot be written: {error.strerror}"]) from error
    else:
        sys.stdout.write(text)
    return 0


def _passed(record: Record) -> Record:
    """In monitor mode what would be denied passes, as all does while learning."""
    if record.verdict is not Verdict.AUDIT or record.reason in (Reason.TUNNEL, Reason.ADDRESS_WITHHELD):
        return record
    return replace(record, verdict=Verdict.FORWARDED, reason=Reason.OPEN_MODE)
