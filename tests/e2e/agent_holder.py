"""Connections that a workload keeps open, idle and busy, and the moment and manner of the end of each.

with hold(stage, cgroup, shop=stage.shop.address4, evil=...) as held:      # "shop idle" and "shop busy", to port 7
    held.wait_open()
    ...
    assert held.is_open("shop idle", "shop busy")
    how, when = held.ended("evil idle")
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bed import start_in
from bed.namespace import Namespace
from e2e.agent_stage import AgentStage

_BUSY_S = 0.01
_HEARD = 25  # answers: a quarter of a second of them, the first of which may have been on its way
HOLD = f"""
import errno, json, socket, sys, threading, time
lock = threading.Lock()
def tell(name, what):
    with lock:
        print(json.dumps([name, what, time.monotonic()]), flush=True)
def hold(name, address):
    try:
        with socket.create_connection((address, 7), 10) as sock:
            sock.sendall(b"x")
            sock.recv(100)
            tell(name, "open")
            while True:
                if name.endswith("busy"):
                    time.sleep({_BUSY_S})
                    sock.sendall(b"x")
                else:
                    sock.settimeout(None)
                if not sock.recv(100):
                    return tell(name, "closed")
                if name.endswith("busy"):
                    tell(name, "heard")
    except OSError as error:
        tell(name, errno.errorcode.get(error.errno or 0, repr(error)))
threads = [threading.Thread(target=hold, args=one) for one in json.loads(sys.argv[1])]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.stdin.read()
"""


@dataclass
class Held:
    """What the connections' program told so far."""

    file: Path
    names: Sequence[str]

    def told(self) -> dict[str, list[tuple[str, float]]]:
        """By connection: what became of it and when, by the monotonic clock."""
        told: dict[str, list[tuple[str, float]]] = {name: [] for name in self.names}
        for line in self.file.read_text().rpartition("\n")[0].splitlines():  # the last one may be half written
            if '", "heard", ' not in line:
                name, what, when = json.loads(line)
                told[name].append((what, when))
        return told

    def wait_open(self, within_s: float = 10.0) -> None:
        """Returns when all are open."""
        deadline = time.monotonic() + within_s
        while not self._has_no_end(*self.names):
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.01)

    def is_open(self, *names: str, within_s: float = 10.0) -> bool:
        """Whether these are open still. Each busy one is heard again: packets that are dropped tell no end."""
        wanted = {name: self._heard(name) + _HEARD for name in names if name.endswith("busy")}
        deadline = time.monotonic() + within_s
        while any(self._heard(name) < count for name, count in wanted.items()):
            if not self._has_no_end(*names) or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return self._has_no_end(*names)

    def _has_no_end(self, *names: str) -> bool:
        told = self.told()
        return all([what for what, _ in told[name]] == ["open"] for name in names)

    def _heard(self, name: str) -> int:
        return self.file.read_text().count(json.dumps([name, "heard"])[:-1])

    def ended(self, name: str, within_s: float = 10.0) -> tuple[str, float]:
        """How and when it ended; waits for it."""
        deadline = time.monotonic() + within_s
        while len(what := self.told()[name]) < 2:
            assert time.monotonic() < deadline, f"{name} has not ended within {within_s} s: {what}"
            time.sleep(0.01)
        return what[1]


@contextmanager
def hold(stage: AgentStage, cgroup: Path, *, at: Namespace | None = None, **addresses: str) -> Iterator[Held]:
    """An idle and a busy connection to each address."""
    wanted = [(f"{name} {kind}", address) for name, address in addresses.items() for kind in ("idle", "busy")]
    file = stage.directory / f"held-{time.monotonic_ns()}"
    with file.open("w") as out:
        line = [sys.executable, "-c", HOLD, json.dumps(wanted)]
        process = start_in(stage.bed, line, cgroup=cgroup, at=at, stdin=-1, stdout=out)
    try:
        yield Held(file, [name for name, _ in wanted])
    finally:
        process.kill()
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]
        stage.bed.disown(process)
