"""The command: measures, prints one table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bed import missing_capability
from bench import agent_side, cost, fleet, flood, guest, guest_many, names, size, traffic
from bench.place import Place, place
from bench.rows import Row, table

Measurement = Callable[[Place, int], Iterator[Row]]

# Name, what it does, rounds as a rule, rounds with --short.
MEASUREMENTS: dict[str, tuple[Measurement, int, int]] = {
    "connect": (traffic.connections, 300, 40),
    "first": (traffic.first_flights, 300, 25),
    "tls": (traffic.handshakes, 100, 12),
    "udp": (traffic.datagrams, 200, 25),
    "bulk": (traffic.bulk, 60, 5),
    "names": (names.resolving, 100, 10),
    "verdicts": (agent_side.verdicts, 10, 2),
    "flood": (flood.floods, 3, 1),
    "policies": (agent_side.policies, 10, 2),
    "startup": (agent_side.startup, 10, 1),
    "size": (size.sizes, 3, 1),
    "fleet": (fleet.fleet, 5, 1),
    "guest-connect": (guest.connections, 300, 40),
    "guest-first": (guest.first_flights, 200, 25),
    "guest-tls": (guest.handshakes, 100, 12),
    "guest-udp": (guest.datagrams, 200, 25),
    "guest-bulk": (guest.bulk, 60, 5),
    "guest-denied": (guest.denials, 30, 3),
    "guest-many": (guest_many.thousand, 3, 1),
    "guest-register": (guest_many.registrations, 5, 1),
}
ON_REQUEST: dict[str, tuple[Measurement, int, int]] = {
    "cost": (cost.costs, 10, 2),
    "guest-cost": (guest.costs, 10, 2),
}


def measure(names: list[str], rounds: int | None, is_short: bool, show: Callable[[str], None]) -> list[Row]:
    """All rows of these measurements."""
    rows: list[Row] = []
    with place() as where:
        if not where.is_native:
            show("no C compiler here: the clients are Python's, whose own work hides much of what is measured")
        for name in names:
            measurement, as_a_rule, short = (MEASUREMENTS | ON_REQUEST)[name]
            began = time.monotonic()
            rows += measurement(where, rounds or (short if is_short else as_a_rule))
            show(f"{name}: {time.monotonic() - began:.1f} s, load {os.getloadavg()[0]:.1f}")
    return rows


def main(argv: list[str] | None = None) -> int:
    """0, whatever was measured; 2 if nothing can be."""
    parser = argparse.ArgumentParser(prog="bench", description="Measures what exeat costs, as paired ratios.")
    known = [*MEASUREMENTS, *ON_REQUEST]
    parser.add_argument("--only", action="append", choices=known, metavar="NAME", help=f"one of: {', '.join(known)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of each measurement's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--short", action="store_true", help="few rounds: about 40 seconds, wide quartiles")
    options = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench: needs root, to load programs into the kernel", file=sys.stderr)
        return 2
    if missing := missing_capability():
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    names = options.only or list(MEASUREMENTS)
    rows = measure(names, options.rounds, options.short, lambda line: print(line, file=sys.stderr, flush=True))
    print(table(rows))
    over = [row for row in rows if row.verdict == "over"]
    print(f"\n{sum(row.verdict == 'ok' for row in rows)} ok, {len(over)} over" + (":" if over else ""))
    for row in over:
        print(f"  over: {row.what}: {row.median:.3f} {row.unit}, bar {row.bar}")
    if options.json:
        options.json.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
