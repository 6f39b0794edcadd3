"""A network namespace held by a file descriptor: it has no name, so nothing can be left behind in /run/netns.

The kernel destroys it, with every device in it, when the last descriptor is closed and the last process inside is gone;
that holds after `kill -9` of the test run as well.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # linux/sched.h
KILL_WAIT_S = 2.0

_libc = ctypes.CDLL(None, use_errno=True)


def _check(returned: int, what: str) -> None:
    if returned != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter(namespace_fd: int) -> None:
    """Move the calling thread into a network namespace (Python has os.setns only from 3.12 on)."""
    _check(_libc.setns(namespace_fd, CLONE_NEWNET), "setns")


def missing_capability() -> str | None:
    """Why no bed can be made here, as a sentence for a skip; None if one can."""
    for program in ("ip", "openssl"):
        if shutil.which(program) is None:
            return f"the test bed needs the program {program!r}"
    try:
        Namespace().close()
    except OSError as error:
        return f"the test bed needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make network namespaces: {error.strerror}"
    return None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that forked it ends."""
    PR_SET_PDEATHSIG = 1  # noqa: N806  # its name in linux/prctl.h
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def _in_thread(function: Callable[[], T]) -> T:
    """Run function in a fresh thread, whose namespace is its own affair, and hand on its result or exception."""
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            result.append(function())
        except BaseException as error:  # noqa: BLE001  # handed to the caller, who decides
            failure.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


class Namespace:
    """One network namespace. `path` serves nsenter --net=, ip link ... netns and pyroute2 for as long as it is open."""

    def __init__(self) -> None:
        def make() -> int:
            _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET), which needs root")
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        self.fd = _in_thread(make)
        self.inode = os.fstat(self.fd).st_ino

    @property
    def path(self) -> str:
        """Where other programs find this namespace, by way of this process."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def call(self, function: Callable[[], T]) -> T:
        """Run function in a thread of this process inside the namespace; sockets it opens belong there for good."""

        def inside() -> T:
            enter(self.fd)
            return function()

        return _in_thread(inside)

    def command(self, *argv: str, stdin: str = "") -> str:
        """Run a short command inside; its output, or CalledProcessError that shows what it complained about."""
        done = self.call(lambda: subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False))
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)} failed ({done.returncode}): {done.stderr}{done.stdout}\n{stdin}")
        return done.stdout

    def sysctl(self, key: str, value: str | int) -> None:
        """Set net.something inside. /proc/sys/net shows the namespace of the thread that opens it."""
        file = Path("/proc/sys") / key.replace(".", "/")
        self.call(lambda: file.write_text(f"{value}\n"))

    def processes(self) -> list[int]:
        """The processes that live inside, without this one."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                inode = os.stat(f"/proc/{entry}/ns/net").st_ino
            except OSError:  # ended meanwhile, or a zombie, which has left its namespace
                continue
            if inode == self.inode:
                found.append(int(entry))
        return found

    def close(self) -> None:
        """Kill by pid what still runs inside, whatever it did to escape its parents, and let go of the namespace."""
        if self.fd < 0:
            return
        deadline = time.monotonic() + KILL_WAIT_S
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.005)
        os.close(self.fd)
        self.fd = -1
