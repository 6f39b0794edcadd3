"""The gate: answers one workload's questions by its policy, and has every address granted before the answer leaves.

Runs in one thread, on asyncio.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from exeat.core.stories import STORIES
from exeat.dns.again import Again
from exeat.dns.answers import Answer, make_answer
from exeat.dns.cache import Cache
from exeat.dns.callers import Callers, IsLed, Peer
from exeat.dns.desk import Desk, Then
from exeat.dns.listeners import Listeners
from exeat.dns.pending import PROTOCOL_TCP, PROTOCOL_UDP, Pending, Send
from exeat.dns.places import Places
from exeat.dns.records import Kind, Rcode, Record, Reply
from exeat.dns.tcp import TcpClients
from exeat.dns.tellings import Asked, Tellings
from exeat.dns.upstream import Flood, Upstream
from exeat.dns.wire import Malformed, parse_query, refusal, write_answer
from exeat.model.verdicts import Reason, Verdict

GRANT_MAX_NS = 86_400 * 10**9
_GRANT_STEP_NS = 64 * 10**9  # ends are rounded up to it: a name asked all the time is granted anew once a minute
_WAITING_MAX = 2048  # answers that wait for an upstream; the kernel's queue holds what comes beyond
_CACHE_BYTES = 4 << 20  # several thousand names, for one workload
_BURST = 64  # datagrams before others get their turn
_QUERY_MAX = 4096  # a question needs 300 bytes; what is longer is cut here, and refused as malformed
_SHORT = (Verdict.DROPPED, Verdict.ERROR)  # of what upstream said, something is not told

Grant = Callable[[str, Sequence[bytes], int, int, int], Sequence[bytes]]


def boot_ns() -> int:
    """The clock that the kernel's tables count by."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Gate:
    """For one workload. `grant` hears of every address that is told, and returns those that it could not open.

    Where others than the workload can reach its listeners, `is_led` knows by protocol, address and port whether the
    programs have led a question there.
    """

    def __init__(
        self,
        desk: Desk,
        upstream: Upstream,
        min_grant_s: int,
        grant: Grant,
        tell: Callable[[Asked], None],
        timed: Callable[[int], None] = lambda _: None,  # how many nanoseconds an answer took
        is_led: IsLed | None = None,
    ) -> None:
        self._timed = timed
        self._desk = desk
        self._upstream = upstream
        self._min_grant_ns = min_grant_s * 10**9
        self._grant = grant
        self._tellings = Tellings(tell)
        self._cache = Cache(limit_bytes=_CACHE_BYTES)
        self._again = Again(self._tellings.note)
        self._waiting = 0
        self._is_closing = False
        self._callers = Callers(is_led, lambda asked: self._tellings.note(asked, boot_ns()))
        self._clients = TcpClients(self._answer_stream, partial(self._callers.admits, PROTOCOL_TCP))
        self._places = Places(self._read_datagrams, self._clients, self._note_lost)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many questions got which verdict; exact once it has stopped serving."""
        return self._tellings.counts

    def listen(self, listeners: Listeners) -> None:
        """Begins to answer there; it may listen in several network namespaces."""
        self._places.listen(listeners)

    def leave(self, network: int) -> None:
        """Answers no more in a namespace."""
        self._places.leave(network)

    def tick(self, now_ns: int) -> None:
        """Once a second: tells what was held back."""
        self._places.tick()
        self._again.fold(now_ns)
        self._tellings.tell_due(now_ns)

    def close(self) -> None:
        """Answers nobody any more."""
        self._places.leave_all()
        self._clients.close()
        self._is_closing = True
        self._upstream.close()
        self._again.clear(boot_ns())
        self._tellings.tell_due(None)

    def switch(self, desk: Desk, upstream: Upstream | None, min_grant_s: int) -> None:
        """From now on questions are decided by another policy; what was granted is its caller's matter."""
        self._again.clear(boot_ns())
        self._tellings.tell_due(None)
        self._desk = desk
        self._min_grant_ns = min_grant_s * 10**9
        if upstream:
            before, self._upstream = self._upstream, upstream
            self._cache.clear()
            before.close()  # what waits for it is decided anew

    def forget(self, names: Collection[str]) -> None:
        """No answer about these names is given again unasked: what it led to was taken back."""
        self._again.fold(boot_ns(), names)

    def _note_lost(self, count: int) -> None:
        """Questions for which the kernel had no room in a listener's queue."""
        asked = Asked(Verdict.ERROR, Reason.QUERY_FLOOD, None, "", 0, PROTOCOL_UDP, 0, 0, count=count)
        self._tellings.note(asked, boot_ns())

    def _read_datagrams(self, listener: socket.socket) -> bool:
        """Answers what is there, or a burst of it; whether there may be more."""
        receive, send, given, admits = listener.recvfrom, listener.sendto, self._again.given, self._callers.admits
        now_ns = boot_ns()
        for _ in range(_BURST):
            try:
                message, peer = receive(_QUERY_MAX)
            except OSError:  # nothing more, or an ICMP error for an earlier answer: whoever asked has gone
                return False
            if not admits(PROTOCOL_UDP, peer):
                continue
            again = given.get(message[2:])
            if again is not None and now_ns < again.until_ns:
                again.count += 1
                _send(send, message[:2] + again.tail, peer)
                continue
            self._answer_datagram(message, peer, send, now_ns)
        return True

    def _answer_datagram(self, message: bytes, peer: Peer, send: Callable[..., int], now_ns: int) -> None:
        def reply(answer: bytes) -> None:
            _send(send, answer, peer)

        self._answer(message, PROTOCOL_UDP, peer, reply, now_ns)

    async def _answer_stream(self, message: bytes, peer: Peer) -> bytes | None:
        """The answer to a question over TCP."""
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def reply(answer: bytes) -> None:
            if not answered.done():  # else the client has gone
                answered.set_result(answer)

        return await answered if self._answer(message, PROTOCOL_TCP, peer, reply, boot_ns()) else None

    def _answer(self, message: bytes, protocol: int, peer: Peer, reply: Send, now_ns: int) -> bool:
        """Answers now or later; False: no answer is due."""
        size, port, source = len(message), int(peer[1]), self._callers.source(peer)
        try:
            query = parse_query(message)
        except Malformed as error:
            asked = Asked(Verdict.DROPPED, Reason.QUERY_MALFORMED, None, "", 0, protocol, port, size, source=source)
            self._tellings.note(asked, now_ns)
            answer = refusal(error)
            if answer:
                reply(answer)
            return answer is not None
        name, kind = query.question.name, query.question.kind
        decision = self._desk.decide(name, kind, time.time_ns(), now_ns)
        verdict, reason, evidence = decision.verdict, decision.reason, decision.evidence
        asked = Asked(
            verdict, reason, decision.rule, name, kind, protocol, port, size, evidence=evidence, source=source
        )
        pending = Pending(message, query, decision, asked, reply, self._desk, now_ns)
        if decision.then is not Then.FORWARD:
            rcode = Rcode.NXDOMAIN if decision.then is Then.REFUSE else Rcode.NOERROR
            is_denied = verdict is Verdict.DROPPED
            self._finish(pending, rcode, decision.records, is_explained=is_denied, now_ns=now_ns, ttl_s=1)
            return True
        kept = self._cache.get(name, kind, now_ns)
        if kept:
            self._forwarded(pending, kept.reply, kept.records(now_ns), now_ns)
        elif self._waiting >= _WAITING_MAX:
            self._fail(pending, Reason.QUERY_FLOOD, now_ns)
        else:
            self._ask(pending, now_ns)
        return True

    def _ask(self, pending: Pending, now_ns: int) -> None:
        self._waiting += 1
        try:
            self._upstream.ask(pending.asked.name, pending.asked.kind, partial(self._replied, pending, now_ns))
        except Flood:
            self._waiting -= 1
            self._fail(pending, Reason.QUERY_FLOOD, now_ns)

    def _replied(self, pending: Pending, asked_ns: int, got: Reply | None) -> None:
        """Called by upstream, with None where nobody answered."""
        self._waiting -= 1
        now_ns = boot_ns()
        asked = pending.asked
        if self._is_closing:  # nobody waits for it any more; counted is what was decided
            self._tellings.note(asked, now_ns)
        elif pending.desk is not self._desk:  # the policy has changed: what the old one allowed is decided anew
            self._answer(pending.message, asked.protocol, (str(asked.source), asked.port), pending.reply, now_ns)
        else:
            kept = self._cache.put(asked.name, asked.kind, got, now_ns)
            self._forwarded(pending.but(took_ns=now_ns - asked_ns), got, kept.records(now_ns), now_ns)

    def _forwarded(self, pending: Pending, got: Reply | None, records: tuple[Record, ...], now_ns: int) -> None:
        """What an upstream said becomes the answer, once what it leads to is granted."""
        if got is None or got.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            self._fail(pending, Reason.UPSTREAM_FAILED, now_ns)
            return
        got, question, resolvable = replace(got, records=records), pending.query.question, pending.desk.resolvable
        withholds = pending.decision.withholds
        answer = make_answer(got, question.name, question.kind, resolvable, withholds=withholds)
        answer, pending = self._granted(answer, pending, now_ns)
        is_short = pending.asked.verdict in _SHORT
        self._finish(pending, answer.rcode, answer.records, is_explained=is_short, now_ns=now_ns, ttl_s=answer.ttl_s)

    def _granted(self, answer: Answer, pending: Pending, now_ns: int) -> tuple[Answer, Pending]:
        decision, asked = pending.decision, pending.asked
        lasts_ns = min(max(answer.ttl_s * 10**9, self._min_grant_ns), GRANT_MAX_NS)
        until_ns = -(-(now_ns + lasts_ns) // _GRANT_STEP_NS) * _GRANT_STEP_NS
        if answer.addresses:
            refused = self._grant(asked.name, answer.addresses, decision.ports_id, until_ns, now_ns)
            if refused:
                answer = answer.without(refused)
                pending = pending.but(verdict=Verdict.ERROR, reason=Reason.TABLE_FULL, address=refused[0])
        if asked.kind == Kind.SRV:
            pending.desk.learn_targets(answer.records, decision, now_ns, until_ns)
        if answer.withheld:
            address = answer.withheld[0]
            pending = pending.but(verdict=Verdict.DROPPED, reason=Reason.ADDRESS_WITHHELD, address=address)
        return answer, pending

    def _fail(self, pending: Pending, reason: Reason, now_ns: int) -> None:
        pending.reply(write_answer(pending.query, Rcode.SERVFAIL, (), limit=pending.limit))
        self._timed(boot_ns() - pending.read_ns)
        self._tellings.note(replace(pending.asked, verdict=Verdict.ERROR, reason=reason), now_ns)

    def _finish(
        self,
        pending: Pending,
        rcode: int,
        records: tuple[Record, ...],
        *,
        is_explained: bool,
        now_ns: int,
        ttl_s: int,
    ) -> None:
        asked = pending.asked
        explanation = self._explain(asked.reason) if is_explained else None
        answer = write_answer(pending.query, rcode, records, limit=pending.limit, explanation=explanation)
        pending.reply(answer)
        self._timed(boot_ns() - pending.read_ns)
        self._tellings.note(asked, now_ns)
        if asked.protocol == PROTOCOL_UDP:
            self._again.keep(pending.message, answer, asked, now_ns, now_ns + ttl_s * 10**9)

    def _explain(self, reason: Reason) -> str:
        return f"exeat: {STORIES[reason]} [{reason.word}; policy {self._desk.policy_name}]"


def _send(send: Callable[..., int], answer: bytes, peer: Peer) -> None:
    try:
        send(answer, peer)
    except OSError:  # its queue is full, or it has gone: it asks again, as with any resolver
        return
