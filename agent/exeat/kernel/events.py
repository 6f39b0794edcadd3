"""Reads verdicts from the kernel's ring, straight from its pages: half a million a second, where callbacks do half."""

import mmap
import select
import struct
from collections.abc import Iterator
from ctypes import Structure, c_uint8, c_uint16, c_uint32, c_uint64, sizeof
from typing import Any, NamedTuple

from exeat.kernel import abi

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8
RING_BYTES = 2048 * 4096  # twin: EVENT_PAGES in bpf/limits.h
_CODES: dict[Any, str] = {c_uint8: "B", c_uint16: "H", c_uint32: "I", c_uint64: "Q"}
Raw = bytes  # inside Event that is the name of a field


class Event(NamedTuple):
    """What is read of an event: fields of abi.Event by their names, in its order. Arrays are bytes as they stand.

    Not abi.Event itself, whose attributes take ten times as long to read as all of these together.
    """

    at_ns: int
    workload: int
    cookie: int
    judged_ns: int
    address: Raw
    source: Raw
    policy_id: int
    rule_id: int
    pid: int
    uid: int
    bytes: int
    detail: int
    port: Raw
    source_port: Raw
    verdict: int
    reason: int
    hook: int
    protocol: int
    comm: Raw  # filled up with zeros
    name_length: int
    name: Raw  # name_length of them


def layout(structure: type[Structure], names: tuple[str, ...]) -> struct.Struct:
    """How to unpack these fields of a structure at once. They are in its order; others are passed over."""
    kinds: dict[str, Any] = dict(structure._fields_)  # type: ignore[arg-type]
    codes, at = ["="], 0
    for name in names:
        field = getattr(structure, name)
        codes.append(f"{field.offset - at}x{_CODES.get(kinds[name]) or f'{field.size}s'}")
        at = field.offset + field.size
    return struct.Struct("".join([*codes, f"{sizeof(structure) - at}x"]))


_EVENT = layout(abi.Event, Event._fields)


class EventRing:
    """The consumer's side of one ring. There may be only one consumer."""

    def __init__(self, fd: int, data_size: int = RING_BYTES) -> None:
        page = mmap.PAGESIZE
        self._fd = fd
        self._size = data_size
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # Whole words: struct would read and write a position byte by byte, and the kernel could see half of a new one.
        self._consumed = memoryview(self._consumer).cast("Q")
        self._produced = memoryview(self._producer).cast("Q")
        self._pages: mmap.mmap | None = None  # of the data, while events come

    def fileno(self) -> int:
        """Readable when there is something to read."""
        return self._fd

    def wait(self, seconds: float) -> bool:
        """Whether something came within this time."""
        return bool(select.select([self._fd], [], [], seconds)[0])

    def drain(self) -> Iterator[Event]:
        """Every event that is complete by now, oldest first."""
        if self._consumed[0] == self._produced[0]:
            return
        with memoryview(self._data()) as data, data.cast("I") as lengths:
            yield from self._drained(data, lengths)

    def rest(self) -> None:
        """Nothing has come for a while: until something does, the ring's pages are no memory of this process."""
        if self._pages:
            self._pages.close()
            self._pages = None

    def _data(self) -> mmap.mmap:
        if self._pages is None:
            # The kernel has the data twice in a row, for the event that runs over the end: a page of it is enough.
            page = mmap.PAGESIZE
            assert _HEADER + _EVENT.size <= page
            self._pages = mmap.mmap(self._fd, self._size + page, mmap.MAP_SHARED, mmap.PROT_READ, offset=2 * page)
        return self._pages

    def _drained(self, data: memoryview, lengths: memoryview) -> Iterator[Event]:
        mask = self._size - 1
        make, unpack = Event._make, _EVENT.unpack_from
        position = self._consumed[0]
        while position < self._produced[0]:
            at = position & mask
            length = lengths[at >> 2]
            if length & _BUSY:
                return
            if not length & _DISCARDED:
                yield make(unpack(data, at + _HEADER))
            position += _HEADER + (((length & ~_DISCARDED) + 7) & ~7)
            self._consumed[0] = position

    def close(self) -> None:
        """Gives the pages back."""
        self.rest()
        for view in (self._consumed, self._produced):
            view.release()
        self._producer.close()
        self._consumer.close()
