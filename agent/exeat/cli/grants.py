"""`exeat grants`: which names a workload has resolved to which addresses."""

import argparse
import time
from ipaddress import ip_address

from exeat.cli.agent_client import add_common, agent_of, is_json, show_json
from exeat.cli.tables import table
from exeat.cli.times import ago, left
from exeat.v1 import agent_pb2 as pb


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "grants",
        help="list which names were resolved to which addresses",
        description="Lists the addresses that are open to a workload because it resolved an allowed name to them.",
    )
    parser.add_argument("workload", metavar="WORKLOAD", help="its name or cgroup, or a part of it")
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Lists them."""
    with agent_of(options) as agent:
        found = agent.list_grants(pb.ListGrantsRequest(workload=options.workload))
    if is_json(options):
        show_json(found)
        return 0
    now = time.time()
    rows = [
        [
            grant.name,
            str(ip_address(grant.address)),
            left(grant.until, now),
            ago(grant.used, now) if grant.HasField("used") else "not yet",
        ]
        for grant in found.grants
    ]
    for line in table(("NAME", "ADDRESS", "ENDS", "USED"), rows) if rows else ["no grant: it has resolved nothing"]:
        print(line)
    return 0
