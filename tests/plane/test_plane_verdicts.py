"""Verdicts are asked for: one by one, as denials alike, and as they come; and one day they are forgotten."""

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from exeat.core.filters import Filter, parse_to
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.settings import Retention
from exeat.plane.store import retention
from exeat.plane.store.database import Database, open_database
from exeat.plane.verdicts import denials as stored_verdicts
from exeat.plane.verdicts import live
from exeat.plane.verdicts.collection import Collection
from exeat.plane.verdicts.denials import denials, newer, verdict, verdicts
from exeat.plane.verdicts.live import Feed, Glimpse
from exeat.plane.verdicts.wanted import Wanted
from plane.batches import HOUR_NS, NOW_NS, batch, batch_of, rows_of, wire
from plane.stores import KINDS, open_store, url_of

DAY_NS = 24 * HOUR_NS


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store."""
    with open_store(request.param, tmp_path) as store:
        yield store


def bring(database: Database, *records: Any, node: str = "n1", log: str = "", now_ns: int = NOW_NS) -> None:
    """Stores these, as a log of their own."""

    async def tell() -> None:
        name = log or f"log-{time.monotonic_ns()}"
        await collection.begin(node, name, 0)
        await collection.take(node, name, batch_of(1, records))

    collection = Collection(database, lambda: now_ns)
    asyncio.run(tell())
    collection.close()


def names(database: Database, wanted: Wanted, **more: Any) -> list[str]:
    """Of the verdicts on one page."""
    with database.reading() as tx:
        return [one.record.name for one in verdicts(tx, wanted, **more).verdicts]


def about(to: str = "", workload: str = "", **more: Any) -> Wanted:
    """A filter in few words."""
    return Wanted(Filter(more.pop("verdicts", frozenset()), workload, parse_to(to)), **more)


def test_the_newest_come_first_by_their_own_time(database: Database) -> None:
    """One that was told late stands where it fell."""
    bring(database, wire(name="second", time_ns=NOW_NS - 5), wire(name="third", time_ns=NOW_NS))
    bring(database, wire(name="first", time_ns=NOW_NS - 9), node="n2")
    assert names(database, Wanted()) == ["third", "second", "first"]
    assert names(database, Wanted(since_ns=NOW_NS - 5)) == ["third", "second"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (about("api.example.com"), ["api.example.com"]),
        (about(".example.com"), ["api.example.com"]),
        (about(".exam_le.com"), []),
        (about("203.0.113.0/24"), ["api.example.com", "other.test"]),
        (about(":444"), ["other.test"]),
        (about(workload="coder-2"), ["other.test"]),
        (about(workload="CODER-2"), []),
        (about(node="n2"), []),
        (about(node="n1", verdicts=frozenset({Verdict.FORWARDED})), ["api.example.com"]),
        (about(policy="b"), ["other.test"]),
        (about(policy="a+b"), []),
    ],
)
def test_a_filter_shows_what_fits_and_nothing_else(database: Database, wanted: Wanted, found: list[str]) -> None:
    """By SQL, and by itself for those who watch: they agree."""
    records = [
        wire(name="api.example.com", workload="/coder-1", verdict=Verdict.FORWARDED, policy="a"),
        wire(name="other.test", workload="/coder-2", port=444, policy="c+b"),
    ]
    bring(database, *records)
    assert sorted(names(database, wanted)) == found
    assert [record.name for record in records if wanted.accepts("n1", record)] == found


def test_pages_follow_each_other_without_a_gap(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a page ends because enough was looked at, and not because enough was found."""
    monkeypatch.setattr(stored_verdicts, "_STEP", 7)
    monkeypatch.setattr(stored_verdicts, "_STEPS_MAX", 2)
    bring(
        database,
        *(wire(name=f"n{number}.test", port=440 + number % 5, time_ns=NOW_NS + number) for number in range(60)),
    )
    for wanted, expected in ((Wanted(), range(60)), (about(":443"), range(3, 60, 5)), (about("n7.test"), [7])):
        found, before = [], None
        for _ in range(100):
            with database.reading() as tx:
                page = verdicts(tx, wanted, before, limit=4)
            assert len(page.verdicts) <= 4
            found += [one.record.name for one in page.verdicts]
            if page.before_id is None:
                break
            before = page.before_id
        assert found == [f"n{number}.test" for number in reversed(expected)]


def test_a_page_whose_place_is_forgotten_is_the_last(database: Database) -> None:
    """What was older is forgotten too."""
    bring(database, wire())
    with database.reading() as tx:
        assert verdicts(tx, Wanted(), before_id=999).verdicts == ()
        assert verdict(tx, 999) is None
        only = verdicts(tx, Wanted()).verdicts[0]
        assert verdict(tx, only.id) == only == newer(tx, only.id - 1, 10)[0]


def test_denials_alike_are_one_with_all_their_nodes(database: Database) -> None:
    """Allowed ones are none; what would be denied is one."""
    for node, count in (("n2", 3), ("n1", 4)):
        denied = [wire(name="Evil.test", count=count, time_ns=NOW_NS + count)] * 2
        allowed = wire(name="good.test", verdict=Verdict.FORWARDED, reason=Reason.NAME_ALLOWED)
        bring(
            database, *denied, allowed, wire(name="later.test", verdict=Verdict.AUDIT, time_ns=NOW_NS + 99), node=node
        )
    with database.reading() as tx:
        last, evil = denials(tx, Wanted())
    assert (last.target, last.verdict, last.count) == ("later.test", Verdict.AUDIT, 2)
    assert (evil.workload, evil.policy, evil.target, evil.port) == ("/exeat.slice/run-1", "demo", "evil.test", 443)
    assert (evil.protocol, evil.hook, evil.reason) == (6, "hello", Reason.NAME_NOT_ALLOWED)
    assert (evil.nodes, evil.node_count, evil.count) == (("n1", "n2"), 2, 14)
    assert (evil.first_ns, evil.last_ns) == (NOW_NS + 3, NOW_NS + 4)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (about("evil.test"), ["evil.test"]),
        (about("203.0.113.0/24"), ["203.0.113.11"]),
        (about("203.0.114.0/24"), []),
        (about(":444"), ["203.0.113.11"]),
        (about(policy="p"), ["203.0.113.11"]),
        (about(node="n2"), []),
        (about(since_ns=NOW_NS + HOUR_NS), ["evil.test"]),
        (about(verdicts=frozenset({Verdict.AUDIT})), ["evil.test"]),
    ],
)
def test_denials_can_be_chosen(database: Database, wanted: Wanted, found: list[str]) -> None:
    """By the same filter."""
    late = NOW_NS + HOUR_NS + 1
    bring(
        database, wire(name=None, port=444, policy="p+q"), wire(name="evil.test", time_ns=late, verdict=Verdict.AUDIT)
    )
    with database.reading() as tx:
        assert [one.target for one in denials(tx, wanted)] == found


def test_the_number_of_denials_has_a_bound(database: Database) -> None:
    """The last ones are shown."""
    bring(database, *(wire(name=f"n{number}.test", time_ns=NOW_NS + number) for number in range(20)))
    with database.reading() as tx:
        assert [one.target for one in denials(tx, Wanted(), limit=2)] == ["n19.test", "n18.test"]


async def watched(feed: Feed, wanted: Wanted, until: int, found: list[Glimpse]) -> None:
    """Until so many came."""
    async with asyncio.timeout(20):
        async for glimpse in feed.watch(wanted, wait_s=0.2):
            found.append(glimpse)
            if sum(len(one.verdicts) for one in found) >= until:
                return


def test_who_watches_sees_what_comes_from_then_on(database: Database) -> None:
    """With its node, and only what is wanted; each once."""
    bring(database, wire(name="before.test"))

    async def tell() -> None:
        feed, found = Feed(database), list[Glimpse]()
        watching = asyncio.create_task(watched(feed, about(".new.test"), 4, found))
        await asyncio.sleep(0.5)
        for begin in (0, 2):
            records = [wire(name=f"n{number}.new.test") for number in range(begin, begin + 2)]
            await asyncio.to_thread(bring, database, wire(name="other.test"), *records, node=f"node-{begin}")
        await watching
        shown = [(one.node, one.record.name) for glimpse in found for one in glimpse.verdicts]
        assert shown == [(f"node-{number // 2 * 2}", f"n{number}.new.test") for number in range(4)]
        assert found[0] == Glimpse(()), "when nothing comes, that is said too"
        assert sum(glimpse.lost for glimpse in found) == 0

    asyncio.run(tell())


def test_what_another_replica_stored_is_seen_too(tmp_path: Path) -> None:
    """It says so to all of them."""
    url = url_of("postgresql", tmp_path)
    here, there = open_database(url), open_database(url)

    async def tell() -> None:
        feed, found = Feed(here), list[Glimpse]()
        watching = asyncio.create_task(watched(feed, Wanted(), 1, found))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(bring, there, wire(name="there.test"))
        await watching
        assert found[-1].verdicts[0].record.name == "there.test"

    asyncio.run(tell())
    here.close()
    there.close()


def test_one_that_is_committed_after_a_later_one_is_not_passed_over(tmp_path: Path) -> None:
    """PostgreSQL gives numbers before it commits: two replicas' verdicts may come out of order."""
    url = url_of("postgresql", tmp_path)
    here, there = open_database(url), open_database(url)

    async def tell() -> None:
        feed, found = Feed(here), list[Glimpse]()
        watching = asyncio.create_task(watched(feed, Wanted(), 3, found))
        await asyncio.sleep(0.5)
        with there.writing() as tx:
            body = wire(name="slow.test").SerializeToString()
            tx.append(
                "verdicts",
                ("at_ns", "node", "log", "number", "verdict", "workload", "target", "body"),
                [(NOW_NS, "n2", "b", 1, 2, "/w", "slow.test", body)],
            )
            await asyncio.to_thread(bring, here, wire(name="quick-1.test"), wire(name="quick-2.test"))
            await asyncio.sleep(0.6)
            assert sum(len(glimpse.verdicts) for glimpse in found) == 2
        await watching
        shown = [one.record.name for glimpse in found for one in glimpse.verdicts]
        assert shown == ["quick-1.test", "quick-2.test", "slow.test"]

    asyncio.run(tell())
    here.close()
    there.close()


def test_who_is_too_slow_is_told_how_many_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others lose nothing."""
    monkeypatch.setattr(live, "_QUEUE_MAX", 10)
    monkeypatch.setattr(live, "_GLIMPSE_MAX", 10)

    async def tell(database: Database) -> None:
        feed = Feed(database)
        slow, quick = feed.watch(Wanted()), feed.watch(about("n3.test"))
        looking = [asyncio.create_task(anext(one)) for one in (slow, quick)]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(bring, database, *(wire(name=f"n{number}.test") for number in range(25)))
        first, only = await asyncio.gather(*looking)
        assert (len(first.verdicts), first.lost) == (10, 15)
        assert [one.record.name for one in only.verdicts] == ["n3.test"]
        assert only.lost == 0
        await slow.aclose()
        await quick.aclose()

    with open_store("sqlite", tmp_path) as database:
        asyncio.run(tell(database))


def test_a_feed_that_is_far_behind_skips_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what is new, and not what was an hour ago."""
    monkeypatch.setattr(live, "_READ_MAX", 10)
    monkeypatch.setattr(live, "_BEHIND_MAX", 50)

    async def tell(database: Database) -> None:
        feed, found = Feed(database), list[Glimpse]()
        watching = asyncio.create_task(watched(feed, about("n99.test"), 1, found))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(bring, database, *(wire(name=f"n{number}.test") for number in range(100)))
        await watching
        assert sum(glimpse.lost for glimpse in found) == 90

    with open_store("sqlite", tmp_path) as database:
        asyncio.run(tell(database))


def test_nobody_reads_where_nobody_watches(tmp_path: Path) -> None:
    """The task ends with the last who watched, and begins again with the next."""

    async def tell(database: Database) -> None:
        feed = Feed(database)
        for _ in range(2):
            watch = feed.watch(Wanted(), wait_s=0.05)
            await anext(watch)
            assert len(asyncio.all_tasks()) == 2
            await watch.aclose()
            await asyncio.sleep(0.05)
            assert len(asyncio.all_tasks()) == 1

    with open_store("sqlite", tmp_path) as database:
        asyncio.run(tell(database))


def test_what_is_too_old_is_forgotten_and_the_rest_is_not(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts first, counts later, in many small steps."""
    monkeypatch.setattr(retention, "_STEP", 4)
    monkeypatch.setattr(retention, "_PAUSE_S", 0.0)
    for days in (0, 20, 40, 350):
        at_ns = NOW_NS - days * DAY_NS
        records = [wire(name=f"n{days}-{number}.test", time_ns=at_ns) for number in range(10)]
        bring(database, *records, log=f"days-{days}", now_ns=at_ns)
    kept = Retention(verdicts=timedelta(days=30), tallies=timedelta(days=300))
    assert asyncio.run(retention.forget(database, kept, NOW_NS)) == (20, 10)
    assert rows_of(database, "SELECT count(*), min(at_ns) FROM verdicts") == [(20, NOW_NS - 20 * DAY_NS)]
    assert rows_of(database, "SELECT count(*), min(hour_ns) FROM tallies") == [(30, NOW_NS - 40 * DAY_NS)]
    assert rows_of(database, "SELECT log FROM logs ORDER BY log") == [("days-0",), ("days-20",), ("days-40",)]
    assert asyncio.run(retention.forget(database, kept, NOW_NS)) == (0, 0)


def test_the_file_does_not_grow_by_what_was_forgotten(tmp_path: Path) -> None:
    """Its place is used again."""
    kept = Retention(verdicts=timedelta(days=1), tallies=timedelta(days=1))

    def fill(database: Database, day: int) -> int:
        at_ns = NOW_NS + day * DAY_NS
        for _ in range(8):
            bring(database, *batch_records(500, at_ns), now_ns=at_ns)
        asyncio.run(retention.forget(database, kept, at_ns + 2 * DAY_NS))
        return int(rows_of(database, "SELECT page_count FROM pragma_page_count()")[0][0])

    with open_store("sqlite", tmp_path) as database:
        first = fill(database, 0)
        assert first > 100
        assert fill(database, 3) <= first * 1.1


def batch_records(count: int, at_ns: int) -> list[Any]:
    """So many alike."""
    return [one.verdict for one in batch(1, count, time_ns=at_ns).verdicts]


def test_a_container_that_was_started_again_is_the_same_workload(database: Database) -> None:
    """Its cgroup has another name each time; people know it by its own."""
    first, again = (wire(name=f"{at}.test", workload=f"/docker/{at}") for at in ("a", "b"))
    for one in (first, again):
        one.who.name = "docker/coder"
    bring(database, first, again, wire(name="other.test", workload="/docker/c"))
    with database.reading() as tx:
        found = {one.workload for one in denials(tx, about())}
    assert found == {"docker/coder", "/docker/c"}
    assert sorted(names(database, about(workload="docker/coder"))) == ["a.test", "b.test"]
    assert names(database, about(workload="/docker/c")) == ["other.test"]
    assert about(workload="coder").accepts("n1", first)
    assert not about(workload="/docker/a").accepts("n1", first)
