"""So that no answer waits for what has nothing to do with it."""

import fcntl
import gc
import os
import resource

_DESCRIPTORS = 65_536  # half a megabyte of the kernel's memory; a guest needs six
_LIMIT = 131_072  # as packaging/exeat.service has it, for where nobody could say so: in a pod


def allow_descriptors(most: int = _LIMIT) -> None:
    """As many as the hard limit lets it have: each workload needs four, and a runtime may give 1,024 in all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
