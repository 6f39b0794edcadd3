"""`exeat plane workloads`: who is judged on which node, and by what."""

import argparse
import time

from exeat.cli.plane_client import add_common, is_json, plane_of, show_json
from exeat.cli.plane_words import ago, labels_text, left
from exeat.cli.tables import RED, YELLOW, table

_COLOURS = {"quarantine": RED, "open": YELLOW, "monitor": YELLOW}


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "workloads",
        help="list the workloads of all nodes",
        description="Lists the workloads of all nodes as their agents last told them.",
    )
    parser.add_argument("workload", nargs="?", default="", metavar="NAME", help="its name or cgroup, or a part of it")
    parser.add_argument("--node", default="", metavar="NODE", help="only on this node")
    parser.add_argument("--policy", default="", metavar="NAME", help="only under this policy")
    parser.add_argument("--mode", default="", metavar="MODE", help="only in this mode, such as quarantine")
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Lists them."""
    wanted = {name: getattr(options, name) for name in ("workload", "node", "policy", "mode")}
    found = plane_of(options).get("/workloads", wanted)
    if is_json(options):
        show_json(found)
        return 0
    workloads, now = found["workloads"], time.time()
    if not workloads:
        print("no such workload" if any(wanted.values()) else "no workload on any node")
        return 0
    rows = [
        [
            f"{one['node']}/{one['name']}",
            one["mode"] + (f" (ends {left(one['mode_until'], now)})" if one["mode_until"] else ""),
            ",".join(one["policies"]) or "none: all is denied",
            one["source"],
            ago(one["since"], now),
            labels_text(one["labels"]),
        ]
        for one in workloads
    ]
    heads = ("WORKLOAD", "MODE", "POLICIES", "SOURCE", "SINCE", "LABELS")
    for line in table(heads, rows, [_COLOURS.get(one["mode"]) for one in workloads]):
        print(line)
    return 0
