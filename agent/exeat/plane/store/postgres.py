"""PostgreSQL: several replicas of the plane beside one server.

Isolation. What reads sees one state (REPEATABLE READ, READ ONLY). What writes is READ COMMITTED: two writers of one row
come one after the other, and an UPDATE sees what the one before has committed. So a change that depends on what was
read is one statement (`SET serial = CASE ...`, `WHERE stage = ?`), or begins with a lock that is a row
(policy_rows.lock). Numbers that the database makes up are given before the commit: a row with a smaller one may show
later.

The server may go and come back: a transaction that is under way raises StoreError, and the next one has a new
connection. Whether a commit that broke off was done, nobody can tell: what must not be done twice says so in its rows.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from exeat.plane.store.database import News, Row, StoreError, Tx
from exeat.plane.store.postgres_news import NewsReader, notify
from exeat.plane.store.schema import bring_up

_WORDS = {"id": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "bytes": "BYTEA"}
_BRING_UP_LOCK = 0x65786561  # "exea": whoever makes tables holds it
_CONNECTIONS_MAX = 8  # of one replica, beside the one that hears news; a server has 100 for everybody
_WAIT_S = 30.0
_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITING = "BEGIN ISOLATION LEVEL READ COMMITTED"
# A server that has vanished without a word is found out in a minute, and no transaction is waited for for ever.
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "application_name": "exeat-plane",
    "options": "-c idle_in_transaction_session_timeout=120s -c lock_timeout=30s -c statement_timeout=300s",
}

_Connection = psycopg.Connection[tuple[Any, ...]]


class Postgres:
    """Twin of Sqlite. TLS, passwords and the like are libpq's, by the URL or its environment."""

    def __init__(self, url: str) -> None:
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error:
            # libpq would quote the part that it does not understand, and that may be half of a password.
            sentence = (
                "the store's postgresql:// URL cannot be read: escape `@`, `/`, `:` and `%` in it as %40, %2F ..."
            )
            raise StoreError(sentence) from None
        self._conninfo = make_conninfo("", **{**_DEFAULTS, **given})
        self._told = _Told(str(given.get("password") or ""))
        self._idle: list[_Connection] = []  # append and pop are atomic
        self._room = threading.BoundedSemaphore(_CONNECTIONS_MAX)
        self._is_closed = False
        self._listeners: list[Callable[[News], None]] = []
        self._reader = NewsReader(self._connect, self._hear)
        with self.writing() as tx:
            tx.all("SELECT pg_advisory_xact_lock(?)", _BRING_UP_LOCK)
            is_new = tx.one("SELECT to_regclass('settings')") == (None,)
            step = None if is_new else tx.one("SELECT value FROM settings WHERE name = 'step'")
            bring_up(tx, int(step[0]) if step else 0, _WORDS)

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        """Sees one state of everything."""
        with self._lent(_READING) as connection:
            yield _PostgresTx(connection, self._told)

    @contextmanager
    def writing(self) -> Iterator[Tx]:
        """All of it or nothing. A thread that is in here must not begin another one."""
        with self._lent(_WRITING) as connection:
            tx = _PostgresTx(connection, self._told)
            yield tx
            news = list(dict.fromkeys(tx.news))
            with self._told:
                notify(connection, news, self._reader.name)
                done = connection.execute("COMMIT")
            if done.statusmessage != "COMMIT":  # something had failed, and whoever asked went on
                raise StoreError("PostgreSQL has taken nothing: a statement had failed before")
        for one in news:
            self._hear(one)

    def listen(self, heard: Callable[[News], None]) -> None:
        """Own news are heard at once, others' by NOTIFY."""
        self._listeners.append(heard)
        self._reader.begin()

    def close(self) -> None:
        """No more of it."""
        self._is_closed = True
        self._reader.end()
        self._drop_idle()

    @contextmanager
    def _lent(self, begin: str) -> Iterator[_Connection]:
        """A connection in a transaction, which is rolled back unless it is committed inside."""
        if not self._room.acquire(timeout=_WAIT_S):
            raise StoreError(f"the store has been busy for {_WAIT_S:.0f} s: is its server too slow?")
        try:
            connection = self._begun(begin)
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._room.release()

    def _begun(self, begin: str) -> _Connection:
        while self._idle:
            with suppress(IndexError):
                connection = self._idle.pop()
                try:
                    connection.execute(begin)
                except psycopg.Error:  # the server has gone since; it may be back
                    connection.close()
                    self._drop_idle()
                else:
                    return connection
        if self._is_closed:
            raise StoreError("the store is closed: the plane is ending")
        connection = self._connect()
        with self._told:
            connection.execute(begin)
        return connection

    def _give_back(self, connection: _Connection) -> None:
        with suppress(psycopg.Error):
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        is_well = not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if is_well and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.close()

    def _connect(self) -> _Connection:
        with self._told:
            connection = psycopg.connect(self._conninfo, autocommit=True)
        connection.adapters.register_dumper(bool, _BoolDumper)
        return connection

    def _drop_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()

    def _hear(self, news: News) -> None:
        for heard in self._listeners:
            heard(news)


class _PostgresTx:
    def __init__(self, connection: _Connection, told: "_Told") -> None:
        self.news: list[News] = []
        self._connection = connection
        self._told = told

    def all(self, sql: str, *values: object) -> list[Row]:
        with self._told:
            return self._ask(sql, values).fetchall()

    def one(self, sql: str, *values: object) -> Row | None:
        with self._told:
            return self._ask(sql, values).fetchone()

    def do(self, sql: str, *values: object) -> int:
        with self._told:
            return self._ask(sql, values).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        with self._told, self._connection.cursor() as cursor:
            cursor.executemany(_translated(sql), rows)

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        sql = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with self._told, self._connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def tell(self, news: News) -> None:
        self.news.append(news)

    def _ask(self, sql: str, values: tuple[object, ...]) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._connection.execute(_translated(sql) if values else sql.encode(), values or None)


class _BoolDumper(psycopg.adapt.Dumper):
    """SQLite has no booleans, so the tables have none."""

    oid = psycopg.adapters.types["int2"].oid

    def dump(self, obj: bool) -> bytes:
        return b"1" if obj else b"0"


class _Told:
    """Turns the driver's errors into sentences, and leaves the password out of them."""

    def __init__(self, password: str) -> None:
        self._secrets = {password, unquote(password)} - {""}

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, psycopg.Error | UnicodeEncodeError):
            return
        said = " ".join(str(error).split()) or type(error).__name__
        for secret in self._secrets:
            said = said.replace(secret, "***")
        if isinstance(error, psycopg.DataError | UnicodeEncodeError):
            raise StoreError(f"the store cannot keep this value: {said}") from None
        raise StoreError(f"PostgreSQL: {said}") from None


@lru_cache(maxsize=1024)
def _translated(sql: str) -> bytes:
    """The driver's marks, outside of quoted texts."""
    parts = sql.replace("%", "%%").split("'")
    return "'".join(part if at % 2 else part.replace("?", "%s") for at, part in enumerate(parts)).encode()
