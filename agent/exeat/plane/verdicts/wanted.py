"""Which of a fleet's verdicts somebody wants to see: a filter as on one agent, and also by node, policy and time."""

from dataclasses import dataclass
from typing import Any

from exeat.control.convert import from_wire
from exeat.core.filters import Filter, Target
from exeat.errors import ExeatError
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.verdicts.verdict_rows import called
from exeat.v1 import verdict_pb2 as pb

_ANY_VERDICT, _ANY_REASON = pb.Verdict.ValueType(Verdict.DROPPED), pb.Reason.ValueType(Reason.NO_POLICY)
_EVERYTHING = Target()


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that are given must hold."""

    filter: Filter = Filter()
    node: str = ""  # empty: any
    policy: str = ""  # by its name, also where several hold together, as in `a+b`; empty: any
    since_ns: int = 0

    def accepts(self, node: str, record: pb.VerdictRecord) -> bool:
        """Whether somebody wants to see it, whenever it fell. Words of newer agents are numbers like any other."""
        asked = self.filter
        return (
            (not self.node or self.node == node)
            and (not asked.verdicts or int(record.verdict) in asked.verdicts)
            and asked.workload in called(record)
            and (not self.policy or self.policy in record.policy.split("+"))
            and (asked.to == _EVERYTHING or _is_to(asked.to, record))
        )

    def conditions(self) -> tuple[str, list[Any]]:
        """As much of it as both tables of verdicts can be asked in SQL; begins with AND, or is empty."""
        texts: list[str] = []
        values: list[Any] = []
        asked = self.filter
        if self.node:
            texts.append("node = ?")
            values.append(self.node)
        if asked.verdicts:
            texts.append(f"verdict IN ({', '.join('?' * len(asked.verdicts))})")
            values += [int(verdict) for verdict in sorted(asked.verdicts)]
        if asked.workload:
            # `instr` is not PostgreSQL's, `strpos` not SQLite's, and LIKE has its own idea of letters in each.
            texts.append("replace(workload, ?, '') <> workload")
            values.append(asked.workload.replace("\0", ""))
        if asked.to.name is not None:
            text, value = _of_name(asked.to.name)
            texts.append(text)
            values.append(value)
        return "".join(f" AND {text}" for text in texts), values


def _of_name(name: str) -> tuple[str, str]:
    """Targets are lower-case, as the filter's name is."""
    if not name.startswith("."):
        return "target = ?", name
    quoted = name.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return "target LIKE ? ESCAPE '!'", f"%{quoted}"


def _is_to(to: Target, record: pb.VerdictRecord) -> bool:
    where = pb.VerdictRecord(verdict=_ANY_VERDICT, reason=_ANY_REASON, name=record.name, destination=record.destination)
    try:
        return to.accepts(from_wire(where))
    except ExeatError:  # an address of a length that none has
        return False
