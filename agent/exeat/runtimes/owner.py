"""Whether a cgroup that looks like a container's can be one: who could have made it."""

import os
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
