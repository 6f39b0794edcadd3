"""The agent tells its plane every verdict of its log: over real gRPC and TLS, through breaks on either side."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from exeat.agent.report_batches import Batches
from exeat.agent.report_cursor import Cursor, new_cursor, read_cursor, write_cursor
from exeat.agent.reporting import Reporter
from exeat.audit import VerdictLog
from exeat.audit.chain import Head
from exeat.audit.files import CURRENT
from exeat.control.plane_channel import PlaneAway, PlaneChannel
from exeat.control.plane_files import read_credentials
from exeat.control.plane_server import serve_plane
from exeat.errors import ExeatError, Refused, StatusWord
from exeat.plane_access import Endpoint, PlaneAccess
from exeat.settings import Listen
from exeat.v1 import plane_pb2 as pb
from unit.audit_words import lines_of, open_log, put, verdicts
from unit.fake_plane import NODE, papers


@dataclass
class Collector:
    """A plane that takes reports as it is told to: another one each time that it is served."""

    known: dict[str, int] = field(default_factory=dict)  # by log: how far
    told: dict[tuple[str, int], str] = field(default_factory=dict)  # by log and number: the name in the verdict
    twice: int = 0
    lost: int = 0
    batches: list[pb.VerdictBatch] = field(default_factory=list)
    hellos: list[pb.ReportHello] = field(default_factory=list)
    welcome: pb.ReportWelcome = field(default_factory=lambda: pb.ReportWelcome(batch_max=50, window=4))
    answers: bool = True
    breaks_after: int = 1_000_000  # batches

    async def report(
        self, names: frozenset[str], requests: AsyncIterator[pb.ReportRequest]
    ) -> AsyncGenerator[pb.ReportResponse, None]:
        """Takes what comes next, and nothing else."""
        hello = (await anext(requests)).hello
        assert hello.node in names
        self.hellos.append(hello)
        self.welcome.through = self.known.setdefault(hello.log, hello.after)
        yield pb.ReportResponse(welcome=self.welcome)
        async for request in requests:
            batch = request.batch
            self.batches.append(batch)
            assert batch.first == self.known[hello.log] + 1
            for one in batch.verdicts:
                self.twice += (hello.log, one.number) in self.told
                self.told[hello.log, one.number] = one.verdict.name
            self.lost += batch.lost
            if not self.answers:
                self.known[hello.log] = batch.through
                continue
            self.breaks_after -= 1
            if self.breaks_after == 0:
                raise Refused(StatusWord.UNAVAILABLE, "the plane ends")
            self.known[hello.log] = batch.through
            yield pb.ReportResponse(ack=pb.ReportAck(through=batch.through))

    async def sync(
        self, names: frozenset[str], requests: AsyncIterator[pb.SyncRequest]
    ) -> AsyncGenerator[pb.SyncResponse, None]:
        """Nobody asks."""
        raise NotImplementedError
        yield

    @property
    def names(self) -> list[str]:
        """In the order of their numbers."""
        return [self.told[key] for key in sorted(self.told)]


@asynccontextmanager
async def served(collector: Collector) -> AsyncIterator[PlaneChannel]:
    """An agent's connection to it."""
    server_files = PlaneAccess((), papers().ca, *papers().server)
    server = await serve_plane(collector, Listen(ip_address("127.0.0.1"), 0), server_files)
    access = papers().access(server.port)
    try:
        async with PlaneChannel(Endpoint("127.0.0.1", server.port), access, read_credentials(access)) as channel:
            yield channel
    finally:
        await server.stop(0)


@dataclass
class Node:
    """A log and how it is reported, as in an agent; `restart` is another process of it."""

    place: Path
    log: VerdictLog
    reporter: Reporter = field(init=False)
    sleep: Callable[[float], None] = lambda _: None

    def __post_init__(self) -> None:
        self.reporter = self._reporter()

    def _reporter(self) -> Reporter:
        batches = Batches(self.place / "log", self.sleep)
        return Reporter(NODE, self.log, batches, self.place / "plane" / "report.json")

    def restart(self, **how: int) -> None:
        """Reads from disk what there is."""
        self.reporter.close()
        self.log.close()
        self.log = open_log(self.place / "log", **how)
        self.reporter = self._reporter()

    async def talk(self, channel: PlaneChannel, until: Callable[[], bool], within_s: float = 20.0) -> None:
        """Until something is so; or until the stream ends, which raises PlaneAway."""
        talking = asyncio.create_task(self.reporter.talk(channel))
        try:
            async with asyncio.timeout(within_s):
                while not until() and not talking.done():
                    await asyncio.sleep(0.01)
            if talking.done():
                talking.result()
        finally:
            talking.cancel()
            with suppress(asyncio.CancelledError, ExeatError):
                await talking

    def is_told(self) -> bool:
        """Whether the plane has everything."""
        return self.reporter.unreported == 0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """One that has never reported, and has a log already."""
    log = open_log(tmp_path / "log")
    log.append(verdicts(0, 3))
    made = Node(tmp_path, log)
    yield made
    made.reporter.close()
    made.log.close()


def names(begin: int, end: int) -> list[str]:
    """As verdict() calls them."""
    return [f"n{number}.test" for number in range(begin, end)]


def test_what_falls_from_the_first_start_on_is_told_once(node: Node) -> None:
    """What was in the log before there was a plane is not."""
    collector = Collector()

    async def tell() -> None:
        async with served(collector) as channel:
            node.log.append(verdicts(3, 200))
            await node.talk(channel, node.is_told)
            node.log.append(verdicts(200, 210))
            await node.talk(channel, node.is_told)

    asyncio.run(tell())
    assert collector.names == names(3, 210)
    assert (collector.twice, collector.lost, node.reporter.lost) == (0, 0, 0)
    assert max(len(batch.verdicts) for batch in collector.batches) == 50, "as the welcome says"
    assert {batch.verdicts[0].verdict.workload for batch in collector.batches if batch.verdicts} == {
        "/exeat.slice/run-1"
    }


def test_a_restart_goes_on_where_the_plane_is(node: Node) -> None:
    """Under the same name. Verdicts that fell while nobody reported are told; the log's own lines are no verdicts."""
    collector = Collector()

    async def tell() -> None:
        async with served(collector) as channel:
            node.log.append(verdicts(3, 20))
            await node.talk(channel, node.is_told)
            node.log.append(verdicts(20, 30))
            node.restart()
            node.log.append(verdicts(30, 40))
            await node.talk(channel, node.is_told)

    asyncio.run(tell())
    assert collector.names == names(3, 40)
    assert collector.twice == 0
    assert len({hello.log for hello in collector.hellos}) == 1


def test_a_plane_that_breaks_off_gets_the_rest_later(node: Node) -> None:
    """What was not answered comes again, what was is not; the cursor on disk may be older than the plane's."""
    collector = Collector(breaks_after=3)

    async def tell() -> None:
        async with served(collector) as channel:
            node.log.append(verdicts(3, 500))
            with pytest.raises(PlaneAway, match="ends|broke off"):  # who still speaks may not hear the reason
                await node.talk(channel, node.is_told)
            assert not node.is_told()
            await node.talk(channel, node.is_told)

    asyncio.run(tell())
    assert collector.names == names(3, 500)
    assert collector.twice <= 4 * 50


def test_the_plane_knows_better_how_far_it_has_come(node: Node) -> None:
    """A cursor that was not written, a store that was restored from an older backup: it goes on where the plane is."""
    collector = Collector()

    async def tell() -> None:
        async with served(collector) as channel:
            node.log.append(verdicts(3, 20))
            await node.talk(channel, node.is_told)
            (log,) = collector.known
            collector.known[log] -= 5
            for key in [key for key in collector.told if key[1] > collector.known[log]]:
                del collector.told[key]
            await node.talk(channel, lambda: collector.known[log] == node.log.head.seq)

    asyncio.run(tell())
    assert collector.names == names(3, 20)


def test_no_more_batches_are_under_way_than_the_window_says(node: Node) -> None:
    """A plane that takes its time gets no more; nothing is kept in memory meanwhile."""
    collector = Collector(answers=False, welcome=pb.ReportWelcome(batch_max=5, window=2))

    async def tell() -> None:
        async with served(collector) as channel:
            node.log.append(verdicts(3, 100))
            with pytest.raises(TimeoutError):
                await node.talk(channel, lambda: len(collector.batches) > 2, within_s=1.0)
            assert len(collector.batches) == 2
            assert node.reporter.unreported > 90
            collector.answers = True
            await node.talk(channel, node.is_told)

    asyncio.run(tell())
    assert collector.names == names(3, 100)


def test_what_was_deleted_unreported_is_counted_at_both_ends(tmp_path: Path) -> None:
    """And what is there still is told; the count outlives a restart."""
    log = open_log(tmp_path / "log", max_bytes=4000, keep=2)
    node, collector = Node(tmp_path, log), Collector()

    async def tell() -> None:
        async with served(collector) as channel:
            for begin in range(0, 120, 3):
                log.append(verdicts(begin, begin + 3))
            await node.talk(channel, node.is_told)

    asyncio.run(tell())
    assert collector.names == names(120 - len(collector.told), 120)
    assert 0 < len(collector.told) < 60
    assert collector.lost == node.reporter.lost > 60
    node.restart(max_bytes=4000, keep=2)
    assert node.reporter.lost == collector.lost
    node.reporter.close()
    node.log.close()


def test_a_log_that_begins_anew_has_another_name(node: Node) -> None:
    """Numbers that the plane has already would be passed over."""
    collector = Collector()

    async def tell() -> None:
        async with served(collector) as channel:
            node.log.append(verdicts(3, 20))
            await node.talk(channel, node.is_told)
            node.reporter.close()
            node.log.close()
            (node.place / "log" / CURRENT).unlink()
            node.log = open_log(node.place / "log")
            node.reporter = node._reporter()
            node.log.append(verdicts(20, 25))
            await node.talk(channel, node.is_told)

    asyncio.run(tell())
    assert sorted(collector.told.values()) == sorted(names(3, 25))
    assert collector.twice == 0
    assert len({hello.log for hello in collector.hellos}) == 2


def test_a_log_that_was_cut_back_by_a_power_cut_has_another_name(node: Node) -> None:
    """The plane has lines that this disk never kept, and the cursor may be as old as the log."""
    collector = Collector()

    async def tell() -> None:
        async with served(collector) as channel:
            node.log.append(verdicts(3, 10))
            await node.talk(channel, node.is_told)
            cursor = (node.place / "plane" / "report.json").read_bytes()
            kept = lines_of(node.place / "log")
            node.log.append(verdicts(10, 40))
            await node.talk(channel, node.is_told)
            node.reporter.close()
            node.log.close()
            put(node.place / "log", kept)
            (node.place / "plane" / "report.json").write_bytes(cursor)
            node.log = open_log(node.place / "log")
            node.reporter = node._reporter()
            node.log.append(verdicts(40, 45))
            with pytest.raises(PlaneAway, match="cut back"):
                await node.talk(channel, node.is_told)
            await node.talk(channel, node.is_told)

    asyncio.run(tell())
    assert sorted(collector.told.values()) == sorted(names(3, 45))
    assert collector.twice == 0
    assert len(collector.known) == 2


def test_a_disk_that_cannot_be_asked_changes_no_name(tmp_path: Path) -> None:
    """Where the log ended is not known then, and not that it is shorter."""

    class Away:
        head, is_writing = Head(), False

    path = tmp_path / "report.json"
    write_cursor(path, Cursor("a", 100), is_synced=True)
    assert Reporter(NODE, Away(), Batches(tmp_path), path)._cursor == Cursor("a", 100)
    Away.is_writing = True
    assert Reporter(NODE, Away(), Batches(tmp_path), path)._cursor.log != "a"


def test_a_line_that_is_no_verdict_is_lost_and_the_others_are_told(node: Node) -> None:
    """Somebody else wrote into the log; that one line does not stop the reporting."""
    collector = Collector()

    async def tell() -> None:
        async with served(collector) as channel:
            node.log.append([*verdicts(3, 5), b'{"time":"never"}', *verdicts(5, 7)])
            await node.talk(channel, node.is_told)

    asyncio.run(tell())
    assert collector.names == names(3, 7)
    assert (collector.lost, node.reporter.lost) == (1, 1)


def test_a_plane_that_says_something_else_first_is_told_off(node: Node) -> None:
    """In a sentence for `exeat status`."""

    class Odd(Collector):
        async def report(
            self, names: frozenset[str], requests: AsyncIterator[pb.ReportRequest]
        ) -> AsyncGenerator[pb.ReportResponse, None]:
            yield pb.ReportResponse(ack=pb.ReportAck(through=2**60))

    async def tell() -> None:
        async with served(Odd()) as channel:
            with pytest.raises(PlaneAway, match="begin with a welcome"):
                await node.talk(channel, lambda: False)

    asyncio.run(tell())


def test_an_answer_for_more_than_was_sent_is_not_believed(node: Node) -> None:
    """Or what falls next would never be told."""

    class Boastful(Collector):
        async def report(
            self, names: frozenset[str], requests: AsyncIterator[pb.ReportRequest]
        ) -> AsyncGenerator[pb.ReportResponse, None]:
            async for response in super().report(names, requests):
                if response.HasField("ack"):
                    response.ack.through += 1000
                yield response

    collector = Boastful()

    async def tell() -> None:
        async with served(collector) as channel:
            node.log.append(verdicts(3, 10))
            await node.talk(channel, node.is_told)
            node.log.append(verdicts(10, 20))
            await node.talk(channel, node.is_told)

    asyncio.run(tell())
    assert collector.names == names(3, 20)


def test_the_log_is_read_for_a_fifth_of_the_time(node: Node) -> None:
    """Gates and control loop share the interpreter: it rests often, and four times as long as it worked."""
    rests: list[float] = []
    node.log.append(verdicts(3, 1003))
    batches = Batches(node.place / "log", rests.append)
    began = time.thread_time()
    assert batches.read(node.log.head.seq - 1000, 500, node.log.head.seq)
    worked = time.thread_time() - began
    assert len(rests) >= 20
    assert 2 * worked < sum(rests) < 5 * worked
    batches.close()


def test_two_that_read_at_once_do_not_disturb_each_other(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks off leaves its thread behind for a moment."""
    pread = os.pread

    def slowly(fd: int, length: int, offset: int) -> bytes:
        time.sleep(0.001)  # now it is the other's turn
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", slowly)
    node.log.append(verdicts(3, 2003))
    batches, head, found = Batches(node.place / "log"), node.log.head.seq, list[list[int]]()

    def read() -> None:
        at, numbers = head - 2000, list[int]()
        while batch := batches.read(at, 100, head):
            at = batch.through
            numbers += [one.number for one in batch.verdicts]
        found.append(numbers)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(range(head - 1999, head + 1))] * 2
    batches.close()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"log": "a", "through": -1, "lost": 0}', '{"log": "", "through": 1, "lost": 0}', '{"log": "a"}'],
)
def test_a_cursor_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    """The log then goes on under another name."""
    (tmp_path / "report.json").write_text(text)
    assert read_cursor(tmp_path / "report.json") is None


def test_a_cursor_comes_back_as_it_was(tmp_path: Path) -> None:
    """And where it cannot be kept, that is a sentence."""
    cursor = new_cursor(7, 3)
    assert write_cursor(tmp_path / "plane" / "report.json", cursor, is_synced=True) == ""
    assert read_cursor(tmp_path / "plane" / "report.json") == cursor
    assert new_cursor(7) != new_cursor(7)
    (tmp_path / "file").touch()
    assert "restart" in write_cursor(tmp_path / "file" / "report.json", cursor, is_synced=False)
