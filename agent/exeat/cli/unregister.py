"""`exeat unregister`: ends a registration."""

import argparse

from exeat.cli.agent_client import add_common, agent_of, is_json, show_json
from exeat.cli.tables import plain, several, size
from exeat.v1 import agent_pb2 as pb


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "unregister",
        help="end a registration",
        description="Ends a registration. What runs on in the cgroup, or behind the interface, is under the policies "
        "that still match it, and if none does, under none.",
    )
    parser.add_argument("workload", metavar="NAME", help="as it was registered")
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Ends it."""
    with agent_of(options) as agent:
        answer = agent.unregister(pb.UnregisterRequest(workload=options.workload))
    if is_json(options):
        show_json(answer)
        return 0
    one, traffic = answer.workload, answer.workload.traffic
    print(
        f"{plain(one.name)} is no longer registered: {traffic.forwarded} allowed, {traffic.dropped} denied, "
        f"{size(traffic.bytes_out)} out, {size(traffic.bytes_in)} in; {several(answer.cut, 'open connection')} ended"
    )
    return 0
