"""Has gates listen where the processes of their workloads are, and nowhere else; a guest's on this host."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator

from exeat.agent.census import Census
from exeat.agent.enforcer import Bound, Enforcer
from exeat.agent.interface_ids import is_interface

_STEPS = 13
# A runtime has a container's first process enter its cgroup, then its namespace, and later become the program; and its
# loopback may come up after that. Each time it has been there half as long again it is looked for: for 2.6 seconds.
_LATER_S = tuple(0.01 * 1.5**step for step in range(_STEPS))


class Looks:
    """Belongs to the control loop. `open_for_guest` has the gate of an interface listen; whether it does."""

    def __init__(self, enforcer: Enforcer, census: Census, open_for_guest: Callable[[Bound], bool]) -> None:
        self._enforcer = enforcer
        self._census = census
        self._open_for_guest = open_for_guest
        self._own_namespace = os.stat("/proc/self/ns/net").st_ino
        self._turns: dict[int, asyncio.TimerHandle] = {}  # of workloads that are followed

    def look(self, workload: int) -> None:
        """Looks now, and follows it if somewhere it cannot listen yet."""
        if not self._look(workload):
            self._follow(workload, _LATER_S)

    def look_at_all(self, workloads: Iterable[int]) -> None:
        """The same for several."""
        for workload in list(workloads):
            self.look(workload)

    def follow(self, workloads: Iterable[int]) -> None:
        """Looks now and in the next moments after those whose first processes may be on their way somewhere else."""
        for workload in list(workloads):
            self._look(workload)
            self._follow(workload, _LATER_S)

    def look_where(self, workload: int, pids: Iterable[int]) -> bool:
        """Has the gate listen wherever these processes are; whether that is so now."""
        bound = self._enforcer.bound.get(workload)
        if bound is None:
            return True
        if is_interface(workload):
            return self._open_for_guest(bound)
        seen: dict[int, int] = {}
        for inode, pid in _namespaces(pids):
            seen.setdefault(inode, pid)
        if not seen and not bound.namespaces:
            seen[self._own_namespace] = os.getpid()  # where its first process will most likely be
        is_done = True
        for inode, pid in seen.items():
            bound.unseen.pop(inode, None)
            if inode not in bound.namespaces:
                is_done = self._open_in(bound, inode, pid) and is_done
        return is_done

    def look_abroad(self) -> None:
        """After those in other namespaces than this one: a listener keeps a namespace alive that everybody has left."""
        own = {self._own_namespace}
        for workload, bound in list(self._enforcer.bound.items()):
            if bound.namespaces.keys() - own:
                pids = list(self._census.pids(bound.path))
                self.look_where(workload, pids)
                self._leave(bound, pids)

    def _look(self, workload: int) -> bool:
        bound = self._enforcer.bound.get(workload)
        if bound is None:
            return True
        return self.look_where(workload, () if is_interface(workload) else self._census.pids(bound.path))

    def _follow(self, workload: int, later_s: tuple[float, ...]) -> None:
        before = self._turns.pop(workload, None)
        if before:
            before.cancel()
        if later_s and workload in self._enforcer.bound:
            loop = asyncio.get_running_loop()
            self._turns[workload] = loop.call_later(later_s[0], self._look_again, workload, later_s[1:])

    def _look_again(self, workload: int, later_s: tuple[float, ...]) -> None:
        is_done = self._look(workload)
        self._follow(workload, () if is_done and is_interface(workload) else later_s)

    def _leave(self, bound: Bound, pids: Iterable[int]) -> None:
        """Where nobody of the workload was seen twice in a row, its gate ends."""
        inodes = {inode for inode, _ in _namespaces(pids)}
        for inode, network in list(bound.namespaces.items()):
            if inode in inodes or inode == self._own_namespace:
                bound.unseen.pop(inode, None)
            else:
                bound.unseen[inode] = bound.unseen.get(inode, 0) + 1
                if bound.unseen[inode] > 1:
                    bound.house.leave(network)
                    del bound.namespaces[inode], bound.unseen[inode]

    def _open_in(self, bound: Bound, inode: int, pid: int) -> bool:
        if inode == self._own_namespace:
            bound.namespaces[inode] = bound.house.open()
            return True
        try:
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return True  # it has gone; whoever is there besides is looked at next time
        try:
            bound.namespaces[inode] = bound.house.open(fd)
        except OSError:  # its loopback is not up yet
            return False
        finally:
            os.close(fd)
        return True


def _namespaces(pids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The inodes of the network namespaces in which these processes are, each with the process."""
    for pid in pids:
        try:
            yield os.stat(f"/proc/{pid}/ns/net").st_ino, pid
        except OSError:  # it has gone
            continue
