"""`exeat plane report`: what came of the policies in a span of time."""

import argparse
import sys
from pathlib import Path
from typing import Any

from exeat.cli.plane_client import add_common, is_json, plane_of, show_json
from exeat.cli.plane_words import at, destination_of, facts_lines
from exeat.cli.tables import BOLD, coloured, plain, several, table
from exeat.cli.times import span
from exeat.errors import ExeatError


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "report",
        help="say what came of the policies: new destinations, denials, unused and ending rules",
        description="Reports about a span of whole hours: new destinations, top denials, denials per 1,000 "
        "connections, how long approvals took, rules that nobody used and rules that end soon, what was blocked for "
        "which reason, and all of it by node and workload. docs/plane.md says what each number counts.",
    )
    parser.add_argument(
        "--since", default="7d", metavar="7d|TIME", help="begin so long ago, or at 2027-03-31T00:00:00Z"
    )
    parser.add_argument("--until", default="", metavar="1d|TIME", help="end so long ago, or at a time (now)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that needs nothing else; - for stdout")
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Shows it, or writes it."""
    plane = plane_of(options)
    wanted = {"since": options.since, "until": options.until}
    if options.html:
        _write(options.html, plane.text("/report", {**wanted, "format": "html"}))
        return 0
    found = plane.get("/report", wanted)
    if is_json(options):
        show_json(found)
    else:
        for line in report_lines(found):
            print(line)
    return 0


def report_lines(found: dict[str, Any]) -> list[str]:
    """All of it, for a terminal."""
    facts = {
        "span": f"{at(found['since'])} to {at(found['until'])}",
        "records since": at(found["records_since"]),
        "connections": str(found["attempts"]),
        "denied": f"{found['denied']}, {found['denied_per_1000']} of 1,000",
        "new destinations": str(found["new_destination_count"]),
        "denial to approval": _waits(found["approvals"]),
    }
    lines = [plain(line) for line in facts_lines(facts)]
    for head, heads, rows in _sections(found):
        lines += ["", coloured(head, BOLD), *(table(heads, rows) if rows else ["none"])]
    return lines


def _sections(found: dict[str, Any]) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Each with its head, the heads of its table, and its rows."""
    denials, new = found["top_denials"], found["new_destinations"]
    rates = (">CONNECTIONS", ">DENIED", ">PER 1,000")
    return [
        (
            f"Top denials ({len(denials)} of {found['denied_destination_count']})",
            ("DESTINATION", "WORKLOAD", "POLICY", "REASON", ">NODES", ">TIMES", "LAST"),
            [
                [
                    destination_of(one),
                    one["workload"],
                    one["policy"],
                    one["reason"],
                    str(one["nodes"]),
                    str(one["count"]),
                ]
                + [at(one["last"])]
                for one in denials
            ],
        ),
        (
            "Blocked by reason",
            ("REASON", ">TIMES"),
            [[one["reason"], str(one["count"])] for one in found["reasons"]],
        ),
        (
            f"New destinations ({len(new)} of {found['new_destination_count']})",
            ("DESTINATION", "FIRST", ">WORKLOADS", ">ALLOWED", ">DENIED"),
            [
                [one["target"], at(one["first"]), str(one["workloads"]), str(one["allowed"]), str(one["denied"])]
                for one in new
            ],
        ),
        (
            "Rules that end soon",
            ("POLICY", "RULE", "ENDS", "WITHIN", "OWNER"),
            [
                [one["policy"], one["rule"] or "all of it", at(one["expires"]), several(one["within_days"], "day")]
                + [one["owner"] or "nobody"]
                for one in found["ending"]
            ],
        ),
        (
            "Rules that nobody used",
            ("POLICY", "RULE", "OWNER"),
            [[one["policy"], one["rule"], one["owner"] or "nobody"] for one in found["unused_rules"]],
        ),
        ("By node", ("NODE", *rates), [_share(one) for one in found["nodes"]]),
        (
            f"By workload ({len(found['workloads'])} of {found['workload_count']})",
            ("WORKLOAD", *rates),
            [_share(one) for one in found["workloads"]],
        ),
    ]


def _share(one: dict[str, Any]) -> list[str]:
    return [one["name"], str(one["attempts"]), str(one["denied"]), str(one["denied_per_1000"])]


def _waits(waits: dict[str, Any]) -> str:
    if not waits["approvals"]:
        return "nothing was approved"
    mean, median, longest = (span(waits[name]) for name in ("mean_s", "median_s", "longest_s"))
    return f"{mean} in the mean of {several(waits['approvals'], 'approval')}, median {median}, longest {longest}"


def _write(file: Path, text: str) -> None:
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExeatError(f"{file}: the report cannot be written: {error.strerror}") from error
