"""What user space reaches: verdicts a second, policies into the kernel, the start of `exeat run`."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from bench.place import TEN, Place
from bench.rows import Bar, Row, row
from exeat.core.compile import compile_policy
from exeat.core.policy_file import read_policy
from exeat.kernel.telling import Naming, tell

T = TypeVar("T")

EXEAT = (sys.executable, "-m", "exeat.cli.main")
RATES = (50_000, 75_000, 100_000, 150_000, 200_000, 300_000)
HOSTS = 10_000
TRIES = 2  # other processes may take the CPU away for longer than the ring lasts


def _timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def verdicts(place: Place, rounds: int) -> Iterator[Row]:
    """Verdicts read a second with none lost: the fastest steady rate of those tried, read bare and as records."""
    milliseconds = 200 if rounds < 5 else 1000
    for what, is_told in (("read from the ring", False), ("read and made into records", True)):
        best = 0.0
        for rate in RATES:
            reached = max(_lossless(place, rate, milliseconds, is_told) for _ in range(TRIES))
            if reached == 0:
                break
            best = max(best, reached)
        yield row(f"verdicts/s with none lost, {what}", [best], "/s", Bar(50_000, is_least=True))


def _lossless(place: Place, rate: int, milliseconds: int, is_told: bool) -> float:
    """The rate at which verdicts came; 0 if one was lost, or the reader fell behind by more than the ring holds."""
    ring, lost = place.guard.ring, place.guard.tables.lost_events()
    place.forget_events()
    naming = Naming("bench", tuple(f"rule {number}" for number in range(20)))
    cgroup = place.ten.id
    policies = dict.fromkeys(place.ten.policy_ids, naming)
    sent: list[tuple[int, int]] = []
    client = place.client(TEN)
    producer = threading.Thread(target=lambda: sent.append(client.order(f"denied {rate} {milliseconds}")))
    producer.start()
    count = 0
    while producer.is_alive():
        ring.wait(0.01)
        for event in ring.drain():
            count += 1
            if is_told:
                tell(event, {cgroup: "/bench"}, policies)
    producer.join()
    count += sum(1 for _ in ring.drain())
    done, ns = sent[0]
    is_complete = count == done and place.guard.tables.lost_events() == lost
    return done / ns * 1e9 if is_complete else 0.0


def policy_text(count: int) -> str:
    """A policy of so many host names."""
    lines = ["apiVersion: exeat.dev/v1", "kind: EgressPolicy", "metadata: {name: bench}", "spec:"]
    lines += ["  owner: bench@example.com", "  reason: benchmark", "  egress:", "  - name: many"]
    lines += ['    cidrs: ["203.0.113.0/24"]', "    hosts:"]
    lines += [f"    - h{number}.example{number % 100}.com" for number in range(count)]
    return "\n".join(lines) + "\n"


STEPS = {
    "read": "policy of 10,000 hosts: read from YAML",
    "compile": "policy of 10,000 hosts: compile",
    "load": "policy of 10,000 hosts: load into the kernel",
    "switch": "switch of a workload to a loaded policy",
    "remove": "policy of 10,000 hosts: remove from the kernel",
}


class _Way:
    """A policy's way from text to enforcement and out again; each step's milliseconds."""

    def __init__(self, place: Place, text: str) -> None:
        tables, workload, stays = place.guard.tables, place.many.id, place.many.policy_ids[-1]
        self.ms: dict[str, float] = {}
        policy = self._step("read", lambda: read_policy(text, "bench.yaml").policy)
        table_set = self._step("compile", lambda: compile_policy(policy))
        policy_id = self._step("load", lambda: tables.add(table_set))
        self._step("switch", lambda: tables.switch(workload, policy_id))
        self.enforced_ms = sum(self.ms.values())
        tables.switch(workload, stays)
        self._step("remove", lambda: tables.remove(policy_id))

    def _step(self, name: str, action: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = action()
        self.ms[name] = (time.perf_counter() - began) * 1000
        return result


def policies(place: Place, rounds: int) -> Iterator[Row]:
    """A policy of 10,000 hosts on its way from text to enforcement, and the same with one host more."""
    text, longer = policy_text(HOSTS), policy_text(HOSTS + 1)
    ways = [(_Way(place, text), _Way(place, longer)) for _ in range(max(2, rounds))]
    for name, what in STEPS.items():
        yield row(what, [way.ms[name] for way, _ in ways], "ms")
    yield row("policy of 10,000 hosts: text to enforced", [way.enforced_ms for way, _ in ways], "ms", Bar(1000))
    added = [way.enforced_ms for _, way in ways]
    yield row("one host added to 10,000: text to enforced", added, "ms", Bar(20), "a whole new table set")


def startup(place: Place, rounds: int) -> Iterator[Row]:
    """`exeat run`: how long before and after the command."""
    plain = [_timed(lambda: subprocess.run(["true"], check=True)) for _ in range(rounds)]
    with_exeat = [_timed(lambda: _exeat("run", "--quiet", "--", "true")) for _ in range(rounds)]
    yield row("true", plain, "ms")
    yield row("exeat run -- true", with_exeat, "ms")


def _exeat(*words: str) -> None:
    subprocess.run([*EXEAT, *words], check=True, stdin=subprocess.DEVNULL)
