"""One plane for one SQLite file: news of another process would not be heard. PostgreSQL may have several beside it."""

import fcntl
import os
from pathlib import Path

from exeat.plane.store.database import StoreError


def take_store(url: str) -> int | None:
    """A lock that ends with this process; None where none is needed. Commands that work on the file need none."""
    if not url.startswith("sqlite:"):
        return None
    path = Path(url.removeprefix("sqlite:"))
    beside = path.with_name(f"{path.name}.plane")
    try:
        lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"{beside}: {error.strerror}: the plane keeps other planes off its store by it") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StoreError(
            f"another plane works on {path}: end it, or give both a PostgreSQL, beside which several may work"
        ) from error
    return lock
