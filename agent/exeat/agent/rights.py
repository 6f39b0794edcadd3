"""Rights of a workload's processes with which it can get around what judges it (docs/threat-model.md shows how)."""

from collections.abc import Iterable
from itertools import islice

_TELLING = {  # linux/capability.h
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_BPF": 39,
}
_PROCESSES_MAX = 256  # that are looked at


def rights_of(pids: Iterable[int], *, frames_are_stopped: bool) -> tuple[str, ...]:
    """Those that any of these processes has now; a process may have them in a user namespace of its own only."""
    held = 0
    for pid in islice(pids, _PROCESSES_MAX):
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
                held |= next((int(line.split()[1], 16) for line in status if line.startswith("CapPrm:")), 0)
        except OSError:  # it has gone
            continue
    if frames_are_stopped:
        held &= ~(1 << _TELLING["CAP_NET_RAW"])
    return tuple(name for name, number in _TELLING.items() if held >> number & 1)
