"""`exeat agent`: builds the parts, starts them in order, turns the control loop, and stops them in order.

What it stops is itself: what is pinned in the kernel enforces on.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from exeat.agent.arrivals import Arrivals
from exeat.agent.census import Census
from exeat.agent.enforcer import Enforcer
from exeat.agent.host import Host
from exeat.agent.hub import Heed, Hub
from exeat.agent.keeping import SystemdKeeping
from exeat.agent.lock import take_state
from exeat.agent.operations import Agent, AgentOperations
from exeat.agent.programs import Programs
from exeat.agent.readings import AgentReadings, endings_of
from exeat.agent.sets import Sets
from exeat.agent.shelf import Shelf
from exeat.agent.vitals import Story, Vitals
from exeat.agent.watching import Past
from exeat.agent.wishes import Wishes
from exeat.audit.log import VerdictLog
from exeat.control.server import serve
from exeat.core.endings import due
from exeat.core.stories import STORIES
from exeat.dns.gate import boot_ns
from exeat.dns.resolv_conf import host_servers
from exeat.errors import ExeatError, KernelError
from exeat.gate_thread import GateThread
from exeat.kernel.filesystems import mount_point
from exeat.kernel.inotify import ATTRIBUTES, CREATED, DELETED, MOVED_FROM, MOVED_TO, WRITTEN, Inotify
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

INSTANCE = os.environ.get("EXEAT_INSTANCE", "agent")  # another one is for tests: several agents on one host
_log = logging.getLogger("exeat")
_TICK_S = 0.5
_SETTLED_S = 0.02  # an editor writes a file in several steps
_SLOW_S = 5.0
_LOOKS_S = (0.01, 0.03, 0.1, 0.3, 1.0)  # a container's loopback comes up after its first process
_CLOCK_JUMP_NS = 1_000_000_000
_GRACE_S = 2.0
_API = "api"  # FileDescriptorName= of a socket unit, if there is one
_ALIVE_NS = 1_000_000_000


@dataclass(slots=True)
class _Clock:
    """How far the wall clock is ahead of the boot clock."""

    offset_ns: int

    def has_jumped(self) -> bool:
        """Whether somebody has set it since."""
        offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if abs(offset_ns - self.offset_ns) < _CLOCK_JUMP_NS:
            return False
        self.offset_ns = offset_ns
        return True


class Daemon:
    """One agent."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._story = Story()
        self._notifier = Notifier.from_environment()
        state, self._lock = take_state(settings.runtime)
        self._alive = state / "alive"
        self._instance = Instance(INSTANCE)
        self._programs = Programs(self._instance, self._story)
        self._tables = Tables(self._instance)
        self._thread = GateThread()
        self._sets = Sets(self._instance, self._tables, state / "sets.json")
        self._given = listen_fds()
        self._keeping = SystemdKeeping(self._notifier, self._given)
        self._enforcer = Enforcer(
            self._instance, self._tables, self._sets, self._thread, host_servers(), self._take, self._keeping
        )
        mount = mount_point("cgroup2")
        if mount is None:
            raise KernelError("this host has no cgroup2 mount; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        self._mount = Path(mount)
        self._census = Census(self._mount)
        self._shelf = Shelf(settings.policies, settings.state / "accepted")
        self._host = Host(self._shelf, Wishes(state / "workloads"), self._census, self._enforcer)
        self._log = VerdictLog(
            settings.log.directory, max_bytes=settings.log.max_bytes, keep=settings.log.keep, key=settings.log.key
        )
        self._readings = AgentReadings(self._host, self._sets, self._tables, self._log, self._story.started_ns)
        self._vitals = Vitals(
            self._host, self._sets, self._tables, self._thread, self._log, self._readings, self._story
        )
        self._registry = Registry(self._readings)
        self._files = Inotify()
        self._clock = _Clock(time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._hub: Hub | None = None
        self._stop = asyncio.Event()
        self._arrivals = Arrivals(self._host, self._look_all)
        self._removing = asyncio.Lock()
        self._told_endings: dict[str, int] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._slow_due_ns = self._alive_due_ns = 0

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
        self._hub = Hub(self._instance, self._enforcer, self._sets, self._log, self._heed(loop))
        self._vitals.hub = self._readings.hub = self._hub
        self._begin()
        self._thread.start()
        self._hub.start()
        operations = AgentOperations(
            Agent(self._host, self._hub, self._tables, self._vitals, Past(self._log), self._reload, self._look)
        )
        listeners = [socket.socket(fileno=fd) for fd in self._given.get(_API, ())]
        server = await serve(operations, self._settings.socket, self._settings.group, *listeners[:1])
        metrics = None
        if self._settings.metrics:
            health = Health(self._vitals.ailments, self._vitals.hindrances)
            metrics = serve_metrics(self._settings.metrics, health, self._registry)
        self._mark_alive()
        self._story.in_control_ms = (boot_ns() - self._story.started_boot_ns) // 1_000_000
        self._story.is_ready = True
        self._notifier.ready(self._sentence())
        _log.info("in control after %d ms: %s", self._story.in_control_ms, self._sentence())
        self._keep()
        self._keeping.drop_untaken()
        self._in_background(self._upgrade())
        try:
            await self._turn(loop)
        finally:
            self._notifier.stopping()
            await server.stop(_GRACE_S)
            if metrics:
                metrics.stop()
            self._finish()

    def _take_over(self) -> None:
        """What an agent before this one left enforces on; now it is known whose it is."""
        self._host.wishes.load()
        have_sockets_look_again(self._instance)
        self._enforcer.left.update(workloads_left(self._instance))
        self._policies_left = policies_left(self._instance)
        self._first_free_id = first_free_id(self._instance, self._policies_left)
        self._sets.take_over(set(self._policies_left), grants_left(self._instance))

    def _begin(self) -> None:
        """Policies, cgroups, workloads: all that should hold holds after this."""
        self._watch_files()
        self._shelf.read()
        self._census.look()
        changed = self._host.settle_all()
        self._look_all(self._enforcer.bound)
        self._enforcer.cut(changed)
        self._release_left()

    def _release_left(self) -> None:
        """What an agent before this one judged and nobody wants any more. Where that cannot be known, it stays."""
        is_known = self._host.is_known
        for workload in list(self._enforcer.left):
            is_wanted = workload in self._host.failures or not is_known
            if self._census.path_of(workload) is None or not is_wanted:
                self._enforcer.release(workload)

    async def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._census, self._cgroups_changed)
        loop.add_reader(self._files, self._files_changed)
        watchdog_s = watchdog_interval_s()
        told_ns = 0
        while not self._stop.is_set():
            try:
                await asyncio.wait_for(self._stop.wait(), _TICK_S)
            except TimeoutError:
                now_ns = boot_ns()
                self._tick_on(now_ns)
                if watchdog_s and now_ns - told_ns > watchdog_s * 0.4e9 and not self._vitals.ailments():
                    self._notifier.watchdog()
                    told_ns = now_ns
        loop.remove_reader(self._census)
        loop.remove_reader(self._files)

    def _tick_on(self, now_ns: int) -> None:
        """One thing that fails, as without disk or descriptors, is no reason to leave everything else undone."""
        try:
            self._tick(now_ns)
            self._story.notes.pop("tick", None)
        except (ExeatError, OSError) as error:
            if "tick" not in self._story.notes:
                _log.error("%s", error)
            self._story.notes["tick"] = f"the agent cannot do all it should: {error}"

    def _tick(self, now_ns: int) -> None:
        changed = self._host.expire(time.time_ns(), now_ns)
        self._enforcer.tick(now_ns)
        self._enforcer.cut(changed)
        if now_ns >= self._alive_due_ns:
            self._alive_due_ns = now_ns + _ALIVE_NS
            self._mark_alive()
            self._keep()
        if now_ns < self._slow_due_ns:
            return
        self._slow_due_ns = now_ns + int(_SLOW_S * 1e9)
        if self._clock.has_jumped():
            _log.warning("the wall clock was set: when rules end is reckoned anew")
            self._host.clock_changes += 1
            self._enforcer.cut(self._host.settle_all())
        self._programs.mend()
        self._programs.retire(self._host.is_known and not self._host.failures)
        self._tell_endings()
        for workload in self._enforcer.abroad():
            pids = list(self._census.pids(self._enforcer.bound[workload].path))
            self._enforcer.look_for_namespaces(workload, pids)
            self._enforcer.leave_namespaces(workload, pids)
        if gone := self._enforcer.collect(now_ns):
            self._in_background(self._remove(gone))

    def _finish(self) -> None:
        for task in self._background:
            task.cancel()
        if self._thread.is_alive:
            try:
                self._thread.finish()
            except KernelError as error:  # told in status while it ran
                _log.error("%s", error)
        if self._hub:
            self._hub.finish()
        self._log.close()
        self._mark_alive()
        self._census.close()
        self._files.close()
        self._instance.close()

    def _reload(self) -> int:
        """Reads the policy files; how many workloads were switched."""
        began = time.monotonic()
        has_changed = self._shelf.read()
        for held in self._shelf.held:
            if held.errors:
                _log.warning("%s is not in force: %s", held.file, held.errors[0])
        changed = self._host.settle_all() if has_changed else ()
        self._enforcer.cut(changed)
        self._look_all(changed)
        self._keep()
        if self._enforcer.left:
            self._release_left()
        if has_changed:
            self._registry.policy_application.observe(time.monotonic() - began)
            self._notifier.status(self._sentence())
            _log.info("policies changed: %d workloads switched; %s", len(changed), self._sentence())
        return len(changed)

    def _reload_by_signal(self) -> None:
        if not self._story.is_ready:
            return  # everything is about to be read
        self._notifier.reloading()
        self._reload()
        self._notifier.ready(self._sentence())

    def _watch_files(self) -> None:
        mask = CREATED | DELETED | MOVED_FROM | MOVED_TO | WRITTEN | ATTRIBUTES
        if not self._files.watch(self._settings.policies, mask):
            self._story.notes["policies"] = f"{self._settings.policies} is not there: make it, and put policies into it"
            parent = self._settings.policies.parent
            if parent.is_dir():
                self._files.watch(parent, CREATED | MOVED_TO)
        else:
            self._story.notes.pop("policies", None)

    def _files_changed(self) -> None:
        list(self._files.read())
        asyncio.get_running_loop().call_later(_SETTLED_S, self._files_settled)

    def _files_settled(self) -> None:
        list(self._files.read())
        self._watch_files()
        self._reload()

    def _cgroups_changed(self) -> None:
        news = self._census.read()
        self._arrivals.take(news)
        self._look_all({cgroup for path in news.peopled if (cgroup := self._census.id_of(path)) is not None})

    def _look_all(self, workloads: Iterable[int]) -> None:
        for workload in list(workloads):
            self._look(workload)

    def _look(self, workload: int) -> None:
        """Has the gate listen where the processes are, now and in the next moments."""
        self._look_again(workload, _LOOKS_S)

    def _look_again(self, workload: int, later_s: tuple[float, ...]) -> None:
        bound = self._enforcer.bound.get(workload)
        if bound is None:
            return
        is_done = self._enforcer.look_for_namespaces(workload, self._census.pids(bound.path))
        if later_s and not is_done:
            asyncio.get_running_loop().call_later(later_s[0], self._look_again, workload, later_s[1:])

    def _heed(self, loop: asyncio.AbstractEventLoop) -> Heed:
        def no_gate(workload: int, pid: int) -> None:
            loop.call_soon_threadsafe(self._enforcer.look_for_namespaces, workload, (pid,))

        def quarantined(workload: int, reason: Reason) -> None:
            loop.call_soon_threadsafe(self._note_quarantine, workload, reason)

        return Heed(no_gate, quarantined)

    def _note_quarantine(self, workload: int, reason: Reason) -> None:
        if self._host.note_quarantine(workload, STORIES[reason]):
            self._enforcer.cut([workload])

    def _take(self, record: Record) -> None:
        if self._hub:
            self._hub.take(record)

    async def _upgrade(self) -> None:
        """Other programs are in the kernel than this agent brings: they are replaced, with no gap."""
        try:
            await asyncio.to_thread(self._programs.upgrade)
            self._programs.retire(self._host.is_known and not self._host.failures)
            await asyncio.to_thread(remove_strays, self._instance, self._policies_left, self._first_free_id)
        except (ExeatError, OSError) as error:
            _log.error("the programs in the kernel stay as they were: %s", error)
            self._story.notes["programs"] = f"the programs in the kernel stay as they were: {error}"

    async def _remove(self, policy_ids: list[int]) -> None:
        async with self._removing:
            for policy_id in policy_ids:
                try:
                    await asyncio.to_thread(self._tables.remove, policy_id)
                except ExeatError as error:  # the next agent tries again
                    self._story.notes["tables"] = f"a table set that nobody uses stays in the kernel: {error}"

    def _in_background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _keep(self) -> None:
        """What the next agent should know; it could do without, only slower. After it is enforced."""
        self._shelf.save()
        self._host.wishes.keep()
        try:
            self._sets.remember()
            self._story.notes.pop("sets", None)
        except OSError as error:
            self._story.notes["sets"] = f"{error}: the next agent will write all tables anew"

    def _mark_alive(self) -> None:
        try:
            self._alive.touch(mode=0o600)
            os.utime(self._alive)
            self._story.notes.pop("alive", None)
        except OSError as error:
            self._story.notes["alive"] = (
                f"{self._alive}: {error.strerror}; the next agent cannot say how long it was away"
            )

    def _tell_endings(self) -> None:
        news = due(endings_of(self._host), self._told_endings, datetime.now(UTC))
        self._told_endings = news.told
        for ending in news.notices:
            what = f"rule {ending.rule} of policy {ending.policy}" if ending.rule else f"policy {ending.policy}"
            _log.warning("%s ends within %d days, at %s: then it allows nothing", what, ending.days, ending.expires)

    def _sentence(self) -> str:
        return f"{len(self._enforcer.bound)} workloads, {len(self._shelf.in_force)} policies"
