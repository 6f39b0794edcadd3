"""Follows a cluster for as long as this replica leads: the tasks, in order, and what keeps them from their work."""

import asyncio
import logging
import secrets
import time
from collections import Counter

from exeat.control.together import until_one_ends
from exeat.errors import ExeatError
from exeat.plane.cluster import lease
from exeat.plane.cluster.api_server import ApiServer, server_of
from exeat.plane.cluster.enforcing import Enforcing, enforcing
from exeat.plane.cluster.following import Following
from exeat.plane.cluster.objects import Kind, Reason
from exeat.plane.cluster.reconcile import Reconciler
from exeat.plane.cluster.shelf import Shelf
from exeat.plane.cluster.writing import StatusWriter
from exeat.plane.settings import ClusterPlace
from exeat.plane.store.database import Database, News, StoreError, Topic

_TOGETHER_S = 0.2  # changes come in a bunch
_ANYWAY_S = 15.0  # a pass, whatever was heard
_WAITING_S = 2.0  # the same while something waits for its turn
_AFTER_ERROR_S = 2.0
_ROUND_S = 5.0  # between two looks at what nodes enforce
_COST = 20  # and so many times what the last one took
_log = logging.getLogger("exeat.plane")


class ClusterController:
    """run() is its only task. `is_alone`: no other replica can be at this store."""

    def __init__(self, place: ClusterPlace, database: Database, name: str, *, is_alone: bool) -> None:
        self._place = place
        self._server = server_of(place)
        self._database = database
        self._who = f"{name} {secrets.token_hex(8)}"
        self._is_alone = is_alone
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._judged = asyncio.Event()
        self._followings: tuple[Following, ...] = ()
        self._reconciler: Reconciler | None = None
        self._writer: StatusWriter | None = None
        self._trouble = ""  # of the store, or of nobody knows what
        self._told: tuple[str, ...] = ()

    @property
    def is_leading(self) -> bool:
        """Whether this replica follows the cluster."""
        return self._reconciler is not None

    def problems(self) -> tuple[str, ...]:
        """What keeps the cluster's policies from being in force as they are there now, in sentences."""
        writer = (self._writer.problem,) if self._writer else ()
        found = (*(one.problem for one in self._followings), self._trouble, *writer)
        return tuple(dict.fromkeys(filter(None, found)))

    def counts(self) -> Counter[Reason]:
        """How many objects came to what."""
        return self._reconciler.counts() if self._reconciler else Counter()

    async def run(self) -> None:
        """For ever. Whatever happens here, the plane goes on."""
        self._loop = asyncio.get_running_loop()
        self._database.listen(self._hear)
        while True:
            try:
                if await asyncio.to_thread(self._take_lease):
                    await self._lead()
            except lease.Lost as error:
                _log.info("%s", error)
            except ExeatError as error:
                self._trouble = str(error)
            except Exception as error:  # noqa: BLE001 - whatever it is: no agent should lose its plane by it
                _log.exception("following the cluster has failed, and begins again")
                self._trouble = f"following the cluster has failed: {type(error).__name__}: {error}"
            self._tell()
            await asyncio.sleep(lease.RENEW_S)

    async def _lead(self) -> None:
        shelves = {kind: Shelf(kind) for kind in Kind}
        self._followings = tuple(Following(one, self._connect, self._changed.set) for one in shelves.values())
        self._reconciler = Reconciler(shelves, self._database, self._who)
        self._writer = StatusWriter(shelves, self._reconciler.outcome)
        self._trouble = ""
        _log.info("follows the policies of the cluster at %s", self._server)
        try:
            await until_one_ends(
                *(one.run() for one in self._followings),
                self._reconcile(self._reconciler),
                self._write(self._writer),
                self._keep_lease(),
            )
        finally:
            self._followings, self._reconciler, self._writer = (), None, None
            await asyncio.to_thread(self._release_lease)

    async def _reconcile(self, reconciler: Reconciler) -> None:
        is_done = True
        while True:
            await _heard(self._changed, _ANYWAY_S if is_done else _WAITING_S)
            await asyncio.sleep(_TOGETHER_S)
            self._changed.clear()
            try:
                is_done = await reconciler.pass_once()
                self._trouble = ""
            except StoreError as error:
                self._trouble = str(error)
                await asyncio.sleep(_AFTER_ERROR_S)
                is_done = False
            self._judged.set()

    async def _write(self, writer: StatusWriter) -> None:
        server: ApiServer | None = None
        try:
            while True:
                await _heard(self._judged, _ROUND_S)
                self._judged.clear()
                began_s = time.monotonic()
                try:
                    found = await asyncio.to_thread(self._enforcing)
                    took_s = time.monotonic() - began_s
                    server = server or self._connect()
                    is_well = await writer.round(server, found, time.monotonic())
                except StoreError as error:
                    self._trouble, took_s, is_well = str(error), _AFTER_ERROR_S, True
                except ExeatError as error:  # its files
                    writer.problem, took_s, is_well = str(error), _AFTER_ERROR_S, False
                if server and not is_well:
                    await server.__aexit__()
                    server = None
                await asyncio.sleep(max(1.0, _COST * took_s))
        finally:
            if server:
                await server.__aexit__()

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(lease.RENEW_S)
            self._tell()
            try:
                if not await asyncio.to_thread(self._take_lease):
                    raise lease.Lost("another replica follows the cluster now")
            except StoreError as error:  # then nobody else can take it either
                self._trouble = str(error)

    def _connect(self) -> ApiServer:
        return ApiServer(self._place)

    def _enforcing(self) -> dict[str, Enforcing]:
        with self._database.reading() as tx:
            return enforcing(tx, time.time_ns())

    def _take_lease(self) -> bool:
        with self._database.writing() as tx:
            return lease.take(tx, self._who, time.time_ns(), is_alone=self._is_alone)

    def _release_lease(self) -> None:
        try:
            with self._database.writing() as tx:
                lease.release(tx, self._who)
        except StoreError as error:
            _log.warning("the next replica follows the cluster only after %d s: %s", lease.LEASE_NS // 10**9, error)

    def _hear(self, news: News) -> None:
        """In any thread."""
        if self._loop and self._reconciler and not self._loop.is_closed():
            if news.topic is Topic.POLICIES:
                self._loop.call_soon_threadsafe(self._changed.set)
            elif news.topic is Topic.NODES:
                self._loop.call_soon_threadsafe(self._judged.set)

    def _tell(self) -> None:
        found = self.problems()
        for one in found:
            if one not in self._told:
                _log.warning("the cluster's policies wait: %s", one)
        if self._told and not found:
            _log.info("the cluster's policies are followed again")
        self._told = found


async def _heard(event: asyncio.Event, within_s: float) -> None:
    """Until then, or a while."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return
