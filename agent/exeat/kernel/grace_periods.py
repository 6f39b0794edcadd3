"""Shorter grace periods of RCU, for the moment of a call that waits for one: 0.05 instead of 12 milliseconds.

It is a setting of the whole kernel, which costs every CPU an interrupt: nobody has it for longer than it takes.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

EXPEDITED = Path("/sys/kernel/rcu_expedited")
# Who has the setting changed has a lock on this file, in which stands what it was before: should he be killed, the next
# one puts that back.
LOCK = Path("/run/exeat/rcu_expedited")


@contextmanager
def short_grace_periods() -> Iterator[None]:
    """Where the kernel lets us. Else, and while somebody else has them short, everything is as it is."""
    before: bytes | None = None
    setting = lock = -1
    try:
        with suppress(OSError):
            lock = _locked()
            setting = os.open(EXPEDITED, os.O_RDWR | os.O_CLOEXEC)
            before = _begin(setting, lock)
        yield
    finally:
        if before is not None:
            os.pwrite(setting, before, 0)
            os.ftruncate(lock, 0)
        for fd in (setting, lock):
            if fd >= 0:
                os.close(fd)


def _locked() -> int:
    LOCK.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _begin(setting: int, lock: int) -> bytes | None:
    """What is to be put back; None: nothing, as somebody wants them short anyway."""
    before = os.pread(lock, 16, 0) or os.pread(setting, 16, 0)  # or what one who was killed had found
    if before.strip() != b"0":
        return None
    os.pwrite(lock, before, 0)
    os.pwrite(setting, b"1\n", 0)
    return before
