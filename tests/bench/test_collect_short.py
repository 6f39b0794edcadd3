"""The benchmark of the plane's collection runs, and its own check of what it stored holds."""

from pathlib import Path

import pytest

from bench.collect import BATCH, collect, rows_of
from plane.stores import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_many_agents_verdicts_are_stored_once_each(kind: str, tmp_path: Path) -> None:
    """Two seconds of it, at a rate that any machine holds."""
    done = collect(kind, tmp_path, rate=4_000, seconds=2, agents=4)
    assert done.told == 2 * 4_000 // BATCH // 4 * 4 * BATCH
    assert done.is_exact
    assert done.plane_s > 0
    assert any(f"{done.told:,} stored, each once" in row.note for row in rows_of(kind, done, None))
