"""A machine of a test: systemd as PID 1 in namespaces of its own, with its own cgroup tree and BPF file system.

    with boot(bed, tmp_path) as machine:                # in the bed's client namespace
        machine.run("apt-get", "install", "-y", "/srv/exeat.deb")
        machine.path("/etc/exeat/exeat.yaml").read_text()

The root below it is shared and stays as it is (deb_root.py); what the machine writes is in memory.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bed import Bed, missing_capability, start_in
from deploy.deb_root import root_of_the_suite
from e2e.guard import remove_cgroup
from exeat.kernel.filesystems import mount_point

BOOT_S = 60.0
_SCRIPT = Path(__file__).with_name("deb_boot.sh")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


@dataclass(frozen=True)
class Machine:
    """Its cgroup on the host, and its PID 1 as the host knows it."""

    cgroup: Path
    init: int

    def path(self, inside: str) -> Path:
        """A path of the machine's, from outside."""
        return Path(f"/proc/{self.init}/root{inside}")

    def run(self, *argv: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs a command in it, as somebody does who has signed in."""
        enter = ["nsenter", f"--target={self.init}", *["-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]]
        session = self.cgroup / "operator"
        session.mkdir(exist_ok=True)
        done = subprocess.run(
            ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(session / "cgroup.procs"), *enter, *argv],
            env=_ENVIRONMENT, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, (argv, done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        return done

    def show(self, unit: str, what: str) -> str:
        """One property of a unit's."""
        return self.run("systemctl", "show", "--property", what, "--value", unit).stdout.strip()

    def log(self, unit: str) -> str:
        """What a unit wrote, and what systemd says of it."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def wait_until(self, is_so: Callable[[], bool], within_s: float = 30.0) -> None:
        """Waits for it. A look that starts programs shall not keep a core busy."""
        asked = time.monotonic()
        end = asked + within_s
        while not is_so():
            assert time.monotonic() < end, f"not so within {within_s} s: {self.log('exeat')[-2000:]}"
            time.sleep(max(0.05, min(3 * (time.monotonic() - asked), 1.0)))
            asked = time.monotonic()


@contextmanager
def boot(bed: Bed, place: Path) -> Iterator[Machine]:
    """The machine, or a skip with a sentence."""
    if missing := missing_capability():
        pytest.skip(missing)
    root, top = root_of_the_suite(), mount_point("cgroup2")
    assert top
    cgroup = top / f"exeat-deb-{os.getpid()}"
    cgroup.mkdir()
    spaces = ("--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup", "--propagation", "private")
    (place / "machine").mkdir()
    with (place / "boot").open("w") as said:
        order = ["unshare", *spaces, "sh", str(_SCRIPT), str(root), str(place / "machine")]
        process = start_in(bed, order, cgroup=cgroup, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        machine = Machine(cgroup, _child(process))
        end = time.monotonic() + BOOT_S
        while (state := _state(machine)) != "running":
            assert process.poll() is None, (place / "boot").read_text()
            assert time.monotonic() < end, (state, machine.run("systemctl", "--failed", check=False).stdout)
            time.sleep(0.1)
        yield machine
    finally:
        process.kill()
        process.wait(20)
        bed.disown(process)
        remove_cgroup(cgroup)


def _child(process: "subprocess.Popen[str]") -> int:
    while not (children := Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        assert process.poll() is None
        time.sleep(0.01)
    return int(children[0])


def _state(machine: Machine) -> str:
    if Path(f"/proc/{machine.init}/comm").read_text() != "systemd\n":
        return "not yet systemd"
    return machine.run("systemctl", "is-system-running", check=False).stdout.strip()
