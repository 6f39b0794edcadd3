"""Who could have made a cgroup that looks like a container's, and a socket that looks like its runtime's."""

import os
import stat
from pathlib import Path


def is_made_by_root(directory: Path) -> bool:
    """Nobody but root may make cgroups beside it. A directory that has gone was made by nobody.

    The runtimes that are asked run as root, and so do those who make cgroups for them. A user to whom systemd delegates
    a part of the tree can make a cgroup there that is called like a privileged container. The container's own directory
    may be another's (user namespaces), its parent may not.
    """
    try:
        parent = os.stat(directory.parent)
    except FileNotFoundError:
        return False
    return parent.st_uid == 0 and not parent.st_mode & 0o022


def why_not_roots(socket: Path) -> str:
    """Why somebody else than root may answer there, as a sentence; empty: nobody may.

    Whoever answers says which containers fall under which policy. What has gone is told by who asks there.
    """
    try:
        where = socket.resolve()
        own, above = os.stat(where), os.stat(where.parent)
    except (OSError, RuntimeError):  # RuntimeError: symlinks in a circle
        return ""
    others = own.st_uid or above.st_uid
    if not others and not (above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX):
        return ""
    whose = f"user {others}" if others else "everybody"
    return (
        f"{socket} is not root's alone: {whose} could answer there and say who containers are. Name the socket of a "
        "runtime that root runs, in a directory of root's, or write `off` for it under `spec.runtimes`"
    )
