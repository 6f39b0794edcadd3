"""`exeat plane verdicts`: what was judged in the fleet, and what is being judged now."""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from exeat.cli.plane_client import add_common, is_json, plane_of
from exeat.cli.tables import RED, YELLOW, coloured, plain
from exeat.cli.times import local_time
from exeat.core.verdict_reading import read_line
from exeat.core.verdict_text import line_for_people
from exeat.errors import ExeatError
from exeat.model.verdicts import Verdict

_COLOURS = {Verdict.DROPPED: RED, Verdict.ERROR: RED, Verdict.AUDIT: YELLOW}
_DEFAULT = "10m"
_PAGE = 1000
_LIMIT = 10_000
_NO_VERDICT = "lost"


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "verdicts",
        help="show verdicts of all nodes, past and to come",
        description="Shows the verdicts of the last ten minutes, or those that the flags ask for, the oldest first. "
        "With -o json each is a line as docs/verdicts.md describes, and says its node.",
    )
    parser.add_argument(
        "--follow", "-f", action="store_true", help="go on with those to come (without --since: only those)"
    )
    parser.add_argument("--since", default="", metavar="10m|TIME", help="begin so long ago, or at 2027-03-31T00:00:00Z")
    parser.add_argument(
        "--verdict",
        type=str.upper,
        choices=[verdict.name for verdict in Verdict],
        action="append",
        default=[],
        metavar="WORD",
        help="only FORWARDED, DROPPED, AUDIT or ERROR; repeatable",
    )
    parser.add_argument("--node", default="", metavar="NODE", help="only of this node")
    parser.add_argument("--policy", default="", metavar="NAME", help="only by this policy")
    parser.add_argument(
        "--workload", default="", metavar="W", help="only of this workload: a part of its cgroup's path"
    )
    parser.add_argument(
        "--to",
        default="",
        metavar="X",
        help="only to this name, .ending, address or network, with :PORT if wanted",
    )
    parser.add_argument("--limit", type=int, default=_LIMIT, metavar="N", help=f"at most the last so many ({_LIMIT})")
    add_common(parser, ("compact", "json"))
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Shows them."""
    plane = plane_of(options)
    wanted: dict[str, Any] = {name: getattr(options, name) for name in ("node", "policy", "workload", "to")}
    wanted["verdict"] = ",".join(options.verdict)
    if options.follow:
        for line in plane.lines("/verdicts/follow", {**wanted, "since": options.since}):
            _show(options, [line])
        return 0
    wanted["since"] = options.since or _DEFAULT
    shown: list[dict[str, Any]] = []
    before: int | None = None
    while len(shown) < options.limit:
        found = plane.get("/verdicts", {**wanted, "before": before, "limit": min(_PAGE, options.limit - len(shown))})
        shown += found["verdicts"]
        before = found["before"]
        if before is None:
            break
    else:
        print(f"exeat: only the last {len(shown)} are shown: --limit shows more", file=sys.stderr)
    _show(options, reversed(shown))
    return 0


def _show(options: argparse.Namespace, verdicts: Iterable[dict[str, Any]]) -> None:
    written = []
    for one in verdicts:
        if _NO_VERDICT in one:
            print(f"exeat: {one[_NO_VERDICT]} verdicts were lost here: this reader is too slow", file=sys.stderr)
        elif is_json(options):
            written.append(json.dumps(one, separators=(",", ":")))
        else:
            written.append(_compact(one))
    sys.stdout.write("".join(f"{line}\n" for line in written))
    sys.stdout.flush()


def _compact(one: dict[str, Any]) -> str:
    try:
        record = read_line(json.dumps(one), "the plane's answer")
    except ExeatError as error:  # of a newer plane: better odd than missing
        return plain(f"{one.get('time')} {one.get('node')} {json.dumps(one)} ({error})")
    line = plain(line_for_people(record).removeprefix("exeat: "))
    name = record.who.name if record.who else ""
    where = plain(f"{one['node']} {name}" if name else f"{one['node']}{record.workload}")
    return f"{local_time(record.time_ns / 1e9)} {where} {coloured(line, _COLOURS.get(record.verdict))}"
