"""`exeat mode`: what a verdict does to a workload's traffic, for a time or until changed."""

import argparse
import time

from exeat.cli.agent_client import add_common, agent_of, is_json, mode_word, show_json
from exeat.cli.tables import plain, several
from exeat.cli.times import left, span_argument
from exeat.model.policy import Mode
from exeat.v1 import agent_pb2 as pb

_OWN = "policy"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "mode",
        help="set a workload's mode",
        description="Sets a workload's mode in place of its policies' own. With --for the kernel takes it back by "
        "itself, also when no agent runs.",
    )
    parser.add_argument("workload", metavar="WORKLOAD", help="its name or cgroup, or a part of it")
    parser.add_argument(
        "mode", choices=[*(mode.value for mode in Mode), _OWN], help=f"`{_OWN}`: again what its policies say"
    )
    parser.add_argument("--for", dest="for_s", type=span_argument, default=0, metavar="5m", help="then fall back")
    parser.add_argument("--reason", default="", metavar="TEXT", help="shown with the workload and kept in the log")
    add_common(parser)
    parser.set_defaults(act=act, usage_error=parser.error)


def act(options: argparse.Namespace) -> int:
    """Sets it."""
    if options.mode == _OWN and options.for_s:
        options.usage_error(f"`{_OWN}` holds until it is changed: leave --for out")
    mode = pb.MODE_UNSPECIFIED if options.mode == _OWN else pb.Mode.Value(f"MODE_{options.mode.upper()}")
    request = pb.SetModeRequest(workload=options.workload, mode=mode, for_s=options.for_s, reason=options.reason)
    with agent_of(options) as agent:
        answer = agent.set_mode(request)
    if is_json(options):
        show_json(answer)
    else:
        print(mode_line(answer))
    return 0


def mode_line(answer: pb.SetModeResponse) -> str:
    """What holds now."""
    one = answer.workload
    until = (
        f", until its policies' own holds again {left(one.mode_until, time.time())}"
        if one.HasField("mode_until")
        else ""
    )
    return f"{plain(one.name)}: {mode_word(one.mode)}{until}; {several(answer.cut, 'open connection')} ended"
