"""The chain: how a line is bound to all before it. Pure; log.py writes it, verify.py checks it, docs/audit.md tells it.

A line ends in `,"seq":N,"chain":"<64 hex digits>"}`. N counts every line of the log, and the chain is SHA-256 over the
32 bytes of the chain before and this line without its chain member. The first line's chain before is 32 zeros.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

LINE_MAX = 1 << 20  # a verdict is half a kilobyte; what is longer than this is no line of the log
_CHAIN_LENGTH = len(b',"chain":"') + 64 + len(b'"}')
_END = re.compile(rb'\{.+,"seq":([1-9][0-9]{0,18}),"chain":"([0-9a-f]{64})"\}')
_CHECKPOINT = re.compile(rb'\{"checkpoint":(\{[^{}]*\}),"signature":"([A-Za-z0-9+/]{86}==)","seq":[0-9]+,"chain":.*')
_CONTINUES = re.compile(rb'\{"continues":(\{[^{}]*\}),.*')


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain has come to: the last line's number and hash."""

    seq: int = 0
    chain: bytes = bytes(32)

    def over(self, covered: bytes) -> bytes:
        """The chain of the line after this one, given without its chain member."""
        return sha256(self.chain + covered).digest()


@dataclass(frozen=True, slots=True)
class Link:
    """A line taken apart; whether its hash is right, it does not say."""

    seq: int
    chain: bytes
    covered: bytes  # what the hash is over

    @property
    def head(self) -> Head:
        """What the line says of itself."""
        return Head(self.seq, self.chain)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed word on all lines before it."""

    head: Head
    key: str  # the key's id
    signed: bytes
    signature: str


@dataclass(frozen=True, slots=True)
class Continuation:
    """The first line of each file: where the file before ended, and the first number that is still kept."""

    head: Head
    oldest: int


class Draft:
    """Lines to be written at once, and where the chain will be then."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self._first = head.seq
        self._lines: list[bytes] = []

    def __len__(self) -> int:
        return self.head.seq - self._first

    def add(self, lines: list[bytes]) -> None:
        """Objects of JSON, with at least one member each."""
        seq, chain, out = self.head.seq, self.head.chain, self._lines
        for line in lines:
            seq += 1
            covered = b'%b,"seq":%d}' % (line[:-1], seq)
            hashed = sha256(chain + covered)
            chain = hashed.digest()
            out.append(b'%b,"chain":"%b"}\n' % (covered[:-1], hashed.hexdigest().encode()))
        self.head = Head(seq, chain)

    def text(self) -> bytes:
        """All lines."""
        return b"".join(self._lines)


def as_line(members: Mapping[str, object]) -> bytes:
    """An object as it is written: without a space, in ASCII."""
    return json.dumps(members, separators=(",", ":")).encode()


def take_apart(line: bytes) -> Link | None:
    """A line without its end; None if it is no line of a log."""
    found = _END.fullmatch(line)
    if not found:
        return None
    return Link(int(found[1]), bytes.fromhex(found[2].decode()), line[:-_CHAIN_LENGTH] + b"}")


def checkpoint_in(line: bytes) -> Checkpoint | None:
    """What a line says as a checkpoint; None if it says nothing."""
    found = _CHECKPOINT.fullmatch(line)
    said = _object(found[1]) if found else {}
    head, key = _head(said), said.get("key")
    if not found or head is None or not isinstance(key, str):
        return None
    return Checkpoint(head, key, found[1], found[2].decode())


def continuation_in(line: bytes) -> Continuation | None:
    """What a line says as the first of a file; None if it says nothing."""
    found = _CONTINUES.fullmatch(line)
    said = _object(found[1]) if found else {}
    head, oldest = _head(said), said.get("oldest")
    return Continuation(head, oldest) if head is not None and type(oldest) is int else None


def _object(text: bytes) -> dict[str, object]:
    try:
        return dict(json.loads(text))
    except (ValueError, RecursionError):  # what is no UTF-8 and a number of 5,000 digits are ValueErrors too
        return {}


def _head(said: Mapping[str, object]) -> Head | None:
    seq, chain = said.get("seq"), said.get("chain")
    if type(seq) is not int or not isinstance(chain, str) or not re.fullmatch("[0-9a-f]{64}", chain):
        return None
    return Head(seq, bytes.fromhex(chain))
