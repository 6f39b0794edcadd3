"""Drives exeat.launch as `exeat run` will, without any policy; and looks at what a run left behind.

As a program: launch_fixture.py [--user NAME] [--ended FILE] [--kill-at STEP] -- COMMAND ARGUMENT...
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

AGENT = Path(__file__).resolve().parents[2] / "agent"
sys.path.insert(0, str(AGENT))

from exeat.errors import LaunchError  # noqa: E402  # the driver is started by path, without an installed package
from exeat.launch import Launch, Leaf, invoking_identity, named_identity, syscalls  # noqa: E402
from exeat.launch.cgroup import slice_directory  # noqa: E402
from exeat.launch.runs import RUNS  # noqa: E402

PYTHON = "/usr/bin/python3"  # one that every user may execute
DRIVER = (PYTHON, __file__)
CLEAN_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SUDO_")}


def exeat(*argv: str, before: tuple[str, ...] = ()) -> list[str]:
    """The command line that runs `argv` in a leaf."""
    return [*DRIVER, *before, "--", *argv]


def run(*argv: str, before: tuple[str, ...] = (), **options: object) -> subprocess.CompletedProcess[str]:
    """Run `argv` in a leaf to its end."""
    settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 60, "env": CLEAN_ENVIRONMENT}
    return subprocess.run(exeat(*argv, before=before), **{**settings, **options})  # type: ignore[call-overload,no-any-return]


def run_outside(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The twin: the same command without exeat."""
    settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(argv, **{**settings, **options})  # type: ignore[call-overload,no-any-return]


def leaves() -> set[str]:
    """The names of all leaves there are."""
    try:
        return {path.name for path in slice_directory().iterdir() if path.is_dir()}
    except FileNotFoundError:  # the last run has taken the slice with it
        return set()


def left_behind(supervisor: int, mark: str) -> list[str]:
    """What is still there of a run: its leaf, its record, processes with `mark` in their arguments, mounts."""
    found = [f"leaf {name}" for name in leaves() if name.startswith(f"run-{supervisor}-")]
    found += [f"record {path.name}" for path in RUNS.glob(f"run-{supervisor}-*")]
    found += [f"process {pid}" for pid in processes_with(mark)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return found + [f"mount {line}" for line in mounts if " - tmpfs exeat " in line]


def pids() -> list[int]:
    """Of all processes. Not by a pattern over /proc: pathlib looks whether each file exists, and a process may end."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def processes_with(mark: str) -> list[int]:
    """The pids of the processes with `mark` as an argument, zombies and the driver itself not counted."""
    found = []
    for pid in pids():
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark.encode() in arguments and __file__.encode() not in arguments:
            found.append(pid)
    return found


def guardian_of(supervisor: int) -> int:
    """The pid of the process that guards this run, found by the record that it holds."""
    for path in (Path(f"/proc/{pid}/comm") for pid in pids()):
        try:
            if path.read_text() != "exeat-guardian\n":
                continue
            held = {fd.stat().st_ino for fd in (path.parent / "fd").iterdir()}
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(record.stat().st_ino in held for record in RUNS.glob(f"run-{supervisor}-*")):
            return int(path.parent.name)
    raise AssertionError(f"nobody guards {supervisor}")


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie; reaping those is the host's init's work."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], object], what: str, within_s: float = 10) -> None:
    """Wait for the condition."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)


def main() -> int:
    """Be the supervisor."""
    options = argparse.ArgumentParser()
    options.add_argument("--user")
    options.add_argument("--ended", help="append the ended leaf's cgroup id and who ended it to this file")
    options.add_argument("--kill-at", choices=["prepared", "started", "waited"])
    options.add_argument("--without-landlock", action="store_true", help="as on Linux before 6.12")
    options.add_argument("argv", nargs="+")
    given = options.parse_args()
    supervisor = os.getpid()
    if given.without_landlock:
        syscalls.landlock_version = lambda: 0

    def on_end(leaf: Leaf) -> None:
        if given.ended:
            who = "supervisor" if os.getpid() == supervisor else "guardian"
            assert not leaf.directory.exists()
            with open(given.ended, "a") as ended:
                ended.write(f"{leaf.cgroup_id} {leaf.name} {who}\n")

    def die_at(step: str) -> None:
        if given.kill_at == step:
            os.kill(supervisor, signal.SIGKILL)

    try:
        identity = named_identity(given.user) if given.user else invoking_identity(os.environ)
        with Launch.prepare(given.argv, identity, on_end) as launch:
            die_at("prepared")
            launch.start()
            die_at("started")
            status = launch.wait()
            die_at("waited")
    except LaunchError as error:
        print(f"exeat: {error}", file=sys.stderr)
        return error.exit_status
    return status


if __name__ == "__main__":
    sys.exit(main())
