"""`exeat plane approve`: turns denials into a rule, once its diff has been looked at."""

import argparse
import sys
from typing import Any

from exeat.cli.plane_client import add_common, is_json, plane_of, show_json
from exeat.cli.plane_words import at, short
from exeat.cli.tables import RED, YELLOW, coloured, plain, several
from exeat.core.diff import What
from exeat.errors import Refused, StatusWord

_ADDED = "32"
_COLOURS = {What.OPENS.value: RED, What.EXTENDS.value: RED, What.SETS.value: YELLOW}


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "approve",
        help="turn denials into a rule",
        description="Adds the narrowest rule that allows what was denied to the policy that denied it: one host or "
        "address, one port, one protocol. Shows what would change and asks; only what was shown is applied. Who "
        "approved it, when and why is kept. `exeat plane denials` lists what was denied.",
    )
    parser.add_argument(
        "destination", metavar="DESTINATION", help="HOST|ADDRESS[:PORT][/PROTO], as `exeat plane denials` shows it"
    )
    parser.add_argument("--policy", default="", metavar="NAME", help="needed where several policies denied it together")
    parser.add_argument("--owner", required=True, metavar="WHO", help="who answers for the rule")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why it is needed")
    parser.add_argument("--expires", default="90d", metavar="90d|TIME", help="when it ends, in 400 days at most (90d)")
    parser.add_argument(
        "--workload", default="", metavar="W", help="only this workload's denials: a part of its cgroup"
    )
    parser.add_argument("--node", default="", metavar="NODE", help="only denials on this node")
    parser.add_argument("--wildcard", default="", metavar="PATTERN", help="this in place of the host: '*.example.com'")
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument("--yes", "-y", action="store_true", help="do not ask")
    answers.add_argument("--dry-run", action="store_true", help="only show what would change")
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Shows it, asks, and does it."""
    plane = plane_of(options)
    names = ("destination", "policy", "owner", "reason", "expires", "workload", "node", "wildcard")
    ask = {name: getattr(options, name) for name in names if getattr(options, name)}
    seen = plane.post("/approvals/preview", ask)
    if options.dry_run and is_json(options):
        show_json(seen)
        return 0
    if not is_json(options):
        for line in preview_lines(seen):
            print(line)
    if options.dry_run:
        return 0
    if seen["why_not"]:
        raise Refused(StatusWord.PRECONDITION, seen["why_not"])
    if not options.yes and not _says_yes(seen["policy"]):
        print("nothing was changed", file=sys.stderr)
        return 1
    done = plane.post("/approvals", {**ask, "expires": seen["asked_expires"], "token": seen["token"]})
    if is_json(options):
        show_json(done)
    else:
        rule, revision = plain(done["rule"]["name"]), short(done["revision"])
        print(f"approved: {plain(done['policy'])} is {revision} now; {rule} ends at {at(done['expires'])}")
    return 0


def preview_lines(seen: dict[str, Any]) -> list[str]:
    """The diff of the text, then what it opens, then what to look at."""
    lines = [_diff_line(plain(line)) for line in seen["diff"]]
    lines.append("")
    lines += [coloured(plain(one["sentence"]), _COLOURS.get(one["what"])) for one in seen["changes"]]
    lines.append(f"denied {several(seen['denials'], 'time')}, first at {at(seen['first_denied'])}")
    return [*lines, *(coloured(f"note: {plain(remark)}", YELLOW) for remark in seen["remarks"])]


def _diff_line(line: str) -> str:
    colour = {"+": _ADDED, "-": RED}.get(line[:1])
    return coloured(line, colour if not line.startswith(("+++", "---")) else None)


def _says_yes(policy: str) -> bool:
    if not sys.stdin.isatty():
        raise Refused(StatusWord.INVALID, "nobody is there to be asked: look at it with --dry-run, then give --yes")
    print(f"Add this rule to {plain(policy)}? [y/N] ", end="", flush=True, file=sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
