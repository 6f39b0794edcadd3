"""The store, on both databases: transactions, news, what it refuses; and a PostgreSQL server that comes back."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exeat.plane.store.database import Database, News, StoreError, Topic, Tx, open_database
from exeat.plane.store.schema import STEPS
from plane.postgres import new_database, own_cluster
from plane.stores import KINDS, open_store, url_of


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store."""
    with open_store(request.param, tmp_path) as opened:
        yield opened


def put(database: Database, name: str, value: str = "x") -> None:
    """A row."""
    with database.writing() as tx:
        tx.do("INSERT INTO settings (name, value) VALUES (?, ?)", name, value)


def names(database: Database) -> set[str]:
    """Of the rows."""
    with database.reading() as tx:
        return {row[0] for row in tx.all("SELECT name FROM settings")} - {"step"}


def fail_in(database: Database, act: Callable[[Tx], object]) -> None:
    """Does something in a transaction, and then fails."""
    with database.writing() as tx:
        act(tx)
        raise ZeroDivisionError


def until(is_so: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Waits for it."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    """Whatever leaves the block takes everything back; the twin stays."""
    with pytest.raises(ZeroDivisionError):
        fail_in(database, lambda tx: tx.do("INSERT INTO settings (name, value) VALUES ('lost', 'x')"))
    assert names(database) == set()
    put(database, "kept")
    assert names(database) == {"kept"}


def test_a_reader_sees_one_state_and_changes_nothing(database: Database) -> None:
    """Also while somebody writes; the next transaction sees it."""
    with database.reading() as tx:
        assert len(tx.all("SELECT name FROM settings")) == 1
        with ThreadPoolExecutor(1) as other:
            other.submit(put, database, "new").result(timeout=20)
        assert len(tx.all("SELECT name FROM settings")) == 1
        with pytest.raises(StoreError):
            tx.do("DELETE FROM settings")
    assert names(database) == {"new"}


def test_a_store_is_found_again_as_it_was_left(tmp_path: Path) -> None:
    """Its tables are made once."""
    for kind in KINDS:
        url = url_of(kind, tmp_path)
        for name in ("one", "two"):
            opened = open_database(url)
            put(opened, name)
            opened.close()
        opened = open_database(url)
        assert names(opened) == {"one", "two"}
        with opened.reading() as tx:
            assert tx.one("SELECT value FROM settings WHERE name = ?", "step") == (str(len(STEPS)),)
        opened.close()


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """An old plane would not know what it does."""
    for kind in KINDS:
        url = url_of(kind, tmp_path)
        opened = open_database(url)
        with opened.writing() as tx:
            tx.do("UPDATE settings SET value = '99' WHERE name = 'step'")
        opened.close()
        with pytest.raises(StoreError, match="made by a newer exeat"):
            open_database(url)


def test_values_come_back_as_they_went_in(database: Database) -> None:
    """Texts with odd letters, bytes, large numbers, nothing at all; by each way to write."""
    body, text, large = bytes(range(256)), "ü\t\\N\n'\"?%s", (1 << 63) - 1
    columns = ("id", "node", "body", "by_whom", "at_ns", "expires_ns", "state", "result", "ended_ns")
    marks = ", ".join("?" * len(columns))
    rows = [(name, text, body, "", large, -1, "%?", None, False) for name in ("one", "two", "three")]
    with database.writing() as tx:
        insert = f"INSERT INTO commands ({', '.join(columns)}) VALUES ({marks})"
        assert tx.do(insert, *rows[0]) == 1
        tx.many(insert, rows[1:2])
        tx.append("commands", columns, [(*rows[2][:-1], 0)])
    with database.reading() as tx:
        found = tx.all(f"SELECT {', '.join(columns)} FROM commands WHERE node = ? ORDER BY id", text)
        assert [row[0] for row in found] == ["one", "three", "two"]
        assert {row[1:] for row in found} == {(text, body, "", large, -1, "%?", None, 0)}
        assert tx.one("SELECT 1 FROM commands WHERE id LIKE 'x%'") is None
        assert tx.one("SELECT COUNT(*) FROM commands WHERE state = '%?' AND id LIKE ?", "t%") == (2,)


@pytest.mark.parametrize("value", [1 << 63, "\ud800"])
def test_what_cannot_be_kept_is_refused_in_a_sentence(database: Database, value: object) -> None:
    """And the next transaction goes on as if nothing had been."""
    with pytest.raises(StoreError, match="cannot keep this value"), database.writing() as tx:
        tx.do("UPDATE nodes SET seen_ns = ? WHERE name = ?", value, "x") if isinstance(value, int) else tx.do(
            "INSERT INTO settings (name, value) VALUES (?, ?)", "odd", value
        )
    put(database, "fine")
    assert names(database) == {"fine"}


def test_a_mistake_in_a_statement_takes_everything_back(database: Database) -> None:
    """What came before it too."""

    def mistake(tx: Tx) -> None:
        tx.do("INSERT INTO settings (name, value) VALUES ('a', 'b')")
        tx.do("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(StoreError):
        fail_in(database, mistake)
    assert names(database) == set()


def test_a_mistake_that_was_passed_over_is_told_at_the_end() -> None:
    """PostgreSQL takes nothing of such a transaction, and would say so in a word that nobody reads."""
    database = open_database(new_database())
    with (
        pytest.raises(StoreError, match="has taken nothing"),
        database.writing() as tx,
        pytest.raises(StoreError, match="nowhere"),
    ):
        tx.do("INSERT INTO nowhere VALUES (1)")
    put(database, "after")
    database.close()


def test_news_are_told_once_they_are_true(database: Database) -> None:
    """Not of what was taken back; and each once."""
    heard: list[News] = []
    seen: list[set[str]] = []

    def hear(news: News) -> None:
        if news.about:
            heard.append(news)
            seen.append(names(database))

    database.listen(hear)
    with pytest.raises(ZeroDivisionError):
        fail_in(database, lambda tx: tx.tell(News(Topic.NODES, "wrong")))
    with database.writing() as tx:
        for _ in range(3):
            tx.tell(News(Topic.NODES, "n1"))
        tx.do("INSERT INTO settings (name, value) VALUES ('there', '')")
        assert heard == []
    assert heard == [News(Topic.NODES, "n1")]
    assert seen == [{"there"}]


def test_many_threads_write_and_read_at_the_same_time(database: Database) -> None:
    """More of them than there are connections."""

    def one(at: int) -> int:
        put(database, f"row {at}")
        return len(names(database))

    with ThreadPoolExecutor(24) as pool:
        seen = list(pool.map(one, range(120)))
    assert max(seen) == 120
    assert len(names(database)) == 120


def test_a_closed_store_is_asked_nothing(database: Database) -> None:
    """In a sentence."""
    put(database, "before")
    database.close()
    with pytest.raises(StoreError), database.writing():
        pass


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """SQLite's, with what it keeps beside it; and other processes may look into it."""
    place = tmp_path / "new" / "plane.db"
    opened = open_database(f"sqlite:{place}")
    put(opened, "seen")
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert all(one.stat().st_mode & 0o077 == 0 for one in place.parent.iterdir())
    with sqlite3.connect(place) as other:
        assert other.execute("SELECT name FROM settings WHERE name = 'seen'").fetchall()
    opened.close()


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "sqlite:plane.db", "postgresql://u:hunter2/x@[h/d?a=b",
                                 "postgresql://u:hunter2@127.0.0.1:1/d", "sqlite:/proc/nowhere/plane.db"])  # fmt: skip
def test_a_store_that_cannot_be_is_refused_without_its_password(url: str) -> None:
    """Neither the sentence nor what it came from says it."""
    with pytest.raises(StoreError) as caught:
        open_database(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = None if error.__suppress_context__ else error.__cause__ or error.__context__


def test_several_replicas_may_start_at_the_same_time() -> None:
    """On an empty database, on which only one can make the tables."""
    url = new_database()
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(open_database, [url] * 6))
    for at, one in enumerate(opened):
        put(one, f"replica {at}")
    assert len(names(opened[0])) == 6
    for one in opened:
        one.close()


def test_replicas_hear_of_each_other() -> None:
    """Each its own news at once, and the others' a moment later, once."""
    url = new_database()
    one, two = open_database(url), open_database(url)
    heard: dict[str, list[News]] = {"one": [], "two": []}
    one.listen(heard["one"].append)
    two.listen(heard["two"].append)
    until(lambda: all(len(news) == len(Topic) for news in heard.values()), "nobody listens")
    assert set(heard["one"]) == {News(topic) for topic in Topic}
    for news in heard.values():
        news.clear()
    with one.writing() as tx:
        tx.tell(News(Topic.COMMANDS, "node-7"))
        tx.tell(News(Topic.POLICIES))
    expected = [News(Topic.COMMANDS, "node-7"), News(Topic.POLICIES)]
    assert heard["one"] == expected
    until(lambda: heard["two"] == expected, f"it heard {heard['two']}")
    with two.writing() as tx:
        tx.tell(News(Topic.NODES, "x" * 9000))
    until(lambda: News(Topic.NODES) in heard["one"], "what is too long to be told is told without its end")
    one.close()
    two.close()
    assert heard["one"].count(expected[0]) == 1


def test_a_listener_that_fails_does_not_make_a_replica_deaf(caplog: pytest.LogCaptureFixture) -> None:
    """It is told, and everything is news once more."""
    url = new_database()
    one, two = open_database(url), open_database(url)
    heard: list[News] = []
    failures = [ZeroDivisionError("a mistake")]

    def hear(news: News) -> None:
        if news.about == "bad" and failures:
            raise failures.pop()
        heard.append(news)

    two.listen(hear)
    until(lambda: len(heard) == len(Topic), "nobody listens")
    for about in ("bad", "good"):
        with one.writing() as tx:
            tx.tell(News(Topic.NODES, about))
        until(lambda about=about: about == "bad" or News(Topic.NODES, "good") in heard, "it is deaf")  # type: ignore[misc]
        until(lambda: len(heard) >= 2 * len(Topic), "not everything is news")
    assert "a mistake" in caplog.text
    one.close()
    two.close()


def test_a_server_that_was_killed_comes_back() -> None:
    """What was under way fails, the next is done; whoever listens is told to look at everything."""
    with own_cluster() as cluster:
        database = open_database(cluster.url)
        heard: list[News] = []
        database.listen(heard.append)
        until(lambda: len(heard) == len(Topic), "nobody listens")
        with ThreadPoolExecutor(4) as pool:  # several connections that wait for work
            list(pool.map(lambda at: put(database, f"before {at}"), range(8)))
        heard.clear()

        def is_interrupted(tx: Tx) -> None:
            tx.do("INSERT INTO settings (name, value) VALUES ('under way', '')")
            cluster.stop("immediate")
            tx.do("INSERT INTO settings (name, value) VALUES ('lost', '')")

        with pytest.raises(StoreError):
            fail_in(database, is_interrupted)
        with pytest.raises(StoreError, match="PostgreSQL: "), database.reading():
            pass
        cluster.start()
        put(database, "after")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda at: put(database, f"after {at}"), range(8)))
        assert names(database) == {"after", *(f"{when} {at}" for when in ("before", "after") for at in range(8))}
        until(lambda: {News(topic) for topic in Topic} <= set(heard), "nobody listens again")
        # Those that wait must not fail the next one either, when nobody had asked in between.
        cluster.stop("fast")
        cluster.start()
        put(database, "at once")
        database.close()


def test_one_who_waits_for_a_busy_store_is_served_in_turn() -> None:
    """As many transactions as there are connections keep the next one waiting, and no longer."""
    database = open_database(new_database())
    release, begun = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        with database.reading():
            begun.release()
            release.wait(20)

    holders = [threading.Thread(target=hold) for _ in range(8)]
    for one in holders:
        one.start()
    for _ in holders:
        assert begun.acquire(timeout=20)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(names, database)
        time.sleep(0.2)
        assert not late.done()
        release.set()
        assert late.result(timeout=20) == set()
    for one in holders:
        one.join()
    database.close()
