"""The agents' Report streams: batches in, acknowledgements out, in order and as many at once as the window says."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from exeat.core.problems import shown
from exeat.errors import Refused, StatusWord
from exeat.plane.nodes import nodes
from exeat.plane.store.database import Database, StoreError
from exeat.plane.streams.admission import check_node, first_of
from exeat.plane.verdicts.collection import WINDOW, Collection
from exeat.v1 import plane_pb2 as pb

_LOG_MAX = 100
_log = logging.getLogger("exeat.plane")
_Taken = asyncio.Task[int] | Exception | None  # a batch under way, what ends the stream, its end


@dataclass(frozen=True, slots=True)
class _Open:
    """A stream under way."""

    taken: "asyncio.Queue[_Taken]"
    reading: "asyncio.Task[None]"

    def leave(self) -> None:
        """What has come is stored all the same; nobody waits for it."""
        self.reading.cancel()
        while not self.taken.empty():
            if isinstance(one := self.taken.get_nowait(), asyncio.Task):
                one.cancel()

    def end(self, why: Exception) -> None:
        """Tells why, at the next moment at which it waits."""
        self.leave()
        self.taken.put_nowait(why)


class VerdictStreams:
    """The Report half of PlaneOperations."""

    def __init__(self, database: Database, collection: Collection) -> None:
        self._database = database
        self._collection = collection
        self._open: dict[str, _Open] = {}  # by node: each may keep a window of batches waiting

    async def report(
        self, names: frozenset[str], requests: AsyncIterator[pb.ReportRequest]
    ) -> AsyncGenerator[pb.ReportResponse, None]:
        """One stream, as PlaneOperations has it."""
        hello = (await first_of(requests)).hello
        check_node(hello.node, names)
        if not 0 < len(hello.log) <= _LOG_MAX or not hello.log.isprintable():
            raise Refused(StatusWord.INVALID, f"{shown(hello.log)} names no log: write 1 to {_LOG_MAX} characters")
        taken: asyncio.Queue[_Taken] = asyncio.Queue(WINDOW)
        try:
            await asyncio.to_thread(self._check_state, hello.node)
            welcome = await self._collection.begin(hello.node, hello.log, hello.after)
        except StoreError as error:
            raise _no_store(error) from error
        mine = _Open(taken, asyncio.create_task(self._read(hello, requests, taken)))
        before, self._open[hello.node] = self._open.get(hello.node), mine
        if before:
            before.end(Refused(StatusWord.EXISTS, f"{hello.node} has begun to report on another stream since"))
        try:
            yield pb.ReportResponse(welcome=welcome)
            while (one := await taken.get()) is not None:
                if isinstance(one, Exception):
                    raise one
                yield pb.ReportResponse(ack=pb.ReportAck(through=await one))
        except StoreError as error:
            raise _no_store(error) from error
        finally:
            mine.leave()
            if self._open.get(hello.node) is mine:
                del self._open[hello.node]

    async def _read(
        self, hello: pb.ReportHello, requests: AsyncIterator[pb.ReportRequest], taken: "asyncio.Queue[_Taken]"
    ) -> None:
        """Takes no more than the window holds, and nothing while the store is behind: the agent then waits."""
        try:
            async for request in requests:
                said = request.WhichOneof("said")
                if said == "hello":
                    raise Refused(StatusWord.INVALID, "a hello is said once, as the first message")
                if said == "batch":
                    await self._collection.ready()
                    batch = self._collection.take(hello.node, hello.log, request.batch)
                    await taken.put(asyncio.create_task(batch))
        except Exception as error:  # noqa: BLE001  # it ends the stream, with its sentence or a line in the log
            await taken.put(error)
        else:
            await taken.put(None)

    def _check_state(self, name: str) -> None:
        with self._database.reading() as tx:
            node = nodes.node(tx, name)
        if node is None:
            raise Refused(StatusWord.PERMISSION, f"{name} is not known: open Sync first")
        if node.is_retired:
            raise Refused(StatusWord.PERMISSION, f"{name} is retired")


def _no_store(error: StoreError) -> Refused:
    _log.warning("verdicts cannot be stored: %s", error)
    return Refused(StatusWord.UNAVAILABLE, "the plane's store cannot be asked: come back later")
