"""Who the command runs as: the person behind sudo, a user named on the command line, or root without powers."""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from exeat.errors import LaunchError


@dataclass(frozen=True)
class Identity:
    """One user as the kernel and the command's environment know it."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str = ""  # Optional: a uid need not have a name
    home: str = ""  # Optional, like the shell: "" leaves the environment's word alone
    shell: str = ""

    @property
    def is_root(self) -> bool:
        """Whether the command keeps uid 0 (though no capability)."""
        return self.uid == 0

    @property
    def environment(self) -> dict[str, str]:
        """What `sudo -u` would set; after `sudo exeat run` root's values stand there, its home among them."""
        values = {"USER": self.name, "LOGNAME": self.name, "HOME": self.home, "SHELL": self.shell}
        return {name: value for name, value in values.items() if value}


def named_identity(user: str) -> Identity:
    """Identity of `--user NAME`; a number is taken as a uid."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise LaunchError(f"there is no user '{user}' on this host; name one that `getent passwd` knows") from None
    return _identity(entry, entry.pw_gid)


def invoking_identity(environment: Mapping[str, str]) -> Identity:
    """Identity of the person who typed `sudo exeat run`; root itself if there was no sudo."""
    if os.geteuid() != 0:
        raise LaunchError("only root can put a command under a policy; run it with sudo")
    if "SUDO_UID" not in environment:
        return _unnamed_or_known(0, 0)
    try:
        uid, gid = int(environment["SUDO_UID"]), int(environment["SUDO_GID"])
    except (KeyError, ValueError):
        raise LaunchError(
            "SUDO_UID and SUDO_GID do not hold two numbers, so the invoking user is unknown; use --user NAME"
        ) from None
    if uid < 0 or gid < 0:
        raise LaunchError("SUDO_UID and SUDO_GID must not be negative; use --user NAME")
    return _unnamed_or_known(uid, gid)


def _unnamed_or_known(uid: int, gid: int) -> Identity:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Identity(uid, gid, (gid,))
    return _identity(entry, gid)


def _identity(entry: pwd.struct_passwd, gid: int) -> Identity:
    groups = tuple(sorted({gid, *os.getgrouplist(entry.pw_name, gid)}))
    return Identity(entry.pw_uid, gid, groups, entry.pw_name, entry.pw_dir, entry.pw_shell)
