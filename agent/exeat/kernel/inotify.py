"""What changes in directories: the three calls of inotify(7) that the agent needs."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CREATED, DELETED = 0x100, 0x200
MOVED_FROM, MOVED_TO = 0x40, 0x80
MODIFIED, WRITTEN, ATTRIBUTES = 0x2, 0x8, 0x4
SELF_DELETED, IGNORED, OVERFLOWN = 0x400, 0x8000, 0x4000
_ONLY_DIRECTORIES = 0x01000000
_IS_DIRECTORY = 0x40000000
_HEADER = struct.Struct("=iIII")
_READ_BYTES = 1 << 12  # some hundred at a time: what else the loop has to do comes in between


@dataclass(frozen=True, slots=True)
class Happening:
    """One change. Without a path: some were lost, and everything must be looked at again."""

    path: Path | None  # what changed, inside the watched directory or the watched thing itself
    mask: int

    @property
    def is_directory(self) -> bool:
        """Whether it is, or was, a directory."""
        return bool(self.mask & _IS_DIRECTORY)


class Inotify:
    """A set of watches. Watched again, a path keeps its watch."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._paths: dict[int, Path] = {}

    def fileno(self) -> int:
        """Readable when something has changed."""
        return int(self._fd)

    def watch(self, path: Path, mask: int) -> bool:
        """Whether it is there to be watched."""
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        if number < 0:
            reason = ctypes.get_errno()
            if reason in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
                return False
            raise OSError(reason, f"cannot watch {path}: {os.strerror(reason)}")
        self._paths[number] = path
        return True

    def read(self) -> Iterator[Happening]:
        """What has changed since; nothing, if nothing has."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            number, mask, _, length = _HEADER.unpack_from(data, at)
            name = data[at + _HEADER.size : at + _HEADER.size + length].rstrip(b"\0")
            at += _HEADER.size + length
            if mask & OVERFLOWN:
                yield Happening(None, mask)
                continue
            path = self._paths.pop(number, None) if mask & IGNORED else self._paths.get(number)
            if path is not None and not mask & IGNORED:
                yield Happening(path / os.fsdecode(name) if name else path, mask)

    def close(self) -> None:
        """Ends every watch."""
        os.close(self._fd)
