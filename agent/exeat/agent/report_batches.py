"""From the log's lines to batches for the plane, in a thread that works for a fifth of the time."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from exeat.audit.tailing import LogTail, Stretch
from exeat.control.convert import to_wire
from exeat.core.verdict_reading import read_line
from exeat.errors import ExeatError
from exeat.v1 import plane_pb2 as pb

_SHARE = 0.2  # of a core
_SLICE = 25  # lines; then it rests. So nobody waits for the interpreter longer than half a millisecond


class Batches:
    """One reader of the log. Blocks; a thread that was given up may still be in here when the next one comes."""

    def __init__(self, directory: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self._tail = LogTail(directory)
        self._sleep = sleep
        self._one_at_a_time = threading.Lock()

    def read(self, after: int, limit: int, head: int) -> pb.VerdictBatch | None:
        """What comes after a number, through `head` at most. None: nothing yet."""
        with self._one_at_a_time:
            began_s = time.thread_time()
            stretch = self._tail.read(after, limit, head)
            return self._batch(stretch, began_s) if stretch else None

    def close(self) -> None:
        """No more of it."""
        with self._one_at_a_time:
            self._tail.close()

    def _batch(self, stretch: Stretch, began_s: float) -> pb.VerdictBatch:
        batch = pb.VerdictBatch(first=stretch.first, through=stretch.through, lost=stretch.lost)
        for count, (number, line) in enumerate(stretch.verdicts, 1):
            try:
                record = read_line(line.decode(), "the log")
            except (ExeatError, UnicodeDecodeError):  # somebody else wrote it; `exeat audit verify` tells of it
                batch.lost += 1
            else:
                batch.verdicts.add(number=number, verdict=to_wire(record))
            if count % _SLICE == 0 or count == len(stretch.verdicts):
                self._sleep((time.thread_time() - began_s) * (1 / _SHARE - 1))
                began_s = time.thread_time()
        return batch
