"""`exeat plane policies apply` and `diff`: policy files to the plane, all of them or none."""

import argparse
from typing import Any

from exeat.cli.plane_client import add_common, is_json, plane_of, show_json
from exeat.cli.plane_words import short
from exeat.cli.policy_files import STDIN, name_of, refuse_stdin_twice, text_of
from exeat.cli.tables import RED, YELLOW, coloured, plain
from exeat.cli.times import span_argument
from exeat.core.diff import What

_COLOURS = {What.OPENS.value: RED, What.EXTENDS.value: RED, What.SETS.value: YELLOW}
_REACH = frozenset(what.value for what in What) - {What.KEEPS.value, What.WORDS.value}


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds both commands to the parser."""
    parser = verbs.add_parser(
        "apply",
        help="make policy files hold",
        description="Makes the policies of some files hold, all of them or, where one has a mistake, none. Nodes get "
        "them at once, or with --rollout in stages.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="policies; - for standard input")
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept in the history")
    parser.add_argument(
        "--rollout", type=_stages, metavar="10,50,100", help="percents of the nodes, one stage after another"
    )
    parser.add_argument("--soak", type=span_argument, metavar="10m", help="how long each stage lasts at least (10m)")
    parser.add_argument(
        "--max-denials", type=int, metavar="N", help="of 1,000 connections; more of them stop the roll-out (20)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")
    add_common(parser, is_inner=True)
    parser.set_defaults(act=_apply, parser=parser)
    parser = verbs.add_parser(
        "diff",
        help="say what policy files would open and close",
        description="Compares files with what holds. Exits with 0 if no workload would feel a difference, with 1 if "
        "one would.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="policies; - for standard input")
    add_common(parser, is_inner=True)
    parser.set_defaults(act=_diff, parser=parser)


def _apply(options: argparse.Namespace) -> int:
    if options.rollout is None and (options.soak is not None or options.max_denials is not None):
        options.parser.error("--soak and --max-denials are about --rollout: give that too")
    body: dict[str, Any] = {"documents": _documents(options), "reason": options.reason, "dry_run": options.dry_run}
    if options.rollout is not None:
        given = {"stages": options.rollout, "soak_s": options.soak, "max_per_mille": options.max_denials}
        body["rollout"] = {name: value for name, value in given.items() if value is not None}
    found = plane_of(options).post("/policies", body)
    if is_json(options):
        show_json(found)
        return 0
    _show_changes(found["policies"])
    for one in found["policies"]:
        print(f"{plain(one['name'])}: {_outcome(one, is_dry=options.dry_run)}")
    return 0


def _diff(options: argparse.Namespace) -> int:
    found = plane_of(options).post("/policies/diff", {"documents": _documents(options)})
    changes = [change for one in found["policies"] for change in one["changes"]]
    is_felt = any(change["what"] in _REACH for change in changes)
    if is_json(options):
        show_json(found)
        return int(is_felt)
    _show_changes(found["policies"])
    if not is_felt:
        print("a workload feels no difference")
    return int(is_felt)


def _show_changes(policies: list[dict[str, Any]]) -> None:
    for one in policies:
        for change in one["changes"]:
            print(coloured(plain(f"{one['name']}: {change['sentence']}"), _COLOURS.get(change["what"])))
        for warning in one["warnings"]:
            print(coloured(f"warning: {plain(warning)}", YELLOW))


def _outcome(one: dict[str, Any], *, is_dry: bool) -> str:
    if not one["is_changed"]:
        return f"as it was, {short(one['revision'])}"
    word = "would be" if is_dry else "is"
    rollout = f", going out as roll-out {one['rollout']}" if one["rollout"] else ""
    return f"{word} {short(one['revision'])} now{rollout}" if not is_dry else f"{word} {short(one['revision'])}"


def _documents(options: argparse.Namespace) -> list[dict[str, str]]:
    refuse_stdin_twice(options, options.files)
    return [{"where": name_of(path) if path == STDIN else path, "text": text_of(path)} for path in options.files]


def _stages(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and len(part) <= 3 for part in parts):
        raise argparse.ArgumentTypeError(f"`{text}` are no stages: write percents that end with 100, as in 10,50,100")
    return [int(part) for part in parts]
