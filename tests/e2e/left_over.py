"""What test processes leave in the kernel and on disk that were killed. All of it is named after its process's id."""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bed.daemons import end_all_in
from exeat.kernel.filesystems import mount_point
from exeat.kernel.instance import instances, remove_instance


def end_what_was_left(*, instance: str, cgroup: str, directory: str) -> None:
    """Each is a name with {} for the id; a directory, of the temporary ones, has more behind it."""
    if root := mount_point("cgroup2"):
        for name in _of_the_dead(cgroup, (path.name for path in Path(root).iterdir())):
            with contextlib.suppress(OSError):  # another test process does the same
                end_all_in(Path(root, name))
    for name in _of_the_dead(instance, instances()):
        remove_instance(name)
    there = Path(tempfile.gettempdir())
    for name in _of_the_dead(f"{directory}.+", (path.name for path in there.iterdir())):
        shutil.rmtree(there / name, ignore_errors=True)


def _of_the_dead(pattern: str, names: Iterable[str]) -> list[str]:
    wanted = re.compile(pattern.format("([0-9]+)"))
    return [name for name in names if (match := wanted.fullmatch(name)) and not Path("/proc", match[1]).exists()]
