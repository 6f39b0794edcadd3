"""`exeat plane rollouts`: changes on their way to all nodes."""

import argparse
import time

from exeat.cli.plane_client import add_common, is_json, path_of, plane_of, show_json
from exeat.cli.plane_words import ago, short
from exeat.cli.tables import RED, YELLOW, plain, table

_VERBS = ("pause", "resume", "cancel", "finish")
_COLOURS = {"stopped": RED, "running": YELLOW}


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "rollouts",
        help="list roll-outs; pause, resume, cancel and finish them",
        description="Lists changes that go out in stages. A roll-out that stopped says why. cancel: every node gets "
        "back what it had; finish: every node gets the new revision now.",
        usage="exeat plane rollouts [--all]\n       exeat plane rollouts pause|resume|cancel|finish ID",
    )
    parser.add_argument("verb", nargs="?", choices=_VERBS, metavar="|".join(_VERBS), help="what to do with one")
    parser.add_argument("id", nargs="?", type=int, metavar="ID", help="which one")
    parser.add_argument("--all", action="store_true", help="those that have ended, too")
    add_common(parser)
    parser.set_defaults(act=act, usage_error=parser.error)


def act(options: argparse.Namespace) -> int:
    """Lists them, or changes one."""
    if (options.verb is None) != (options.id is None):
        options.usage_error(f"{options.verb} needs the roll-out's number")
    plane = plane_of(options)
    if options.verb:
        found = plane.post(path_of("rollouts", options.id, options.verb))
        if is_json(options):
            show_json(found)
        else:
            why = f": {plain(found['why'])}" if found["why"] else ""
            print(f"roll-out {found['id']} of {plain(found['name'])} is {found['state']}{why}")
        return 0
    found = plane.get("/rollouts", {"all": options.all})
    if is_json(options):
        show_json(found)
        return 0
    rollouts, now = found["rollouts"], time.time()
    if not rollouts:
        print("no change is on its way" if not options.all else "there was none")
        return 0
    rows = [
        [
            str(one["id"]),
            one["name"],
            one["state"],
            f"{one['percent']} %",
            f"{short(one['before']) if one['before'] else 'new'} to {short(one['revision'])}",
            ago(one["stage_began"], now),
            one["by"],
            one["why"] or "-",
        ]
        for one in rollouts
    ]
    heads = (">ID", "POLICY", "STATE", ">NODES", "REVISION", "STAGE SINCE", "BY", "WHY")
    for line in table(heads, rows, [_COLOURS.get(one["state"]) for one in rollouts]):
        print(line)
    return 0
