"""A leaf cgroup for one command under `exeat.slice` in the cgroup2 hierarchy: made, emptied and removed."""

import errno
import os
import re
import select
import time
from dataclasses import dataclass
from pathlib import Path

from exeat.errors import LaunchError

SLICE = "exeat.slice"
_EMPTY_WITHIN_S = 10.0  # cgroup.kill is immediate but for tasks in uninterruptible sleep
_ATTEMPTS = 100


@dataclass(frozen=True)
class Leaf:
    """One command's cgroup. It stays a valid name for clean-up when the directory is gone."""

    name: str
    directory: Path  # in the file system, /sys/fs/cgroup/exeat.slice/run-...
    cgroup_path: str  # in the hierarchy, /exeat.slice/run-...
    cgroup_id: int  # what bpf_get_current_cgroup_id answers: the directory's inode number


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo; proc(5) names the fields."""

    mount_id: int
    device: str
    root: str
    path: str
    kind: str


def read_mounts() -> list[Mount]:
    """Every mount of this mount namespace, those that others cover included."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        mount_id, _, device, root, path = before.split(" ")[:5]
        mounts.append(Mount(int(mount_id), device, _unescape(root), _unescape(path), after.split(" ")[0]))
    return mounts


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def slice_directory() -> Path:
    """Where `exeat.slice` is, or would be; the hierarchy is looked up because hybrid hosts mount it elsewhere."""
    for mount in read_mounts():
        if mount.kind == "cgroup2":
            if not Path(mount.path, "cgroup.procs").exists():
                continue  # covered by another mount
            return Path(mount.path, SLICE)
    raise LaunchError("this host has no cgroup2 mount; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup")


def make_leaf(name: str) -> Leaf:
    """A new leaf; another run may remove the empty slice at any moment, so both steps are tried again."""
    directory = slice_directory() / name
    for _ in range(_ATTEMPTS):
        directory.parent.mkdir(mode=0o755, exist_ok=True)
        try:
            directory.mkdir(mode=0o755)
        except FileNotFoundError:
            continue
        if not (directory / "cgroup.kill").exists():
            directory.rmdir()
            raise LaunchError("this kernel has no cgroup.kill, so a command could outlive its run; Linux 5.14 has it")
        return leaf_named(name, directory.stat().st_ino)
    raise LaunchError(f"{directory.parent} disappears as fast as it is made; is something else removing it?")


def leaf_named(name: str, cgroup_id: int) -> Leaf:
    """The value for a leaf whose id is known, whether or not it still exists."""
    return Leaf(name, slice_directory() / name, f"/{SLICE}/{name}", cgroup_id)


def enter(directory: Path) -> None:
    """Move the calling process into the cgroup."""
    (directory / "cgroup.procs").write_text("0")


def inner_pids(directory: Path) -> set[int]:
    """What the processes of the cgroup are numbered in their own PID namespace."""
    numbers: set[int] = set()
    for pid in (directory / "cgroup.procs").read_text().split():
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        numbers.update(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))
    return numbers


def remove(directory: Path) -> None:
    """Kill whatever is inside, then remove the cgroup and those below it; nothing there is fine too."""
    try:
        (directory / "cgroup.kill").write_text("1")
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENODEV:  # removed between open and write
            raise
    deadline = time.monotonic() + _EMPTY_WITHIN_S
    _wait_until_empty(directory, deadline)
    while True:
        try:
            for path, _, _ in os.walk(directory, topdown=False):
                os.rmdir(path)
            return
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def _wait_until_empty(directory: Path, deadline: float) -> None:
    try:
        with (directory / "cgroup.events").open() as events:
            changes = select.poll()
            changes.register(events, select.POLLPRI)
            while "populated 1" in events.read():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(errno.ETIMEDOUT, "processes survive SIGKILL", str(directory))
                changes.poll(left * 1000)
                events.seek(0)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def remove_slice() -> None:
    """Remove `exeat.slice` if this was the last run."""
    try:
        slice_directory().rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
