"""`exeat verdicts`: what was judged, and what is being judged now."""

import argparse
import sys
from datetime import UTC, datetime, timedelta

from exeat.cli.agent_client import add_common, agent_of, is_json
from exeat.cli.tables import RED, YELLOW, coloured, plain
from exeat.cli.times import local_time, since_argument, stamp
from exeat.control.convert import from_wire
from exeat.core.filters import parse_to
from exeat.core.verdict_text import json_line, line_for_people
from exeat.model.record import Record
from exeat.model.verdicts import Verdict
from exeat.v1 import agent_pb2 as pb
from exeat.v1 import verdict_pb2

_DEFAULT = timedelta(minutes=10)
_COLOURS = {Verdict.DROPPED: RED, Verdict.ERROR: RED, Verdict.AUDIT: YELLOW}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "verdicts",
        help="show verdicts, past and to come",
        description="Shows the verdicts of the last ten minutes, or those that the flags ask for. "
        "With -o json each is a line as docs/verdicts.md describes.",
    )
    parser.add_argument(
        "--follow", "-f", action="store_true", help="go on with those to come (without --since: only those)"
    )
    parser.add_argument(
        "--since", type=since_argument, metavar="10m|TIME", help="begin so long ago, or at 2027-03-31T00:00:00Z"
    )
    parser.add_argument(
        "--verdict",
        type=_verdict,
        action="append",
        default=[],
        metavar="WORD",
        help="only FORWARDED, DROPPED, AUDIT or ERROR; repeatable",
    )
    parser.add_argument(
        "--workload", default="", metavar="W", help="only of this workload: its name or cgroup, or a part"
    )
    parser.add_argument(
        "--to",
        type=_destination,
        default="",
        metavar="X",
        help="only to this name, .ending, address or network, with :PORT if wanted",
    )
    add_common(parser, ("compact", "json"))
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Shows them."""
    since = options.since
    if since is None and not options.follow:
        since = datetime.now(UTC) - _DEFAULT
    wanted = pb.VerdictFilter(
        verdicts=[verdict_pb2.Verdict.ValueType(verdict) for verdict in options.verdict],
        workload=options.workload,
        to=options.to,
    )
    request = pb.WatchVerdictsRequest(since=stamp(since) if since else None, follow=options.follow, filter=wanted)
    with agent_of(options) as agent:
        for response in agent.watch_verdicts(request):
            if response.lost:
                print(f"exeat: {response.lost} verdicts were lost here: this reader is too slow", file=sys.stderr)
            records = [from_wire(message) for message in response.verdicts]
            if records:
                show = json_line if is_json(options) else _compact
                sys.stdout.write("".join(f"{show(record)}\n" for record in records))
                sys.stdout.flush()
    return 0


def _compact(record: Record) -> str:
    when = local_time(record.time_ns / 1e9)
    line = plain(line_for_people(record).removeprefix("exeat: "))
    workload = record.who.name if record.who and record.who.name else record.workload
    return f"{when} {plain(workload)} {coloured(line, _COLOURS.get(record.verdict))}"


def _verdict(text: str) -> Verdict:
    try:
        return Verdict[text.upper()]
    except KeyError:
        words = ", ".join(verdict.name for verdict in Verdict)
        raise argparse.ArgumentTypeError(f"`{text}` is no verdict: write one of {words}") from None


def _destination(text: str) -> str:
    try:
        parse_to(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
