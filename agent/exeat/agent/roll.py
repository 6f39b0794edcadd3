"""Every place where a workload may be: cgroups, whose paths have slashes, and interfaces, whose names have none."""

from exeat.agent.census import Census, News
from exeat.agent.guest_said import GuestSaid
from exeat.agent.interface_ids import is_interface
from exeat.agent.interfaces import Interfaces


class Roll:
    """Belongs to the control loop."""

    def __init__(self, census: Census, interfaces: Interfaces) -> None:
        self.census = census
        self.interfaces = interfaces

    def id_of(self, path: str) -> int | None:
        """A workload's id; None: there is no such cgroup or interface."""
        return self._side(path).id_of(path)

    def path_of(self, workload: int) -> str | None:
        """Where it is; None: it has gone."""
        return self.interfaces.path_of(workload) if is_interface(workload) else self.census.path_of(workload)

    def paths(self) -> tuple[str, ...]:
        """All that may be workloads."""
        return self.census.paths() + self.interfaces.paths()

    def find(self, path: str) -> News:
        """Looks at one now."""
        return self._side(path).find(path)

    def is_managed(self, path: str) -> bool:
        """Whether it is judged though no policy and nobody at run time names it."""
        return not path.startswith("/") and self.interfaces.is_managed(path)

    def attend(self, workload: int, path: str, said: GuestSaid | None) -> None:
        """It is a workload from now on."""
        if is_interface(workload):
            self.interfaces.attend(workload, said)
        else:
            self.census.attend(path)

    def leave(self, workload: int) -> None:
        """It is none any more."""
        if is_interface(workload):
            self.interfaces.leave(workload)

    def _side(self, path: str) -> Census | Interfaces:
        return self.census if path.startswith("/") else self.interfaces
