"""Commands for nodes: what somebody wants done at once on one of them, and what became of it.

A command is sent as soon as its node is there, and again after each break until the result has come: the agent does
each once. What has not begun when its time is over never does.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from exeat.core.problems import shown
from exeat.errors import Refused, StatusWord
from exeat.plane.store.database import News, Row, Topic, Tx
from exeat.v1 import plane_pb2

_SECOND = 1_000_000_000
WITHIN_MAX_S = 3600  # proto/exeat/v1/plane.proto
_GRACE_NS = 30 * _SECOND  # a result may be on its way when the time is over
_WAITING_MAX = 256  # for one node
_TEXT_MAX, _POLICIES_MAX = 2000, 100  # of a node's answer
_SELECT = "SELECT id, node, body, by_whom, at_ns, expires_ns, state, result, ended_ns FROM commands"


class State(StrEnum):
    """Of a command."""

    WAITING = "waiting"
    SENT = "sent"
    DONE = "done"
    REFUSED = "refused"  # by the agent
    EXPIRED = "expired"  # no answer came


@dataclass(frozen=True, slots=True)
class Asked:
    """A command, and what became of it."""

    id: str
    node: str
    command: plane_pb2.Command
    by: str
    at_ns: int
    expires_ns: int
    state: State
    result: plane_pb2.CommandResult | None
    ended_ns: int

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.state not in (State.WAITING, State.SENT)


def ask(tx: Tx, wanted: plane_pb2.Command, at_ns: int, within_s: int = 60) -> str:
    """Has a node do something: `node`, `by` and what are set, the rest is filled in. Its id. Raises Refused."""
    if wanted.WhichOneof("what") is None or not wanted.by:
        raise Refused(StatusWord.INVALID, "say what is to be done, and who wants it")
    if not 0 < within_s <= WITHIN_MAX_S:
        raise Refused(StatusWord.INVALID, "a command is done within an hour, or not at all: give fewer seconds")
    row = tx.one("SELECT state FROM nodes WHERE name = ?", wanted.node)
    if row is None:
        raise Refused(StatusWord.NOT_FOUND, f"there is no node {shown(wanted.node)}: exeat plane nodes lists them")
    if row[0] == "retired":
        raise Refused(StatusWord.PRECONDITION, f"{wanted.node} is retired: it is told nothing any more")
    open_ones = tx.one("SELECT COUNT(*) FROM commands WHERE node = ? AND state IN ('waiting', 'sent')", wanted.node)
    if open_ones and open_ones[0] >= _WAITING_MAX:
        sentence = f"{_WAITING_MAX} commands wait for {wanted.node} already: is it there at all?"
        raise Refused(StatusWord.PRECONDITION, sentence)
    command = plane_pb2.Command()
    command.CopyFrom(wanted)
    command.id = secrets.token_hex(16)
    expires_ns = at_ns + within_s * _SECOND
    command.expires.FromNanoseconds(expires_ns)
    tx.do(
        "INSERT INTO commands (id, node, body, by_whom, at_ns, expires_ns, state, result, ended_ns) "
        "VALUES (?, ?, ?, ?, ?, ?, 'waiting', NULL, 0)",
        *(command.id, command.node, command.SerializeToString(), command.by, at_ns, expires_ns),
    )
    tx.tell(News(Topic.COMMANDS, command.node))
    return command.id


def waiting(tx: Tx, node: str, now_ns: int) -> list[plane_pb2.Command]:
    """What is to be sent to a node that is there, in the order in which it was asked for."""
    return _open(tx, node, now_ns, "state = 'waiting'")


def unanswered(tx: Tx, node: str, now_ns: int) -> list[plane_pb2.Command]:
    """What is to be sent to a node that has just come: also what it was sent before, in case that got lost."""
    return _open(tx, node, now_ns, "state IN ('waiting', 'sent')")


def sent(tx: Tx, ids: Iterable[str]) -> None:
    """They are on their way."""
    tx.many("UPDATE commands SET state = 'sent' WHERE id = ? AND state = 'waiting'", [(one,) for one in sorted(ids)])


def ended(tx: Tx, node: str, result: plane_pb2.CommandResult, at_ns: int) -> bool:
    """Keeps a node's answer; whether anybody had asked it for one. An answer that came too late for it counts too."""
    state = State.REFUSED if result.refusal else State.DONE
    is_news = tx.do(
        "UPDATE commands SET state = ?, result = ?, ended_ns = ? "
        "WHERE id = ? AND node = ? AND state IN ('waiting', 'sent', 'expired')",
        *(state.value, _kept(result).SerializeToString(), at_ns, "" if "\0" in result.id else result.id, node),
    )
    if is_news:
        tx.tell(News(Topic.RESULTS, result.id))
    return is_news > 0


def expire(tx: Tx, now_ns: int) -> int:
    """Gives up those whose time is over; how many."""
    rows = tx.all(
        "UPDATE commands SET state = 'expired', ended_ns = ? WHERE state IN ('waiting', 'sent') AND expires_ns < ? "
        "RETURNING id",
        *(now_ns, now_ns - _GRACE_NS),
    )
    for (one,) in rows:
        tx.tell(News(Topic.RESULTS, one))
    return len(rows)


def has_expired(tx: Tx, now_ns: int) -> bool:
    """Whether expire() would change anything."""
    sql = "SELECT 1 FROM commands WHERE state IN ('waiting', 'sent') AND expires_ns < ?"
    return tx.one(sql, now_ns - _GRACE_NS) is not None


def asked(tx: Tx, id: str) -> Asked | None:
    """One of them."""
    row = tx.one(f"{_SELECT} WHERE id = ?", id)
    return _asked(row) if row else None


def latest(tx: Tx, node: str | None = None, limit: int = 100) -> list[Asked]:
    """Those of a node, or of all, the newest first."""
    where = "" if node is None else " WHERE node = ?"
    values = (limit,) if node is None else (node, limit)
    return [_asked(row) for row in tx.all(f"{_SELECT}{where} ORDER BY at_ns DESC, id LIMIT ?", *values)]


def forget(tx: Tx, before_ns: int) -> int:
    """Removes those that ended long ago; how many."""
    return tx.do("DELETE FROM commands WHERE state NOT IN ('waiting', 'sent') AND ended_ns < ?", before_ns)


def _open(tx: Tx, node: str, now_ns: int, which: str) -> list[plane_pb2.Command]:
    sql = f"SELECT body FROM commands WHERE node = ? AND {which} AND expires_ns > ? ORDER BY at_ns, id"
    return [plane_pb2.Command.FromString(row[0]) for row in tx.all(sql, node, now_ns)]


def _kept(said: plane_pb2.CommandResult) -> plane_pb2.CommandResult:
    """What people are shown of a result. The whole may be as large as a message, and whole lists of them are read."""
    refusal, allowance = said.refusal[:_TEXT_MAX], said.allowance[:_TEXT_MAX]
    result = plane_pb2.CommandResult(id=said.id, refusal=refusal, cut=said.cut, allowance=allowance)
    if said.HasField("workload"):
        there = said.workload
        policies = [one[:_TEXT_MAX] for one in there.policies[:_POLICIES_MAX]]
        kept = plane_pb2.WorkloadState(name=there.name[:_TEXT_MAX], policies=policies, mode=there.mode)
        if there.HasField("mode_until"):
            kept.mode_until.CopyFrom(there.mode_until)
        result.workload.CopyFrom(kept)
    return result


def _asked(row: Row) -> Asked:
    id, node, body, by, at_ns, expires_ns, state, result, ended_ns = row
    command = plane_pb2.Command.FromString(body)
    answer = None if result is None else plane_pb2.CommandResult.FromString(result)
    return Asked(id, node, command, by, at_ns, expires_ns, State(state), answer, ended_ns)
