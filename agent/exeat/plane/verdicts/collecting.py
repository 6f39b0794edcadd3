"""One transaction of the collection: what is new of what came, the rows of it, and each log's cursor moved on."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain

from exeat.errors import Refused, StatusWord
from exeat.plane.store.database import Database, News, StoreError, Topic, Tx
from exeat.plane.verdicts.verdict_rows import TALLY_KEY, VERDICT_COLUMNS, Sheet, Spread, Tally, TallyKey
from exeat.v1 import plane_pb2 as pb

_LOG_MAX = 64
_LOGS_MAX = 100  # of a node; each time that it begins anew it has another one
_NODE_MAX = 255  # as in a certificate
_TRIES = 5
# Rows of one statement. In SQLite each statement lets other threads run, and waits until they let it go on.
_ROWS_AT_ONCE = (512, 64, 8, 1)
_COLUMNS = (*TALLY_KEY, "count", "first_ns", "last_ns")
_INSERT = f"INSERT INTO tallies ({', '.join(_COLUMNS)}) VALUES "
_ROW = f"({', '.join('?' * len(_COLUMNS))})"
# What CASE does here, `min` and `least` do, each in one database only.
_ADD = (
    f" ON CONFLICT ({', '.join(TALLY_KEY)}) DO UPDATE SET count = tallies.count + excluded.count, "
    "first_ns = CASE WHEN excluded.first_ns < tallies.first_ns THEN excluded.first_ns ELSE tallies.first_ns END, "
    "last_ns = CASE WHEN excluded.last_ns > tallies.last_ns THEN excluded.last_ns ELSE tallies.last_ns END"
)
_UPSERTS = {rows: _INSERT + ", ".join([_ROW] * rows) + _ADD for rows in _ROWS_AT_ONCE}

LogKey = tuple[str, str]  # node and log


@dataclass(slots=True)
class Delivery:
    """A batch that came, and who waits for the answer."""

    node: str
    log: str
    batch: pb.VerdictBatch
    answer: "Future[int]"
    refusal: Refused | None = None


@dataclass(slots=True)
class _Entry:
    sheet: Sheet
    before: int  # the cursor that the store must have
    through: int
    lost: int = 0


class Shipment:
    """Several deliveries, of one log or many."""

    def __init__(self, deliveries: list[Delivery], spread: Spread, now_ns: int) -> None:
        self.now_ns = now_ns
        self._deliveries = deliveries
        self._spread = spread
        self._entries: dict[LogKey, _Entry] = {}

    @property
    def logs(self) -> list[LogKey]:
        """Always in the same order: two replicas that lock several rows would wait for each other."""
        return sorted({(one.node, one.log) for one in self._deliveries})

    @property
    def entries(self) -> list[tuple[LogKey, _Entry]]:
        """What is new, by log."""
        new = {key: entry for key, entry in self._entries.items() if entry.through > entry.before}
        return [(key, new[key]) for key in sorted(new)]

    @property
    def stored(self) -> int:
        """How many verdicts are new."""
        return sum(len(entry.sheet.rows) for entry in self._entries.values())

    @property
    def lost(self) -> int:
        """How many lines are lost."""
        return sum(entry.lost for entry in self._entries.values())

    def through(self, delivery: Delivery) -> int:
        """The answer to one."""
        return max(delivery.batch.through, self._entries[delivery.node, delivery.log].before)

    @property
    def has_refusals(self) -> bool:
        """Whether a delivery does not fit."""
        return any(one.refusal for one in self._deliveries)

    def fill(self, cursors: dict[LogKey, int]) -> None:
        """Sorts out what is new. What would leave a hole is refused, and all of its log after it."""
        self._entries = {}
        for one in self._deliveries:
            key, batch = (one.node, one.log), one.batch
            one.refusal = None
            if key not in cursors:
                one.refusal = Refused(StatusWord.PRECONDITION, "the plane no longer knows this log: begin anew")
                continue
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry(Sheet(*key, self._spread), cursors[key], cursors[key])
            if batch.first > entry.through + 1:
                sentence = f"this batch begins at {batch.first}, and {entry.through + 1} is to come next: begin there"
                one.refusal = Refused(StatusWord.INVALID, sentence)
            elif batch.through > entry.through:
                entry.sheet.add(batch.verdicts, entry.through, self.now_ns)
                entry.through, entry.lost = batch.through, entry.lost + batch.lost

    def tallies(self) -> list[Tally]:
        """Each key once, always in the same order."""
        found: dict[TallyKey, Tally] = {}
        for tally in chain.from_iterable(entry.sheet.tallies() for _, entry in self.entries):
            same = found.get(tally.key)
            if same:
                same.add(tally)
            else:
                found[tally.key] = tally
        return [found[key] for key in sorted(found)]


def begin_log(tx: Tx, node: str, log: str, after: int, now_ns: int) -> int:
    """The log's cursor; a log that is new begins `after`. Raises Refused."""
    for what, text, most in (("node", node, _NODE_MAX), ("log", log, _LOG_MAX)):
        if not 0 < len(text) <= most or not (text.isascii() and text.isprintable()):
            raise Refused(StatusWord.INVALID, f"a {what} needs a name of 1 to {most} printable ASCII characters")
    if not after < 2**62:
        raise Refused(StatusWord.INVALID, f"no log has come to line {after}")
    tx.do(
        "INSERT INTO logs (node, log, first, through, lost, at_ns) VALUES (?, ?, ?, ?, 0, ?) ON CONFLICT DO NOTHING",
        *(node, log, after + 1, after, now_ns),
    )
    tx.do(
        "DELETE FROM logs WHERE node = ? AND log NOT IN "
        "(SELECT log FROM logs WHERE node = ? ORDER BY at_ns DESC, log LIMIT ?)",
        *(node, node, _LOGS_MAX),
    )
    return _cursor(tx, (node, log)) or 0


def store(database: Database, shipment: Shipment, cursors: dict[LogKey, int]) -> None:
    """Writes what is new. Rows are made outside of the transaction, so that it is short.

    `cursors`: where each log is thought to be. The store knows it for certain: another replica may have moved it.
    """
    is_certain = False
    for _ in range(_TRIES):
        if not is_certain and any(key not in cursors for key in shipment.logs):
            cursors |= _read(database, shipment.logs)
        shipment.fill(cursors)
        is_refused = shipment.has_refusals and not is_certain
        try:
            if not is_refused and _write(database, shipment):
                cursors |= {key: entry.through for key, entry in shipment.entries}
                return
        except StoreError:
            cursors.clear()  # a commit may have gone well although the connection broke off
            raise
        cursors |= _read(database, shipment.logs)
        is_certain = True
    raise StoreError("several agents or replicas bring the same log at once: the slower one must wait")


class _Moved(Exception):
    """A cursor is not where it was thought to be."""


def _write(database: Database, shipment: Shipment) -> bool:
    """False: nothing was written, a cursor has moved."""
    try:
        _write_all(database, shipment)
    except _Moved:
        return False
    return True


def _write_all(database: Database, shipment: Shipment) -> None:
    entries = shipment.entries
    if not entries:
        return
    tallies = [(*tally.key, tally.count, tally.first_ns, tally.last_ns) for tally in shipment.tallies()]
    rows = [row for _, entry in entries for row in entry.sheet.rows]
    with database.writing() as tx:
        for key, entry in entries:
            # In PostgreSQL this also waits for whoever moves the same cursor, and then looks again.
            moved = tx.do(
                "UPDATE logs SET through = ?, lost = lost + ?, at_ns = ? WHERE node = ? AND log = ? AND through = ?",
                *(entry.through, entry.lost, shipment.now_ns, *key, entry.before),
            )
            if moved != 1:
                raise _Moved
        if rows:
            tx.append("verdicts", VERDICT_COLUMNS, rows)
        _count(tx, tallies)
        tx.tell(News(Topic.VERDICTS))


def _count(tx: Tx, tallies: Sequence[Sequence[object]]) -> None:
    begin = 0
    for rows in _ROWS_AT_ONCE:
        while len(tallies) - begin >= rows:
            tx.do(_UPSERTS[rows], *chain.from_iterable(tallies[begin : begin + rows]))
            begin += rows


def _read(database: Database, keys: list[LogKey]) -> dict[LogKey, int]:
    with database.reading() as tx:
        found = {key: _cursor(tx, key) for key in keys}
    return {key: through for key, through in found.items() if through is not None}


def _cursor(tx: Tx, key: LogKey) -> int | None:
    row = tx.one("SELECT through FROM logs WHERE node = ? AND log = ?", *key)
    return int(row[0]) if row else None
