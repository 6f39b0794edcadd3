"""One agent's Sync stream, as the plane knows it. It decides nothing: what is sent, pushing and sessions decide."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from exeat.errors import Refused, StatusWord
from exeat.plane.policies.assign import Entries, Issued
from exeat.v1 import plane_pb2 as pb

_AGAIN_S = 600.0  # then what was refused is sent once more: the agent may have been updated, or its disk be free again


@dataclass(frozen=True, slots=True)
class Push:
    """A manifest on its way."""

    issued: Issued
    signed: pb.Signed
    revisions: tuple[str, ...]  # documents that go with it
    texts: dict[str, str]  # of all that are on their way, shared
    is_whole: bool  # every document goes with it
    size: int  # of the documents
    began_s: float  # by the monotonic clock

    def message(self, nonce: str) -> pb.PolicyPush:
        """As it travels; made when the agent reads, since two hundred copies are much."""
        documents = [pb.PolicyDocument(revision=revision, text=self.texts[revision]) for revision in self.revisions]
        return pb.PolicyPush(nonce=nonce, manifest=self.signed, documents=documents)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the agent, or the plane for it, did not take."""

    entries: Entries
    until_s: float  # by the monotonic clock: not sent again before


class SyncSession:
    """Everything but `responses` is for the event loop's own thread, and does not wait."""

    def __init__(self, hello: pb.Hello, beat_s: int) -> None:
        self.node = hello.node
        self.start = hello.start
        self.serial = hello.serial  # the greatest that the agent said it has
        self.has = Issued.told(hello)
        self.held = {one.revision for one in hello.holdings}  # documents that need not be sent
        self.is_stale = True  # what it is to have may have changed since it was last asked
        self.push: Push | None = None  # not answered yet
        self.refusal: Refusal | None = None
        self.commands: set[str] = set()  # ids that were sent on this stream
        self.is_asked_for = True  # commands may wait in the store
        self._beat_s = beat_s
        self._nonce = 0
        self._outbox: asyncio.Queue[Push | pb.SyncResponse | Exception | None] = asyncio.Queue()

    async def responses(self) -> AsyncGenerator[pb.SyncResponse, None]:
        """What goes out after the welcome. Raises what end() was given."""
        while True:
            try:
                async with asyncio.timeout(self._beat_s):
                    one = await self._outbox.get()
            except TimeoutError:
                beat = pb.PlaneBeat()
                beat.now.FromNanoseconds(time.time_ns())
                yield pb.SyncResponse(beat=beat)
                continue
            if one is None:
                return
            if isinstance(one, Exception):
                raise one
            yield pb.SyncResponse(push=one.message(str(self._nonce))) if isinstance(one, Push) else one

    def can_be_pushed(self, now_s: float) -> bool:
        """Whether to look at what it is to have."""
        if self.refusal and now_s >= self.refusal.until_s:
            self.refusal, self.is_stale = None, True
        return self.is_stale and self.push is None

    def is_refused(self, entries: Entries) -> bool:
        """Whether it is known to be futile for now."""
        return self.refusal is not None and self.refusal.entries == entries

    def send_push(self, push: Push) -> None:
        """Its answer comes by take_answer()."""
        self.push = push
        self._nonce += 1
        self._outbox.put_nowait(push)

    def send_command(self, command_id: str, signed: pb.Signed) -> bool:
        """Once on this stream; whether it was not sent before."""
        if command_id in self.commands:
            return False
        self.commands.add(command_id)
        self._outbox.put_nowait(pb.SyncResponse(command=signed))
        return True

    def take_answer(self, answer: pb.PolicyAnswer, now_s: float) -> Push:
        """The push that it answers. Raises Refused where there is none."""
        push = self.push
        if push is None or answer.nonce != str(self._nonce):
            sentence = f"this answers the push `{answer.nonce[:40]}`, which does not wait for an answer"
            raise Refused(StatusWord.INVALID, sentence)
        self.push = None
        self.serial = max(self.serial, answer.serial)
        if answer.is_accepted:
            self.has, self.refusal = push.issued, None
            self.held = {revision for _, revision in push.issued.entries}
        elif answer.wants_all and not push.is_whole:
            self.held.clear()
            self.is_stale = True  # and not refused: the next one brings all
        else:
            self.refuse(push.issued.entries, now_s)
        return push

    def refuse(self, entries: Entries, now_s: float) -> None:
        """Not again before a while, unless something changes."""
        self.refusal = Refusal(entries, now_s + _AGAIN_S * random.uniform(0.75, 1.5))

    def end(self, why: Exception | None = None) -> None:
        """Ends the stream after what is under way; with a status, if there is a reason."""
        self._outbox.put_nowait(why)
