"""`exeat plane mode`: what a verdict does to a workload's traffic, on any node."""

import argparse

from exeat.cli.plane_commands import add_workload, ask, mode_line
from exeat.cli.times import span_argument
from exeat.model.policy import Mode

_OWN = "policy"


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "mode",
        help="set a workload's mode",
        description="Sets a workload's mode in place of its policies' own, as `exeat mode` does on the node itself.",
    )
    add_workload(parser)
    parser.add_argument(
        "mode", choices=[*(mode.value for mode in Mode), _OWN], help=f"`{_OWN}`: again what its policies say"
    )
    parser.add_argument("--for", dest="for_s", type=span_argument, default=0, metavar="5m", help="then fall back")
    parser.add_argument("--reason", default="", metavar="TEXT", help="shown with the workload and kept in the log")
    parser.set_defaults(act=act, usage_error=parser.error)


def act(options: argparse.Namespace) -> int:
    """Sets it."""
    if options.mode == _OWN and options.for_s:
        options.usage_error(f"`{_OWN}` holds until it is changed: leave --for out")
    what = {"do": "mode", "mode": options.mode, "for_s": options.for_s, "reason": options.reason}
    if found := ask(options, what):
        print(mode_line(found))
    return 0
