"""`exeat plane denials`: what was denied in the fleet, grouped by workload and destination."""

import argparse
import time

from exeat.cli.plane_client import add_common, is_json, plane_of, show_json
from exeat.cli.plane_words import ago, destination_of
from exeat.cli.tables import table


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "denials",
        help="list what was denied, grouped by workload and destination",
        description="Lists what was denied, or in monitor mode would have been, the last first. "
        "`exeat plane approve` turns one into a rule.",
    )
    parser.add_argument(
        "--since", default="1d", metavar="1d|TIME", help="begin so long ago, or at 2027-03-31T00:00:00Z"
    )
    parser.add_argument(
        "--workload", default="", metavar="W", help="only of this workload: a part of its cgroup's path"
    )
    parser.add_argument("--node", default="", metavar="NODE", help="only on this node")
    parser.add_argument("--policy", default="", metavar="NAME", help="only by this policy")
    parser.add_argument("--to", default="", metavar="X", help="only to this name, .ending, address or network")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many")
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Lists them."""
    wanted = {name: getattr(options, name) for name in ("since", "workload", "node", "policy", "to", "limit")}
    found = plane_of(options).get("/denials", wanted)
    if is_json(options):
        show_json(found)
        return 0
    now = time.time()
    if not found["denials"]:
        print("nothing was denied")
        return 0
    rows = [
        [
            destination_of(one),
            one["workload"],
            one["policy"],
            one["reason"],
            str(one["count"]),
            ",".join(one["nodes"]),
            ago(one["first"], now),
            ago(one["last"], now),
        ]
        for one in found["denials"]
    ]
    for line in table(("DESTINATION", "WORKLOAD", "POLICY", "REASON", ">TIMES", "NODES", "FIRST", "LAST"), rows):
        print(line)
    return 0
