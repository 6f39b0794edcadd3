"""News between replicas, by LISTEN and NOTIFY: a thread of its own, on a connection of its own."""

import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterable
from typing import Any

import psycopg

from exeat.plane.store.database import News, Topic

_log = logging.getLogger("exeat")
_CHANNEL = "exeat"
_PAYLOAD_MAX = 7900  # bytes; the server takes 8000
_LOOK_S = 0.5  # how long the end may have to wait
_QUIET_S = 20.0  # without news: is the server still there?
_AGAIN_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_Connection = psycopg.Connection[tuple[Any, ...]]


class NewsReader:
    """Hears what other replicas tell. Whenever it has connected, it tells of everything: it may have missed some."""

    def __init__(self, connect: Callable[[], _Connection], heard: Callable[[News], None]) -> None:
        self.name = secrets.token_hex(8)
        self._connect = connect
        self._heard = heard
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="store news", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Nothing is heard after that."""
        self._ending.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._ending.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(f"LISTEN {_CHANNEL}".encode())
                    if failures:
                        _log.info("news from other replicas are heard again")
                    failures = 0
                    for topic in Topic:
                        self._heard(News(topic))
                    self._hear(connection)
            except Exception as error:  # noqa: BLE001 - whatever it was: a replica that hears nothing would go on alone
                if failures == 0 and not self._ending.is_set():
                    is_broken = isinstance(error, psycopg.Error)  # its text may have the password
                    sentence = "the connection broke" if is_broken else f"{type(error).__name__}: {error}"
                    _log.warning("news from other replicas are not heard: %s", sentence)
                self._ending.wait(_AGAIN_S[min(failures, len(_AGAIN_S) - 1)])
                failures += 1

    def _hear(self, connection: _Connection) -> None:
        quiet_s = 0.0
        while not self._ending.is_set():
            quiet_s += _LOOK_S
            for notice in connection.notifies(timeout=_LOOK_S):
                quiet_s = 0.0
                self._take(notice.payload)
                if self._ending.is_set():
                    return
            if quiet_s >= _QUIET_S:
                connection.execute("SELECT 1")
                quiet_s = 0.0

    def _take(self, payload: str) -> None:
        try:
            sender, topic, about = json.loads(payload)
            news = News(Topic(topic), str(about))
        except (ValueError, TypeError):  # of a newer replica, or of somebody else who uses this channel
            return
        if sender != self.name:
            self._heard(news)


def notify(connection: _Connection, news: Iterable[News], sender: str) -> None:
    """Within a transaction: others hear it once that is committed."""
    for one in news:
        payload = json.dumps([sender, one.topic.value, one.about])
        if len(payload) > _PAYLOAD_MAX:
            payload = json.dumps([sender, one.topic.value, ""])
        connection.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, payload))
