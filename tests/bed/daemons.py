"""A daemon that makes containers, on a machine whose cgroup2 may not be mounted where daemons look for it.

It runs in a mount namespace of its own, with cgroup2 at /sys/fs/cgroup, and in a cgroup of its own, above those of its
containers: one write to `cgroup.kill` ends daemon, shims and containers, whatever state they are in. After `kill -9` of
the test run the next daemon does that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bed.container_root import BUSYBOX
from bed.namespace import die_with_parent

START_S = 30.0
END_S = 10.0
# Mounts of the host still arrive, none of these leaves. Some things have their place whatever the settings say, and
# would stay there: the shims' sockets, what runc knows of Podman's containers, pods' networks and CNI's notes of them.
_BEGIN = """
echo $$ >"$1"
[ -e /sys/fs/cgroup/cgroup.procs ] || mount -t cgroup2 none /sys/fs/cgroup
mount --make-rshared /
for directory in /run/containerd /run/runc /run/netns /var/lib/cni; do
  mkdir -p $directory
  mount -t tmpfs none $directory
done
shift
exec "$@"
"""


def cgroup2() -> Path:
    """Where this machine has its cgroup2 file system."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return Path(next(fields[1] for fields in mounts if fields[2] == "cgroup2"))


class Daemon:
    """One that runs. `directory` is its own, short enough for sockets; `cgroup` is above all that it makes."""

    def __init__(self, name: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"bed-{name}-{os.getpid()}-"))
        self.cgroup = f"/{self.directory.name}"
        self._leaf = cgroup2() / self.directory.name / "daemon"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """To stop and continue it."""
        assert self._process
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has said."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self, *argv: str, env: Mapping[str, str] | None = None) -> None:
        """Returns at once. `env` is added to this process's environment."""
        self._leaf.mkdir(parents=True)
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", _BEGIN, "sh", self._leaf / "cgroup.procs",
                 *argv],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent,
                env={**os.environ, **(env or {})},
            )  # fmt: skip

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Until it serves."""
        deadline = time.monotonic() + START_S
        while not is_ready():
            assert self._process
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the daemon does not serve:\n{self.log[-4000:]}")
            time.sleep(0.02)

    def directory_of(self, cgroup: str) -> Path:
        """Of a container's cgroup, in the file system of this machine."""
        return cgroup2() / cgroup.lstrip("/")

    def close(self) -> None:
        """Ends all that came of it. May be called twice."""
        try:
            end_all_in(self._leaf.parent)
            if self._process:
                self._process.wait(END_S)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)


def end_all_in(cgroup: Path) -> None:
    """And remove it, if it is there."""
    if not cgroup.is_dir():
        return
    (cgroup / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + END_S
    while "populated 1" in (cgroup / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.005)
    for path in sorted(cgroup.rglob("*"), key=lambda path: -len(path.parts)):
        if path.is_dir():
            path.rmdir()
    cgroup.rmdir()


def end_what_was_left() -> None:
    """Of test runs that were killed."""
    directories = Path(tempfile.gettempdir())
    for name in {path.name for above in (cgroup2(), directories) for path in above.glob("bed-*-*-*")}:
        pid = name.split("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(FileNotFoundError):  # another test run does the same
                end_all_in(cgroup2() / name)
            shutil.rmtree(directories / name, ignore_errors=True)


@contextlib.contextmanager
def daemon(name: str) -> Iterator[Daemon]:
    """A place for one."""
    end_what_was_left()
    it = Daemon(name)
    try:
        yield it
    finally:
        it.close()


def cgroup_of(pid: int) -> str:
    """Of a process, in the cgroup2 hierarchy."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def missing_for(*programs: str, with_busybox: bool = False) -> str | None:
    """Why no such daemon can be started here, as a sentence for a skip. `with_busybox`: it runs images made here."""
    for program in programs:
        if shutil.which(program) is None:
            return f"these tests need the program {program!r}"
    if with_busybox and not BUSYBOX.exists():
        return "these tests need Debian's package busybox-static"
    return None if os.geteuid() == 0 else "these tests need root"
