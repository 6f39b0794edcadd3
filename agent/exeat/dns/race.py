"""One question to several servers: one after the other, or beside each other where one keeps silent."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Sequence

from exeat.dns.exchange import Asking, Exchange
from exeat.dns.health import PATIENCE_S, Peer
from exeat.dns.records import Rcode, Reply

QUESTION_S = 2.0  # all in all; c-ares gives a server two seconds and glibc five, and ours must be the first to end
OPEN_MAX = 4  # exchanges of one question at a time
_ROUNDS = 2  # a datagram may be lost where there is but one server
_ANSWERS = (Rcode.NOERROR, Rcode.NXDOMAIN)  # whoever says something else has no answer, though another may
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # no server's fault


Then = Callable[[Reply | None], None]


class Race:
    """Runs from its making until it is over: with the first answer, or None if there was none in time.

    Who waits is called in the turn in which the answer is read: a future would take the loop round three times more.
    """

    def __init__(self, asking: Asking, peers: Sequence[Peer], on_end: Callable[[], None]) -> None:
        loop = asking.loop
        self.is_over = False
        self._answer: Reply | None = None
        self._then: list[Then] = []
        self._on_end = on_end
        self._asking = asking
        now = loop.time()
        order = sorted(peers, key=lambda peer: peer.is_sick(now))
        self._plan = deque(order * _ROUNDS)
        self._repeats = len(order) * (_ROUNDS - 1)
        self._running: list[Exchange] = []
        self._no_answer: Reply | None = None
        self._end_of_patience: asyncio.TimerHandle | None = None
        self._end_of_time = loop.call_later(QUESTION_S, self._finish, None)
        self._ask_next()

    def then(self, call: Then) -> None:
        """Have this called with the answer: now, if it is there."""
        if self.is_over:
            call(self._answer)
        else:
            self._then.append(call)

    def close(self) -> None:
        """Ends it now, unanswered."""
        self._finish(None)

    def _ask_next(self) -> None:
        if self._end_of_patience:
            self._end_of_patience.cancel()
            self._end_of_patience = None
        while self._plan and len(self._running) < OPEN_MAX:
            is_repeat = len(self._plan) <= self._repeats
            peer = self._plan.popleft()
            # Only silence is worth a second try.
            if not is_repeat or any(exchange.peer is peer for exchange in self._running):
                try:
                    self._running.append(Exchange(self._asking, peer, self._take))
                except OSError as error:
                    self._fail(peer, error)
                    continue
                self._wait_for(peer)
                return
        if not self._running:
            self._finish(None)

    def _wait_for(self, peer: Peer) -> None:
        if self._plan:
            is_repeat_next = len(self._plan) <= self._repeats
            patience_s = max(peer.patience_s, PATIENCE_S) if is_repeat_next else peer.patience_s
            self._end_of_patience = self._asking.loop.call_later(patience_s, self._ask_next)

    def _take(self, exchange: Exchange, reply: Reply | None) -> None:
        self._running.remove(exchange)
        if reply is None:
            self._fail(exchange.peer)
            self._ask_next()
        elif reply.rcode not in _ANSWERS:
            self._no_answer = self._no_answer or reply
            self._ask_next()
        else:
            self._finish(reply, exchange.peer)

    def _fail(self, peer: Peer, error: OSError | None = None) -> None:
        if error is None or error.errno not in _OURS:
            peer.failed(self._asking.loop.time())
            self._asking.counts.failures += 1

    def _finish(self, reply: Reply | None, winner: Peer | None = None) -> None:
        self._end_of_time.cancel()
        if self._end_of_patience:
            self._end_of_patience.cancel()
        self._plan.clear()
        now = self._asking.loop.time()
        silent = {exchange.peer for exchange in self._running if now - exchange.began >= exchange.peer.patience_s}
        for peer in silent - {winner}:
            self._fail(peer)
        for exchange in self._running:
            exchange.close()
        self._running.clear()
        if self.is_over:
            return
        self.is_over, self._answer = True, reply or self._no_answer
        self._asking.counts.unanswered += self._answer is None
        self._on_end()
        first, others = self._then[:1], self._then[1:]
        for call in others:  # each in a turn of its own: one that fails is no other's matter
            self._asking.loop.call_soon(call, self._answer)
        for call in first:
            call(self._answer)
