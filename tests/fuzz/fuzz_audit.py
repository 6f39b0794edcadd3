"""Damages verdict logs until the time is up: python tests/fuzz/fuzz_audit.py [seconds] [seed]

Whatever is in a log's directory, verifying ends with a finding and not with an error; damage to what was sealed is
found, unless it left whole files or cut the log back to a checkpoint; and the log goes on after a start. Prints the
seed, the rate, and the first log that was not so, which it leaves where it was; exits 1 on one.
"""

from __future__ import annotations

import itertools
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from exeat.audit import VerdictLog, Verification, read_since, verify  # noqa: E402
from exeat.audit.files import CURRENT, log_files  # noqa: E402
from exeat.audit.keys import PublicKey  # noqa: E402
from exeat.core.verdict_text import json_line  # noqa: E402
from unit.record_words import any_record  # noqa: E402  # found only now

PIECES = (
    b"\n", b"\x00", b"{", b"}", b'","', b'"seq":', b'"chain":"', b'{"checkpoint":{', b'{"continues":{', b'{"time":"',
    b'{"notice":', b"[" * 3000, b"9" * 5000, b"\xff\xfe", b"0" * 64, b"a" * (1 << 20), b'"oldest":99999999999',
)  # fmt: skip
Damage = Callable[[random.Random, bytes], bytes]


def flip(dice: random.Random, text: bytes) -> bytes:
    """One to four bytes."""
    out = bytearray(text)
    for _ in range(dice.randint(1, 4)):
        if out:
            out[dice.randrange(len(out))] = dice.randrange(256)
    return bytes(out)


def splice(dice: random.Random, text: bytes) -> bytes:
    """A piece in, a run of bytes out, or both."""
    begin = dice.randint(0, len(text))
    end = min(len(text), begin + dice.choice((0, 0, 1, 40, 1000)))
    return text[:begin] + dice.choice((b"", *PIECES)) + text[end:]


def shuffle(dice: random.Random, text: bytes) -> bytes:
    """Lines moved, repeated or dropped."""
    lines = text.splitlines(keepends=True)
    for _ in range(dice.randint(1, 3)):
        if lines:
            line = lines.pop(dice.randrange(len(lines)))
            for _ in range(dice.choice((0, 1, 2))):
                lines.insert(dice.randint(0, len(lines)), line)
    return b"".join(lines)


def replace(dice: random.Random, text: bytes) -> bytes:
    """Nothing of the old."""
    del text
    return dice.choice((b"", dice.randbytes(dice.randint(0, 3000)), b"".join(dice.choices(PIECES, k=5))))


DAMAGES: tuple[Damage, ...] = (flip, splice, shuffle, replace)


def original(top: Path) -> None:
    """A log of three files, all sealed."""
    log = VerdictLog(top / "log", clock=lambda: 1)
    for number in range(3):
        log.append([json_line(any_record(name=f"n{number}-{line}.test")).encode() for line in range(6)])
        if number < 2:
            log.rotate()
    log.close()


def is_shorter_only(before: bytes, after: bytes) -> bool:
    """Whether it was cut back, which no log can show by itself."""
    return before.startswith(after)


def judged(top: Path) -> Verification:
    """What the directory is found to be."""
    keys = [PublicKey.of(top / "audit.pub")]
    sum(1 for _ in read_since(top / "log", 0))
    return verify(log_files(top / "log"), keys, is_whole=True, patience_s=0)


def mistake(top: Path, dice: random.Random, seen: Counter[str]) -> str | None:
    """Damages one file of a log; what exeat then did wrong."""
    path = dice.choice(log_files(top / "log"))
    before, damage = path.read_bytes(), dice.choice(DAMAGES)
    after = damage(dice, before)
    path.write_bytes(after)
    found = judged(top)
    what = f"{damage.__name__}: {'found' if not found.is_good else 'not there' if after == before else 'cut back'}"
    seen[what] += 1
    if found.is_good and not is_shorter_only(before, after) and path.name == CURRENT:
        return f"{damage.__name__} of {path.name} was not found"
    if found.is_good and path.name != CURRENT and after != before:
        return f"{damage.__name__} of {path.name} was not found, though another file follows"
    log = VerdictLog(top / "log")
    log.append([json_line(any_record(name="after.test")).encode()])
    log.close()
    if log.unwritten:
        return f"the log did not go on after {damage.__name__} of {path.name}: {log.why_unwritten}"
    if not any(b'"after.test"' in line for line in read_since(top / "log", 0)):
        return f"what was written after {damage.__name__} of {path.name} is not there"
    judged(top)
    return None


def main(seconds: float, seed: int) -> int:
    """Fuzz for so long; the exit status. Log n has the seed `seed + n`, so a late one can be made again at once."""
    print(f"seed {seed}, {seconds:g} s", flush=True)
    seen: Counter[str] = Counter()
    scratch = Path(tempfile.mkdtemp(prefix="exeat-fuzz-"))
    original(scratch / "original")
    began, wrong = time.monotonic(), None
    for number in itertools.count():
        top = scratch / "log"
        shutil.copytree(scratch / "original", top)
        try:
            wrong = mistake(top, random.Random(seed + number), seen)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what was looked for
            wrong = f"{type(error).__name__}: {error}"
        took = time.monotonic() - began
        if wrong or took > seconds:
            break
        shutil.rmtree(top)
    print(f"{seen.total()} logs, {seen.total() / took:.0f}/s, {wrong or 'no mistake'}")
    print(*(f"{count:9} {ending}" for ending, count in seen.most_common()), sep="\n")
    if wrong:
        print(f"seed {seed + number}; the log is in {scratch / 'log'}")
        return 1
    shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    given = sys.argv[1:]
    raise SystemExit(main(float(given[0]) if given else 60, int(given[1]) if given[1:] else secrets.randbelow(1 << 40)))
