"""`exeat plane policies`: what shall hold on the nodes, who changed it, and how it is changed."""

import argparse
import sys
import time
from typing import Any

from exeat.cli import plane_policies_apply
from exeat.cli.plane_client import add_common, is_json, path_of, plane_of, show_json
from exeat.cli.plane_words import ago, at, labels_text, left, short
from exeat.cli.tables import YELLOW, plain, table


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command and its own commands to the parser."""
    parser = tools.add_parser(
        "policies",
        help="list, show, compare, apply, remove and roll back policies",
        description="The plane's policies. Those of its directory and of a cluster are changed there; all others here.",
    )
    parser.set_defaults(act=_list)
    add_common(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, words, act in (
        ("list", "list the policies that shall hold", _list),
        ("show", "print a policy's document", _show),
        ("history", "list who changed what, when and why", _history),
        ("rollback", "make an older revision hold again", _rollback),
        ("remove", "take a policy away from every node", _remove),
    ):
        verb = verbs.add_parser(name, help=words, description=f"{words.capitalize()}.")
        _add_arguments(verb, name)
        add_common(verb, is_inner=True)
        verb.set_defaults(act=act)
    plane_policies_apply.add(verbs)


def _add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    if verb == "list":
        return
    if verb == "history":
        parser.add_argument("name", nargs="?", default="", metavar="NAME", help="the policy's; else those of all")
    else:
        parser.add_argument("name", metavar="NAME", help="the policy's")
    if verb in ("show", "rollback"):
        what = "the one before the present one" if verb == "rollback" else "the present one"
        parser.add_argument("--revision", default="", metavar="R", help=f"the first digits of one (else {what})")
    if verb == "history":
        parser.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (50)")
    if verb in ("rollback", "remove"):
        parser.add_argument("--reason", default="", metavar="TEXT", help="kept in the history")


def _list(options: argparse.Namespace) -> int:
    found = plane_of(options).get("/policies")
    if is_json(options):
        show_json(found)
        return 0
    now, policies = time.time(), found["policies"]
    rows = [
        [
            one["name"],
            short(one["revision"]),
            one["mode"],
            str(one["rules"]),
            f"{one['nodes_holding']} of {one['nodes_wanted']}",
            labels_text(one["nodes"]),
            left(one["expires"], now),
            one["owner"] or "nobody",
            one["source"],
            ago(one["changed"], now),
        ]
        for one in policies
    ]
    heads = ("POLICY", "REVISION", "MODE", ">RULES", "ENFORCED", "FOR NODES", "ENDS", "OWNER", "SOURCE", "CHANGED")
    colours = [YELLOW if one["nodes_holding"] < one["nodes_wanted"] else None for one in policies]
    for line in table(heads, rows, colours) if rows else ["no policy: exeat plane policies apply FILE"]:
        print(line)
    for problem in found["directory_problems"]:
        print(f"exeat: {plain(problem)}", file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    found = plane_of(options).get(path_of("policies", options.name), {"revision": options.revision})
    if is_json(options):
        show_json(found)
    else:
        sys.stdout.write(found["text"] if found["text"].endswith("\n") else found["text"] + "\n")
    return 0


def _history(options: argparse.Namespace) -> int:
    path = path_of("policies", options.name, "history") if options.name else "/history"
    found = plane_of(options).get(path, {"limit": options.limit})
    if is_json(options):
        show_json(found)
        return 0
    rows = [
        [at(one["at"]), one["name"], one["action"], short(one["revision"]), one["by"], one["reason"] or "-"]
        for one in found["history"]
    ]
    for line in table(("WHEN", "POLICY", "WHAT", "REVISION", "BY", "WHY"), rows) if rows else ["no change"]:
        print(line)
    return 0


def _rollback(options: argparse.Namespace) -> int:
    body = {"revision": options.revision, "reason": options.reason}
    found = plane_of(options).post(path_of("policies", options.name, "rollback"), body)
    return _changed(options, found)


def _remove(options: argparse.Namespace) -> int:
    found = plane_of(options).delete(path_of("policies", options.name), {"reason": options.reason})
    return _changed(options, found)


def _changed(options: argparse.Namespace, found: dict[str, Any]) -> int:
    if is_json(options):
        show_json(found)
    else:
        print(f"{plain(found['name'])}: {short(found['revision']) if found['revision'] else 'removed'}")
    return 0
