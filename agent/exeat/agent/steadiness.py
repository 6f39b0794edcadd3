"""So that no answer waits for what has nothing to do with it."""

import fcntl
import gc
import os
import resource

_DESCRIPTORS = 65_536  # half a megabyte of the kernel's memory; a guest needs six


def steady() -> None:
    """Once everything is there: the garbage collector looks no more at it, and the table of descriptors is wide.

    Kernel quirk: where a table of several threads grows, open() waits for a grace period of RCU, 12 ms at 250 Hz.
    """
    gc.freeze()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = _DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, _DESCRIPTORS)
    one = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, room - 1))
    finally:
        os.close(one)
