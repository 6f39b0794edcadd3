"""Reads verdicts back out of the log, also while it is written."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from exeat.audit.chain import LINE_MAX
from exeat.audit.files import log_files
from exeat.core.verdict_text import time_text

VERDICT = b'{"time":"'
_TIME_END = len(VERDICT) + len("2026-11-21T07:46:14.417765543Z")
_BLOCK = 1 << 16


def read_since(directory: Path, wall_ns: int) -> Iterator[bytes]:
    """The verdicts since then, oldest first, as lines without their ends; no checkpoints, no notices."""
    return matching_lines(open_all(directory), wall_ns)


def open_all(directory: Path) -> list[BinaryIO]:
    """All files of a log: once open, a rotation takes none of them away."""
    try:
        return [path.open("rb") for path in log_files(directory)]
    except FileNotFoundError:  # rotated in this very moment
        return [path.open("rb") for path in log_files(directory)] if directory.exists() else []


def matching_lines(files: list[BinaryIO], wall_ns: int) -> Iterator[bytes]:
    """Closes the files in the end. Lines of one length and form: their times are compared as text."""
    since = VERDICT + time_text(wall_ns).encode()
    try:
        for file in files:
            if _last_verdict(file) < since:
                continue
            file.seek(0)
            for line in iter(lambda: file.readline(LINE_MAX), b""):  # noqa: B023  # used up within the round
                if line.startswith(VERDICT) and line[:_TIME_END] >= since and line.endswith(b"\n"):
                    yield line[:-1]
    finally:
        for file in files:
            file.close()


def _last_verdict(file: BinaryIO) -> bytes:
    """The beginning of the last verdict in a file, looked for from its end; empty if there is none."""
    end, rest = os.fstat(file.fileno()).st_size, b""
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        rest = file.read(end - begin) + rest[:_TIME_END]
        at = rest.rfind(b"\n" + VERDICT)
        if at >= 0:
            return rest[at + 1 : at + 1 + _TIME_END]
        end = begin
    return rest[:_TIME_END] if rest.startswith(VERDICT) else b""
