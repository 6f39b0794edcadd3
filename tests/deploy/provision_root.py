"""A bare Debian root with a checkout of this project in it, entered in namespaces of its own.

    with open_root(tmp_path) as root:
        root.run("vagrant/provision.sh")        # in /exeat, as root; output and status as subprocess gives them

Below it lies the root of deb_root, which stays as it is. Inside are own mounts, processes and cgroups: /sys is fresh,
so that neither cgroup2 nor the BPF file system is mounted. What is started there ends with the root.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.deb_root import REPOSITORY, root_of_the_suite
from e2e.guard import remove_cgroup
from exeat.kernel.filesystems import mount_point

PYTHON = "3.11"  # Debian 12's
_SOMEBODY = "1000:1000"  # who owns a shared folder
# Nobody starts daemons in a root that is a test's.
_PREPARED = {"usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n"}
# $0: where to mount it, with `upper` and `work` beside. $1: the root below. $2: the cgroup. $3: Python packages.
_HOLD = """\
echo 0 >"$2/cgroup.procs" && exec unshare --mount --pid --cgroup --fork --kill-child --propagation private sh -ec '
  mount -t overlay -o "lowerdir=$1,upperdir=$0/../upper,workdir=$0/../work" overlay "$0"
  mount -t proc proc "$0/proc"
  mount -t sysfs sysfs "$0/sys"
  mount --rbind /dev "$0/dev"
  mount --bind -o ro "$2" "$0/site"
  exec chroot "$0" sh -c "echo ready; exec sleep infinity"
' "$0" "$1" "$3"
"""


@dataclass(frozen=True)
class Root:
    """The process that holds its namespaces, in whose root everything lies."""

    holder: int

    def run(self, *argv: str, check: bool = True, timeout: float = 200, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, in the checkout, with the environment of a bare system."""
        inside = ("nsenter", f"--target={self.holder}", "--mount", "--pid", "--cgroup", "--root", "env", "-C", "/exeat")
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **env}
        done = subprocess.run(
            [*inside, *argv], env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, (argv, done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        return done

    def files(self) -> dict[str, tuple[int, ...]]:
        """Every file on its disk, with what would show that somebody touched it."""
        top = f"/proc/{self.holder}/root/"
        disk, found = os.stat(top).st_dev, {}
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if os.lstat(os.path.join(folder, name)).st_dev == disk]
            for name in (".", *names):
                seen = os.lstat(path := os.path.join(folder, name))
                found[path] = (seen.st_mode, seen.st_uid, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        return found


@contextmanager
def open_root(place: Path) -> Iterator[Root]:
    """The root, or a skip with a sentence."""
    if os.geteuid() != 0:
        pytest.skip("a root is made and entered by root only")
    top = mount_point("cgroup2")
    assert top
    below = root_of_the_suite()
    for name in ("root", "upper", "work"):
        (place / name).mkdir()
    _furnish(place / "upper")
    cgroup = top / f"exeat-root-{os.getpid()}"
    cgroup.mkdir()
    site = next(path for path in sys.path if path.endswith("site-packages"))
    words = (str(place / "root"), str(below), str(cgroup), site)
    held = subprocess.Popen(["sh", "-c", _HOLD, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert held.stdout
        assert held.stdout.readline() == "ready\n"
        children = Path(f"/proc/{held.pid}/task/{held.pid}/children").read_text().split()
        yield Root(int(children[0]))
    finally:
        held.kill()  # --kill-child: and with the first of its processes, all others
        held.wait(20)
        _wait_until_empty(cgroup)
        remove_cgroup(cgroup)
        shutil.rmtree(place)


def _wait_until_empty(cgroup: Path) -> None:
    """The first process inside takes its mounts along, which takes a while."""
    (cgroup / "cgroup.kill").write_text("1")
    for _ in range(2000):
        if "populated 0" in (cgroup / "cgroup.events").read_text():
            return
        time.sleep(0.01)


def _furnish(upper: Path) -> None:
    """Puts this checkout in, as somebody else's folder, and what the host has of ways to the network."""
    for name, text in _PREPARED.items():
        path = upper / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    for name in ("etc", "site"):
        (upper / name).mkdir()
    shutil.copy("/etc/resolv.conf", upper / "etc" / "resolv.conf")
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(asked, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
    made = (str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "agent/exeat/v1").iterdir() if path.is_file())
    for name in (*filter(None, names), *made):
        source, target = REPOSITORY / name, upper / "exeat" / name
        if source.is_file():  # and not taken away since it was committed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    subprocess.run(["git", "init", "--quiet", str(upper / "exeat")], check=True)
    subprocess.run(["git", "-C", str(upper / "exeat"), "add", "--all"], check=True)
    subprocess.run(["chown", "--recursive", _SOMEBODY, str(upper / "exeat")], check=True)
