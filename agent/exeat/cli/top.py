"""`exeat top`: which workloads connect, are denied and move bytes, now."""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exeat.cli.agent_client import add_common, agent_of, is_json, mode_word, show_json
from exeat.cli.tables import several, size, table
from exeat.cli.times import local_time
from exeat.v1 import agent_pb2 as pb

if TYPE_CHECKING:
    from exeat.control.asking import AgentClient

_EVERY_S = 1.0
_HOME_AND_CLEAR = "\x1b[H\x1b[J"
_HEADS = ("WORKLOAD", "MODE", ">ALLOWED/s", ">DENIED/s", ">OUT/s", ">IN/s", ">ALLOWED", ">DENIED", ">OUT", ">IN")


@dataclass(frozen=True, slots=True)
class _Sums:
    """One workload's counters at one moment."""

    allowed: int
    denied: int
    bytes_out: int
    bytes_in: int

    def since(self, before: "_Sums | None", seconds: float) -> tuple[float, float, float, float] | None:
        """Rates; None where it was not there before."""
        if before is None:
            return None
        return (
            (self.allowed - before.allowed) / seconds,
            (self.denied - before.denied) / seconds,
            (self.bytes_out - before.bytes_out) / seconds,
            (self.bytes_in - before.bytes_in) / seconds,
        )


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "top",
        help="show the busiest workloads, each second anew",
        description="Shows workloads by connections, denials and bytes, each second anew. Ctrl-C ends it.",
    )
    parser.add_argument("-n", dest="count", type=_count, metavar="COUNT", help="show it so many times, then end")
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Shows them until it is told to stop."""
    with agent_of(options) as agent:
        try:
            _loop(agent, options.count, in_json=is_json(options))
        except KeyboardInterrupt:
            return 0
    return 0


def _loop(agent: "AgentClient", count: int | None, *, in_json: bool) -> None:
    before: dict[int, _Sums] = {}
    was, shown = time.monotonic(), 0
    while True:
        found, now = agent.list_workloads(pb.ListWorkloadsRequest()), time.monotonic()
        if in_json:
            show_json(found)
        else:
            sums = {one.id: _sums(one.traffic) for one in found.workloads}
            _show(_frame(found, sums, before, max(now - was, 0.001)), agent.get_status())
            before, was = sums, now
        sys.stdout.flush()
        shown += 1
        if shown == count:
            return
        time.sleep(_EVERY_S)


def _sums(traffic: pb.Traffic) -> _Sums:
    return _Sums(traffic.forwarded, traffic.dropped + traffic.error, traffic.bytes_out, traffic.bytes_in)


def _frame(
    found: pb.ListWorkloadsResponse, sums: dict[int, _Sums], before: dict[int, _Sums], seconds: float
) -> list[list[str]]:
    """Rows, the busiest first."""
    rates = {one.id: sums[one.id].since(before.get(one.id), seconds) for one in found.workloads}

    def activity(one: pb.Workload) -> tuple[Sequence[float], int, str]:
        rate = rates[one.id] or (0.0,) * 4
        return tuple(-part for part in (rate[0] + rate[1], rate[2] + rate[3])), -sums[one.id].allowed, one.name

    return [
        [one.name, mode_word(one.mode), *_rate_cells(rates[one.id]), *_sum_cells(sums[one.id])]
        for one in sorted(found.workloads, key=activity)
    ]


def _rate_cells(rate: tuple[float, float, float, float] | None) -> list[str]:
    if rate is None:
        return ["-"] * 4
    return [f"{rate[0]:.0f}", f"{rate[1]:.0f}", size(rate[2]), size(rate[3])]


def _sum_cells(sums: _Sums) -> list[str]:
    return [str(sums.allowed), str(sums.denied), size(sums.bytes_out), size(sums.bytes_in)]


def _show(rows: list[list[str]], status: pb.GetStatusResponse) -> None:
    head = (
        f"{local_time(time.time())}  {several(len(rows), 'workload')}, {status.lost_events} verdicts lost, "
        f"{several(len(status.complaints), 'complaint')}"
    )
    lines = [head, *table(_HEADS, rows)]
    if sys.stdout.isatty():
        columns, height = shutil.get_terminal_size()
        lines = [lines[0][:columns], *lines[1 : max(height - 1, 2)]]
        sys.stdout.write(_HOME_AND_CLEAR)
    sys.stdout.write("\n".join(lines) + "\n")


def _count(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"`{text}` is no number of times: write 1 or more")
    return int(text)
