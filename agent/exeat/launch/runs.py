"""The record of every run: /run/exeat/runs/NAME, locked for as long as its supervisor or its guardian lives.

A record that nobody locks belongs to a run whose owners are dead; the next run ends it in their place. The record comes
into being already locked and before its cgroup, and goes after it, so no moment looks like somebody else's left-over.
"""

import fcntl
import json
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from exeat.launch.cgroup import Leaf, leaf_named, remove, remove_slice, slice_directory

RUNS = Path("/run/exeat/runs")

_log = logging.getLogger(__name__)

OnEnd = Callable[[Leaf], None]


def new_name() -> str:
    """A name that no other run has: the supervisor's pid is for people, the rest for uniqueness."""
    return f"run-{os.getpid()}-{secrets.token_hex(6)}"


def open_unnamed_record() -> int:
    """A locked record that has no name yet, so that whoever dies now leaves nothing."""
    RUNS.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = os.open(RUNS, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(record, fcntl.LOCK_EX)
    return record


def publish(record: int, name: str) -> None:
    """Give the record its name."""
    directory = os.open(RUNS, os.O_PATH | os.O_CLOEXEC)
    try:
        # With a directory descriptor Python calls linkat(), which alone follows the link to the unnamed file.
        os.link(f"/proc/self/fd/{record}", name, dst_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(directory)


def write_leaf(record: int, leaf: Leaf) -> None:
    """Note the cgroup id: it is needed for clean-up even when the cgroup is gone."""
    os.pwrite(record, json.dumps({"cgroup_id": leaf.cgroup_id, "pid": os.getpid()}).encode(), 0)


def end_run(name: str, on_end: OnEnd) -> None:
    """Kill what is left of the run, remove its cgroup, call `on_end`, forget it. May be repeated at any point."""
    leaf = _recorded_leaf(name)
    if leaf:
        remove(leaf.directory)
        on_end(leaf)
    (RUNS / name).unlink(missing_ok=True)
    remove_slice()


def sweep(on_end: OnEnd) -> None:
    """End every run whose supervisor and guardian are both gone."""
    RUNS.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in sorted(RUNS.iterdir()):
        _sweep_record(path, on_end)
    directory = slice_directory()
    for cgroup in sorted(directory.glob("run-*")) if directory.exists() else ():
        if not (RUNS / cgroup.name).exists():
            _end_dead_run(cgroup.name, on_end)


def _end_dead_run(name: str, on_end: OnEnd) -> None:
    """A process that survives SIGKILL (in a dead NFS mount, say) must not keep later runs from starting."""
    try:
        end_run(name, on_end)
    except OSError as error:
        _log.warning("%s is left over from a dead run and could not be removed: %s", name, error)


def _sweep_record(path: Path, on_end: OnEnd) -> None:
    try:
        record = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(record).st_nlink:  # else another sweep was faster
            _end_dead_run(path.name, on_end)
    except BlockingIOError:
        return
    finally:
        os.close(record)


def _recorded_leaf(name: str) -> Leaf | None:
    try:
        text = (RUNS / name).read_text()
    except FileNotFoundError:
        text = ""
    if text:
        return leaf_named(name, json.loads(text)["cgroup_id"])
    try:
        return leaf_named(name, (slice_directory() / name).stat().st_ino)
    except FileNotFoundError:
        return None


def running() -> list[str]:
    """The runs whose supervisor or guardian lives."""
    names = []
    for path in sorted(RUNS.iterdir()) if RUNS.is_dir() else ():
        with path.open() as record:
            try:
                fcntl.flock(record, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                names.append(path.name)
    return names
