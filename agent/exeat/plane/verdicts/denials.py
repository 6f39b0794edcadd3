"""What the store knows of verdicts: one by one, newest first, and what was denied, by workload and destination.

One by one they are there as long as retention says; counted, much longer, by the hour (verdict_rows.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from google.protobuf.message import DecodeError

from exeat.model.networks import Network
from exeat.model.verdicts import Verdict
from exeat.plane.store.database import Row, Tx
from exeat.plane.verdicts.verdict_rows import HOUR_NS
from exeat.plane.verdicts.wanted import Wanted
from exeat.v1 import verdict_pb2 as pb

DENYING = (Verdict.DROPPED, Verdict.AUDIT, Verdict.ERROR)
_STEP = 20_000  # rows that one statement looks at
_STEPS_MAX = 25  # then whoever asked is told how far it came
_GROUPS_MAX = 20_000
_NODES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Stored:
    """One verdict of the store. Its id grows with its arrival, not with its time."""

    id: int
    node: str
    record: pb.VerdictRecord


@dataclass(frozen=True, slots=True)
class Page:
    """Verdicts, newest first."""

    verdicts: tuple[Stored, ...]
    before_id: int | None  # give it back for what is older; None: that was all


@dataclass(frozen=True, slots=True)
class Denial:
    """What was denied alike: to the same workload of the same policy, for the same destination and reason."""

    workload: str
    policy: str
    target: str  # the name in lower case, or else the address
    port: int
    protocol: int  # IPPROTO_*
    hook: str  # `query`: port and protocol are those of the question, not of what was to come
    verdict: int
    reason: int  # a number: it may be a newer agent's
    nodes: tuple[str, ...]  # the first of them, by name
    node_count: int
    count: int
    first_ns: int
    last_ns: int


def verdicts(tx: Tx, wanted: Wanted, before_id: int | None = None, limit: int = 100) -> Page:
    """The newest that are wanted, by their own time. May come short of the limit with more to come: see `before_id`."""
    conditions, values = wanted.conditions()
    at = _position(tx, before_id)
    found: list[Stored] = []
    for _ in range(_STEPS_MAX):
        if at is None:
            return Page(tuple(found), None)
        inner = "SELECT * FROM verdicts WHERE (at_ns, id) < (?, ?) AND at_ns >= ? ORDER BY at_ns DESC, id DESC LIMIT ?"
        rows = tx.all(
            f"SELECT id, at_ns, node, body FROM ({inner}) AS step WHERE 1 = 1{conditions} ORDER BY at_ns DESC, id DESC",
            *(*at, wanted.since_ns, _STEP, *values),
        )
        for row in rows:
            stored = _stored(row[0], row[2], row[3])
            if stored and wanted.accepts(stored.node, stored.record):
                found.append(stored)
                if len(found) >= limit:
                    return Page(tuple(found), stored.id)
        at = _after_step(tx, at, wanted.since_ns)
    return Page(tuple(found), at[1] if at else None)


def verdict(tx: Tx, number: int) -> Stored | None:
    """The one with this id."""
    row = tx.one("SELECT id, node, body FROM verdicts WHERE id = ?", number)
    return _stored(*row) if row else None


def newer(tx: Tx, after_id: int, limit: int) -> list[Stored]:
    """By id, for who follows."""
    rows = tx.all("SELECT id, node, body FROM verdicts WHERE id > ? ORDER BY id LIMIT ?", after_id, limit)
    return [stored for row in rows if (stored := _stored(*row))]


def last_id(tx: Tx) -> int:
    """0: there is none."""
    row = tx.one("SELECT max(id) FROM verdicts")
    return int(row[0] or 0) if row else 0


def denials(tx: Tx, wanted: Wanted, limit: int = 500) -> list[Denial]:
    """The last ones first, since the beginning of the hour of `since_ns`.

    Where the filter says no verdicts, all that deny. A network fits where an address was denied without a name.
    """
    conditions, values = wanted.conditions()
    if not wanted.filter.verdicts:
        conditions += f" AND verdict IN ({', '.join(str(int(verdict)) for verdict in DENYING)})"
    if wanted.filter.to.port is not None:
        conditions += " AND port = ?"
        values.append(wanted.filter.to.port)
    rows = tx.all(
        "SELECT workload, policy, target, port, protocol, hook, verdict, reason, node, sum(count), min(first_ns), "
        f"max(last_ns) FROM tallies WHERE hour_ns >= ?{conditions} "
        "GROUP BY workload, policy, target, port, protocol, hook, verdict, reason, node "
        "ORDER BY max(last_ns) DESC LIMIT ?",
        *(wanted.since_ns // HOUR_NS * HOUR_NS, *values, _GROUPS_MAX),
    )
    network = wanted.filter.to.network
    fitting = (row for row in rows if _is_of(wanted.policy, row[1]) and (network is None or _is_in(row[2], network)))
    return _grouped(fitting)[:limit]


def _grouped(rows: Iterable[Row]) -> list[Denial]:
    groups: dict[Row, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[:8], []).append(row[8:])
    return [_denial(alike, parts) for alike, parts in groups.items()]


def _denial(alike: Row, parts: list[Row]) -> Denial:
    """Parts: node, count, first and last."""
    nodes, counts, firsts, lasts = zip(*parts, strict=True)
    shown = tuple(sorted(nodes)[:_NODES_SHOWN])
    whole: Row = (*alike, shown, len(nodes), int(sum(counts)), min(firsts), max(lasts))
    return Denial(*whole)


def _position(tx: Tx, before_id: int | None) -> tuple[int, int] | None:
    """Where to begin; None: what should stand there is gone, and all that is older with it."""
    if before_id is None:
        return (2**63 - 1, 2**63 - 1)
    row = tx.one("SELECT at_ns, id FROM verdicts WHERE id = ?", before_id)
    return (row[0], row[1]) if row else None


def _after_step(tx: Tx, at: tuple[int, int], since_ns: int) -> tuple[int, int] | None:
    row = tx.one(
        "SELECT at_ns, id FROM verdicts WHERE (at_ns, id) < (?, ?) AND at_ns >= ? "
        "ORDER BY at_ns DESC, id DESC LIMIT 1 OFFSET ?",
        *(*at, since_ns, _STEP - 1),
    )
    return (row[0], row[1]) if row else None


def _stored(number: int, node: str, body: bytes) -> Stored | None:
    try:
        return Stored(number, node, pb.VerdictRecord.FromString(bytes(body)))
    except DecodeError:  # the file was damaged: the others can be read
        return None


def _is_of(policy: str, policies: str) -> bool:
    return not policy or policy in policies.split("+")


def _is_in(target: str, network: Network) -> bool:
    try:
        return ip_address(target) in network
    except ValueError:
        return False
