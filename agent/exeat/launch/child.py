"""The two processes of a run: the init of its PID namespace, and the command, up to the moment it is the command."""

import json
import os
import select
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from exeat.errors import LaunchError
from exeat.launch import privileges, signals, syscalls
from exeat.launch.cgroup import Leaf, enter
from exeat.launch.descriptors import FIRST, keep_only, silence_standard
from exeat.launch.identity import Identity
from exeat.launch.mounts import build_view

EXEAT_FAILED = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
READY = b"r"

# They speak of descriptors that the command no longer has.
_STALE = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(frozen=True)
class Command:
    """What to run, as whom, and in which cgroup."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    identity: Identity
    leaf: Leaf


def run_init(leaf: Leaf, ready: int, supervisor: int) -> NoReturn:
    """Be process 1 of the command's PID namespace: reap orphans, and take everybody along when the supervisor dies."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        # The command must not look through /proc/1/root at the host's own mounts.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        syscalls.prctl(syscalls.PR_SET_NAME, b"exeat-init")
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        keep_only(ready, supervisor)
        silence_standard()
        supervisor_is_dead = bool(select.select([FIRST + 1], [], [], 0)[0])  # before the death signal was set
        if not supervisor_is_dead:
            enter(leaf.directory)
            os.chdir("/")
            os.write(FIRST, READY)
            syscalls.close_fds_from(FIRST)
            _reap_for_ever()
    finally:
        os._exit(EXEAT_FAILED)


def _reap_for_ever() -> NoReturn:
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            continue


def run_command(command: Command, report: int, mask: signals.Mask) -> NoReturn:
    """Become the command. What prevents it is written to `report` as one JSON object; exec closes it empty."""
    failure = LaunchError("the child ended before it became the command")
    try:
        keep_only(report)
        failure = _become(command, mask)
    finally:
        unexpected = sys.exc_info()[1]
        if unexpected is not None:
            failure = LaunchError(f"{type(unexpected).__name__} before the command could start: {unexpected}")
        os.write(FIRST, json.dumps({"text": str(failure), "status": failure.exit_status}).encode())
        os._exit(failure.exit_status)


def read_failure(report: int) -> LaunchError | None:
    """What run_command() wrote, once it has ended or become the command."""
    with os.fdopen(report) as lines:
        text = lines.read()
    if not text:
        return None
    told = json.loads(text)
    return LaunchError(told["text"], told["status"])


def _become(command: Command, mask: signals.Mask) -> LaunchError:
    """Return only if it did not work."""
    environment = {**command.environment, **(command.identity.environment if not command.identity.is_root else {})}
    for name in _STALE:
        environment.pop(name, None)
    try:
        enter(command.leaf.directory)
        build_view(command.identity)
        privileges.drop(command.identity)
    except LaunchError as error:
        return error
    except OSError as error:
        return LaunchError(f"the command could not be confined and was not started: {error}")
    try:
        signals.restore_for_exec(mask)
        os.execvpe(command.argv[0], list(command.argv), environment)
    except OSError as error:
        return _explain(command.argv[0], environment, error)


def _explain(name: str, environment: Mapping[str, str], error: OSError) -> LaunchError:
    """Tell apart what a shell tells apart, as env(1) and docker do."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return LaunchError(f"cannot execute '{name}': {error.strerror}", NOT_EXECUTABLE)
    if shutil.which(name, path=environment.get("PATH")):
        return LaunchError(f"cannot execute '{name}': the interpreter in its first line does not exist", NOT_FOUND)
    where = "there is no such file" if "/" in name else "no directory in PATH has it"
    return LaunchError(f"cannot find '{name}': {where}", NOT_FOUND)
