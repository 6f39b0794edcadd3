"""What may happen to an agent's host: full disks, removed directories and pins, an agent killed between two writes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.agent_stage import INSTANCE
from exeat.kernel.instance import Instance
from exeat.kernel.pins import remove_pins

# Does what an agent does, and dies before the call that is named.
DYING = """
import os, signal, sys
from ipaddress import ip_network
from exeat.core.compile import compile_policy
from exeat.kernel.instance import Instance
from exeat.kernel.tables import Tables
from exeat.model.policy import Policy, PortRange, Protocol, Rule

instance, cgroup, cidr, call = sys.argv[1:]
setattr(Tables, call, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
tables = Tables(Instance(instance))
rules = (Rule(name="r", protocol=Protocol.TCP, cidrs=(ip_network(cidr),), ports=(PortRange(7, 7),)),) if cidr else ()
tables.switch(int(cgroup), tables.add(compile_policy(Policy("dying", rules))))
"""
GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "half": b'{"clock": 1, "sets": {"a": 1',
    "null": b"null",
    "list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "no text": b"\xff\xfe\x00",
    "infinite": b'{"clock": Infinity, "sets": {"a": NaN}}',
    "kinds": b'{"clock": [], "sets": 5, "cgroup": {}, "registration": [], "allowances": {}, "override": "x"}',
}


def die_before(call: str, cgroup: Path, cidr: str = "") -> None:
    """Leaves in the kernel what an agent leaves that is killed just before this call of its tables."""
    line = [sys.executable, "-c", DYING, INSTANCE, str(cgroup.stat().st_ino), cidr, call]
    assert subprocess.run(line, check=False).returncode == -9


def unpin(*parts: str) -> None:
    """Removes pins of the agent's, all of them if none are named."""
    directory = Instance(INSTANCE).directory
    for place in [directory / part for part in parts] or [directory]:
        remove_pins(place)
        place.rmdir()


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Has a directory on a file system of 64 KiB of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "none", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(directory: Path) -> Path:
    """Takes all the room that is left."""
    path = directory / "filling"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            os.fsync(file.fileno())
    return path
