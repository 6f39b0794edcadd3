"""A small process that outlives the supervisor, whatever kills it, and ends the run in its place.

It is no child of the supervisor's session, holds no terminal and no pipe of the command, and does nothing but wait.
"""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

from exeat.errors import LaunchError
from exeat.launch import syscalls
from exeat.launch.descriptors import FIRST, keep_only, silence_standard

_GOOD_BYE = b"e"
_LEAVES_WITHIN_MS = 2000


@dataclass(frozen=True)
class Guardian:
    """The supervisor's end of the line to its guardian."""

    pid: int
    line: socket.socket

    def dismiss(self) -> None:
        """Tell the guardian that the run has ended in order, and wait until it has left."""
        with contextlib.suppress(BrokenPipeError):  # it was killed; nothing is left for it to do
            self.line.send(_GOOD_BYE)
        self.leave()

    def leave(self) -> None:
        """Hang up, and wait until the guardian has left; without a good-bye it ends the run first."""
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(self.pid)
            self.line.close()
            gone = select.poll()
            gone.register(process, select.POLLIN)
            gone.poll(_LEAVES_WITHIN_MS)
            os.close(process)
        self.line.close()


def start_guardian(keep: int, end: Callable[[], None]) -> Guardian:
    """Fork a guardian that calls `end` when this process is gone. It keeps the descriptor `keep` and no other."""
    supervisor = os.pidfd_open(os.getpid())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        middle = os.fork()
        if middle == 0:
            try:
                os.setsid()
                if os.fork() == 0:
                    _guard(supervisor, theirs.fileno(), keep, end)
            finally:
                os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(supervisor)
        theirs.close()
    os.waitpid(middle, 0)
    pid = ours.recv(16)
    if not pid:
        ours.close()
        raise LaunchError("the guardian process did not start; is the host out of memory or processes?")
    return Guardian(int(pid), ours)


def _guard(supervisor: int, line: int, keep: int, end: Callable[[], None]) -> None:
    """Signals are blocked; only SIGKILL ends a guardian early, and then the next run's sweep does its work."""
    try:
        keep_only(keep, supervisor, line)
        silence_standard()
        supervisor, line = FIRST + 1, FIRST + 2
        syscalls.prctl(syscalls.PR_SET_NAME, b"exeat-guardian")
        os.chdir("/")
        os.write(line, str(os.getpid()).encode())
        waiting = select.poll()
        waiting.register(line, select.POLLIN)
        waiting.register(supervisor, select.POLLIN)
        waiting.poll()
        if not _said_good_bye(line):
            end()
    finally:
        os._exit(0)


def _said_good_bye(line: int) -> bool:
    """A dead supervisor's end may still be open in a child that is on its way out, so reading must not wait."""
    os.set_blocking(line, False)
    try:
        return os.read(line, 1) == _GOOD_BYE
    except (BlockingIOError, ConnectionResetError):
        return False
