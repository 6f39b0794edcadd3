"""Reads random DNS messages until the time is up: python tests/fuzz/fuzz_dns.py [seconds] [seed]

Prints the seed, the rate, and the first disagreement of exeat and dnspython with its bytes; exits 1 on one.
"""

from __future__ import annotations

import itertools
import random
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from exeat.dns.names import text_of  # noqa: E402
from exeat.dns.wire import Malformed, parse_query, parse_reply, refusal  # noqa: E402
from fuzz.dns_messages import query, reply  # noqa: E402  # found only now
from fuzz.dns_oracle import Refused, Said, expected_query, expected_reply  # noqa: E402

CHUNK = 500


def read_query(message: bytes) -> Said | Refused:
    """What exeat makes of a query, in the oracle's terms."""
    try:
        read = parse_query(message)
    except Malformed as error:
        refusal(error)
        return Refused(error.rcode)
    asked = read.question
    return Said(
        read.ident, read.flags, asked.name, asked.kind, asked.wire, read.has_edns, read.payload_size, read.dnssec_ok
    )


def disagreements(seed: int, count: int, seen: Counter[str]) -> list[str]:
    """What exeat and dnspython say differently of so many messages; `seen` counts how they ended."""
    dice, found = random.Random(seed), []
    for _ in range(count):
        message = query(dice)
        ours, theirs = read_query(message), expected_query(message)
        seen[f"query {ours.rcode!r}" if isinstance(ours, Refused) else "query accepted"] += 1
        if ours != theirs:
            found.append(f"query {message.hex()}\n exeat     {ours}\n dnspython {theirs}")
        message, asked = reply(dice)
        question = asked.ident, text_of(asked.labels), asked.kind
        answer, expected = parse_reply(message, *question), expected_reply(message, *question)
        seen["reply refused" if answer is None else f"reply accepted, truncated: {answer.is_truncated}"] += 1
        if answer != expected:
            found.append(f"reply to {question}: {message.hex()}\n exeat     {answer}\n dnspython {expected}")
    return found


def main(seconds: float, seed: int) -> int:
    """Fuzz for so long; the exit status. Chunk n has the seed `seed + n`, so a late one can be made again at once."""
    print(f"seed {seed}, {seconds:g} s", flush=True)
    seen: Counter[str] = Counter()
    found, began = [], time.monotonic()
    for chunk in itertools.count():
        found = disagreements(seed + chunk, CHUNK, seen)
        took = time.monotonic() - began
        if found or took > seconds:
            break
    print(f"{seen.total()} messages, {seen.total() / took:.0f}/s, {'a mismatch' if found else 'no mismatch'}")
    print(*(f"{count:9} {ending}" for ending, count in seen.most_common()), sep="\n")
    if found:
        print(found[0])
    return 1 if found else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    raise SystemExit(main(float(given[0]) if given else 60, int(given[1]) if given[1:] else secrets.randbelow(1 << 40)))
