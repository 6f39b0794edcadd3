"""The agents that are connected to this replica, one session each: who is let in, what they say, what they are told.

Everything happens in one event loop. The store is asked in threads, for many nodes at once where it can be.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from exeat.errors import Refused, StatusWord
from exeat.plane.counts import Counts
from exeat.plane.nodes import commands, nodes, workloads
from exeat.plane.nodes.node import Answered, Arrival, Beat, Node
from exeat.plane.policies.signing import PlaneSigner
from exeat.plane.store.database import Database, News, StoreError, Topic, Tx
from exeat.plane.streams.admission import PROTOCOL, check_hello, check_node, check_times, first_of
from exeat.plane.streams.post import Post
from exeat.plane.streams.pushing import Pushing
from exeat.plane.streams.scribe import Scribe
from exeat.plane.streams.sync_session import SyncSession
from exeat.v1 import plane_pb2 as pb

_T = TypeVar("_T")
_SILENT_BEATS = 3
_BREATH_S = 0.002  # between two messages of a node: whoever sends thousands a second keeps nobody else waiting
_ARRIVING_MAX = 4  # of one node: whoever has its certificate must not keep the store busy
_WRITE_S = 1.0  # how often beats are written down, and how soon it is seen that a node went elsewhere
_LEAVE_S = 2.0  # for streams to end by themselves
_log = logging.getLogger("exeat.plane")


@dataclass(frozen=True, slots=True)
class Replica:
    """Who this plane is among those beside the same store."""

    name: str
    version: str
    is_listed_only: bool = False  # nodes are let in only once they were added
    beat_s: int = 10


class Sessions:
    """The Sync half of PlaneOperations; `run` must go on beside it."""

    def __init__(self, replica: Replica, database: Database, signer: PlaneSigner, counts: Counts) -> None:
        self.scribe = Scribe(database, counts)
        self._replica = replica
        self._database = database
        self._signer = signer
        self._counts = counts
        self._sessions: dict[str, SyncSession] = {}
        self._arriving: Counter[str] = Counter()  # nodes whose hellos are being written down
        self._beats: dict[str, Beat] = {}
        self._moved: set[str] = set()  # nodes of which the store has news
        self._pushing = Pushing(database, signer, self._all)
        self._post = Post(database, self.scribe, signer, self._all)
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._loop: asyncio.AbstractEventLoop | None = None
        database.listen(self._heard)

    def is_connected(self, node: str) -> bool:
        """To this replica."""
        return node in self._sessions

    def connected(self) -> int:
        """How many are."""
        return len(self._sessions)

    async def run(self) -> None:
        """For ever."""
        self._loop = asyncio.get_running_loop()
        await self.scribe.write(lambda tx: nodes.forget_connections(tx, self._replica.name))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pushing.run())
            tasks.create_task(self._post.run())
            tasks.create_task(self._write_beats())

    async def finish(self) -> None:
        """Ends every stream, so that agents go to another replica at once; the store learns that they have gone."""
        self._is_ending = True
        for session in self._all():
            session.end(_ending())
        deadline_s = time.monotonic() + _LEAVE_S
        while self._sessions and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        with suppress(StoreError):  # told by the scribe; they are seen to be away soon
            await self.scribe.write(lambda tx: nodes.forget_connections(tx, self._replica.name))

    async def sync(
        self, names: frozenset[str], requests: AsyncIterator[pb.SyncRequest]
    ) -> AsyncGenerator[pb.SyncResponse, None]:
        """One stream, as PlaneOperations has it."""
        session, replica = await self._admitted(names, requests), self._replica
        listening = asyncio.create_task(self._listen(session, requests))
        try:
            welcome = pb.Welcome(plane=replica.name, version=replica.version, protocol=PROTOCOL, beat_s=replica.beat_s)
            welcome.now.FromNanoseconds(time.time_ns())
            yield pb.SyncResponse(welcome=welcome)
            self._pushing.wake()
            self._post.wake()
            async for response in session.responses():
                yield response
        finally:
            listening.cancel()
            self._leave(session)

    async def _admitted(self, names: frozenset[str], requests: AsyncIterator[pb.SyncRequest]) -> SyncSession:
        first = await first_of(requests)
        check_times(first)
        hello = first.hello
        check_node(hello.node, names)
        check_hello(hello)
        if not self._signer.is_known_to(hello):
            mine = f"with the key {self._signer.id}" if self._signer.id else "with none"
            _log.warning("%s takes what is signed with %s, and this plane signs %s", hello.node, list(hello.keys), mine)
        if self._arriving[hello.node] >= _ARRIVING_MAX:
            raise Refused(StatusWord.EXHAUSTED, f"{hello.node} comes too often at once: come back later")
        arrival = Arrival(self._replica.name, time.time_ns(), self._replica.is_listed_only)
        self._arriving[hello.node] += 1
        try:
            await self._write(lambda tx: nodes.hello(tx, hello, arrival))
            if self._is_ending:
                raise _ending()
            session = SyncSession(hello, self._replica.beat_s)
            before = self._sessions.get(hello.node)
            self._sessions[hello.node] = session
        finally:
            self._arriving -= Counter((hello.node,))  # forgets those at zero
        if before:
            who = "the same agent" if before.start == session.start else "another agent"
            before.end(Refused(StatusWord.EXISTS, f"{who} has connected as {session.node} since"))
        return session

    async def _listen(self, session: SyncSession, requests: AsyncIterator[pb.SyncRequest]) -> None:
        """Until the agent says no more, or nothing for too long, or what makes no sense."""
        silent_s = _SILENT_BEATS * self._replica.beat_s
        try:
            while True:
                async with asyncio.timeout(silent_s):
                    request = await anext(requests, None)
                if request is None:
                    session.end()
                    return
                await self._take(session, request)
                await asyncio.sleep(_BREATH_S)
        except TimeoutError:
            session.end(Refused(StatusWord.UNAVAILABLE, f"nothing was heard of {session.node} for {silent_s} s"))
        except Exception as error:  # noqa: BLE001  # it ends the stream, with its sentence or a line in the log
            session.end(error)

    async def _take(self, session: SyncSession, request: pb.SyncRequest) -> None:
        """What says nothing that is known here is passed over."""
        check_times(request)
        said, now_ns, node = request.WhichOneof("said"), time.time_ns(), session.node
        if said == "beat":
            self._beats[node] = _beat_of(node, request.beat, now_ns)
        elif said == "answer":
            await self._take_answer(session, request.answer, now_ns)
        elif said == "result":
            if await self._write(lambda tx: commands.ended(tx, node, request.result, now_ns)):
                self._counts.commands["refused" if request.result.refusal else "done"] += 1
        elif said == "workloads":
            await self._write(lambda tx: workloads.put(tx, node, request.workloads))
        elif said == "hello":
            raise Refused(StatusWord.INVALID, "a hello is said once, as the first message")

    async def _take_answer(self, session: SyncSession, answer: pb.PolicyAnswer, now_ns: int) -> None:
        now_s = time.monotonic()
        push = session.take_answer(answer, now_s)
        self._counts.answers["ack" if answer.is_accepted else "nack"] += 1
        if answer.is_accepted:
            self._counts.push_seconds.observe(now_s - push.began_s)
        self._pushing.wake()
        answered = Answered(session.node, push.issued.serial, push.issued.entries, now_ns)
        await self._write(lambda tx: nodes.answered(tx, answered, answer))

    def _leave(self, session: SyncSession) -> None:
        node = session.node
        if self._sessions.get(node) is not session:  # it came anew before this stream ended
            return
        del self._sessions[node]
        self._pushing.wake()  # what was on its way has made room
        beat = self._beats.pop(node, None)
        if not self._is_ending:
            task = asyncio.create_task(self._write_gone(node, beat))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _write_gone(self, node: str, beat: Beat | None) -> None:
        def gone(tx: Tx) -> None:
            if node not in self._sessions and not self._arriving[node]:
                nodes.beat(tx, [beat] if beat else [])
                nodes.gone(tx, node, self._replica.name, time.time_ns())

        with suppress(StoreError):  # told by the scribe; it is seen to be away soon
            await self.scribe.write(gone)

    async def _write_beats(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_S)
            beats, self._beats = list(self._beats.values()), {}
            moved = [self._sessions[node] for node in self._moved if node in self._sessions]
            self._moved.clear()
            with suppress(StoreError):  # told by the scribe; the next beats say the same, and silence ends the rest
                if beats:
                    await self.scribe.write(lambda tx, beats=beats: nodes.beat(tx, beats))  # type: ignore[misc]
                if moved:
                    await self._end_moved(moved)

    async def _end_moved(self, sessions: list[SyncSession]) -> None:
        """A node that has come to another replica is no longer here, and one that was retired is nowhere."""
        found = await asyncio.to_thread(self._nodes, [session.node for session in sessions])
        for session, node in zip(sessions, found, strict=True):
            if node is None or node.is_retired:
                session.end(Refused(StatusWord.PERMISSION, f"{session.node} is retired"))
            elif node.replica != self._replica.name:
                session.end(Refused(StatusWord.EXISTS, f"{session.node} has connected to {node.replica} since"))

    def _nodes(self, names: list[str]) -> list[Node | None]:
        with self._database.reading() as tx:
            return [nodes.node(tx, name) for name in names]

    async def _write(self, change: Callable[[Tx], _T]) -> _T:
        """For a stream. What the store says of itself is not for agents."""
        try:
            return await self.scribe.write(change)
        except StoreError as error:
            raise Refused(StatusWord.UNAVAILABLE, "the plane's store cannot be asked: come back later") from error

    def _all(self) -> list[SyncSession]:
        return list(self._sessions.values())

    def _heard(self, news: News) -> None:
        """In any thread."""
        if self._loop and news.topic in (Topic.POLICIES, Topic.COMMANDS, Topic.NODES):
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._take_news, news)

    def _take_news(self, news: News) -> None:
        about = self._all() if not news.about else [one for one in self._all() if one.node == news.about]
        for session in about:
            if news.topic is Topic.POLICIES:
                session.is_stale = True
            elif news.topic is Topic.COMMANDS:
                session.is_asked_for = True
            else:
                self._moved.add(session.node)
        if news.topic is Topic.POLICIES:
            self._pushing.wake()
        elif news.topic is Topic.COMMANDS:
            self._post.wake()


def _beat_of(node: str, said: pb.AgentBeat, now_ns: int) -> Beat:
    skew_ms = nodes.skew_ms(said.now.ToNanoseconds(), now_ns)
    return Beat(node, now_ns, skew_ms, said.lost_events, said.unreported, tuple(said.complaints))


def _ending() -> Refused:
    return Refused(StatusWord.UNAVAILABLE, "this plane ends: come back, or go to another one")
