"""Tells the plane every verdict of the log, in order and at least once; docs/protocol.md has the story.

    reporter = reporter_of(settings, log)
    client = PlaneClient(access, fleet, reporter, away)     # talks when the plane has taken the agent in

The log on disk is the buffer: nothing is kept here but batches that wait for an answer. Where the plane is slow, the
log is read later; what was deleted by then is counted as lost.
"""

import asyncio
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from exeat.agent.report_batches import Batches
from exeat.agent.report_cursor import Cursor, new_cursor, read_cursor, write_cursor
from exeat.audit.chain import Head
from exeat.control.plane_channel import PlaneAway, PlaneChannel, Stream
from exeat.control.together import until_one_ends
from exeat.settings import Settings
from exeat.v1 import plane_pb2 as pb

_BATCH_MAX = 500
_WINDOW_MAX = 16
_POLL_S = 0.25  # how late a verdict may be told
_SAVE_S = 1.0
_ANSWER_S = 60.0

_Stream = Stream[pb.ReportRequest, pb.ReportResponse]


class Log(Protocol):
    """What is reported."""

    @property
    def head(self) -> Head:
        """The last line that is written."""

    @property
    def is_writing(self) -> bool:
        """False: the disk could not be asked, and perhaps not even for where the log ended."""


class Reporter:
    """A Talker of the plane's client. Belongs to the control loop; close it in the end."""

    def __init__(self, node: str, log: Log, batches: Batches, path: Path) -> None:
        self.complaint = ""  # why the cursor is not on disk
        self._node = node
        self._log = log
        self._batches = batches
        self._path = path
        self._reachable = log.head.seq  # the plane can have no line beyond: the log as it was, and what was sent since
        self._cursor = self._saved = self._begin()
        self._saved_s = time.monotonic()

    @property
    def unreported(self) -> int:
        """Lines of the log that the plane does not have yet."""
        return max(0, self._log.head.seq - self._cursor.through)

    @property
    def lost(self) -> int:
        """Lines that were deleted before the plane had them."""
        return self._cursor.lost

    async def talk(self, channel: PlaneChannel) -> None:
        """Until the stream ends, which raises PlaneAway."""
        stream = channel.report()
        try:
            talk = _Talk(stream, await self._greet(stream))
            await until_one_ends(self._hear(talk), self._tell(talk))
        finally:
            stream.end()
            self._save(is_last=True)

    def close(self) -> None:
        """When nobody talks any more."""
        self._save(is_last=True)
        self._batches.close()

    def _begin(self) -> Cursor:
        """The first time after what is there already; also where the log is shorter than what the plane has of it."""
        kept = read_cursor(self._path)
        if kept and not self._log.is_writing:
            self._reachable = max(self._reachable, kept.through)
        if kept and kept.through <= self._reachable:
            return kept
        return self._anew(kept.lost if kept else 0)

    def _anew(self, lost: int) -> Cursor:
        cursor = new_cursor(self._reachable, lost)
        self.complaint = write_cursor(self._path, cursor, is_synced=True)
        return cursor

    async def _greet(self, stream: _Stream) -> pb.ReportWelcome:
        """The plane knows best how far it has come; but it cannot have what was never there."""
        cursor = self._cursor
        hello = pb.ReportHello(node=self._node, log=cursor.log, after=cursor.through)
        await stream.say(pb.ReportRequest(hello=hello))
        response = await stream.hear(_ANSWER_S)
        if not response.HasField("welcome"):
            raise PlaneAway("the plane does not begin with a welcome, as the protocol says")
        if response.welcome.through > self._reachable:
            self._cursor = self._anew(cursor.lost)
            raise PlaneAway(
                f"the plane has line {response.welcome.through} of a log that ended at {self._reachable}: it was cut "
                "back, and goes on under another name"
            )
        self._cursor = replace(cursor, through=response.welcome.through)
        return response.welcome

    async def _tell(self, talk: "_Talk") -> None:
        at = self._cursor.through
        while True:
            await talk.room.wait()
            head = self._log.head.seq
            batch = await asyncio.to_thread(self._batches.read, at, talk.batch_max, head) if head > at else None
            if batch is None:
                self._save()
                await asyncio.sleep(_POLL_S)
                continue
            at = batch.through
            self._reachable = max(self._reachable, at)
            talk.sends(batch)
            await talk.stream.say(pb.ReportRequest(batch=batch))

    async def _hear(self, talk: "_Talk") -> None:
        while True:
            await talk.waits.wait()
            response = await talk.stream.hear(_ANSWER_S)
            if not response.HasField("ack"):
                continue
            cursor, lost = self._cursor, talk.answered(response.ack.through)
            through = max(cursor.through, min(response.ack.through, self._reachable))
            self._cursor = Cursor(cursor.log, through, cursor.lost + lost)
            self._save()

    def _save(self, *, is_last: bool = False) -> None:
        now_s = time.monotonic()
        if self._cursor == self._saved or not (is_last or now_s - self._saved_s >= _SAVE_S):
            return
        self.complaint = write_cursor(self._path, self._cursor, is_synced=False)
        self._saved, self._saved_s = self._cursor, now_s


def reporter_of(settings: Settings, log: Log) -> Reporter:
    """As an agent's settings say."""
    path = settings.state / "plane" / "report.json"
    return Reporter(settings.node.name, log, Batches(settings.log.directory), path)


class _Talk:
    """One stream, and what waits on it for an answer."""

    def __init__(self, stream: _Stream, welcome: pb.ReportWelcome) -> None:
        self.stream = stream
        self.batch_max = min(welcome.batch_max or _BATCH_MAX, _BATCH_MAX)
        self.room = asyncio.Event()  # for one batch more
        self.waits = asyncio.Event()  # something for an answer
        self._window = max(1, min(welcome.window, _WINDOW_MAX))
        self._unanswered: deque[tuple[int, int]] = deque()
        self.room.set()

    def sends(self, batch: pb.VerdictBatch) -> None:
        """One more that waits."""
        self._unanswered.append((batch.through, batch.lost))
        self._look()

    def answered(self, through: int) -> int:
        """How many lost lines the plane has heard of with this."""
        lost = 0
        while self._unanswered and self._unanswered[0][0] <= through:
            lost += self._unanswered.popleft()[1]
        self._look()
        return lost

    def _look(self) -> None:
        for event, is_so in ((self.room, len(self._unanswered) < self._window), (self.waits, bool(self._unanswered))):
            if is_so:
                event.set()
            else:
                event.clear()
