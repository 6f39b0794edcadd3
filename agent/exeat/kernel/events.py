"""Reads verdicts from the kernel's ring, straight from its pages: half a million a second, where callbacks do half."""

import ctypes
import mmap
import select
import struct
from collections.abc import Iterator

from exeat.kernel.abi import Event

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8
RING_BYTES = 2048 * 4096  # twin: EVENT_PAGES in bpf/limits.h


class EventRing:
    """The consumer's side of one ring. There may be only one consumer."""

    def __init__(self, fd: int, data_size: int = RING_BYTES) -> None:
        page = mmap.PAGESIZE
        self._fd = fd
        self._size = data_size
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        # The kernel has the data twice in a row, for the event that runs over the end; a page of the second will do.
        assert _HEADER + ctypes.sizeof(Event) <= page
        self._producer = mmap.mmap(fd, page + data_size + page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._data = memoryview(self._producer)[page:]
        # Whole words: struct would read and write a position byte by byte, and the kernel could see half of a new one.
        self._consumed = memoryview(self._consumer).cast("Q")
        self._produced = memoryview(self._producer)[:page].cast("Q")

    def fileno(self) -> int:
        """Readable when there is something to read."""
        return self._fd

    def wait(self, seconds: float) -> bool:
        """Whether something came within this time."""
        return bool(select.select([self._fd], [], [], seconds)[0])

    def drain(self) -> Iterator[Event]:
        """Every event that is complete by now, oldest first."""
        position = self._consumed[0]
        while position < self._produced[0]:
            at = position & (self._size - 1)
            length = struct.unpack_from("<I", self._data, at)[0]
            if length & _BUSY:
                return
            if not length & _DISCARDED:
                yield Event.from_buffer_copy(self._data, at + _HEADER)
            position += _HEADER + (((length & ~_DISCARDED) + 7) & ~7)
            self._consumed[0] = position

    def close(self) -> None:
        """Gives the pages back."""
        for view in (self._data, self._consumed, self._produced):
            view.release()
        self._producer.close()
        self._consumer.close()
