"""Has gates listen where the processes of their workloads are, and nowhere else."""

import asyncio
from collections.abc import Iterable

from exeat.agent.census import Census
from exeat.agent.enforcer import Enforcer

_LATER_S = (0.01, 0.03, 0.1, 0.3, 1.0)  # a container's loopback comes up after its first process


class Looks:
    """Belongs to the control loop."""

    def __init__(self, enforcer: Enforcer, census: Census) -> None:
        self._enforcer = enforcer
        self._census = census

    def look(self, workload: int) -> None:
        """Looks now, and in the next moments if somewhere it cannot listen yet."""
        self._look(workload, _LATER_S)

    def look_at_all(self, workloads: Iterable[int]) -> None:
        """The same for several."""
        for workload in list(workloads):
            self.look(workload)

    def look_abroad(self) -> None:
        """After those in other namespaces than this one: a listener keeps a namespace alive that everybody has left."""
        for workload in self._enforcer.abroad():
            pids = list(self._census.pids(self._enforcer.bound[workload].path))
            self._enforcer.look_for_namespaces(workload, pids)
            self._enforcer.leave_namespaces(workload, pids)

    def _look(self, workload: int, later_s: tuple[float, ...]) -> None:
        bound = self._enforcer.bound.get(workload)
        if bound is None:
            return
        is_done = self._enforcer.look_for_namespaces(workload, self._census.pids(bound.path))
        if later_s and not is_done:
            asyncio.get_running_loop().call_later(later_s[0], self._look, workload, later_s[1:])
