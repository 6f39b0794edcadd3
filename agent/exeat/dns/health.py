"""How an upstream resolver has been doing: how long to wait for it alone, and whether to try it last. Time is given."""

import socket
from typing import Any

from exeat.model.policy import Server

PATIENCE_S = 0.4  # for a server that nothing is known of; about Unbound's UNKNOWN_SERVER_NICENESS (376 ms)
PATIENCE_MIN_S = 0.05  # a server next door also has to ask its own upstream now and then
_PATIENCE_RTTS = 3
_SMOOTHING = 1 / 8  # RFC 6298, 2
SICK_AFTER = 3  # failures in a row: one is a lost datagram, two may be
SICK_S = 10.0  # then it gets another chance, and a single failure is enough


SocketAddress = tuple[Any, ...]  # (host, port), and for IPv6 flow and scope


class Peer:
    """One server, where it is, and what is known of it."""

    __slots__ = ("_address", "_failures", "_rtt_s", "_sick_until", "family", "server")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.family = socket.AF_INET6 if server.address.version == 6 else socket.AF_INET
        self._address: SocketAddress | None = None
        self._rtt_s: float | None = None
        self._failures = 0
        self._sick_until = 0.0

    @property
    def address(self) -> SocketAddress:
        """For connect(). OSError: it is link-local to an interface that is not there (now)."""
        if self._address is None:  # only the C library knows the number of an interface
            host, port = str(self.server.address), self.server.port
            self._address = socket.getaddrinfo(host, port, self.family, flags=socket.AI_NUMERICHOST)[0][4]
        return self._address

    @property
    def patience_s(self) -> float:
        """So long it is waited for before another one is asked beside it."""
        if self._rtt_s is None:
            return PATIENCE_S
        return min(max(_PATIENCE_RTTS * self._rtt_s, PATIENCE_MIN_S), PATIENCE_S)

    def is_sick(self, now: float) -> bool:
        """Whether it has failed so often lately that others go first."""
        return now < self._sick_until

    def answered(self, rtt_s: float) -> None:
        """It has, after so long."""
        self._failures, self._sick_until = 0, 0.0
        self._rtt_s = rtt_s if self._rtt_s is None else self._rtt_s + _SMOOTHING * (rtt_s - self._rtt_s)

    def failed(self, now: float) -> None:
        """It refused, told only nonsense, or kept silent until another one had answered."""
        self._failures += 1
        if self._failures >= SICK_AFTER:
            self._sick_until = now + SICK_S
