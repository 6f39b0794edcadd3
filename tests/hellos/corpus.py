"""Loads the first flights that real clients made: corpus.jsonl, the TCP half of exeat's capture of real clients."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus.jsonl")


@dataclass(frozen=True)
class Flight:
    """One client's first flight: its TCP payloads in order, and the SNI that two other parsers read in it."""

    client: str
    segments: tuple[bytes, ...]
    sni: str | None

    @property
    def stream(self) -> bytes:
        """Everything the client sent before it heard from the server."""
        return b"".join(self.segments)


@cache
def flights() -> tuple[Flight, ...]:
    """Load every flight, in the order of the file."""
    rows = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    return tuple(Flight(row["client"], tuple(map(bytes.fromhex, row["segments"])), row["sni"]) for row in rows)
