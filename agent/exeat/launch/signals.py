"""Waits for the command the way a shell expects: it passes on what was sent to it, stops when the command stops."""

import errno
import os
import signal
from pathlib import Path

from exeat.launch.cgroup import inner_pids

Mask = set[int | signal.Signals]

_FROM_KERNEL = 0x80  # SI_KERNEL: a key on the terminal, which its whole foreground group has already got
# What reports on the supervisor itself, or cannot be blocked.
_OWN = {
    signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE,
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS, signal.SIGABRT,
}  # fmt: skip
FORWARDED = frozenset(signal.valid_signals() - _OWN)
_WATCHED = FORWARDED | {signal.SIGCHLD}


def block() -> Mask:
    """Hold back, from now on, everything that wait_for() handles; the former mask is for the command."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, it would lose the command's status
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED | {signal.SIGTTOU}))


def unblock(former: Mask) -> None:
    """Forget what was sent to a command that is gone, then take signals as before."""
    while signal.sigtimedwait(_WATCHED, 0):
        continue
    signal.pthread_sigmask(signal.SIG_SETMASK, former)


def restore_for_exec(former: Mask) -> None:
    """Give the command the dispositions and the mask that this process was started with, as far as Python tells."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by every Python
        signal.signal(number, signal.SIG_DFL)
    for number in FORWARDED:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, former)


def wait_for(child: int, directory: Path) -> int:
    """The command's exit status, 128+N if signal N ended it. Signals must be blocked."""
    while True:
        status = _reap(child)
        if status is not None:
            return status
        received = signal.sigwaitinfo(_WATCHED)
        if received.si_signo != signal.SIGCHLD and _is_for_the_command(received, directory):
            os.kill(child, received.si_signo)


def _is_for_the_command(received: signal.struct_siginfo, directory: Path) -> bool:
    """Not what the terminal sent to both of us, nor what the command sent to its group, and so to us."""
    return received.si_code != _FROM_KERNEL and not _is_from_inside(received.si_pid, directory)


def _is_from_inside(sender: int, directory: Path) -> bool:
    """Only root's uid can, and only before Linux 6.12, where no Landlock scope holds it back. The kernel gives the
    sender's number in the sender's own PID namespace. That may be a number outside as well, and losing a signal is
    worse than delivering it twice, so a program outside with that number gets the credit; kernel threads, which have
    no program, send none.
    """
    return not _has_program(sender) and sender in inner_pids(directory)


def _has_program(pid: int) -> bool:
    try:
        os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def _reap(child: int) -> int | None:
    while True:
        result = os.waitid(os.P_PID, child, os.WEXITED | os.WSTOPPED | os.WNOHANG)
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return result.si_status
        if result.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
            return 128 + result.si_status
        # So that our shell sees a stopped job. Without a terminal nobody would continue us after a plain SIGSTOP.
        if result.si_status != signal.SIGSTOP or foreground_terminal() is not None:
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)


def take_terminal_back(terminal: int) -> None:
    """Take a terminal from a group that died with the command: a shell inside cannot give it back, because our group
    has no number in its namespace. A living group is our shell's, which has moved us to the background.
    """
    try:
        os.killpg(os.tcgetpgrp(terminal), 0)
    except ProcessLookupError:
        os.tcsetpgrp(terminal, os.getpgrp())
    except OSError as error:
        if error.errno != errno.ENOTTY:  # it has hung up meanwhile
            raise


def foreground_terminal() -> int | None:
    """The standard descriptor of a terminal that is ours right now."""
    for fd in (0, 1, 2):
        try:
            if os.tcgetpgrp(fd) == os.getpgrp():
                return fd
        except OSError:
            continue
    return None
