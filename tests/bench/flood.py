"""A workload that makes verdicts as fast as it can: what reaches the log, what is lost, and do the counts add up."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bed import Bed, start_in
from bench.place import Place, compiled
from bench.rows import Bar, Row, row
from e2e.guard import Guard
from exeat.audit import VerdictLog, verify
from exeat.audit.files import log_files
from exeat.audit.keys import PublicKey
from exeat.core.verdict_text import json_line
from exeat.kernel.telling import Naming, tell
from exeat.model.verdicts import Verdict

RATES = (50_000, 75_000, 100_000, 125_000, 150_000)
SECONDS = 5
BATCH = 1000
TRIES = 3  # other processes may take the CPU away for longer than the ring lasts
GENERATORS = 2  # that many as fast as they can: one for each CPU here


@dataclass(frozen=True, slots=True)
class Flooded:
    """What became of a flood."""

    sent: int  # by the programs' own count
    seconds: float
    counted: int  # by the kernel
    lost: int  # by the kernel: no room in the ring
    written: int  # verdicts in the log, which verified
    unwritten: int
    reader_s: float  # CPU time from the ring to the file

    @property
    def is_exact(self) -> bool:
        """Whether every verdict is in the log or counted as lost, once."""
        return self.sent == self.counted == self.written + self.lost and self.unwritten == 0


@dataclass
class Flood:
    """A workload of the guard's, denied everything, and a program that floods."""

    guard: Guard
    bed: Bed
    cgroup: Path
    program: str

    def run(self, rate: int, milliseconds: int, generators: int = 1, *, is_read: bool = True) -> Flooded:
        """Floods, reads meanwhile (or only afterwards), and counts."""
        self.guard.collect()  # what others left in the ring
        workload, tables = self.cgroup.stat().st_ino, self.guard.tables
        before, lost = tables.traffic(workload).verdicts[Verdict.DROPPED], tables.lost_events()
        with tempfile.TemporaryDirectory(prefix="exeat-flood-") as directory:
            reader = _Reader(self.guard, self.cgroup, Path(directory, "log"))
            runs = [self._start(rate // generators, milliseconds) for _ in range(generators)]
            if is_read:
                reader.start()
            for run in runs:
                _go(run)
            results = [_result(run) for run in runs]
            if not is_read:
                reader.start()
            reader.finish()
            return Flooded(
                sent=sum(sent for sent, _ in results),
                seconds=max(ns for _, ns in results) / 1e9,
                counted=tables.traffic(workload).verdicts[Verdict.DROPPED] - before,
                lost=tables.lost_events() - lost,
                written=_verified(Path(directory, "log")),
                unwritten=reader.log.unwritten,
                reader_s=reader.cpu_s,
            )

    def _start(self, rate: int, milliseconds: int) -> subprocess.Popen[str]:
        argv = [self.program, str(rate), str(milliseconds)]
        run = start_in(self.bed, argv, cgroup=self.cgroup, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert run.stdout
        assert run.stdout.readline() == "ready\n", "the flood did not start (its last words are on stderr)"
        return run


def _go(run: subprocess.Popen[str]) -> None:
    assert run.stdin
    run.stdin.write("go\n")
    run.stdin.flush()


def _result(run: subprocess.Popen[str]) -> tuple[int, int]:
    output, _ = run.communicate(timeout=60)
    if run.returncode != 0:
        raise RuntimeError("a datagram of the flood was not denied (its last words are on stderr)")
    sent, ns = map(int, output.split())
    return sent, ns


class _Reader:
    """From the ring to the log, as the agent's thread does it."""

    def __init__(self, guard: Guard, cgroup: Path, directory: Path) -> None:
        self.cpu_s = 0.0
        self.log = VerdictLog(directory, keep=1000)
        self._ring = guard.ring
        self._paths = {cgroup.stat().st_ino: f"/{cgroup.parent.name}/{cgroup.name}"}
        self._namings = dict.fromkeys(range(1000), Naming("flood", ()))
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader of the flood")

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def finish(self) -> None:
        """Reads what is left."""
        self._is_over.set()
        self._thread.join()
        self.log.close()

    def _run(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._is_over.is_set()
            self._ring.wait(0 if is_over else 0.02)
            lines = (json_line(tell(event, self._paths, self._namings)).encode() for event in self._ring.drain())
            while batch := list(itertools.islice(lines, BATCH)):
                self.log.append(batch)
        self.cpu_s = time.thread_time()


def _verified(directory: Path) -> int:
    found = verify(log_files(directory), [PublicKey.of(directory.parent / "audit.pub")], is_whole=True)
    if not found.is_good or found.unsealed:
        raise RuntimeError(f"the log of the flood is not whole: {found.problems[:1]}")
    return found.verdicts


def floods(place: Place, rounds: int) -> Iterator[Row]:
    """The fastest steady flood of those tried that reached the log whole; and one that cannot."""
    program = compiled("flood.c", place.directory)
    if program is None:
        return
    flood = Flood(place.guard, place.bed, place.ten.cgroup, program)
    milliseconds = SECONDS * 1000 if rounds > 1 else 1000
    best: Flooded | None = None
    for rate in RATES:
        tried = [_exact(flood.run(rate, milliseconds)) for _ in range(TRIES if best is None else 1)]
        whole = [one for one in tried if one.lost == 0]
        if not whole:
            break
        best = whole[0]
        yield row(f"reader's CPU at {rate:,} verdicts/s", [one.reader_s / one.seconds * 100 for one in whole], "%")
    reached = best.written / best.seconds if best else 0.0
    note = f"of {best.written:,} none lost" if best else "some were lost at the lowest rate"
    yield row("verdicts/s from the ring into the sealed log, none lost", [reached], "/s", Bar(50_000, True), note)
    wild = _exact(flood.run(0, milliseconds, GENERATORS))
    note = f"{wild.written:,} written + {wild.lost:,} lost = {wild.counted:,} counted"
    yield row("the same, flooded without a limit: made", [wild.counted / wild.seconds], "/s", note=note)
    yield row("the same, flooded without a limit: written", [wild.written / wild.seconds], "/s")


def _exact(flooded: Flooded) -> Flooded:
    if not flooded.is_exact:
        raise RuntimeError(f"the counts of a flood do not add up: {flooded}")
    return flooded
