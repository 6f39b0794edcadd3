"""SQLite: one file, one plane. Readers do not wait for the writer (WAL); a commit is on disk when it returns."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from urllib.parse import quote

from exeat.plane.store.database import News, Row, StoreError, Tx
from exeat.plane.store.schema import bring_up

_WORDS = {"id": "INTEGER PRIMARY KEY AUTOINCREMENT", "bytes": "BLOB"}
_WAIT_S = 30.0
_VALUES = 16_000  # of a statement; SQLite takes 32,766 (SQLITE_MAX_VARIABLE_NUMBER since 3.32)
_IDLE_MAX = 16


class Sqlite:
    """Twin of Postgres. One thread writes at a time; many read, on connections that cannot write."""

    def __init__(self, path: str) -> None:
        if not path.startswith("/"):
            example = "sqlite:/var/lib/exeat-plane/plane.db"
            raise StoreError(f"sqlite:{path}: write the whole path of a file, as in {example}")
        self._path = Path(path)
        self._writers = threading.Lock()
        self._idle: list[sqlite3.Connection] = []  # readers; append and pop are atomic
        self._listeners: list[Callable[[News], None]] = []
        self._is_closed = False
        self._make_file()
        self._place = _place(self._path)
        self._writer = self._connect("synchronous = FULL", "foreign_keys = ON")
        with self.writing() as tx:
            is_new = tx.one("SELECT 1 FROM sqlite_master WHERE name = 'settings'") is None
            step = None if is_new else tx.one("SELECT value FROM settings WHERE name = 'step'")
            bring_up(tx, int(step[0]) if step else 0, _WORDS)

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        """Sees one state of everything."""
        self._check_place()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect("query_only = ON")
        try:
            with _told(self._path):
                connection.execute("BEGIN")
            try:
                yield _SqliteTx(connection, self._path)
            finally:
                with _told(self._path):
                    connection.rollback()
        finally:
            if self._is_closed or len(self._idle) >= _IDLE_MAX:
                connection.close()
            else:
                self._idle.append(connection)

    @contextmanager
    def writing(self) -> Iterator[Tx]:
        """All of it or nothing. A thread that is in here must not begin another one."""
        with self._writers:
            self._check_place()
            with _told(self._path):
                self._writer.execute("BEGIN IMMEDIATE")
            tx = _SqliteTx(self._writer, self._path)
            try:
                yield tx
                with _told(self._path):
                    self._writer.commit()
            finally:
                if self._writer.in_transaction:
                    with suppress(sqlite3.Error):  # what is wrong is being told already
                        self._writer.rollback()
        for news in dict.fromkeys(tx.news):
            for heard in self._listeners:
                heard(news)

    def listen(self, heard: Callable[[News], None]) -> None:
        """Of this process. Another one may use the file too, for a token say, and is not heard."""
        self._listeners.append(heard)

    def close(self) -> None:
        """No more of it."""
        self._is_closed = True
        with self._writers:
            self._writer.close()
        while self._idle:
            self._idle.pop().close()

    def _make_file(self) -> None:
        """Nobody else reads it: hashes of tokens and the console's key are in there."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreError(f"{self._path}: the store cannot be made or opened: {error.strerror}") from error

    def _check_place(self) -> None:
        """What is written into a file that was removed is gone with the process, and nobody would be told."""
        if _place(self._path) != self._place:
            raise StoreError(
                f"{self._path}: the store's file was removed or replaced while it was in use. Put the one from the "
                "backup there and restart the plane"
            )

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        with _told(self._path):
            there = f"file:{quote(str(self._path))}?mode=rw"  # and never makes one
            found = sqlite3.connect(there, timeout=_WAIT_S, isolation_level=None, check_same_thread=False, uri=True)
            for pragma in ("journal_mode = WAL", "temp_store = MEMORY", *pragmas):
                found.execute(f"PRAGMA {pragma}")
        return found


class _SqliteTx:
    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.news: list[News] = []
        self._connection = connection
        self._path = path

    def all(self, sql: str, *values: object) -> list[Row]:
        with _told(self._path):
            return self._connection.execute(sql, values).fetchall()

    def one(self, sql: str, *values: object) -> Row | None:
        with _told(self._path):
            found: Row | None = self._connection.execute(sql, values).fetchone()
            return found

    def do(self, sql: str, *values: object) -> int:
        with _told(self._path):
            return self._connection.execute(sql, values).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        with _told(self._path):
            self._connection.executemany(sql, rows)

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        # Many rows a statement: between two of them other threads run, and a busy one gives the interpreter back only
        # after 5 ms. A row each, that was four times slower idle and five times beside a busy thread.
        row, begin = f"({', '.join('?' * len(columns))})", 0
        for size in (_VALUES // len(columns), 200, 20, 1):
            sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * size)}"
            while len(rows) - begin >= size:
                self.do(sql, *chain.from_iterable(rows[begin : begin + size]))
                begin += size

    def tell(self, news: News) -> None:
        self.news.append(news)


def _place(path: Path) -> tuple[int, int] | None:
    """Which file that is; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error
    except (UnicodeEncodeError, OverflowError) as error:  # half a character, a number beyond 63 bits
        raise StoreError(f"{path}: the store cannot keep this value: {error}") from error
