"""What every runtime can be asked."""

from pathlib import Path
from typing import Protocol

from exeat.model.identity import Identity


class Runtime(Protocol):
    """One that is reached over a socket of this host."""

    name: str  # docker, podman or cri, as CgroupName.runtime has it
    socket: Path

    async def find(self, container_id: str) -> Identity | None:
        """None: it has no such container, yet; a pod's sandbox becomes known only some time after its cgroup.

        Raises ExeatError with a sentence when it cannot say.
        """

    async def close(self) -> None:
        """It is asked nothing more."""
