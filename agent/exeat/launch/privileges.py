"""Takes from the calling process everything that would defeat enforcement; exec cannot bring it back."""

import errno
import os
from pathlib import Path

from exeat.errors import LaunchError
from exeat.launch import seccomp, syscalls
from exeat.launch.identity import Identity

_SCOPES_SINCE = 6  # Landlock version, Linux 6.12
_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_SCOPE_SIGNAL = 2
_CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def drop(identity: Identity) -> None:
    """Become `identity` without capabilities, for good, and prove it."""
    _empty_bounding_set()
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    syscalls.clear_capabilities()
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    _stay_among_own_processes()
    seccomp.install()
    _prove_nothing_is_left()


def _empty_bounding_set() -> None:
    """Drop every capability the kernel knows, also those younger than this file."""
    capability = 0
    while True:
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_READ, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return
            raise
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        capability += 1


def _stay_among_own_processes() -> None:
    """No abstract unix socket of, and no signal to, anybody outside. Abstract sockets have no path to mask, and a
    command with uid 0 could otherwise signal its supervisor. An extra where the kernel has it; no other defence leans
    on it.
    """
    if syscalls.landlock_version() >= _SCOPES_SINCE:
        syscalls.landlock_scope(_SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL)


def _prove_nothing_is_left() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    held = [f"{key} {status[key]}" for key in _CAPABILITY_SETS if int(status[key], 16)]
    if held or status["NoNewPrivs"] != "1" or status.get("Seccomp") != "2":
        raise LaunchError(f"the command would keep privileges ({', '.join(held) or 'no seccomp filter'}); not started")
