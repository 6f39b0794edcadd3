"""Brings commands that wait in the store to the nodes that are connected here."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from exeat.plane.nodes import commands
from exeat.plane.policies.signing import PlaneSigner
from exeat.plane.store.database import Database, StoreError
from exeat.plane.streams.scribe import Scribe
from exeat.plane.streams.sync_session import SyncSession
from exeat.v1 import plane_pb2 as pb

_AFTER_ERROR_S = 2.0
_EXPIRY_S = 10.0  # how often those are looked for that nobody has done in time
_log = logging.getLogger("exeat.plane")


class Post:
    """For one event loop; run() is its only task."""

    def __init__(
        self, database: Database, scribe: Scribe, signer: PlaneSigner, sessions: Callable[[], Iterable[SyncSession]]
    ) -> None:
        self._database = database
        self._scribe = scribe
        self._signer = signer
        self._sessions = sessions
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A session has become `is_asked_for`."""
        self._wake.set()

    async def run(self) -> None:
        """For ever."""
        looked_s = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EXPIRY_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._deliver()
                if time.monotonic() - looked_s > _EXPIRY_S:
                    looked_s = time.monotonic()
                    await self._give_up()
            except StoreError as error:
                _log.warning("commands wait: %s", error)
                await asyncio.sleep(_AFTER_ERROR_S)
                self._wake.set()

    async def _deliver(self) -> None:
        asked = [session for session in self._sessions() if session.is_asked_for]
        if not asked:
            return
        for session in asked:
            session.is_asked_for = False
        try:
            found = await asyncio.to_thread(self._unanswered, asked)
        except StoreError:
            for session in asked:
                session.is_asked_for = True
            raise
        sent = []
        for session, waiting in zip(asked, found, strict=True):
            for command in waiting:
                if session.send_command(command.id, self._signer.sign_command(command)):
                    sent.append(command.id)
        if sent:
            await self._scribe.write(lambda tx: commands.sent(tx, sent))

    def _unanswered(self, sessions: list[SyncSession]) -> list[list[pb.Command]]:
        """What was sent on a stream before may be lost; what was sent on this one is on its way."""
        now_ns = time.time_ns()
        with self._database.reading() as tx:
            return [commands.unanswered(tx, session.node, now_ns) for session in sessions]

    async def _give_up(self) -> None:
        now_ns = time.time_ns()
        if await asyncio.to_thread(self._has_expired, now_ns):
            await self._scribe.write(lambda tx: commands.expire(tx, now_ns))

    def _has_expired(self, now_ns: int) -> bool:
        with self._database.reading() as tx:
            return commands.has_expired(tx, now_ns)
