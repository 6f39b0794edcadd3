"""Where cgroup2 and the BPF file system are mounted; found, never assumed."""

import ctypes
import os
from pathlib import Path

from exeat.errors import KernelError

BPF_MOUNT = Path("/sys/fs/bpf")
_MADE_BY_US = Path("/run/exeat/mounted-bpf")
_ROOT_CGROUP = 1  # its inode, in every hierarchy
_PRELOADED = ".debug"  # files that some kernels put into every BPF file system


def mount_point(kind: str) -> Path | None:
    """The first mount of a file system of this kind."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == kind and before.split()[3] == "/":
            return Path(before.split()[4])
    return None


def levels_above(mount: Path) -> int | None:
    """How many levels a cgroup2 mount is below the root of all, as in a cgroup namespace; None: nobody can say."""
    if mount.stat().st_ino == _ROOT_CGROUP:
        return 0
    try:  # a kernel thread is in the root of all
        if Path("/proc/2/comm").read_text() == "kthreadd\n":
            line = next(one for one in Path("/proc/2/cgroup").read_text().splitlines() if one.startswith("0::"))
            return line.count("..")
    except (OSError, StopIteration):
        return None  # they are not to be seen here
    return None


def bpf_root() -> Path:
    """The BPF file system, mounted where it belongs if nobody has."""
    found = mount_point("bpf")
    if found:
        return found
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", str(BPF_MOUNT).encode(), b"bpf", 0x2 | 0x4 | 0x8, b"mode=0700") != 0:
        raise KernelError(
            f"cannot mount the BPF file system at {BPF_MOUNT}: {os.strerror(ctypes.get_errno())}. "
            "Run as root, outside of a container or with /sys/fs/bpf mounted into it"
        )
    _MADE_BY_US.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _MADE_BY_US.touch()
    return BPF_MOUNT


def release_bpf_root() -> None:
    """Unmounts the BPF file system if exeat mounted it and nothing is left in it."""
    if not _MADE_BY_US.exists() or any(entry.suffix != _PRELOADED for entry in BPF_MOUNT.iterdir()):
        return
    _MADE_BY_US.unlink(missing_ok=True)
    ctypes.CDLL(None).umount2(str(BPF_MOUNT).encode(), 0x2)
