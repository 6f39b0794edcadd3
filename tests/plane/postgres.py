"""A PostgreSQL server of our own, thrown away afterwards: in its own directory, on a Unix socket, as user postgres.

    with open_cluster() as url:
        database = open_database(url)

One per process of tests is enough: `new_database()` makes an empty database in it. A test that stops the server
has one for itself.
"""

import atexit
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

import pytest

_BINARIES = Path("/usr/lib/postgresql")
_NUMBERS = count()
# What is lost when the machine fails, a test does not miss. Small, because several may run beside each other.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
    "timezone": "UTC",
}


@dataclass
class Cluster:
    """A server, with its data."""

    place: Path
    binaries: Path
    settings: dict[str, str] = field(default_factory=lambda: dict(_SETTINGS))

    @property
    def url(self) -> str:
        """Of the database that a cluster begins with."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """As libpq takes it."""
        return f"postgresql://postgres@/{database}?host={self.place}"

    def start(self) -> None:
        """Also again, after a stop."""
        words = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        options = " ".join(f"'{word}'" for word in (*words, "-k", str(self.place)))
        log = str(self.place / "log")
        self._run("pg_ctl", "start", "-w", "-t", "60", "-D", str(self._data), "-l", log, "-o", options)

    def stop(self, how: str = "immediate") -> None:
        """`immediate` is a crash; `fast` breaks connections off and says goodbye."""
        self._run("pg_ctl", "stop", "-w", "-t", "60", "-m", how, "-D", str(self._data))

    def make(self) -> None:
        """An empty cluster. Whoever reaches its socket is let in."""
        self._run(
            "initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C"
        )

    def is_running(self) -> bool:
        """Whether its server is there."""
        return (self._data / "postmaster.pid").exists()

    @property
    def _data(self) -> Path:
        return self.place / "data"

    def _run(self, program: str, *words: str) -> None:
        """A server of PostgreSQL refuses to be root's."""
        user = {} if os.geteuid() else {"user": "postgres", "group": "postgres", "extra_groups": ()}
        done = subprocess.run(
            [str(self.binaries / program), *words],
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.place / f"{program}.err").open("wb"),
            timeout=120,
            check=False,
            **user,  # type: ignore[call-overload]
        )
        if done.returncode:
            log = self.place / "log"
            said = (self.place / f"{program}.err").read_text() + (log.read_text()[-2000:] if log.exists() else "")
            raise RuntimeError(f"{program} failed with {done.returncode}: {said}")


@contextmanager
def own_cluster() -> Iterator[Cluster]:
    """A server for one test alone, which may stop it."""
    binaries = _binaries()
    place = Path(tempfile.mkdtemp(prefix="exeat-pg-", dir="/tmp"))  # a socket's path must be short
    cluster = Cluster(place, binaries)
    try:
        if not os.geteuid():
            user = pwd.getpwnam("postgres")
            os.chown(place, user.pw_uid, user.pw_gid)
        cluster.make()
        cluster.start()
        yield cluster
    finally:
        try:
            if cluster.is_running():
                cluster.stop()
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def open_cluster() -> Iterator[str]:
    """A server of one's own; its URL."""
    with own_cluster() as cluster:
        yield cluster.url


@cache
def shared_cluster() -> Cluster:
    """The one of this process, until the process ends."""
    opened = own_cluster()
    cluster = opened.__enter__()
    atexit.register(opened.__exit__, None, None, None)
    return cluster


_MAKING = threading.Lock()


def new_database() -> str:
    """The URL of an empty database in this process's cluster."""
    import psycopg

    with _MAKING:
        cluster = shared_cluster()
    name = f"test_{os.getpid()}_{next(_NUMBERS)}"
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return cluster.url_of(name)


def _binaries() -> Path:
    found = sorted(_BINARIES.glob("*/bin/initdb"), key=lambda one: int(one.parent.parent.name))
    if not found:
        pytest.skip("there is no PostgreSQL server here: apt-get install postgresql")
    return found[-1].parent
