"""Forgets verdicts, and later what was counted, when they are as old as the settings say.

In small steps, so that the writer never waits long. The places of what was deleted are used again: SQLite's file stays
as large as it once was, and does not grow beyond that; to make it smaller, stop the plane and run `VACUUM` on it.
PostgreSQL does the same by autovacuum.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta

from exeat.plane.settings import Retention
from exeat.plane.store.database import Database, StoreError
from exeat.plane.verdicts.verdict_rows import TALLY_KEY

EACH_S = 600.0
_STEP = 5_000
_PAUSE_S = 0.05  # half of what a step may take: others write as well
_TALLY_KEY = f"({', '.join(TALLY_KEY)})"
_log = logging.getLogger("exeat.plane")


async def forget_for_ever(database: Database, kept: Retention, now_ns: Callable[[], int] = time.time_ns) -> None:
    """Each ten minutes, until it is cancelled."""
    while True:
        try:
            verdicts, tallies = await forget(database, kept, now_ns())
            if verdicts or tallies:
                _log.info("retention: %d verdicts and %d counts of them were deleted", verdicts, tallies)
        except StoreError as error:
            _log.warning("retention: nothing is deleted for now: %s", error)
        await asyncio.sleep(EACH_S)


async def forget(database: Database, kept: Retention, now_ns: int) -> tuple[int, int]:
    """Once; how many verdicts and tallies went. Logs of which nothing is kept any more go as well."""
    verdicts = await _in_steps(database, "verdicts", "id", "at_ns", now_ns - _ns(kept.verdicts))
    tallies = await _in_steps(database, "tallies", _TALLY_KEY, "hour_ns", now_ns - _ns(kept.tallies))
    await asyncio.to_thread(_forget_logs, database, now_ns - max(_ns(kept.tallies), _ns(kept.verdicts)))
    return verdicts, tallies


async def _in_steps(database: Database, table: str, key: str, time_column: str, before_ns: int) -> int:
    gone = 0
    statement = (
        f"DELETE FROM {table} WHERE {key} IN "
        f"(SELECT {key.strip('()')} FROM {table} WHERE {time_column} < ? ORDER BY {time_column} LIMIT {_STEP})"
    )
    while step := await asyncio.to_thread(_step, database, statement, before_ns):
        gone += step
        await asyncio.sleep(_PAUSE_S)
    return gone


def _step(database: Database, statement: str, before_ns: int) -> int:
    with database.writing() as tx:
        return tx.do(statement, before_ns)


def _forget_logs(database: Database, before_ns: int) -> None:
    with database.writing() as tx:
        tx.do("DELETE FROM logs WHERE at_ns < ?", before_ns)


def _ns(span: timedelta) -> int:
    return span // timedelta(microseconds=1) * 1000
