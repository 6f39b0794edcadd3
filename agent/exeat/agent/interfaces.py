"""The network interfaces of the host as they come and go, and the guests behind those that somebody manages.

An interface is what a cgroup is elsewhere: its name stands for a path, and INTERFACE_BIT with its index for the id.
"""

import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial

from exeat.agent.census import News
from exeat.agent.enforcer import Bound
from exeat.agent.frames import Frames
from exeat.agent.guest_said import GuestSaid
from exeat.agent.guests import Guests
from exeat.agent.interface_ids import index_of, is_interface, workload_of
from exeat.core.globs import Globs
from exeat.errors import ExeatError, KernelError
from exeat.interface_settings import InterfaceSettings
from exeat.kernel.frames import FrameGuard
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.guests import GuestTables, Learnt
from exeat.kernel.instance import Instance
from exeat.kernel.network_links import LinkNews, NetworkLink, NetworkLinks

_START_AGAIN_NS = 60 * 10**9
_FEW = 3  # of which what they learnt is read one by one
_MEND_NS = 30 * 10**9  # the kernel is asked about each of them


def open_interfaces(
    instance: Instance, hooks: GuestHooks, guard: FrameGuard, settings: InterfaceSettings
) -> "Interfaces":
    """Those of this network namespace. Nothing is loaded or looked at yet."""
    links, tables = NetworkLinks(), GuestTables(instance)
    guests = Guests(hooks, tables, links, settings)
    return Interfaces(links, hooks, tables, guests, Frames(guard, links), settings.managed)


class Interfaces:
    """Belongs to the control loop; start() may run elsewhere. `managed`: patterns of names that are always judged."""

    def __init__(
        self, links: NetworkLinks, hooks: GuestHooks, tables: GuestTables, guests: Guests, frames: Frames,
        managed: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.frames = frames
        self.left: set[int] = set()  # workloads whose interfaces an agent before this one had attached to
        self._links = links
        self._hooks = hooks
        self._tables = tables
        self._guests = guests
        self._managed: Globs[bool] = Globs()
        for pattern in managed:
            self._managed.setdefault(pattern, True)
        self._alive: set[int] = set()  # of those left: the interface is the same still
        self._names: dict[int, str] = {}
        self._attended: dict[int, GuestSaid | None] = {}
        self._troubles: dict[int, str] = {}  # of those that are attended
        self._mend_due_ns = self._start_due_ns = 0
        self._starting = threading.Lock()
        self._is_started = False
        self._why_not = ""  # they could not be started

    def fileno(self) -> int:
        """Readable when something has changed."""
        return self._links.fileno()

    @property
    def hook(self) -> str:
        """How programs are attached."""
        return "tcx" if self._hooks.uses_tcx else "clsact"

    @property
    def complaints(self) -> list[str]:
        """What is not as it should be."""
        return [*self._troubles.values(), *self.frames.complaints]

    def id_of(self, name: str) -> int | None:
        """An interface's id as a workload; None: there is none of this name."""
        link = self._links.named(name)
        return workload_of(link.index) if link and link.index in self._names else None

    def path_of(self, workload: int) -> str | None:
        """The name behind an id; None: it has gone."""
        return self._names.get(index_of(workload))

    def paths(self) -> tuple[str, ...]:
        """The names of all that are there, managed or not."""
        return tuple(self._names.values())

    def is_managed(self, name: str) -> bool:
        """Whether the agent's settings name it: without a policy everything is denied there."""
        return any(self._managed.covering(name))

    def begin(self) -> None:
        """Looks at everything for the first time: what is there, and what an agent before this one left."""
        if self._managed:
            self.have_started()
        self.look()
        remnants = self._hooks.remnants()
        self._alive = self._hooks.attached() if remnants else set()
        known = self._tables.known() if self._hooks.is_loaded else set()
        self.left = {workload_of(index) for index in remnants | known}

    def is_another(self, workload: int, name: str) -> bool:
        """Whether what an id stood for while no agent ran has gone, and its number was given to another interface.

        Programs end with their interface: where they are attached it is the same, whatever it is called now.
        """
        index = index_of(workload)
        if workload not in self.left:
            return self._names.get(index) != name
        return index not in self._alive

    def look(self) -> News:
        """Reads all of them."""
        return self._heed(self._links.look())

    def read(self) -> News:
        """What the kernel tells."""
        return self._heed(self._links.read())

    def find(self, name: str) -> News:
        """Looks at one now, however much of what changed is still to be read."""
        return self._heed(self._links.find(name))

    def start(self) -> None:
        """Loads the programs, which takes seconds where they must be compiled, and the gates' addresses."""
        with self._starting:
            if self._is_started:
                return
            try:
                self._guests.start()
            except (ExeatError, OSError) as error:
                self._why_not = str(error)
                raise
            self._is_started, self._why_not = True, ""

    def have_started(self) -> None:
        """Interfaces that are to come are to be judged from their first frame on. Where that fails, it is kept why."""
        if not (self._is_started or self._why_not or self._starting.locked()):
            with suppress(ExeatError, OSError):
                self.start()

    def is_to_be_tried_again(self, now_ns: int) -> bool:
        """Whether to start once more, which failed: not all the time, because the compiler takes seconds of a core."""
        if self._is_started or not self._why_not or now_ns < self._start_due_ns or self._starting.locked():
            return False
        self._start_due_ns = now_ns + _START_AGAIN_NS
        return True

    @property
    def is_started(self) -> bool:
        """Whether interfaces can be attached to at once."""
        return self._is_started

    def attend(self, workload: int, said: GuestSaid | None) -> None:
        """From now on the programs judge this guest: before any policy is there, they deny everything."""
        index = index_of(workload)
        if self._attended.get(index, _NOTHING) == said and index not in self._troubles:
            return
        self._be_ready_for(workload)
        self._attended[index] = said
        try:
            self._guests.attend(index, said)
        except (ExeatError, OSError) as error:
            self._troubles[index] = f"{self._names.get(index)}: {error}"
            raise
        self._troubles.pop(index, None)
        self.left.discard(workload)

    def leave(self, workload: int) -> None:
        """It has gone, or nobody manages it any more."""
        index = index_of(workload)
        if index not in self._attended and workload not in self.left:
            return
        self._attended.pop(index, None)
        self.left.add(workload)  # until it is done
        self._try(index, partial(self._guests.leave, index))
        if index not in self._troubles:
            self.left.discard(workload)

    def mend(self, now_ns: int) -> None:
        """Attaches again where somebody took programs away, and tries again what failed."""
        self.frames.mend(now_ns)
        if now_ns < self._mend_due_ns and not self._troubles:
            return
        self._mend_due_ns = now_ns + _MEND_NS
        for index in [one for one in self._troubles if one not in self._attended]:  # left behind, or a bridge
            if workload_of(index) in self.left:
                self.leave(workload_of(index))
            else:
                self._try(index, partial(self._guests.refresh, index))
        attached = self._hooks.attached() if self._attended else set()
        for index, said in self._attended.items():
            if index in self._names and (index not in attached or index in self._troubles):
                self._try(index, partial(self._guests.attend, index, said))

    def open_gate(self, bound: Bound) -> bool:
        """Has a guest's gate listen; whether it does."""
        return self._guests.open_gate(bound)

    def link(self, workload: int) -> NetworkLink | None:
        """The interface, as the kernel has it."""
        return self._links.of(index_of(workload))

    def learnt(self, workloads: Collection[int]) -> dict[int, Learnt]:
        """What the programs found out of guests; those of them that are no cgroups."""
        guests = [one for one in workloads if is_interface(one)]
        if len(guests) < _FEW:
            return {one: self._tables.learnt(index_of(one)) for one in guests}
        found = self._tables.learnt_all()
        return {one: found.get(index_of(one), Learnt(None, ())) for one in guests}

    def table_use(self) -> dict[str, int]:
        """How many entries the tables of guests have, if there are any."""
        return self._tables.use() if self._hooks.is_loaded else {}

    def close(self) -> None:
        """Looks no more."""
        self._links.close()

    def why_no_guest(self, workload: int) -> str:
        """Why nobody behind this interface can be judged; empty: one can."""
        link = self.link(workload)
        if link is None:
            return "the interface has gone"
        if link.is_ethernet:
            return ""
        return f"{link.name} carries no Ethernet frames: exeat judges guests behind taps, veths and the like"

    def _be_ready_for(self, workload: int) -> None:
        if why := self.why_no_guest(workload):
            raise KernelError(why)
        if self._is_started:
            return
        if self._why_not:
            raise KernelError(f"the programs for interfaces could not be loaded: {self._why_not}")
        if self._starting.locked():
            raise KernelError("the programs for interfaces are being loaded: it is judged as soon as they are")
        self.start()

    def _heed(self, links: LinkNews) -> News:
        self.frames.heed(links)
        news = News()
        for index in links.went | links.came | links.changed:
            link = self._links.of(index)
            before, now = self._names.pop(index, None), link.name if link else None
            is_new = index in links.went and index in links.came  # another one, under the index of one that has gone
            if now is not None:
                self._names[index] = now
            if before is not None and (before != now or is_new):
                news.went.add(before)
            if now is not None and (before != now or is_new):
                news.came.add(now)
            if is_new and before is not None:
                news.replaced.add(workload_of(index))
        for index in links.changed if self._attended else ():
            self._try(index, partial(self._guests.refresh, index))
        return news

    def _try(self, index: int, act: Callable[[], None]) -> None:
        try:
            act()
            self._troubles.pop(index, None)
        except (ExeatError, OSError) as error:
            self._troubles[index] = f"{self._names.get(index) or f'interface {index}'}: {error}"


_NOTHING = replace(GuestSaid(), mac="nothing was said yet")  # equal to nothing that anybody says
