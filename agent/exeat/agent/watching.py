"""Verdicts for those who ask: of the log first, then as they come."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from itertools import islice

from exeat.agent.hub import Hub
from exeat.audit.log import VerdictLog
from exeat.control.convert import to_wire
from exeat.core.filters import Filter, parse_to
from exeat.core.verdict_reading import read_line
from exeat.errors import ExeatError, Refused, StatusWord
from exeat.model.record import Record
from exeat.model.verdicts import Verdict
from exeat.v1 import agent_pb2 as pb

_BATCH = 500
_WAIT_S = 30.0
_LATE_NS = 10 * 10**9  # later than that no verdict comes to the log


class Past:
    """The log as it can be read."""

    def __init__(self, log: VerdictLog) -> None:
        self._log = log

    def since(self, wall_ns: int, wanted: Filter) -> Iterator[Record]:
        """Those that are wanted, oldest first; what is no verdict is passed over."""
        for line in self._log.read_since(wall_ns):
            try:
                record = read_line(line.decode(), "the log")
            except (ExeatError, UnicodeDecodeError):  # `exeat audit verify` tells of such lines
                continue
            if wanted.accepts(record):
                yield record


async def watch(
    hub: Hub, past: Past, request: pb.WatchVerdictsRequest, path: str | None
) -> AsyncGenerator[pb.WatchVerdictsResponse, None]:
    """What was asked for. The live ones are watched from before the log is read, so that none falls in between.

    `path`: of the one workload that is meant; None: what was asked for may be a part of several.
    """
    wanted = _filter(request.filter, path)
    watcher = hub.watch(wanted)
    late_ns = time.time_ns() - _LATE_NS
    told: set[Record] = set()  # of the log, and perhaps of those to come as well
    try:
        if request.HasField("since"):
            records = past.since(request.since.ToNanoseconds(), wanted)
            while batch := await asyncio.to_thread(lambda: list(islice(records, _BATCH))):
                told.update(record for record in batch if record.time_ns > late_ns)
                yield pb.WatchVerdictsResponse(verdicts=[to_wire(record) for record in batch])
        if not request.follow:
            return
        yield pb.WatchVerdictsResponse(is_live=True)
        while True:
            live, lost = await watcher.wait(_WAIT_S)
            fresh = [record for record in live if record not in told]
            told.difference_update(live)
            if fresh or lost:
                yield pb.WatchVerdictsResponse(verdicts=[to_wire(record) for record in fresh], lost=lost)
    finally:
        hub.leave(watcher)


def _filter(asked: pb.VerdictFilter, path: str | None) -> Filter:
    try:
        verdicts = frozenset(Verdict(verdict) for verdict in asked.verdicts)
        workload = asked.workload if path is None else path
        return Filter(verdicts, workload, parse_to(asked.to), is_whole=path is not None)
    except ValueError as error:
        raise Refused(StatusWord.INVALID, str(error)) from error
