"""A flood of verdicts: 50,000 a second reach the log, and what does not is counted, exactly."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bed import Bed
from bench.flood import Flood
from bench.place import compiled
from e2e.guard import Guard, rule

TRIES = 5  # other tests may take the CPU away for longer than the ring lasts


@pytest.fixture
def flood(guard: Guard, bed: Bed, tmp_path: Path) -> Iterator[Flood]:
    """A workload whose every datagram is denied."""
    program = compiled("flood.c", tmp_path)
    if program is None:
        pytest.skip("there is no C compiler for the program that floods")
    with guard.workload(rule("203.0.113.0/24", ports=(5000,), protocol="udp")) as workload:
        yield Flood(guard, bed, workload.cgroup, program)


def test_fifty_thousand_a_second_are_written_and_none_is_lost(flood: Flood) -> None:
    """From the kernel's ring into a log that verifies; the twin of the next two."""
    tried = []
    for _ in range(TRIES):
        tried.append(flood.run(50_000, 1000))
        assert tried[-1].is_exact, tried
        if tried[-1].lost == 0:
            break
    assert tried[-1].lost == 0, tried
    assert tried[-1].written == 50_000


def test_what_does_not_fit_into_the_ring_is_counted(flood: Flood) -> None:
    """Nobody reads while three rings' worth are told."""
    flooded = flood.run(100_000, 600, is_read=False)
    assert flooded.is_exact, flooded
    assert flooded.lost > 30_000, flooded
    assert flooded.written > 15_000, flooded


def test_a_flood_without_a_limit_is_counted_too(flood: Flood) -> None:
    """Programs on several CPUs reserve, lose and count at once, while the reader makes room."""
    flooded = flood.run(0, 700, generators=4)
    assert flooded.is_exact, flooded
    assert flooded.written > 0
