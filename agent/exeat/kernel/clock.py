"""The kernel's clock, which nobody sets, against the wall's."""

import time


def clock_offset_ns() -> int:
    """What the wall clock is ahead of the kernel's (CLOCK_BOOTTIME); another one once somebody sets it."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
