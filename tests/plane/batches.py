"""Batches of verdicts in few words, and what of them is in a store."""

from collections.abc import Sequence
from typing import Any

from exeat.control.convert import to_wire
from exeat.plane.store.database import Database, Row
from exeat.v1 import plane_pb2 as pb
from unit.record_words import any_record

NOW_NS = 1_800_000_000 * 10**9  # a full hour in 2027
HOUR_NS = 3600 * 10**9


def wire(**said: Any) -> Any:
    """One verdict as it travels: that of any_record, a moment ago."""
    return to_wire(any_record(**{"time_ns": NOW_NS, **said}))


def batch(first: int, of: int, *, skip: int = 0, lost: int = 0, **said: Any) -> pb.VerdictBatch:
    """So many alike, with numbers one after the other; `skip` lines at the end that are no verdicts."""
    made = pb.VerdictBatch(first=first, through=first + of + skip - 1, lost=lost)
    record = wire(**said)
    for number in range(first, first + of):
        made.verdicts.add(number=number, verdict=record)
    return made


def batch_of(first: int, records: Sequence[Any]) -> pb.VerdictBatch:
    """These, as they are."""
    made = pb.VerdictBatch(first=first, through=first + len(records) - 1)
    for number, record in enumerate(records, first):
        made.verdicts.add(number=number, verdict=record)
    return made


def numbers(database: Database, node: str = "n1", log: str = "a") -> list[int]:
    """Of the verdicts in the store, in the order in which they came."""
    rows = rows_of(database, "SELECT number FROM verdicts WHERE node = ? AND log = ? ORDER BY id", node, log)
    return [row[0] for row in rows]


def cursor(database: Database, node: str = "n1", log: str = "a") -> Row:
    """through and lost."""
    return rows_of(database, "SELECT through, lost FROM logs WHERE node = ? AND log = ?", node, log)[0]


def rows_of(database: Database, sql: str, *values: object) -> list[Row]:
    """Any question."""
    with database.reading() as tx:
        return tx.all(sql, *values)
