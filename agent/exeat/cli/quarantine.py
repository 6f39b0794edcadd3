"""`exeat quarantine`: cuts a workload off, or lets it back."""

import argparse

from exeat.cli.agent_client import add_common, agent_of, is_json, mode_word, show_json
from exeat.cli.mode import mode_line
from exeat.errors import Refused, StatusWord
from exeat.v1 import agent_pb2 as pb


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "quarantine",
        help="deny a workload everything",
        description="Denies a workload everything and ends its connections, until --lift. Nothing is killed.",
    )
    parser.add_argument("workload", metavar="WORKLOAD", help="its name or cgroup, or a part of it")
    parser.add_argument("--lift", action="store_true", help="let its policies hold again")
    parser.add_argument("--reason", default="", metavar="TEXT", help="shown with the workload and kept in the log")
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Does it, or takes it back."""
    workload = options.workload
    with agent_of(options) as agent:
        if options.lift:
            found = agent.list_workloads(pb.ListWorkloadsRequest(workload=workload)).workloads
            held = [one for one in found if one.mode == pb.MODE_QUARANTINE]
            if not held:
                modes = ", ".join(f"{one.name} is in mode {mode_word(one.mode)}" for one in found)
                raise Refused(StatusWord.PRECONDITION, f"there is no quarantine to lift: {modes or 'no such workload'}")
            workload = held[0].name
        mode = pb.MODE_UNSPECIFIED if options.lift else pb.MODE_QUARANTINE
        answer = agent.set_mode(pb.SetModeRequest(workload=workload, mode=mode, reason=options.reason))
    if is_json(options):
        show_json(answer)
    else:
        print(mode_line(answer))
    if options.lift and answer.workload.mode == pb.MODE_QUARANTINE:
        raise Refused(
            StatusWord.PRECONDITION, "it is in quarantine still, because a policy of its says so: change that"
        )
    return 0
