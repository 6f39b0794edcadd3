"""One agent at a time: whoever has the lock on the state directory may write to the kernel's tables."""

import fcntl
import os
from pathlib import Path

from exeat.errors import ExeatError


def take_state(runtime: Path) -> tuple[Path, int]:
    """The directory of an agent's state and the lock on it, which ends with this process. Raises ExeatError."""
    state = runtime / "state"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # a file would need room on the disk
    except OSError as error:
        raise ExeatError(
            f"{state}: {error.strerror}: the agent needs this directory; see `runtime` in its settings"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ExeatError(
            f"{state}: an agent runs here already ({error.strerror}): systemctl stop exeat, or name another `runtime`"
        ) from error
    return state, lock
