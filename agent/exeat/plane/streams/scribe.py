"""Writes what many sessions have to write, in few transactions: what comes while one commits goes into the next.

A commit waits for the disk. Two hundred agents that come back at the same time would wait two hundred times.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from exeat.errors import ExeatError
from exeat.plane.counts import Counts
from exeat.plane.store.database import Database, StoreError, Tx

_T = TypeVar("_T")
_TOGETHER_MAX = 200
_log = logging.getLogger("exeat.plane")


@dataclass(frozen=True, slots=True)
class _Wish:
    change: Callable[[Tx], Any]
    done: "asyncio.Future[Any]"


class Scribe:
    """For one event loop. A change may run twice: it must do nothing but what it does to its transaction."""

    def __init__(self, database: Database, counts: Counts) -> None:
        self._database = database
        self._counts = counts
        self._wishes: list[_Wish] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, change: Callable[[Tx], _T]) -> _T:
        """What it returns, once it is committed. Raises what it raises, and StoreError."""
        wish = _Wish(change, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_on())
        result: _T = await wish.done
        return result

    async def finish(self) -> None:
        """Waits until all is written."""
        while self._writing and not self._writing.done():
            await asyncio.wait({self._writing})

    async def _write_on(self) -> None:
        while self._wishes:
            wishes, self._wishes = self._wishes[:_TOGETHER_MAX], self._wishes[_TOGETHER_MAX:]
            for wish, outcome in zip(wishes, await asyncio.to_thread(self._write, wishes), strict=True):
                if wish.done.done():  # whoever wanted it has gone
                    continue
                if isinstance(outcome, Exception):
                    wish.done.set_exception(outcome)
                else:
                    wish.done.set_result(outcome)

    def _write(self, wishes: list[_Wish]) -> list[Any]:
        """What became of each: a result, or an exception."""
        if len(wishes) > 1:
            try:
                with self._database.writing() as tx:
                    return [wish.change(tx) for wish in wishes]
            except Exception as error:  # noqa: BLE001  # one of them: each is tried by itself, and told its own
                if isinstance(error, StoreError):
                    self._counts.store_errors["write"] += 1
                _log.debug("a transaction for %d changes is taken apart: %s", len(wishes), error)
        outcomes: list[Any] = []
        for wish in wishes:
            is_down = len(outcomes) > 1 and all(isinstance(one, StoreError) for one in outcomes[-2:])
            outcomes.append(outcomes[-1] if is_down else self._outcome(wish.change))  # each would wait for the store
        return outcomes

    def _outcome(self, change: Callable[[Tx], Any]) -> Any:
        try:
            with self._database.writing() as tx:
                return change(tx)
        except ExeatError as error:
            if isinstance(error, StoreError):
                self._counts.store_errors["write"] += 1
                _log.warning("the store: %s", error)
            return error
        except Exception as error:  # noqa: BLE001  # told to whoever wanted it
            return error
