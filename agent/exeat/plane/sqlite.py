"""SQLite: one file, one plane. Readers do not wait for the writer (WAL); a commit is on disk when it returns."""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from exeat.plane.database import News, Row, StoreError, Tx
from exeat.plane.schema import bring_up

_WORDS = {"id": "INTEGER PRIMARY KEY AUTOINCREMENT", "bytes": "BLOB"}
_WAIT_S = 30.0


class Sqlite:
    """Twin of Postgres. Connections are per thread, and one thread writes at a time."""

    def __init__(self, path: str) -> None:
        if not path.startswith("/"):
            raise StoreError(f"sqlite:{path}: write the whole path of a file, as in sqlite:/var/lib/exeat-plane/plane.db")
        self._path = Path(path)
        self._own = threading.local()
        self._writers = threading.Lock()
        self._all: list[sqlite3.Connection] = []
        self._listeners: list[Callable[[News], None]] = []
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.writing() as tx:
            is_new = tx.one("SELECT 1 FROM sqlite_master WHERE name = 'settings'") is None
            step = None if is_new else tx.one("SELECT value FROM settings WHERE name = 'step'")
            bring_up(tx, int(step[0]) if step else 0, _WORDS)

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        """Sees one state of everything."""
        connection = self._connection()
        with _told(self._path):
            connection.execute("BEGIN")
            try:
                yield _SqliteTx(connection)
            finally:
                connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[Tx]:
        """All of it or nothing."""
        connection = self._connection()
        with self._writers, _told(self._path):
            connection.execute("BEGIN IMMEDIATE")
            tx = _SqliteTx(connection)
            try:
                yield tx
                connection.commit()
            finally:
                if connection.in_transaction:
                    connection.rollback()
        for news in dict.fromkeys(tx.news):
            for heard in self._listeners:
                heard(news)

    def listen(self, heard: Callable[[News], None]) -> None:
        """Of this process: another one must not use the file."""
        self._listeners.append(heard)

    def close(self) -> None:
        """No more of it."""
        for connection in self._all:
            connection.close()

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if found is None:
            with _told(self._path):
                found = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
                for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY"):
                    found.execute(f"PRAGMA {pragma}")
            self._own.connection = found
            self._all.append(found)
        return found


class _SqliteTx:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.news: list[News] = []
        self._connection = connection

    def all(self, sql: str, *values: object) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()  # type: ignore[arg-type]

    def one(self, sql: str, *values: object) -> Row | None:
        found: Row | None = self._connection.execute(sql, values).fetchone()  # type: ignore[arg-type]
        return found

    def do(self, sql: str, *values: object) -> int:
        return self._connection.execute(sql, values).rowcount  # type: ignore[arg-type]

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        self._connection.executemany(sql, rows)  # type: ignore[arg-type]

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        marks = ", ".join("?" * len(columns))
        self.many(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)

    def tell(self, news: News) -> None:
        self.news.append(news)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error
