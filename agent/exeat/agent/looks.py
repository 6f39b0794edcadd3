"""Has gates listen where the processes of their workloads are, and nowhere else; a guest's on this host.

A workload may have ten thousand processes, in as many namespaces: they are gone through a slice at a time.
"""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from exeat.agent.census import Census, News
from exeat.agent.enforcer import Bound, Enforcer
from exeat.agent.interface_ids import is_interface
from exeat.errors import KernelError

_STEPS = 12
# A runtime has a container's first process enter its cgroup, then its namespace, and later become the program; and its
# loopback may come up after that. Each time it has been there half as long again it is looked for: for 2.6 seconds.
_LATER_S = tuple(0.01 * 1.5**step for step in range(_STEPS))
_FOLLOWED_MAX = 4096
_SLICE_S = 0.01
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
NAMESPACES_MAX = 1024  # of one workload: a policy for all pods of a node has hundreds


@dataclass(slots=True)
class _Walk:
    """Through the processes of a workload, or of one cgroup below it."""

    pids: Iterator[int]
    seen: set[int] = field(default_factory=set)  # inodes of namespaces
    is_whole: bool = True  # so far it can listen wherever it has to
    leaves: bool = False  # where nobody was seen, its gate ends
    again: bool = False  # somebody wanted another one meanwhile


class Enter(Protocol):
    """What else has to be done where a workload is."""

    def __call__(self, inode: int, pid: int, *, is_new: bool) -> None:
        """Raises OSError or KernelError where it cannot."""


_Place = tuple[int, str]  # a workload, and the cgroup at or below it where processes are looked for


class Looks:
    """Belongs to the control loop. `open_for_guest` has the gate of an interface listen; whether it does.

    `enter` is told of each namespace, by its inode and a process there, whenever it is looked at.
    """

    def __init__(
        self,
        enforcer: Enforcer,
        census: Census,
        open_for_guest: Callable[[Bound], bool],
        enter: Enter,
    ) -> None:
        self.complaint = ""
        self._enforcer = enforcer
        self._census = census
        self._open_for_guest = open_for_guest
        self._enter = enter
        self._own_namespace = os.stat("/proc/self/ns/net").st_ino
        self._turns: dict[_Place, asyncio.TimerHandle] = {}  # of those that are followed
        self._walks: dict[_Place, _Walk] = {}  # that are not through yet

    def look(self, workload: int) -> None:
        """Looks now, and follows it if somewhere it cannot listen yet."""
        place = self._place(workload)
        if place and not self._look(place):
            self._later(place, _LATER_S)

    def look_at_all(self, workloads: Iterable[int]) -> None:
        """The same for several."""
        for workload in list(workloads):
            self.look(workload)

    def follow(self, workload: int) -> None:
        """Looks now and in the next moments: its first processes may be on their way somewhere else."""
        if place := self._place(workload):
            self._follow(place)

    def hear(self, news: News) -> None:
        """Processes came into workloads, or cgroups appeared below them, where a container's first ones will be."""
        bound = self._enforcer.bound
        for path in news.peopled:
            if (workload := self._census.id_of(path)) in bound:
                self._follow((workload, path))
        for path in news.came:
            above = self._enforcer.nearest(path, self._census.id_of)
            if above and (above.id, path) not in self._turns:  # else it was followed when it was settled, just now
                self._follow((above.id, path))

    def look_where(self, workload: int, pids: Iterable[int]) -> None:
        """Has the gate listen wherever these few processes are."""
        bound = self._enforcer.bound.get(workload)
        if bound is None:
            return
        if is_interface(workload):
            self._open_for_guest(bound)
            return
        walk = _Walk(iter(pids))
        for pid in walk.pids:
            self._visit(bound, pid, walk)

    def look_abroad(self) -> None:
        """After those in other namespaces than this one: a listener keeps a namespace alive that everybody has left."""
        self.complaint = ""
        for workload, bound in list(self._enforcer.bound.items()):
            if bound.namespaces.keys() - {self._own_namespace}:
                self._look((workload, bound.path), leaves=True)

    def _place(self, workload: int) -> _Place | None:
        bound = self._enforcer.bound.get(workload)
        return (workload, bound.path) if bound else None

    def _follow(self, place: _Place) -> None:
        self._look(place)
        self._later(place, _LATER_S)

    def _later(self, place: _Place, later_s: tuple[float, ...]) -> None:
        before = self._turns.pop(place, None)
        if before:
            before.cancel()
        if later_s and place[0] in self._enforcer.bound and len(self._turns) < _FOLLOWED_MAX:
            loop = asyncio.get_running_loop()
            self._turns[place] = loop.call_later(later_s[0], self._look_again, place, later_s[1:])

    def _look_again(self, place: _Place, later_s: tuple[float, ...]) -> None:
        is_done = self._look(place)
        self._later(place, () if is_done and is_interface(place[0]) else later_s)

    def _look(self, place: _Place, *, leaves: bool = False) -> bool:
        """Whether the gate listens wherever it has to; not if that is not known yet."""
        workload, path = place
        bound = self._enforcer.bound.get(workload)
        if bound is None:
            return True
        if is_interface(workload):
            return self._open_for_guest(bound)
        if going := self._walks.get(place):
            going.again = True
            return False
        walk = self._walks[place] = _Walk(self._census.pids(path), leaves=leaves)
        self._go_on(place)
        return place not in self._walks and walk.is_whole

    def _go_on(self, place: _Place) -> None:
        walk, bound = self._walks[place], self._enforcer.bound.get(place[0])
        if bound is None:  # it has gone
            del self._walks[place]
            return
        is_through = True
        try:
            is_through = self._go_through(bound, walk)
        finally:  # whatever was wrong with it: the next look is another one
            if is_through:
                del self._walks[place]
        if not is_through:
            asyncio.get_running_loop().call_soon(self._go_on, place)
            return
        if not walk.seen and not bound.namespaces:  # where its first process will most likely be
            walk.is_whole = self._open_in(bound, self._own_namespace, os.getpid())
        if walk.leaves:
            self._leave(bound, walk.seen)
        if walk.again:
            asyncio.get_running_loop().call_soon(self._look, place)

    def _go_through(self, bound: Bound, walk: _Walk) -> bool:
        """Whether it is through; not if there is more than a slice of it."""
        deadline = time.monotonic() + _SLICE_S
        for pid in walk.pids:
            self._visit(bound, pid, walk)
            if time.monotonic() > deadline:
                return False
        return True

    def _visit(self, bound: Bound, pid: int, walk: _Walk) -> None:
        try:
            inode = os.stat(f"/proc/{pid}/ns/net").st_ino
        except OSError:  # it has gone
            return
        if inode in walk.seen:
            return
        walk.seen.add(inode)
        bound.unseen.pop(inode, None)
        is_new = inode not in bound.namespaces
        if is_new:
            walk.is_whole = self._open_in(bound, inode, pid) and walk.is_whole
        if inode != self._own_namespace:
            try:
                self._enter(inode, pid, is_new=is_new)
            except (FileNotFoundError, ProcessLookupError):
                return  # it has gone
            except (OSError, KernelError) as error:
                self.complaint = f"{bound.name} is in a network namespace where its frames are not stopped: {error}"
                walk.is_whole = False

    def _leave(self, bound: Bound, seen: set[int]) -> None:
        """Where nobody of the workload was seen twice in a row, its gate ends."""
        for inode, network in list(bound.namespaces.items()):
            if inode in seen or inode == self._own_namespace:
                bound.unseen.pop(inode, None)
            else:
                bound.unseen[inode] = bound.unseen.get(inode, 0) + 1
                if bound.unseen[inode] > 1:
                    bound.house.leave(network)
                    del bound.namespaces[inode], bound.unseen[inode]

    def _open_in(self, bound: Bound, inode: int, pid: int) -> bool:
        if len(bound.namespaces) >= NAMESPACES_MAX:
            self.complaint = (
                f"{bound.name} is in more than {NAMESPACES_MAX} network namespaces: in the others it resolves no name"
            )
            return True
        try:
            if inode == self._own_namespace:
                bound.namespaces[inode] = bound.house.open()
            else:
                fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    bound.namespaces[inode] = bound.house.open(fd)
                finally:
                    os.close(fd)
        except (FileNotFoundError, ProcessLookupError):
            return True  # it has gone; whoever is there besides is looked at next time
        except (OSError, KernelError) as error:  # its loopback is not up yet; or there is no room
            if not isinstance(error, OSError) or error.errno in _NO_ROOM:
                self.complaint = f"{bound.name} resolves no name in a network namespace: {error}"
            return False
        bound.joined += 1
        return True
