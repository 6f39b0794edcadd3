"""What crosses a fork: standard descriptors that no hook of ours would judge are refused, all others are closed."""

import errno
import fcntl
import os
import socket
import stat

from exeat.errors import LaunchError
from exeat.launch import syscalls

STANDARD = {0: "standard input", 1: "standard output", 2: "standard error"}
FIRST = 3
_ABOVE_TARGETS = 10


def check_standard() -> None:
    """Refuse standard descriptors through which the command would reach out unjudged; open the missing ones."""
    for fd, name in STANDARD.items():
        try:
            mode = os.fstat(fd).st_mode
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open("/dev/null", os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(fd, True)
            continue
        if stat.S_ISSOCK(mode) and _family(fd) != socket.AF_UNIX:
            raise LaunchError(
                f"{name} is a network socket, opened outside of the command's cgroup, where no policy judges it; "
                "put a pipe in between, for example with cat"
            )
        if stat.S_ISDIR(mode):
            raise LaunchError(f"{name} is a directory, from which the command could walk to what is masked")


def _family(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as found:
        return found.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)


def keep_only(*fds: int) -> None:
    """Close every descriptor but the standard ones and these, which become 3, 4 and so on, closed on exec."""
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, _ABOVE_TARGETS) for fd in fds]
    for target, copy in enumerate(copies, start=FIRST):
        os.dup2(copy, target, inheritable=False)
    syscalls.close_fds_from(FIRST + len(fds))


def leave_output() -> None:
    """Lets go of the standard output, which is the command's: whoever reads it waits for nobody else."""
    if os.isatty(1):
        return
    null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)


def silence_standard() -> None:
    """Point the standard descriptors nowhere, so that nobody waits for us to close a pipe or a terminal."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in STANDARD:
        os.dup2(null, fd)
    os.close(null)
