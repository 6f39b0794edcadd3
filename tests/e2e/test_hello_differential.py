"""The kernel's reader of hellos against the oracle's, which was written from the RFCs and shares no line with it."""

from __future__ import annotations

import os
from collections import Counter

from e2e.guard import Guard
from e2e.hello_client import HelloClient, client, hello_guard, naming
from e2e.hello_rounds import rounds
from hellos.generate import cases, table_cases

__all__ = ["client", "hello_guard"]

SEED = int(os.environ.get("EXEAT_FUZZ_SEED", "20261121"))
CASES = int(os.environ.get("EXEAT_FUZZ_CASES", "1500"))


def test_every_row_of_the_table_is_judged_as_it_is_written_there(hello_guard: Guard, client: HelloClient) -> None:
    """Allowed with this name, or denied for one of these reasons with nothing at the server."""
    with hello_guard.workload(naming("unused.test")) as workload:
        found = [mismatch for batch in rounds(client, workload, table_cases()) for mismatch in batch]
    assert not found, "\n\n".join(map(str, found))


def test_generated_hellos_are_judged_as_the_oracle_judges_them(hello_guard: Guard, client: HelloClient) -> None:
    """Sound ones and spoilt ones. EXEAT_FUZZ_CASES and EXEAT_FUZZ_SEED ask for more, and for others."""
    with hello_guard.workload(naming("unused.test")) as workload:
        found = [mismatch for batch in rounds(client, workload, cases(SEED, CASES)) for mismatch in batch]
    assert not found, f"seed {SEED}: {len(found)} mismatches\n" + "\n\n".join(map(str, found[:3]))


def test_the_generated_hellos_are_of_every_kind() -> None:
    """Or the comparison would say little."""
    readings = [case.reading for case in cases(SEED, 1500)]
    told = Counter(reason for reading in readings for reason in reading.reasons)
    assert len(told) > 15
    assert sum(reading.is_allowed for reading in readings) > 300
    assert sum(reading.incomplete for reading in readings) > 50
