"""Takes in what agents report: one writer for all of them, a transaction for whatever has come meanwhile.

    welcome = await collection.begin(node, log, after)
    async for batch in ...:
        await collection.ready()                        # before the next one is read off the stream
        through = await collection.take(node, log, batch)   # once it is on disk; may be called again before it returns

Each log has a cursor, in the same transaction as the rows: what comes twice is stored once, whoever brings it, also
through two replicas at once. What would leave a hole is refused. Nothing is kept here that was not answered.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from exeat.errors import ExeatError, Refused, StatusWord
from exeat.plane.store.database import Database, StoreError
from exeat.plane.verdicts.collecting import Delivery, LogKey, Shipment, begin_log, store
from exeat.plane.verdicts.verdict_rows import Spread
from exeat.v1 import plane_pb2 as pb

BATCH_MAX = 500
WINDOW = 8
_WAITING_MAX = 40_000  # verdicts; then no more is read from agents
_TOGETHER_MAX = 20_000  # verdicts of one transaction
_GATHER_S = 0.02  # a commit takes about as long
_log = logging.getLogger("exeat.plane")


class Collection:
    """Any number of agents, in one event loop. Ends with close()."""

    def __init__(self, database: Database, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.stored = 0  # verdicts, since the start
        self.lost = 0  # lines that agents told as lost
        self.failures = 0  # transactions that the store refused
        self._database = database
        self._now_ns = now_ns
        self._spread = Spread()
        self._cursors: dict[LogKey, int] = {}
        self._waiting: deque[Delivery] = deque()
        self._waiting_count = 0
        self._changed = threading.Condition()
        self._room: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._is_over = False
        self._writer: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Verdicts that came and are not stored yet."""
        return self._waiting_count

    async def begin(self, node: str, log: str, after: int) -> pb.ReportWelcome:
        """Where the log goes on. Raises Refused, or StoreError."""
        through = await asyncio.to_thread(self._begin, node, log, after)
        return pb.ReportWelcome(through=through, batch_max=BATCH_MAX, window=WINDOW)

    async def ready(self) -> None:
        """Waits while too much waits to be stored: so an agent's stream is not read, and it reads its log later."""
        while self._waiting_count > _WAITING_MAX:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with self._changed:
                self._room.append((asyncio.get_running_loop(), room))
            if self._waiting_count <= _WAITING_MAX:  # there was some in between
                return
            await room

    async def take(self, node: str, log: str, batch: pb.VerdictBatch) -> int:
        """Up to where the log is safe now, which is on disk. Batches of a log come in its order.

        Raises Refused where the batch makes no sense or would leave a hole, StoreError where it could not be stored.
        """
        refusal = _what_is_wrong(batch)
        if refusal:
            raise Refused(StatusWord.INVALID, refusal)
        delivery = Delivery(node, log, batch, Future())
        with self._changed:
            if self._is_over:
                raise Refused(StatusWord.UNAVAILABLE, "the plane ends: come back later")
            if self._writer is None:
                self._writer = threading.Thread(target=self._run, name="verdicts to store", daemon=True)
                self._writer.start()
            self._waiting.append(delivery)
            self._waiting_count += len(batch.verdicts)
            self._changed.notify()
        return await asyncio.wrap_future(delivery.answer)

    def close(self) -> None:
        """Stores what has come, then ends. Blocks."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._writer:
            self._writer.join()

    def _begin(self, node: str, log: str, after: int) -> int:
        with self._database.writing() as tx:
            return begin_log(tx, node, log, after, self._now_ns())

    def _run(self) -> None:
        while together := self._gather():
            try:
                self._store(together)
            except Exception as error:  # noqa: BLE001  # the writer must live; those who wait must hear of it
                _log.exception("verdicts could not be stored")
                _fail(together, StoreError(f"the plane failed at storing verdicts: {error}"))
            finally:
                self._give_room(sum(len(one.batch.verdicts) for one in together))

    def _gather(self) -> list[Delivery]:
        """What has come, and comes in a moment; nothing when it is over."""
        with self._changed:
            while not self._waiting and not self._is_over:
                self._changed.wait()
            if self._waiting_count < _TOGETHER_MAX and not self._is_over:
                self._changed.wait_for(lambda: self._is_over or self._waiting_count >= _TOGETHER_MAX, _GATHER_S)
            together, count = [], 0
            while self._waiting and count < _TOGETHER_MAX:
                together.append(self._waiting.popleft())
                count += len(together[-1].batch.verdicts)
        return together

    def _give_room(self, count: int) -> None:
        with self._changed:
            self._waiting_count -= count
            waiting, self._room = self._room, deque()
        for loop, room in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_let_go, room)

    def _store(self, together: list[Delivery]) -> None:
        """All in one transaction; where that fails, each log in its own, so that one cannot hold up the others."""
        try:
            self._commit(together)
        except StoreError as error:
            self.failures += 1
            by_log: dict[LogKey, list[Delivery]] = {}
            for one in together:
                by_log.setdefault((one.node, one.log), []).append(one)
            if len(by_log) == 1:
                _log.error("verdicts of %s are not stored: %s", together[0].node, error)
                _fail(together, error)
                return
            for deliveries in by_log.values():
                self._store(deliveries)

    def _commit(self, together: list[Delivery]) -> None:
        shipment = Shipment(together, self._spread, self._now_ns())
        store(self._database, shipment, self._cursors)
        self.stored += shipment.stored
        self.lost += shipment.lost
        for one in together:
            with suppress(InvalidStateError):  # nobody waits any more
                if one.refusal:
                    one.answer.set_exception(one.refusal)
                else:
                    one.answer.set_result(shipment.through(one))


def _what_is_wrong(batch: pb.VerdictBatch) -> str:
    """Empty: nothing."""
    count = len(batch.verdicts)
    if count > BATCH_MAX:
        return f"this batch has {count} verdicts: send at most {BATCH_MAX}, as the welcome says"
    if not 0 < batch.first <= batch.through < 2**62:
        return f"this batch goes from {batch.first} through {batch.through}, which is no stretch of a log"
    if batch.lost > batch.through - batch.first + 1:
        return f"{batch.lost} lines are lost of a stretch that has {batch.through - batch.first + 1}"
    before = batch.first - 1
    for numbered in batch.verdicts:
        number = numbered.number
        if not before < number <= batch.through:
            return f"verdict {number} is not where it belongs: numbers grow, from {batch.first} through {batch.through}"
        before = number
    return ""


def _fail(deliveries: list[Delivery], error: ExeatError) -> None:
    for one in deliveries:
        with suppress(InvalidStateError):
            one.answer.set_exception(error)


def _let_go(room: "asyncio.Future[None]") -> None:
    if not room.done():
        room.set_result(None)
