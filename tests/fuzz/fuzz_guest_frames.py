"""Gives random frames to the guests' program until the time is up: python tests/fuzz/fuzz_guest_frames.py [s] [seed]

Prints the seed, the rate, and the first frames that passed though a rule says no, with the rule; exits 1 on one.
"""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "e2e")]

from bed import Udp  # noqa: E402
from e2e.guard import rule  # noqa: E402  # found only now
from fuzz.guest_oracle import STREAM, Oracle, frames, wrong_verdicts  # noqa: E402
from guest.link_frames import Line, run_frames  # noqa: E402
from guest.stage import GuestGuard, Stage  # noqa: E402

CHUNK, PORT = 5000, 5000


def main(seconds: float, seed: int) -> int:
    """Fuzz for so long; the exit status."""
    print(f"seed {seed}, {seconds:g} s", flush=True)
    guard, done, found = GuestGuard(), 0, []
    try:
        with Stage(guard) as stage:
            server = stage.add("fuzz.test", Udp(PORT, answers=False))
            own = server.address4, server.address6
            rules = (
                rule(*own, protocol="udp", ports=(PORT,)),
                rule(*own, ports=(STREAM,)),
                rule(*own, protocol="icmp"),
            )
            line = Line.of(stage.guests[0])
            with stage.judged(*rules) as workload:
                oracle = Oracle.of(line, server, PORT)
                program, began = guard.instance.program("on_guest_out"), time.monotonic()
                while not found and time.monotonic() - began < seconds:
                    given = list(frames(oracle, seed + done // CHUNK, CHUNK))
                    ran = stage.network.router.call(lambda given=given: run_frames(program, line.guest.index, given))
                    found = wrong_verdicts(oracle, given, ran)
                    done += CHUNK
                    workload.told()
                took = time.monotonic() - began
    finally:
        guard.close()
    print(f"{done} frames, {done / took:.0f}/s, {len(found)} wrong")
    for why, frame, out in found[:5]:
        print(f"{why}:\n  {frame}\n  {out}")
    return 1 if found else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    raise SystemExit(main(float(given[0]) if given else 60, int(given[1]) if given[1:] else secrets.randbelow(1 << 40)))
