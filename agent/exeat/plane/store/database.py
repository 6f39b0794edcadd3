"""One way to speak SQL, to SQLite or PostgreSQL: the same statements, `?` for each value.

Nothing here blocks an event loop by itself: whoever is in one calls it by `asyncio.to_thread`. Times are integers,
nanoseconds since 1970; lists and mappings are JSON texts.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from exeat.core.problems import shown
from exeat.errors import ExeatError

Row = tuple[Any, ...]


class Topic(StrEnum):
    """What may be news to another task, or another replica."""

    POLICIES = "policies"  # what shall hold on nodes: policies, rollouts, labels
    COMMANDS = "commands"  # something waits for a node; `about` is its name
    RESULTS = "results"  # a command has ended; `about` is its id
    NODES = "nodes"  # `about` is the node's name
    VERDICTS = "verdicts"  # more of them were stored


@dataclass(frozen=True, slots=True)
class News:
    """Told to everybody who listens once the change is committed. It says where to look, not what is there."""

    topic: Topic
    about: str = ""


class Tx(Protocol):
    """One transaction."""

    def all(self, sql: str, *values: object) -> list[Row]:
        """Every row."""

    def one(self, sql: str, *values: object) -> Row | None:
        """The first row."""

    def do(self, sql: str, *values: object) -> int:
        """How many rows it touched."""

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """The same statement for each."""

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """The fastest way to insert many."""

    def tell(self, news: News) -> None:
        """Once it is committed."""


class Database(Protocol):
    """Any thread may ask. Raises StoreError where the database does not answer, and where it refuses what it is told.

    One transaction at a time in a thread: inside of `writing`, nobody begins another one.
    """

    def reading(self) -> AbstractContextManager[Tx]:
        """Sees one state of everything, and changes nothing."""

    def writing(self) -> AbstractContextManager[Tx]:
        """All of it or, where an exception leaves the block, nothing."""

    def listen(self, heard: Callable[[News], None]) -> None:
        """Calls back, in any thread, for the news of this and every other replica. `heard` must neither wait nor raise.
        News may come twice, or be lost while the database is away: then all of them come once, with no `about`."""

    def close(self) -> None:
        """No more of it."""


class StoreError(ExeatError):
    """The database cannot be asked, or refuses."""


def open_database(url: str) -> Database:
    """`sqlite:/path/of/a/file`, or `postgresql://...` as libpq takes it. Makes the tables if they are not there."""
    if url.startswith("sqlite:"):
        from exeat.plane.store.sqlite import Sqlite

        return Sqlite(url.removeprefix("sqlite:"))
    if url.startswith(("postgresql:", "postgres:")):
        from exeat.plane.store.postgres import Postgres

        return Postgres(url)
    # Not the whole of it: there may be a password in there.
    raise StoreError(
        f"{shown(url.partition(':')[0])} is no kind of store: write sqlite:/var/lib/exeat-plane/plane.db or "
        "postgresql://host/database"
    )
