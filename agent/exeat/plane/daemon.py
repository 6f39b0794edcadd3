"""`exeat plane serve`: builds the parts, starts them in order, and stops them in order.

It may end at any moment: agents enforce on, go to another replica or wait, and what was acknowledged is on disk.
"""

import asyncio
import importlib.util
import logging
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import exeat
from exeat.control.plane_server import PlaneServer, serve_plane
from exeat.errors import ExeatError
from exeat.notify import Notifier, watchdog_interval_s
from exeat.plane import metrics
from exeat.plane.counts import Counts
from exeat.plane.parts import NoCluster, NoDirectory, Plane
from exeat.plane.policies import rollouts
from exeat.plane.policies.directory import PolicyDirectory, look_on
from exeat.plane.policies.signing import PlaneSigner
from exeat.plane.settings import Enroll, PlaneSettings
from exeat.plane.settings_file import store_url
from exeat.plane.store.alone import take_store
from exeat.plane.store.database import StoreError, open_database
from exeat.plane.store.retention import forget_for_ever
from exeat.plane.streams.sessions import Replica, Sessions
from exeat.plane.streams.verdict_streams import VerdictStreams
from exeat.plane.verdicts.collection import Collection
from exeat.plane.verdicts.live import Feed
from exeat.plane.web_server import WebServer
from exeat.plane_access import PlaneAccess
from exeat.v1 import plane_pb2 as pb

if TYPE_CHECKING:
    from exeat.plane.cluster.controller import ClusterController

_THREADS = 16  # that wait for the store
_LOOK_S = 2.0  # how often the directory of policies is looked at
_JUDGE_S = 5.0  # how often running roll-outs are judged
_STATUS_S = 30.0  # how often `systemctl status` is told
_GRACE_S = 2.0
_log = logging.getLogger("exeat.plane")


class PlaneDaemon:
    """One replica. `application` makes the web door's app of its parts."""

    def __init__(self, settings: PlaneSettings, application: Callable[[Plane], Any]) -> None:
        self._settings = settings
        self._application = application
        self._notifier = Notifier.from_environment()
        url = store_url(settings)
        self._database = open_database(url)
        self._lock = take_store(url)
        self._signer = PlaneSigner.of(settings.signing_key)
        self._counts = Counts()
        self._collection = Collection(self._database)
        replica = Replica(settings.name, exeat.__version__, settings.enroll is Enroll.LISTED)
        self._sessions = Sessions(replica, self._database, self._signer, self._counts)
        self._verdicts = VerdictStreams(self._database, self._collection)
        self._directory = PolicyDirectory(settings.policies, settings.rollout) if settings.policies else None
        self._cluster = self._cluster_of(settings)
        self._plane = Plane(
            settings=settings,
            database=self._database,
            presence=self._sessions,
            feed=Feed(self._database),
            counts=self._counts,
            collected=self._collection,
            directory=self._directory or NoDirectory(),
            cluster=self._cluster or NoCluster(),
        )
        self._stop = asyncio.Event()
        self.is_ready = asyncio.Event()
        self.agents_port = 0
        self.web_port = 0

    def sync(
        self, names: frozenset[str], requests: AsyncIterator[pb.SyncRequest]
    ) -> AsyncGenerator[pb.SyncResponse, None]:
        """Of PlaneOperations."""
        return self._sessions.sync(names, requests)

    def report(
        self, names: frozenset[str], requests: AsyncIterator[pb.ReportRequest]
    ) -> AsyncGenerator[pb.ReportResponse, None]:
        """Of PlaneOperations."""
        return self._verdicts.report(names, requests)

    def stop(self) -> None:
        """Has run() end."""
        self._stop.set()

    async def run(self) -> None:
        """Until a signal or stop() ends it."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_THREADS, "plane"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        settings = self._settings
        web = WebServer(settings.web)
        agents = None
        tasks = [asyncio.create_task(one, name=name) for name, one in self._chores().items()]
        try:
            door = settings.agents
            agents = await serve_plane(self, door.listen, PlaneAccess((), door.ca, door.certificate, door.key))
            # Last: whoever asks there for its health is told that it is well.
            web.start(await asyncio.to_thread(self._application, self._plane), self._counts.web)
            self.agents_port, self.web_port = agents.port, web.port
            key = f"signs with key {self._signer.id}" if self._signer.id else "signs nothing"
            _log.info("plane %s: agents on port %d, console on %d; %s", settings.name, agents.port, web.port, key)
            self._notifier.ready(f"agents on port {agents.port}, console on port {web.port}")
            self.is_ready.set()
            stopping = asyncio.create_task(self._stop.wait(), name="stop")
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            for task in done - {stopping}:  # they have no end: this one failed
                task.result()
        finally:
            await self._end(web, agents, tasks)

    def _chores(self) -> dict[str, Coroutine[Any, Any, None]]:
        chores = {
            "sessions": self._sessions.run(),
            "roll-outs": self._judge_rollouts(),
            "retention": forget_for_ever(self._database, self._settings.retention),
            "watchdog": self._tell_watchdog(),
            "status": self._tell_status(),
        }
        if self._directory:
            chores["directory"] = self._look_at(self._directory)
        if self._cluster:
            chores["cluster"] = self._cluster.run()
        return chores

    def _cluster_of(self, settings: PlaneSettings) -> "ClusterController | None":
        if settings.cluster is None:
            return None
        if importlib.util.find_spec("httpx") is None:
            raise ExeatError("following a cluster needs httpx: pip install 'exeat[plane]'")
        from exeat.plane.cluster.controller import ClusterController

        return ClusterController(settings.cluster, self._database, settings.name, is_alone=self._lock is not None)

    async def _judge_rollouts(self) -> None:
        while True:
            try:
                for rollout, decision in await asyncio.to_thread(rollouts.look, self._database, self._plane.now_ns()):
                    _log.info("roll-out %d of %s: %s %s", rollout.id, rollout.name, decision.step, decision.why)
            except StoreError as error:
                _log.warning("roll-outs wait: %s", error)
            await asyncio.sleep(_JUDGE_S)

    async def _look_at(self, directory: PolicyDirectory) -> None:
        trouble = ""
        while True:
            found = await asyncio.to_thread(look_on, directory, self._database, self._plane.now_ns)
            if found and found != trouble:
                _log.warning("the directory of policies waits: %s", found)
            trouble = found
            await asyncio.sleep(_LOOK_S)

    async def _tell_watchdog(self) -> None:
        """The loop turns. A store that is away is no reason to be killed: agents would lose their streams as well."""
        interval_s = watchdog_interval_s()
        while interval_s:
            self._notifier.watchdog()
            await asyncio.sleep(interval_s)
        await self._stop.wait()

    async def _tell_status(self) -> None:
        while self._notifier.is_heard:
            await asyncio.sleep(_STATUS_S)
            found = await asyncio.to_thread(metrics.complaints, self._plane)
            self._notifier.status("; ".join(found) or f"{self._sessions.connected()} agents are connected")
        await self._stop.wait()

    async def _end(self, web: WebServer, agents: PlaneServer | None, tasks: list[asyncio.Task[None]]) -> None:
        self._notifier.stopping()
        await self._sessions.finish()
        if agents:
            await agents.stop(_GRACE_S)
        await web.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._collection.close)
        self._database.close()
        if self._lock is not None:
            os.close(self._lock)
