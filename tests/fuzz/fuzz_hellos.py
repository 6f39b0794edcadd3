"""Says random hellos to the enforcer until the time is up: python tests/fuzz/fuzz_hellos.py [seconds] [seed]

Prints the seed, the rate, and the first disagreement of kernel and oracle with the bytes that show it; exits 1 on one.
"""

from __future__ import annotations

import itertools
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "e2e")]

from bed import Bed  # noqa: E402
from e2e.guard import Guard  # noqa: E402  # found only now
from e2e.hello_client import HelloClient, naming  # noqa: E402
from e2e.hello_rounds import rounds  # noqa: E402
from hellos.generate import Case, cases  # noqa: E402

CHUNK = 1000


def endless(seed: int) -> Iterator[Case]:
    """Cases for ever; chunk n has the seed `seed + n`, so that a late one can be made again at once."""
    return itertools.chain.from_iterable(cases(seed + n, CHUNK) for n in itertools.count())


def main(seconds: float, seed: int) -> int:
    """Fuzz for so long; the exit status."""
    print(f"seed {seed}, {seconds:g} s", flush=True)
    guard, done, found = Guard(), 0, []
    try:
        with Bed() as bed, guard.workload(naming("unused.test")) as workload:
            client, began = HelloClient(bed).start(), time.monotonic()
            for found in rounds(client, workload, endless(seed)):
                done += 250
                if found or time.monotonic() - began > seconds:
                    break
            took = time.monotonic() - began
            client.close()
    finally:
        guard.close()
    print(f"{done} cases, {done / took:.0f}/s, {'a mismatch' if found else 'no mismatch'}")
    if found:
        print(found[0])
    return 1 if found else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    raise SystemExit(main(float(given[0]) if given else 60, int(given[1]) if given[1:] else secrets.randbelow(1 << 40)))
