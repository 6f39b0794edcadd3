"""A question that is being answered."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from exeat.dns.desk import Decision, Desk
from exeat.dns.records import Query
from exeat.dns.tellings import Asked

UDP_MAX = 1232  # what fits everywhere without fragments: DNS flag day 2020
TCP_MAX = 65535
PROTOCOL_UDP, PROTOCOL_TCP = 17, 6

Send = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Pending:
    """From its arrival to its answer."""

    message: bytes
    query: Query
    decision: Decision
    asked: Asked
    reply: Send
    desk: Desk  # that decided
    read_ns: int

    @property
    def limit(self) -> int:
        """How long the answer may be."""
        return TCP_MAX if self.asked.protocol == PROTOCOL_TCP else min(self.query.payload_size, UDP_MAX)

    def but(self, **changes: Any) -> "Pending":
        """The same question, with another verdict."""
        return replace(self, asked=replace(self.asked, **changes))
