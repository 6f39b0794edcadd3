"""Verdicts come to the plane's store: each once, in both databases, whatever the agent sends and whoever brings it."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exeat.errors import Refused, StatusWord
from exeat.plane.store.database import Database, News, StoreError, Topic, Tx, open_database
from exeat.plane.verdicts import verdict_rows
from exeat.plane.verdicts.collection import BATCH_MAX, Collection
from exeat.plane.verdicts.verdict_rows import OTHERS, kept
from exeat.v1 import plane_pb2 as pb
from exeat.v1 import verdict_pb2
from plane.batches import HOUR_NS, NOW_NS, batch, batch_of, cursor, numbers, rows_of, wire
from plane.stores import KINDS, open_store, url_of


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store."""
    with open_store(request.param, tmp_path) as store:
        yield store


def run(database: Database, tell: Callable[[Collection], Coroutine[Any, Any, None]]) -> Collection:
    """What a test tells, in a loop of its own; then everything is on disk."""
    collection = Collection(database, lambda: NOW_NS)
    try:
        asyncio.run(tell(collection))
    finally:
        collection.close()
    return collection


def test_a_batch_is_stored_row_by_row_and_counted(database: Database) -> None:
    """What was answered for is there when the answer comes."""

    async def tell(collection: Collection) -> None:
        welcome = await collection.begin("n1", "a", 10)
        assert (welcome.through, welcome.batch_max) == (10, BATCH_MAX)
        assert welcome.window > 0
        assert await collection.take("n1", "a", batch(11, 3, skip=2, lost=1, name="Evil.Test.", count=2)) == 15
        assert numbers(database) == [11, 12, 13]

    collection = run(database, tell)
    assert (collection.stored, collection.lost) == (3, 1)
    assert cursor(database) == (15, 1)
    told = rows_of(database, "SELECT at_ns, verdict, workload, target, body FROM verdicts WHERE number = 12")[0]
    assert told[:4] == (NOW_NS, 2, "/exeat.slice/run-1", "evil.test")
    assert verdict_pb2.VerdictRecord.FromString(bytes(told[4])) == wire(name="Evil.Test.", count=2)
    tallies = rows_of(database, "SELECT hour_ns, node, policy, target, port, hook, reason, count FROM tallies")
    assert tallies == [(NOW_NS, "n1", "demo", "evil.test", 443, "hello", 84, 6)]


def test_counts_of_one_hour_add_up(database: Database) -> None:
    """Over batches and transactions; first and last are the verdicts' own times."""

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        for first, at_ns in ((1, 50), (3, 20), (5, 90), (7, HOUR_NS + 5)):
            await collection.take("n1", "a", batch(first, 2, time_ns=NOW_NS + at_ns))

    run(database, tell)
    found = rows_of(database, "SELECT hour_ns, count, first_ns, last_ns FROM tallies ORDER BY hour_ns")
    hours = [(NOW_NS, 6, NOW_NS + 20, NOW_NS + 90), (NOW_NS + HOUR_NS, 2, NOW_NS + HOUR_NS + 5, NOW_NS + HOUR_NS + 5)]
    assert found == hours


def test_an_address_without_a_name_is_the_target(database: Database) -> None:
    """And where there is neither, it is empty."""

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        nameless = wire(name=None)
        nothing = wire(name=None, address=None, port=0)
        odd = wire(name=None)
        odd.destination.address = b"abc"
        await collection.take("n1", "a", batch_of(1, [nameless, nothing, odd]))

    run(database, tell)
    assert rows_of(database, "SELECT target FROM verdicts ORDER BY number") == [("203.0.113.11",), ("",), ("616263",)]


def test_what_comes_twice_is_stored_once(database: Database) -> None:
    """Whole batches again, and one that overlaps; the answer is how far the plane has come."""

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        await collection.take("n1", "a", batch(1, 5))
        assert await collection.take("n1", "a", batch(1, 5, lost=0)) == 5
        assert await collection.take("n1", "a", batch(2, 3)) == 5
        assert await collection.take("n1", "a", batch(4, 5)) == 8
        assert (await collection.begin("n1", "a", 0)).through == 8

    assert run(database, tell).stored == 8
    assert numbers(database) == list(range(1, 9))
    assert sum(row[0] for row in rows_of(database, "SELECT count FROM tallies")) == 8


def test_a_hole_is_refused_and_the_right_batch_is_taken(database: Database) -> None:
    """The sentence says where to go on; what came behind it on the same log is refused as well."""

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        answers = await asyncio.gather(
            *(collection.take("n1", "a", one) for one in (batch(1, 2), batch(4, 2), batch(6, 2))),
            collection.take("n1", "a", batch(3, 2)),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [int, Refused, Refused, int]
        assert isinstance(answers[1], Refused)
        assert answers[1].word is StatusWord.INVALID
        assert "3 is to come next" in str(answers[1])

    run(database, tell)
    assert numbers(database) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (batch(1, BATCH_MAX + 1), "at most"),
        (pb.VerdictBatch(first=0, through=3), "no stretch"),
        (pb.VerdictBatch(first=5, through=3), "no stretch"),
        (pb.VerdictBatch(first=1, through=2**64 - 1), "no stretch"),
        (pb.VerdictBatch(first=1, through=3, lost=4), "4 lines are lost"),
        (pb.VerdictBatch(first=1, through=3, verdicts=[pb.NumberedVerdict(number=4)]), "where it belongs"),
        (pb.VerdictBatch(first=1, through=3, verdicts=[pb.NumberedVerdict(number=2)] * 2), "where it belongs"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(tmp_path: Path, wrong: pb.VerdictBatch, sentence: str) -> None:
    """And the next one, which does, is taken."""

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        with pytest.raises(Refused, match=sentence) as refused:
            await collection.take("n1", "a", wrong)
        assert refused.value.word is StatusWord.INVALID
        assert await collection.take("n1", "a", batch(1, 2)) == 2

    with open_store("sqlite", tmp_path) as database:
        run(database, tell)


@pytest.mark.parametrize(
    ("node", "log", "after"), [("n1", "", 0), ("n1", "a" * 65, 0), ("n1\0", "a", 0), ("n", "a", 2**63)]
)
def test_a_log_without_a_sensible_name_is_refused(tmp_path: Path, node: str, log: str, after: int) -> None:
    """They stand in keys of the store."""

    async def tell(collection: Collection) -> None:
        with pytest.raises(Refused):
            await collection.begin(node, log, after)

    with open_store("sqlite", tmp_path) as database:
        run(database, tell)


def test_a_log_that_was_never_begun_is_refused(database: Database) -> None:
    """Its cursor is in the store, or it has none."""

    async def tell(collection: Collection) -> None:
        with pytest.raises(Refused, match="no longer knows"):
            await collection.take("n1", "a", batch(1, 2))

    run(database, tell)
    assert numbers(database) == []


def test_two_planes_that_are_brought_the_same_store_it_once(tmp_path: Path) -> None:
    """An agent came to another replica before the first knew that it had gone; each thinks that it knows the cursor."""
    url = url_of("postgresql", tmp_path)
    databases = open_database(url), open_database(url)
    planes = [Collection(database, lambda: NOW_NS) for database in databases]

    async def bring(plane: Collection) -> list[int]:
        await plane.begin("n1", "a", 0)
        taken = [plane.take("n1", "a", batch(first, 10, name=f"h{first % 7}.test")) for first in range(1, 1001, 10)]
        return list(await asyncio.gather(*taken))

    async def both() -> list[list[int]]:
        return list(await asyncio.gather(*(bring(plane) for plane in planes)))

    answers = asyncio.run(both())
    for plane in planes:
        plane.close()
    assert all(answer >= number * 10 for plane in answers for number, answer in enumerate(plane, 1))
    assert numbers(databases[0]) == list(range(1, 1001))
    assert sum(row[0] for row in rows_of(databases[0], "SELECT count FROM tallies")) == 1000
    assert sum(plane.stored for plane in planes) == 1000
    for database in databases:
        database.close()


def test_a_plane_that_has_slept_goes_on_where_another_one_is(tmp_path: Path) -> None:
    """What it remembers of the cursor is older than the agent: no hole, no duplicate."""
    url = url_of("postgresql", tmp_path)
    first, second = (Collection(open_database(url), lambda: NOW_NS) for _ in range(2))

    async def tell() -> None:
        await first.begin("n1", "a", 0)
        await first.take("n1", "a", batch(1, 2))
        await second.begin("n1", "a", 0)
        await second.take("n1", "a", batch(3, 2))
        assert await first.take("n1", "a", batch(5, 2)) == 6

    asyncio.run(tell())
    first.close()
    second.close()
    assert numbers(first._database) == [1, 2, 3, 4, 5, 6]


class _Choosy:
    """A store that refuses one node's verdicts, and everything while it is away."""

    def __init__(self, database: Database, refused: str = "") -> None:
        self.is_away = False
        self._database, self._refused = database, refused
        self.reading, self.listen, self.close = database.reading, database.listen, database.close

    @contextmanager
    def writing(self) -> Iterator[Tx]:
        """As the real one."""
        with self._database.writing() as tx:
            yield tx
            if self.is_away:
                raise StoreError("the store is away")
            if self._refused and tx.one("SELECT 1 FROM verdicts WHERE node = ?", self._refused):
                raise StoreError("this value cannot be kept")


def test_one_that_is_refused_does_not_hold_up_the_others(database: Database) -> None:
    """They came together; each then has a transaction of its own."""
    choosy = _Choosy(database, "bad")

    async def tell(collection: Collection) -> None:
        for node in ("good", "bad", "also-good"):
            await collection.begin(node, "a", 0)
        taken = [collection.take(node, "a", batch(1, 2)) for node in ("good", "bad", "also-good")]
        answers = await asyncio.gather(*taken, return_exceptions=True)
        assert [type(answer) for answer in answers] == [int, StoreError, int]

    run(choosy, tell)
    assert numbers(database, "good") == numbers(database, "also-good") == [1, 2]
    assert numbers(database, "bad") == []


def test_a_store_that_was_away_gets_it_the_next_time(database: Database) -> None:
    """Whoever waits is told, nothing is half stored, and the agent's next try is taken."""
    choosy = _Choosy(database)

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        choosy.is_away = True
        with pytest.raises(StoreError, match="away"):
            await collection.take("n1", "a", batch(1, 2))
        assert numbers(database) == []
        choosy.is_away = False
        assert await collection.take("n1", "a", batch(1, 2)) == 2

    run(choosy, tell)
    assert numbers(database) == [1, 2]


def test_while_the_store_is_slow_no_more_is_read_from_agents(tmp_path: Path) -> None:
    """Nothing is kept but what waits; it goes on when there is room again."""

    async def tell(collection: Collection, database: Database) -> None:
        await collection.begin("n1", "a", 0)
        taken: list[asyncio.Task[int]] = []
        go, holding = threading.Event(), threading.Event()
        holder = threading.Thread(target=_hold, args=(database, go, holding))
        holder.start()
        holding.wait(10)
        first = 1
        while True:
            try:
                await asyncio.wait_for(collection.ready(), 0.2)
            except TimeoutError:
                break
            taken.append(asyncio.create_task(collection.take("n1", "a", batch(first, BATCH_MAX))))
            await asyncio.sleep(0)
            first += BATCH_MAX
            assert first < 100_000, "it never says that it has had enough"
        assert not any(task.done() for task in taken)
        go.set()
        await asyncio.wait_for(collection.ready(), 30)
        assert await taken[-1] == first - 1
        holder.join()

    with open_store("sqlite", tmp_path) as database:
        collection = Collection(database, lambda: NOW_NS)
        asyncio.run(tell(collection, database))
        collection.close()
        assert numbers(database) == list(range(1, collection.stored + 1))


def _hold(database: Database, go: threading.Event, holding: threading.Event) -> None:
    with database.writing():
        holding.set()
        go.wait(30)


def test_whoever_does_not_wait_for_the_answer_is_stored_all_the_same(database: Database) -> None:
    """The stream broke off: the agent comes again, and nothing is stored twice."""

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        task = asyncio.create_task(collection.take("n1", "a", batch(1, 2)))
        await asyncio.sleep(0)
        task.cancel()
        assert await collection.take("n1", "a", batch(1, 4)) == 4

    run(database, tell)
    assert numbers(database) == [1, 2, 3, 4]


def test_news_comes_once_it_is_committed(database: Database) -> None:
    """For those who watch."""
    heard: list[News] = []
    database.listen(heard.append)

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        await collection.take("n1", "a", batch(1, 2))

    run(database, tell)
    until = time.monotonic() + 10
    while not any(news.topic is Topic.VERDICTS for news in heard) and time.monotonic() < until:
        time.sleep(0.01)
    assert any(news.topic is Topic.VERDICTS for news in heard)


def test_absurd_times_count_as_the_time_of_arrival(database: Database) -> None:
    """1970, and the day after tomorrow; an hour from now is only a clock that is ahead."""
    times = (0, NOW_NS + 48 * HOUR_NS, NOW_NS + HOUR_NS)

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        far = wire()
        far.time.seconds = 2**62
        await collection.take("n1", "a", batch_of(1, [*(wire(time_ns=at_ns) for at_ns in times), far]))

    run(database, tell)
    assert [row[0] for row in rows_of(database, "SELECT at_ns FROM verdicts ORDER BY number")] == [
        NOW_NS, NOW_NS, NOW_NS + HOUR_NS, NOW_NS,
    ]  # fmt: skip
    assert rows_of(database, "SELECT count FROM tallies ORDER BY hour_ns") == [(3,), (1,)]


def test_a_scan_is_counted_under_others(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each verdict is kept as it is; the counts, which are kept for a year, have a bound."""
    monkeypatch.setattr(verdict_rows, "DESTINATIONS_MAX", 20)

    async def tell(collection: Collection) -> None:
        await collection.begin("n1", "a", 0)
        await collection.take("n1", "a", batch_of(1, [wire(name=f"h{number}.test") for number in range(100)]))
        await collection.take("n1", "a", batch_of(101, [wire(name="h3.test"), wire(name="h50.test")]))

    run(database, tell)
    assert len(rows_of(database, "SELECT DISTINCT target FROM verdicts")) == 100
    counted: dict[str, int] = dict(rows_of(database, "SELECT target, count FROM tallies"))  # type: ignore[arg-type]
    assert len(counted) == 21
    assert (counted[OTHERS], counted["h3.test"]) == (81, 2)


ANY_TEXT = st.text(max_size=50) | st.sampled_from(["\0", "a\0b", "\U0010ffff", "x" * 5000, "ü" * 3000])
U32 = st.integers(0, 2**32 - 1)


@st.composite
def anything(draw: st.DrawFn) -> verdict_pb2.VerdictRecord:
    """Whatever the protocol lets an agent say."""
    record = verdict_pb2.VerdictRecord(
        hook=draw(ANY_TEXT), workload=draw(ANY_TEXT), policy=draw(ANY_TEXT), rule=draw(ANY_TEXT), name=draw(ANY_TEXT),
        protocol=draw(U32), count=draw(U32), bytes=draw(U32),
    )  # fmt: skip
    for field in ("verdict", "reason"):
        setattr(record, field, draw(st.integers(-(2**31), 2**31 - 1)))
    record.time.seconds = draw(st.integers(-(2**63), 2**63 - 1))
    record.time.nanos = draw(st.integers(-(2**31), 2**31 - 1))
    record.destination.address, record.destination.port = draw(st.binary(max_size=20)), draw(U32)
    return record


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_nothing_that_the_store_refuses(kind: str, tmp_path: Path) -> None:
    """Else the agent would bring it again and again, and report nothing any more."""
    with open_store(kind, tmp_path) as database:
        collection = Collection(database, lambda: NOW_NS)
        logs = (f"log{number}" for number in count())

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(anything(), min_size=1, max_size=8))
        def bring(records: list[verdict_pb2.VerdictRecord]) -> None:
            async def tell(log: str) -> int:
                await collection.begin("n1", log, 0)
                return await collection.take("n1", log, batch_of(1, records))

            log = next(logs)
            assert asyncio.run(tell(log)) == len(records)
            assert numbers(database, log=log) == list(range(1, len(records) + 1))

        bring()
        collection.close()


def test_a_text_that_is_too_long_is_cut_and_stays_different_from_others() -> None:
    """A key of PostgreSQL has 2,700 bytes at most."""
    long, longer = kept("ü" * 5000, "workload"), kept("ü" * 5001, "workload")
    assert long != longer
    assert max(len(long.encode()), len(longer.encode())) <= 800
    assert kept("a" * 800, "workload") == "a" * 800
    assert kept("a\0b", "policy") == "a\\x00b"
