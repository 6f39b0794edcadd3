"""`exeat agent`: builds the parts, starts them in order, turns the control loop, and stops them in order.

What it stops is itself: what is pinned in the kernel enforces on.
"""

import asyncio
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from exeat.agent.application import Application
from exeat.agent.arrivals import Arrivals
from exeat.agent.assigning import Assigning
from exeat.agent.census import Census
from exeat.agent.enforcer import Enforcer
from exeat.agent.heeding import Heeding
from exeat.agent.host import Host
from exeat.agent.hub import Heed, Hub
from exeat.agent.identities import Identities, runtimes_of
from exeat.agent.interfaces import open_interfaces
from exeat.agent.keeping import SystemdKeeping
from exeat.agent.lock import take_state
from exeat.agent.looks import Looks
from exeat.agent.notices import Notices
from exeat.agent.operations import Agent, AgentOperations
from exeat.agent.policy_files import PolicyFiles
from exeat.agent.programs import Programs
from exeat.agent.readings import AgentReadings
from exeat.agent.roll import Roll
from exeat.agent.sessions import Sessions
from exeat.agent.sets import Sets
from exeat.agent.shelf import Shelf
from exeat.agent.steadiness import steady
from exeat.agent.upkeep import Upkeep
from exeat.agent.vitals import Story, Vitals
from exeat.agent.watching import Past
from exeat.agent.wishes import Wishes
from exeat.audit.log import VerdictLog
from exeat.control.server import serve
from exeat.core.stories import STORIES
from exeat.dns.gate import boot_ns
from exeat.dns.resolv_conf import host_servers
from exeat.errors import ExeatError, KernelError
from exeat.gate_thread import GateThread
from exeat.kernel.filesystems import mount_point
from exeat.kernel.instance import Instance
from exeat.kernel.tables import Tables
from exeat.kernel.takeover import (
    first_free_id,
    grants_left,
    have_sockets_look_again,
    policies_left,
    remove_strays,
    workloads_left,
)
from exeat.metrics import Health, Registry
from exeat.metrics import serve as serve_metrics
from exeat.model.record import Record
from exeat.model.verdicts import Reason
from exeat.notify import Notifier, listen_fds, watchdog_interval_s
from exeat.settings import Settings

if TYPE_CHECKING:
    from exeat.agent.plane_end import PlaneEnd
    from exeat.agent.reporting import Reporter

INSTANCE = os.environ.get("EXEAT_INSTANCE", "agent")  # another one is for tests: several agents on one host
_log = logging.getLogger("exeat")
_TICK_S = 0.5
_GRACE_S = 2.0
_ASK_S = 0.5  # runtimes answer for a hundred containers by then
_API = "api"  # FileDescriptorName= of a socket unit, if there is one


class Daemon:
    """One agent."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._story = Story()
        self._notifier = Notifier.from_environment()
        state, self._lock = take_state(settings.runtime)
        self._instance = Instance(INSTANCE)
        programs = self._programs = Programs(self._instance, self._story)
        self._tables = Tables(self._instance)
        self._thread = GateThread()
        self._sets = Sets(self._instance, self._tables, state / "sets.json")
        self._given = listen_fds()
        self._keeping = SystemdKeeping(self._notifier, self._given)
        servers, take, keeping, timed = host_servers(), self._take, self._keeping, self._timed
        self._enforcer = Enforcer(self._instance, self._tables, self._sets, self._thread, servers, take, keeping, timed)
        mount = mount_point("cgroup2")
        if mount is None:
            raise KernelError("this host has no cgroup2 mount; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        self._mount = Path(mount)
        self._census = Census(self._mount)
        self._shelf = Shelf(settings.policies, settings.state / "accepted")
        wishes = Wishes(state / "workloads")
        self._interfaces = open_interfaces(self._instance, programs.guests, programs.frames, settings.interfaces)
        roll = Roll(self._census, self._interfaces)
        self._identities = Identities(runtimes_of(settings.runtimes), state / "identities", self._census.directory)
        identities, sessions = self._identities, Sessions(settings.sessions)
        assigning = Assigning(self._shelf, wishes, roll, identities, sessions, dict(settings.node.labels))
        self._host = Host(self._shelf, wishes, roll, self._enforcer, assigning)
        self._log = VerdictLog(
            settings.log.directory, max_bytes=settings.log.max_bytes, keep=settings.log.keep, key=settings.log.key
        )
        self._readings = AgentReadings(self._host, self._sets, self._tables, self._log, self._story.started_ns)
        self._vitals = Vitals(
            self._host, self._sets, self._tables, self._thread, self._log, self._readings, self._story
        )
        self._registry = Registry(self._readings)
        self._hub: Hub | None = None
        self._stop = asyncio.Event()
        self._looks = Looks(self._enforcer, self._census, self._interfaces.open_gate, self._interfaces.frames.enter)
        self._arrivals = Arrivals(self._host, self._looks.follow)
        application = Application(self._host, self._looks, self._applied)
        self._files = PolicyFiles(settings.policies, application, self._story)
        self._plane = _plane_end(settings, application, self._vitals)
        self._reporter = _reporter(settings, self._log, self._plane) if self._plane else None
        self._readings.standing = self._plane.standing if self._plane else None
        notices = Notices(settings.state / "told.json", self._take)
        self._alive = state / "alive"
        self._upkeep = Upkeep(
            self._host, self._sets, self._tables, self._programs, self._looks, notices, self._story, self._alive
        )

    async def run(self) -> None:
        """Until a signal ends it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_by_signal)
        if self._alive.exists():
            self._story.last_seen_ns = self._alive.stat().st_mtime_ns
        self._programs.prepare(self._mount)
        self._take_over()
        self._hub = Hub(self._instance, self._enforcer, self._sets, self._log, self._heed())
        self._vitals.hub = self._readings.hub = self._hub
        await self._begin()
        self._thread.start()
        self._hub.start()
        past, reload, look = Past(self._log), self._files.reload, self._looks.look
        operations = AgentOperations(Agent(self._host, self._hub, self._tables, self._vitals, past, reload, look))
        listeners = [socket.socket(fileno=fd) for fd in self._given.get(_API, ())]
        server = await serve(operations, self._settings.socket, self._settings.group, *listeners[:1])
        metrics = None
        if self._settings.metrics:
            health = Health(self._vitals.ailments, self._vitals.hindrances)
            metrics = serve_metrics(self._settings.metrics, health, self._registry)
        self._upkeep.mark_alive()
        self._story.in_control_ms = (boot_ns() - self._story.started_boot_ns) // 1_000_000
        self._story.is_ready = True
        steady()
        self._notifier.ready(self._host.sentence())
        _log.info("in control after %d ms: %s", self._story.in_control_ms, self._host.sentence())
        self._upkeep.keep()
        self._keeping.drop_untaken()
        self._upkeep.in_background(self._upgrade())
        self._upkeep.in_background(self._upkeep.load_for_guests())
        if self._plane:
            self._plane.start(operations, self._reporter, started_ns=self._story.started_ns)
        try:
            await self._turn(loop)
        finally:
            self._notifier.stopping()
            if self._plane:
                await self._plane.stop()
            if self._reporter:
                self._reporter.close()
            await server.stop(_GRACE_S)
            await self._identities.close()
            if metrics:
                metrics.stop()
            self._finish()

    def _take_over(self) -> None:
        """What an agent before this one left enforces on; now it is known whose it is."""
        self._host.wishes.load()
        self._identities.load()
        have_sockets_look_again(self._instance)
        self._enforcer.left.update(workloads_left(self._instance))
        self._policies_left = policies_left(self._instance)
        self._first_free_id = first_free_id(self._instance, self._policies_left)
        self._sets.take_over(set(self._policies_left), grants_left(self._instance))

    async def _begin(self) -> None:
        """Policies, cgroups, interfaces, workloads: all that should hold holds after this."""
        self._files.watch()
        self._shelf.read()
        if self._plane:
            self._plane.begin()
        self._census.look()
        self._host.spare(self._census.where_is(os.getpid()) or "", has_listeners=bool(self._given.keys() - {_API}))
        await self._identities.ask_first(self._census.places(), _ASK_S)
        self._interfaces.begin()
        self._host.forget_replaced()
        changed = self._host.settle_all()
        self._identities.news = self._arrivals.settle_soon  # before, there was nothing to settle by
        self._looks.look_at_all(self._enforcer.bound)
        self._enforcer.cut(changed)
        self._host.release_left()

    async def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._census, self._cgroups_changed)
        loop.add_reader(self._interfaces, self._interfaces_changed)
        loop.add_reader(self._files, self._files.changed)
        watchdog_s = watchdog_interval_s()
        told_ns = 0
        while not self._stop.is_set():
            try:
                await asyncio.wait_for(self._stop.wait(), _TICK_S)
            except TimeoutError:
                now_ns = boot_ns()
                self._upkeep.tick(now_ns)
                if watchdog_s and now_ns - told_ns > watchdog_s * 0.4e9 and not self._vitals.ailments():
                    self._notifier.watchdog()
                    told_ns = now_ns
        loop.remove_reader(self._census)
        loop.remove_reader(self._interfaces)
        loop.remove_reader(self._files)

    def _finish(self) -> None:
        self._upkeep.finish()
        if self._thread.is_alive:
            try:
                self._thread.finish()
            except KernelError as error:  # told in status while it ran
                _log.error("%s", error)
        if self._hub:
            self._hub.finish()
        self._log.close()
        self._census.close()
        self._interfaces.close()
        self._files.close()
        self._instance.close()

    def _reload_by_signal(self) -> None:
        if not self._story.is_ready:
            return  # everything is about to be read
        self._notifier.reloading()
        self._files.reload()
        self._notifier.ready(self._host.sentence())

    def _cgroups_changed(self) -> None:
        news = self._census.read()
        self._arrivals.take(news)
        self._looks.hear(news)

    def _interfaces_changed(self) -> None:
        self._arrivals.take(self._interfaces.read())

    def _heed(self) -> Heed:
        return Heed(Heeding(self._looks.look_where).say, Heeding(self._note_quarantine).say)

    def _note_quarantine(self, workload: int, reasons: set[int]) -> None:
        if self._host.note_quarantine(workload, STORIES[Reason(min(reasons))]):
            self._enforcer.cut([workload])

    def _timed(self, answer_ns: int) -> None:
        self._registry.gate_answer.observe(answer_ns / 1e9)

    def _applied(self, seconds: float) -> None:
        self._registry.policy_application.observe(seconds)
        self._notifier.status(self._host.sentence())

    def _take(self, record: Record) -> None:
        if self._hub:
            self._hub.take(record)

    async def _upgrade(self) -> None:
        """Other programs are in the kernel than this agent brings: they are replaced, with no gap."""
        try:
            await asyncio.to_thread(self._programs.upgrade)
            self._programs.retire(self._host.is_settled)
            await asyncio.to_thread(remove_strays, self._instance, self._policies_left, self._first_free_id)
        except (ExeatError, OSError) as error:
            _log.error("the programs in the kernel stay as they were: %s", error)
            self._story.notes["programs"] = f"the programs in the kernel stay as they were: {error}"


def _plane_end(settings: Settings, application: Application, vitals: Vitals) -> "PlaneEnd | None":
    if settings.plane is None:
        return None
    from exeat.agent.plane_end import PlaneEnd  # an agent without a plane does without its modules

    return PlaneEnd(settings, settings.plane, application, vitals)


def _reporter(settings: Settings, log: VerdictLog, plane: "PlaneEnd") -> "Reporter":
    """Made before any verdict falls: what is in the log by then was there before."""
    from exeat.agent.reporting import reporter_of

    reporter = reporter_of(settings, log)
    plane.standing.unreported, plane.standing.lost = lambda: reporter.unreported, lambda: reporter.lost
    plane.standing.troubles += (lambda: reporter.complaint,)
    return reporter
