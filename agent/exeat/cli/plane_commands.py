"""What the commands that reach through the plane to one node share: they wait for what became of it there."""

import argparse
import time
from typing import Any

from exeat.cli.plane_client import add_common, is_json, plane_of, show_json
from exeat.cli.plane_words import left, workload_argument
from exeat.cli.tables import plain, several
from exeat.errors import Refused, StatusWord

_WAIT_S = 15
_MARGIN_S = 30  # beyond what the plane itself waits


def add_workload(parser: argparse.ArgumentParser) -> None:
    """`NODE/WORKLOAD`, `--wait`, and where the plane is."""
    parser.add_argument(
        "workload", type=workload_argument, metavar="NODE/WORKLOAD", help="as `exeat plane workloads` lists"
    )
    parser.add_argument(
        "--wait",
        type=int,
        default=_WAIT_S,
        metavar="SECONDS",
        help=f"wait so long for the node ({_WAIT_S}); it does it later all the same, within an hour",
    )
    add_common(parser)


def ask(options: argparse.Namespace, what: dict[str, Any]) -> dict[str, Any] | None:
    """Has the node do it; what came of it, or None where that was shown as JSON. Raises Refused where it does not."""
    node, workload = options.workload
    given = {name: value for name, value in what.items() if value not in (None, "", 0)}
    body = {"node": node, "workload": workload, **given, "wait_s": max(options.wait, 0)}
    found: dict[str, Any] = plane_of(options).post("/commands", body, options.wait + _MARGIN_S)
    if is_json(options):
        show_json(found)
    if found["state"] in ("waiting", "sent"):
        raise Refused(
            StatusWord.PRECONDITION,
            f"{plain(node)} has not answered yet: it does this when it is back, until {found['expires']}",
        )
    if found["state"] != "done":
        raise Refused(StatusWord.PRECONDITION, found["refusal"] or f"{plain(node)} did not do it: {found['state']}")
    return None if is_json(options) else found


def mode_line(found: dict[str, Any]) -> str:
    """What holds now."""
    one = found["workload"]
    falls_back = f", until its policies' own holds again {left(one['mode_until'], time.time())}"
    until = falls_back if one["mode_until"] else ""
    ended = f"{several(found['cut'], 'open connection')} ended"
    return plain(f"{one['node']}/{one['name']}: {one['mode']}{until}; {ended}")
