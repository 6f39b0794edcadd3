"""`exeat plane quarantine`: cuts a workload off, or lets it back, on any node."""

import argparse

from exeat.cli.plane_commands import add_workload, ask, mode_line
from exeat.errors import Refused, StatusWord


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "quarantine",
        help="deny a workload everything",
        description="Denies a workload everything and ends its connections, until --lift. Nothing is killed.",
    )
    add_workload(parser)
    parser.add_argument("--lift", action="store_true", help="let its policies hold again")
    parser.add_argument("--reason", default="", metavar="TEXT", help="shown with the workload and kept in the log")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Does it, or takes it back."""
    mode = "policy" if options.lift else "quarantine"
    found = ask(options, {"do": "mode", "mode": mode, "reason": options.reason})
    if found is None:
        return 0
    print(mode_line(found))
    if options.lift and found["workload"]["mode"] == "quarantine":
        raise Refused(
            StatusWord.PRECONDITION, "it is in quarantine still, because a policy of its says so: change that"
        )
    return 0
