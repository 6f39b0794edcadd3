"""`exeat policy diff`: in words, what a change of policy opens and closes."""

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime

from exeat.cli.policy_files import add_output, policy_of, refuse_stdin_twice
from exeat.cli.tables import RED, YELLOW, coloured, plain
from exeat.core.diff import What, differences

# What a reviewer must not pass over; what ends is felt by its users soon enough.
_COLOURS = {What.OPENS: RED, What.EXTENDS: RED, What.SETS: YELLOW}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "diff",
        help="say what a change of policy opens and closes",
        description="Compares what two policies let be reached, however they are written. Exits with 0 if a workload "
        "would feel no difference, with 1 if it would.",
    )
    parser.add_argument("old", metavar="OLD", help="the policy before; - for standard input")
    parser.add_argument("new", metavar="NEW", help="the policy after")
    add_output(parser)
    parser.set_defaults(act=act, parser=parser)


def act(options: argparse.Namespace) -> int:
    """Compares them."""
    refuse_stdin_twice(options, [options.old, options.new])
    changes = differences(policy_of(options.old), policy_of(options.new), datetime.now(UTC))
    if options.output == "json":
        print(json.dumps([asdict(change) for change in changes], indent=2))
    else:
        for change in changes:
            print(coloured(plain(change.sentence), _COLOURS.get(change.what)))
        if not any(change.is_reach for change in changes):
            print("a workload feels no difference")
    return 1 if any(change.is_reach for change in changes) else 0
