"""Keeps a shelf as the cluster is: by a list, then by watches, one after the other, and by a new list where one fails.

Whatever the API server does, the shelf stays as it was until something whole comes.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from exeat.control.backoff import Backoff
from exeat.core.problems import shown
from exeat.errors import ExeatError
from exeat.plane.cluster.api_server import ApiError, ApiServer, TooMuch
from exeat.plane.cluster.objects import Garbled, Kind
from exeat.plane.cluster.shelf import Shelf, read_event, read_list

_LIMIT = 100  # objects of a page
_OBJECTS_MAX = 100_000
_WATCH_S = (240, 360)  # at random: several watchers should not come back as one
_SHORT_S = 1.0  # a watch that ends sooner is none
_LONG_S = 10.0  # one that lasted so long was a good one
_LISTED_S = 900.0  # how long watches are believed: a cluster that was brought back from a copy tells them nothing
_ROOM_S = 60.0  # how often there is a new list because there is room again
_MOST_S = 30.0  # between two tries
_GONE = 410


class Following:
    """One kind of object; run() is its only task. `heard` is called whenever the shelf has changed."""

    def __init__(self, shelf: Shelf, connect: Callable[[], ApiServer], heard: Callable[[], None]) -> None:
        self._shelf = shelf
        self._connect = connect
        self._heard = heard
        self._is_listed = False
        self._limit = _LIMIT
        self._listed_s = 0.0
        self._watched_s = time.monotonic()
        self.problem = ""  # why the shelf does not follow at this moment

    async def run(self) -> None:
        """For ever."""
        backoff = Backoff(_MOST_S)
        while True:
            try:
                # Anew after each failure: with it, certificates and addresses may have changed.
                async with self._connect() as server:
                    while True:
                        if not self._is_listed or time.monotonic() - self._listed_s > _LISTED_S:
                            await self._list(server)
                        self.problem = ""
                        await self._watch(server)
                        backoff.reset()
            except TooMuch as error:
                self.problem = str(error)
                if self._limit > 1:
                    self._limit //= 2
                    continue
            except ExeatError as error:
                status = error.status if isinstance(error, ApiError) else _GONE
                # A connection that broke lost nothing: the next watch begins where this one was.
                self._is_listed = self._is_listed and not status
                self.problem = str(error)
                if time.monotonic() - self._watched_s > _LONG_S:
                    backoff.reset()
            await asyncio.sleep(0.05 + backoff.next_s())

    async def _list(self, server: ApiServer) -> None:
        kind = self._shelf.kind
        items: list[Any] = []
        after = ""
        while True:
            page = await server.page(kind, self._limit, after)
            items += await asyncio.to_thread(read_list, kind, page["items"])
            version, after = page["metadata"].get("resourceVersion"), page["metadata"].get("continue") or ""
            if not isinstance(after, str) or len(items) > _OBJECTS_MAX:
                raise Garbled(f"a list of {kind.plural} has no end")
            if not after:
                break
        self._shelf.take_list(items, version, time.monotonic())
        self._is_listed, self._listed_s, self._limit = True, time.monotonic(), _LIMIT
        self._heard()

    async def _watch(self, server: ApiServer) -> None:
        kind = self._shelf.kind
        self._watched_s = time.monotonic()
        async with aclosing(server.watch(kind, self._shelf.version, random.randint(*_WATCH_S))) as events:
            async for event in events:
                if isinstance(event, dict) and event.get("type") == "ERROR":
                    raise _error(kind, event.get("object"))
                if self._shelf.take(await asyncio.to_thread(read_event, kind, event)):
                    self._heard()
                if self._shelf.wants_list and time.monotonic() - self._listed_s > _ROOM_S:
                    self._is_listed = False
                    return
        if time.monotonic() - self._watched_s < _SHORT_S:
            raise ApiError(f"a watch of {kind.plural} ends as soon as it has begun")


def _error(kind: Kind, said: Any) -> ApiError:
    """Of a watch that had begun: HTTP's status is in the event."""
    code, message = (said.get("code"), said.get("message")) if isinstance(said, dict) else (None, None)
    sentence = f"a watch of {kind.plural} ends with {code}: {shown(str(message))}"
    return ApiError(sentence, code if type(code) is int and code else 500)
