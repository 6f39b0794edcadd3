"""What is done as time goes by: ends are followed, memory is kept, what nobody uses goes."""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine
from pathlib import Path

from exeat.agent.host import Host
from exeat.agent.looks import Looks
from exeat.agent.notices import Notices
from exeat.agent.programs import Programs
from exeat.agent.readings import endings_of
from exeat.agent.sets import Sets
from exeat.agent.vitals import Story
from exeat.errors import ExeatError
from exeat.kernel.clock import clock_offset_ns
from exeat.kernel.tables import Tables

_log = logging.getLogger("exeat")
_ALIVE_NS = 1_000_000_000
_SLOW_NS = 5_000_000_000
_CLOCK_JUMP_NS = 1_000_000_000


class Upkeep:
    """Belongs to the control loop."""

    def __init__(
        self, host: Host, sets: Sets, tables: Tables, programs: Programs, looks: Looks, notices: Notices, story: Story,
        alive: Path,
    ) -> None:  # fmt: skip
        self._host = host
        self._sets = sets
        self._tables = tables
        self._programs = programs
        self._looks = looks
        self._notices = notices
        self._story = story
        self._alive = alive
        self._clock_ns = clock_offset_ns()
        self._lost = 0
        self._alive_due_ns = self._slow_due_ns = 0
        self._removing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()

    def tick(self, now_ns: int) -> None:
        """One thing that fails, as without disk or descriptors, is no reason to leave everything else undone."""
        try:
            self._tick(now_ns)
            self._story.notes.pop("tick", None)
        except (ExeatError, OSError) as error:
            if "tick" not in self._story.notes:
                _log.error("%s", error)
            self._story.notes["tick"] = f"the agent cannot do all it should: {error}"

    def keep(self) -> None:
        """What the next agent should know; it could do without, only slower. After it is enforced."""
        self._host.shelf.save()
        self._host.wishes.keep()
        try:
            self._sets.remember()
            self._story.notes.pop("sets", None)
        except OSError as error:
            self._story.notes["sets"] = f"{error}: the next agent will write all tables anew"

    def mark_alive(self) -> None:
        """The next agent tells how long nobody was there."""
        try:
            self._alive.touch(mode=0o600)
            os.utime(self._alive)
            self._story.notes.pop("alive", None)
        except OSError as error:
            why = f"{self._alive}: {error.strerror}; the next agent cannot say how long it was away"
            self._story.notes["alive"] = why

    def in_background(self, work: Coroutine[object, object, None]) -> None:
        """Something that takes a while."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def load_for_guests(self) -> None:
        """So that the first guest does not wait for the compiler. Whoever came meanwhile is judged after it."""
        try:
            await asyncio.to_thread(self._host.roll.interfaces.start)
        except (ExeatError, OSError) as error:
            _log.warning("no guest behind an interface can be judged: %s", error)  # a complaint where there is one
            return
        self._looks.look_at_all(self._host.retry())

    def finish(self) -> None:
        """Ends what is under way; what is left undone the next agent does."""
        for task in self._background:
            task.cancel()
        self.mark_alive()

    def _tick(self, now_ns: int) -> None:
        enforcer = self._host.enforcer
        changed = (*self._host.expire(time.time_ns(), now_ns), *self._host.heed_session_keys())
        self._story.note("sessions", self._host.assigning.sessions.complaint)
        self._host.roll.interfaces.frames.work()
        enforcer.tick(now_ns)
        enforcer.cut(changed)
        if now_ns >= self._alive_due_ns:
            self._alive_due_ns = now_ns + _ALIVE_NS
            self.mark_alive()
            self.keep()
        if now_ns < self._slow_due_ns:
            return
        self._slow_due_ns = now_ns + _SLOW_NS
        self._heed_clock()
        self._heed_losses()
        self._programs.mend()
        self._programs.retire(self._host.is_settled)
        self._notices.tell(endings_of(self._host))
        self._story.note("notices", self._notices.complaint)
        self._story.note("looks", self._looks.complaint)  # of the last five seconds
        self._looks.look_abroad()
        self._look_for_cgroups()
        interfaces = self._host.roll.interfaces
        interfaces.mend(now_ns)
        if interfaces.is_to_be_tried_again(now_ns) and self._host.has_guests_unjudged:
            self.in_background(self.load_for_guests())
        self._looks.look_at_all(self._host.retry())
        if gone := enforcer.collect(now_ns):
            self.in_background(self._remove(gone))

    def _look_for_cgroups(self) -> None:
        """While the kernel does not tell of them all."""
        census = self._host.roll.census
        self._story.note("cgroups", census.complaint)
        if census.complaint:
            news = census.look()
            for workload in self._host.take(news):
                self._looks.follow(workload)
            self._looks.hear(news)

    def _heed_clock(self) -> None:
        offset_ns = clock_offset_ns()
        if abs(offset_ns - self._clock_ns) < _CLOCK_JUMP_NS:
            return
        self._clock_ns = offset_ns
        _log.warning("the wall clock was set: when rules end is reckoned anew")
        self._host.assigning.clock_changes += 1
        self._host.enforcer.cut(self._host.settle_all())

    def _heed_losses(self) -> None:
        """Verdicts that did not fit into the ring are counted by the kernel; the journal hears of it as well."""
        lost = self._tables.lost_events()
        if lost > self._lost:
            _log.warning("%d verdicts more were lost before they could be read, %d in all", lost - self._lost, lost)
        self._lost = lost

    async def _remove(self, policy_ids: list[int]) -> None:
        async with self._removing:
            try:
                await asyncio.to_thread(self._tables.remove, *policy_ids)
            except ExeatError as error:  # the next agent tries again
                self._story.notes["tables"] = f"a table set that nobody uses stays in the kernel: {error}"
