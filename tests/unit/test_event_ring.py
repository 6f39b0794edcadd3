"""The ring's pages as the kernel lays them out, in a file of memory: what is produced is read, also over the end."""

import ctypes
import mmap
import os

from exeat.kernel.abi import Event
from exeat.kernel.events import EventRing

PAGE = mmap.PAGESIZE
DATA = 4 * PAGE  # a power of two that no number of events fills
HEADER = 8


class Producer:
    """The kernel's side: a consumer's page, a producer's page, and the data twice in a row."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * DATA)
        self.position = 0

    def _write(self, content: bytes) -> None:
        at = self.position % DATA
        before_end = DATA - at
        for copy in (0, DATA):
            os.pwrite(self.fd, content[:before_end], 2 * PAGE + copy + at)
            os.pwrite(self.fd, content[before_end:], 2 * PAGE + copy)
        self.position += len(content)
        os.pwrite(self.fd, self.position.to_bytes(8, "little"), PAGE)

    def produce(self, number: int) -> None:
        """One event that says a number."""
        event = Event(cookie=number, bytes=~number & 0xFFFFFFFF)
        self._write(ctypes.sizeof(Event).to_bytes(4, "little") + bytes(4) + bytes(event))


def test_events_are_read_also_where_one_runs_over_the_end() -> None:
    """Three times around: each event whole, none lost, none twice."""
    size = HEADER + ctypes.sizeof(Event)
    assert DATA % size, "none would run over the end"
    producer = Producer()
    ring = EventRing(producer.fd, DATA)
    try:
        for number in range(3 * DATA // size):
            producer.produce(number)
            assert [(event.cookie, event.bytes) for event in ring.drain()] == [(number, ~number & 0xFFFFFFFF)]
        assert list(ring.drain()) == []
    finally:
        ring.close()
        os.close(producer.fd)
