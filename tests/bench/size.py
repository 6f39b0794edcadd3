"""How large `exeat run` is beside its command, and what it takes while nothing happens."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bed import Bed, start_in
from bench.agent_side import EXEAT, HOSTS, policy_text
from bench.names import SOMEBODY
from bench.place import Place, compiled
from bench.rows import Bar, Row, row

_QUIET = "echo started; read line"
_ASKING = """
import socket, sys
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(10)
asking.connect((sys.argv[1], 53))
for number in range(int(sys.argv[2])):
    labels = (b"h%d" % number, b"example%d" % (number % 100), b"com")
    name = b"".join(bytes([len(label)]) + label for label in labels)
    asking.send(number.to_bytes(2, "big") + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + name + bytes([0, 0, 1, 0, 1]))
    answer = asking.recv(512)
    assert answer[3] & 15 == 0 and answer[7] == 1, (number, answer)
print("started", flush=True)
sys.stdin.readline()
"""


class Size(NamedTuple):
    """Of the supervisor: megabytes, and percent of a core while its command waits."""

    mb: float
    idle_percent: float


def sizes(place: Place, rounds: int) -> Iterator[Row]:
    """The supervisor with its gate: alone, with a large policy, and when all of the policy's names were resolved."""
    idle_s = 1.0 if rounds < 3 else 5.0
    with tempfile.TemporaryDirectory(prefix="exeat-bench-") as directory:
        policy = Path(directory) / "policy.yaml"
        policy.write_text(policy_text(HOSTS) + f"  dns: {{max_grants: {HOSTS}}}\n")
        large = ["--policy", str(policy)]
        plain = [_size(place.bed, [], ["sh", "-c", _QUIET], idle_s) for _ in range(rounds)]
        yield row("supervisor of exeat run, resident", [one.mb for one in plain], "MB", Bar(60))
        yield row("supervisor of exeat run, idle", [one.idle_percent for one in plain], "% of a core", Bar(1))
        one = _size(place.bed, large, ["sh", "-c", _QUIET], 0)
        yield row("supervisor, resident, policy of 10,000 hosts", [one.mb], "MB", Bar(60))
        program = compiled("ask.c", place.directory)
        if program is None or rounds < 3:
            return
        address = place.bed.network.next_addresses()[0]
        with _serving(place.bed, program, address):
            asking = [sys.executable, "-c", _ASKING, SOMEBODY, str(HOSTS)]
            one = _size(place.bed, [*large, "--dns-upstream", address], asking, idle_s)
        yield row("supervisor, resident, 10,000 hosts resolved", [one.mb], "MB", Bar(60))
        yield row("supervisor, idle, 10,000 hosts resolved", [one.idle_percent], "% of a core", Bar(1))


@contextmanager
def _serving(bed: Bed, program: str, address: str) -> Iterator[None]:
    argv = [program, "serve", address]
    with start_in(bed, argv, at=bed.network.hosts, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout
        if server.stdout.readline() != "ready\n":
            raise RuntimeError("the resolver did not start (its last words are on stderr)")
        yield


def _size(bed: Bed, options: list[str], command: list[str], idle_s: float) -> Size:
    argv = [*EXEAT, "run", "--quiet", *options, "--", *command]
    with start_in(bed, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        if process.stdout.readline() != "started\n":
            raise RuntimeError("exeat run did not start its command, or its questions were not answered")
        time.sleep(0.2)
        before = _cpu_ns(process.pid)
        time.sleep(idle_s)
        spent = _cpu_ns(process.pid) - before
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.stdin.write("\n")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return Size(int(found[1]) / 1024, spent / 1e7 / idle_s if idle_s else 0.0)


def _cpu_ns(pid: int) -> int:
    """What all its threads had so far (/proc/PID/stat counts ticks of 10 ms)."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
