"""What an agent and systemd tell each other: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), without a library.

Not started by systemd, everything here does nothing.
"""

import array
import fcntl
import os
import re
import socket
import time
from collections.abc import MutableMapping, Sequence

from exeat.errors import ExeatError

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_FDS_MAX = 253  # of one message: SCM_MAX_FD of net/scm.h
_SEND_WITHIN_S = 1.0  # systemd reads at once, unless it starts itself anew
_FD_NAME = re.compile(r"[\x21-\x39\x3b-\x7e]{1,255}")  # no blank, no colon, which parts the names
_UNNAMED = "unknown"  # as sd_listen_fds_with_names(3) calls it


class Notifier:
    """Tells systemd. Each method says whether systemd was told: False is worth a line in the log, not more."""

    def __init__(self, address: str | None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> "Notifier":
        """The socket that systemd gave, which is then taken out: no child is to speak for the agent."""
        return cls(environment.pop("NOTIFY_SOCKET", None))

    @property
    def is_heard(self) -> bool:
        """Whether there is a systemd to tell."""
        return bool(self._address)

    def ready(self, status: str = "") -> bool:
        """Start-up, or a reload, is complete."""
        return self._send("READY=1", *_status(status))

    def reloading(self) -> bool:
        """A reload began; ready() ends it."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> bool:
        """The end began."""
        return self._send("STOPPING=1", *_status(status))

    def watchdog(self) -> bool:
        """Still alive."""
        return self._send("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(text))

    def store(self, name: str, fds: Sequence[int]) -> bool:
        """Keeps descriptors over a restart, under a name. Without polling: an ICMP error is no end of a UDP socket."""
        _check_name(name)
        lines = ("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0")
        starts = range(0, len(fds), _FDS_MAX)
        return all(self._send(*lines, fds=fds[at : at + _FDS_MAX]) for at in starts)

    def forget(self, name: str) -> bool:
        """Gives up the descriptors that were stored under a name."""
        _check_name(name)
        return self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def _send(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        if not self._address:
            return False
        carried = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.settimeout(_SEND_WITHIN_S)
            try:
                one.sendmsg(["\n".join(lines).encode()], carried, socket.MSG_NOSIGNAL, self._address)
            except OSError:  # systemd starts itself anew, or is overwhelmed: the caller is told
                return False
        return True


def listen_fds(environment: MutableMapping[str, str] = os.environ) -> dict[str, list[int]]:
    """The descriptors that systemd kept or opened for this process, by name; no child inherits them or their names."""
    pid, number, names = (environment.pop(name, None) for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    environment.pop("LISTEN_PIDFDID", None)
    if pid is None or number is None or pid != str(os.getpid()):
        return {}
    if not number.isdecimal():
        raise ExeatError(f"LISTEN_FDS is {number!r}, no number: start the agent by systemd, or without LISTEN_PID")
    fds = range(_FIRST_FD, _FIRST_FD + int(number))
    each = names.split(":") if names is not None else [_UNNAMED] * len(fds)
    if len(each) != len(fds):
        raise ExeatError(f"LISTEN_FDNAMES has {len(each)} names for {len(fds)} descriptors: start the agent by systemd")
    found: dict[str, list[int]] = {}
    for fd, name in zip(fds, each, strict=True):
        try:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        except OSError as error:
            raise ExeatError(f"LISTEN_FDS names descriptor {fd}, which is not open: {error.strerror}") from error
        found.setdefault(name, []).append(fd)
    return found


def watchdog_interval_s(environment: MutableMapping[str, str] = os.environ) -> float | None:
    """How often to call Notifier.watchdog(): half of what systemd waits for. None: systemd does not wait."""
    span, pid = environment.pop("WATCHDOG_USEC", None), environment.pop("WATCHDOG_PID", None)
    if span is None or (pid is not None and pid != str(os.getpid())):
        return None
    if not span.isdecimal() or int(span) == 0:
        raise ExeatError(f"WATCHDOG_USEC is {span!r}, no span of microseconds: start the agent by systemd")
    return int(span) / 2e6


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()


def _check_name(name: str) -> None:
    if not _FD_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for descriptors: write visible ASCII without colons, at most 255")
