"""The ring's pages as the kernel lays them out, in a file of memory: what is produced is read, also over the end."""

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.kernel import abi
from exeat.kernel.events import Event, EventRing, layout
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.kernel.telling import Naming, tell
from exeat.model.record import Process
from exeat.model.verdicts import Reason, Verdict

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
        event = abi.Event(cookie=number, bytes=~number & 0xFFFFFFFF)
        self.write(bytes(event))

    def write(self, content: bytes, flags: int = 0) -> None:
        """One entry of the ring."""
        filled = content + bytes(-len(content) % 8)
        self._write((len(content) | flags).to_bytes(4, "little") + bytes(4) + filled)


@pytest.fixture
def producer() -> Iterator[Producer]:
    """An empty ring."""
    producer = Producer()
    yield producer
    os.close(producer.fd)


@pytest.fixture
def ring(producer: Producer) -> Iterator[EventRing]:
    """Its other side."""
    ring = EventRing(producer.fd, DATA)
    yield ring
    ring.close()


def test_events_are_read_also_where_one_runs_over_the_end(producer: Producer, ring: EventRing) -> None:
    """Three times around: each event whole, none lost, none twice."""
    size = HEADER + ctypes.sizeof(abi.Event)
    assert DATA % size, "none would run over the end"
    for number in range(3 * DATA // size):
        producer.produce(number)
        assert [(event.cookie, event.bytes) for event in ring.drain()] == [(number, ~number & 0xFFFFFFFF)]
    assert list(ring.drain()) == []


def test_what_a_program_still_writes_is_waited_for_and_what_it_gave_up_is_passed_over(
    producer: Producer, ring: EventRing
) -> None:
    """The kernel says both in the entry's length."""
    discarded, busy = 1 << 30, 1 << 31
    producer.produce(1)
    producer.write(bytes(13), discarded)
    producer.produce(2)
    held = producer.position
    producer.write(bytes(abi.Event(cookie=3)), busy)
    producer.produce(4)
    assert [event.cookie for event in ring.drain()] == [1, 2]
    assert list(ring.drain()) == []
    length = ctypes.sizeof(abi.Event).to_bytes(4, "little")
    for copy in (0, DATA):
        os.pwrite(producer.fd, length, 2 * PAGE + copy + held % DATA)
    assert [event.cookie for event in ring.drain()] == [3, 4]


@given(st.binary(min_size=ctypes.sizeof(abi.Event), max_size=ctypes.sizeof(abi.Event)))
def test_what_is_unpacked_is_what_the_structure_says(content: bytes) -> None:
    """Every field, at its place, and with its width: the structure is the one twin of struct event."""
    expected = abi.Event.from_buffer_copy(content)
    event = Event._make(layout(abi.Event, Event._fields).unpack(content))
    for name, value in event._asdict().items():
        if isinstance(value, bytes):
            field = getattr(abi.Event, name)
            assert value == content[field.offset : field.offset + field.size], name
        else:
            assert value == getattr(expected, name), name


def test_a_field_that_is_appended_or_passed_over_moves_nothing() -> None:
    """So that struct event can grow at its end."""

    class Longer(ctypes.Structure):
        _fields_ = (("a", ctypes.c_uint8), ("b", ctypes.c_uint64), ("c", ctypes.c_uint8 * 3), ("d", ctypes.c_uint16))

    longer = Longer(a=1, b=2, d=4)
    assert layout(Longer, ("a", "b")).unpack(bytes(longer)) == (1, 2)
    assert layout(Longer, ("b", "d")).unpack(bytes(longer)) == (2, 4)
    assert layout(Longer, ("c",)).unpack(bytes(longer)) == (bytes(3),)


def test_an_event_is_told_in_words(producer: Producer, ring: EventRing) -> None:
    """Ids into names, mapped addresses into IPv4, a command's bytes into text."""
    event = abi.Event(
        workload=7, policy_id=3, rule_id=2, verdict=2, reason=Reason.NAME_NOT_ALLOWED, hook=abi.Hook.HELLO, protocol=6,
        pid=9, uid=1000, comm=b"cu\xffrl", name_length=6, bytes=517, judged_ns=5,
    )  # fmt: skip
    event.address[:] = bytes(10) + bytes([255, 255, 203, 0, 113, 7])
    event.port[:] = bytes([1, 0xBB])
    event.name[:6] = b"a\\b.te"
    producer.write(bytes(event))
    producer.write(bytes(abi.Event(verdict=1, reason=1, hook=1, workload=8)))
    producer.write(bytes(abi.Event(verdict=1, reason=1, hook=9, workload=INTERFACE_BIT | 8)))
    record, other, guest = [tell(one, {7: "/w"}, {3: Naming("p", ("one", "two"))}) for one in ring.drain()]
    assert (record.verdict, record.reason, record.hook) == (Verdict.DROPPED, Reason.NAME_NOT_ALLOWED, "hello")
    assert (record.workload, record.policy, record.rule) == ("/w", "p", "two")
    assert record.process == Process(9, "cu\ufffdrl", 1000)
    assert (str(record.address), record.port, record.source) == ("203.0.113.7", 443, None)
    assert (record.name, record.bytes, record.judged_ns) == ("a\\x5cb.te", 517, 5)
    assert (other.workload, other.policy, other.rule, other.name) == ("cgroup 8", "", None, None)
    assert (guest.workload, guest.hook) == ("interface 8", "guest")
    assert (other.address, other.process) == (None, Process(0, "", 0))


@pytest.mark.parametrize("field", ["verdict", "reason", "hook"])
def test_a_word_that_is_not_known_is_an_error(producer: Producer, ring: EventRing, field: str) -> None:
    """A ring of another layout: nothing is guessed."""
    producer.write(bytes(abi.Event(**{"verdict": 1, "reason": 1, "hook": 1, field: 199})))
    with pytest.raises(ValueError, match="199"):
        [tell(event, {}, {}) for event in ring.drain()]
