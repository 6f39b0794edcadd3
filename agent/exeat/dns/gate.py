"""The gate: answers one workload's questions by its policy, and has every address granted before the answer leaves.

Runs in one thread, on asyncio. Answers that were just given are given again without a thought (`_Again`), for a second
at most, so that grants and time limits are never more than that behind.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from exeat.core.stories import STORIES
from exeat.dns.answers import Answer, make_answer
from exeat.dns.cache import Cache
from exeat.dns.desk import Decision, Desk, Then
from exeat.dns.listeners import Listeners
from exeat.dns.records import Kind, Query, Rcode, Record, Reply
from exeat.dns.tcp import TcpClients
from exeat.dns.tellings import Asked, Tellings
from exeat.dns.upstream import Flood, Upstream
from exeat.dns.wire import MIN_PAYLOAD, Malformed, parse_query, refusal, write_answer
from exeat.model.verdicts import Reason, Verdict

UDP_MAX = 1232  # what fits everywhere without fragments: DNS flag day 2020
TCP_MAX = 65535
GRANT_MAX_NS = 86_400 * 10**9
_GRANT_STEP_NS = 64 * 10**9  # ends are rounded up to it: a name asked all the time is granted anew once a minute
_AGAIN_NS = 10**9
_AGAIN_MAX = 4096
_WAITING_MAX = 2048  # answers that wait for an upstream; the kernel's queue holds what comes beyond
_CACHE_BYTES = 4 << 20  # several thousand names, for one workload
_BURST = 64  # datagrams before others get their turn
_TICK_S = 1.0
_QUERY_MAX = 4096  # a question needs 300 bytes; what is longer is cut here, and refused as malformed
_PROTOCOL_UDP, _PROTOCOL_TCP = 17, 6
_SHORT = (Verdict.DROPPED, Verdict.ERROR)  # of what upstream said, something is not told


@dataclass(slots=True)
class _Again:
    """An answer without its id, as long as it is fresh."""

    tail: bytes
    until_ns: int
    asked: Asked
    count: int = 0


Grant = Callable[[str, Sequence[bytes], int, int, int], Sequence[bytes]]
Send = Callable[[bytes], None]


def boot_ns() -> int:
    """The clock that the kernel's tables count by."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Gate:
    """For one workload. `grant` hears of every address that is told, and returns those that it could not open."""

    def __init__(
        self,
        desk: Desk,
        upstream: Upstream,
        min_grant_s: int,
        grant: Grant,
        tell: Callable[[Asked], None],
    ) -> None:
        self._desk = desk
        self._upstream = upstream
        self._min_grant_ns = min_grant_s * 10**9
        self._grant = grant
        self._tellings = Tellings(tell)
        self._cache = Cache(limit_bytes=_CACHE_BYTES)
        self._again: dict[bytes, _Again] = {}
        self._waiting: set[asyncio.Task[None]] = set()

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many questions got which verdict; exact once it has stopped serving."""
        return self._tellings.counts

    async def serve(self, listeners: Listeners, stop: asyncio.Event, tick: Callable[[int], None]) -> None:
        """Answers until `stop`; `tick` is called about once a second."""
        loop = asyncio.get_running_loop()
        clients = TcpClients(self._answer_stream)
        for one in listeners.udp:
            loop.add_reader(one, self._read_datagrams, one)
        servers = [await clients.listen(one) for one in listeners.tcp]
        try:
            while not stop.is_set():
                try:
                    await asyncio.wait_for(stop.wait(), _TICK_S)
                except TimeoutError:
                    now_ns = boot_ns()
                    self._fold(now_ns)
                    tick(now_ns)
        finally:
            for one in listeners.udp:
                loop.remove_reader(one)
            for server in servers:
                server.close()
            clients.close()
            for task in self._waiting:
                task.cancel()
            await asyncio.gather(*self._waiting, return_exceptions=True)
            self._upstream.close()
            self._fold(None)

    def switch(self, desk: Desk, upstream: Upstream | None, min_grant_s: int) -> None:
        """From now on questions are decided by another policy; what was granted is its caller's matter."""
        self._fold(None)
        self._again.clear()
        self._desk = desk
        self._min_grant_ns = min_grant_s * 10**9
        if upstream:
            self._upstream.close()
            self._upstream = upstream
            self._cache.clear()

    def forget(self, names: Collection[str]) -> None:
        """No answer about these names is given again unasked: what it led to was taken back."""
        self._fold(boot_ns(), names)

    def _read_datagrams(self, listener: socket.socket) -> None:
        receive, send = listener.recvfrom, listener.sendto
        now_ns = boot_ns()
        for _ in range(_BURST):
            try:
                message, peer = receive(_QUERY_MAX)
            except OSError:  # nothing more, or an ICMP error for an earlier answer: whoever asked has gone
                return
            again = self._again.get(message[2:])
            if again is not None and now_ns < again.until_ns:
                again.count += 1
                _send(send, message[:2] + again.tail, peer)
                continue
            self._answer_datagram(message, peer, send, now_ns)

    def _answer_datagram(self, message: bytes, peer: tuple[object, ...], send: Callable[..., int], now_ns: int) -> None:
        def reply(answer: bytes) -> None:
            _send(send, answer, peer)

        self._answer(message, _PROTOCOL_UDP, int(str(peer[1])), reply, now_ns)

    async def _answer_stream(self, message: bytes, port: int) -> bytes | None:
        """The answer to a question over TCP."""
        answers: list[bytes] = []
        task = self._answer(message, _PROTOCOL_TCP, port, answers.append, boot_ns())
        if task:
            await task
        return answers[0] if answers else None

    def _answer(self, message: bytes, protocol: int, port: int, reply: Send, now_ns: int) -> asyncio.Task[None] | None:
        """Answers at once, or returns who will."""
        try:
            query = parse_query(message)
        except Malformed as error:
            self._tellings.note(
                Asked(Verdict.DROPPED, Reason.QUERY_MALFORMED, None, "", 0, protocol, port, len(message)), now_ns
            )
            answer = refusal(error)
            if answer:
                reply(answer)
            return None
        question = query.question
        decision = self._desk.decide(question.name, question.kind, time.time_ns(), now_ns)
        asked = Asked(
            decision.verdict,
            decision.reason,
            decision.rule,
            question.name,
            question.kind,
            protocol,
            port,
            len(message),
            evidence=decision.evidence,
        )
        limit = TCP_MAX if protocol == _PROTOCOL_TCP else min(query.payload_size, UDP_MAX)
        if decision.then is not Then.FORWARD:
            rcode = Rcode.NXDOMAIN if decision.then is Then.REFUSE else Rcode.NOERROR
            explanation = self._explain(decision.reason) if decision.verdict is Verdict.DROPPED else None
            answer = write_answer(query, rcode, decision.records, limit=limit, explanation=explanation)
            self._finish(message, answer, asked, reply, now_ns, now_ns + _AGAIN_NS)
            return None
        kept = self._cache.get(question.name, question.kind, now_ns)
        if kept:
            self._forwarded(message, query, decision, asked, kept.reply, kept.records(now_ns), reply, limit, now_ns)
            return None
        if len(self._waiting) >= _WAITING_MAX:
            self._fail(query, replace(asked, verdict=Verdict.ERROR, reason=Reason.QUERY_FLOOD), reply, limit, now_ns)
            return None
        task = asyncio.ensure_future(self._forward(message, query, decision, asked, reply, limit, self._desk))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task

    async def _forward(
        self, message: bytes, query: Query, decision: Decision, asked: Asked, reply: Send, limit: int, desk: Desk
    ) -> None:
        question = query.question
        started_ns = boot_ns()
        try:
            got = await self._upstream.ask(question.name, question.kind)
        except Flood:
            asked = replace(asked, verdict=Verdict.ERROR, reason=Reason.QUERY_FLOOD)
            self._fail(query, asked, reply, limit, started_ns)
            return
        now_ns = boot_ns()
        if desk is not self._desk:  # the policy has changed: what the old one allowed is decided anew
            task = self._answer(message, asked.protocol, asked.port, reply, now_ns)
            if task:
                await task
            return
        asked = replace(asked, took_ns=now_ns - started_ns)
        self._cache.put(question.name, question.kind, got, now_ns)
        records = got.records if got else ()
        self._forwarded(message, query, decision, asked, got, records, reply, limit, now_ns)

    def _forwarded(
        self,
        message: bytes,
        query: Query,
        decision: Decision,
        asked: Asked,
        got: Reply | None,
        records: tuple[Record, ...],
        reply: Send,
        limit: int,
        now_ns: int,
    ) -> None:
        """What an upstream said becomes the answer, once what it leads to is granted."""
        if got is None or got.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            asked = replace(asked, verdict=Verdict.ERROR, reason=Reason.UPSTREAM_FAILED)
            self._fail(query, asked, reply, limit, now_ns)
            return
        question, desk = query.question, self._desk
        got = replace(got, records=records)
        answer = make_answer(got, question.name, question.kind, desk.resolvable, withholds=decision.withholds)
        answer, asked = self._granted(question.name, question.kind, answer, decision, asked, now_ns)
        explanation = self._explain(asked.reason) if asked.verdict in _SHORT else None
        wire = write_answer(query, answer.rcode, answer.records, limit=limit, explanation=explanation)
        fresh_ns = now_ns + min(_AGAIN_NS, answer.ttl_s * 10**9)
        self._finish(message, wire, asked, reply, now_ns, fresh_ns)

    def _granted(
        self, name: str, kind: int, answer: Answer, decision: Decision, asked: Asked, now_ns: int
    ) -> tuple[Answer, Asked]:
        lasts_ns = min(max(answer.ttl_s * 10**9, self._min_grant_ns), GRANT_MAX_NS)
        until_ns = -(-(now_ns + lasts_ns) // _GRANT_STEP_NS) * _GRANT_STEP_NS
        if answer.addresses:
            refused = self._grant(name, answer.addresses, decision.ports_id, until_ns, now_ns)
            if refused:
                answer = answer.without(refused)
                asked = replace(asked, verdict=Verdict.ERROR, reason=Reason.TABLE_FULL, address=refused[0])
        if kind == Kind.SRV:
            self._desk.learn_targets(answer.records, decision, now_ns, until_ns)
        if answer.withheld:
            verdict, reason = Verdict.DROPPED, Reason.ADDRESS_WITHHELD
            asked = replace(asked, verdict=verdict, reason=reason, address=answer.withheld[0])
        return answer, asked

    def _fail(self, query: Query, asked: Asked, reply: Send, limit: int, now_ns: int) -> None:
        reply(write_answer(query, Rcode.SERVFAIL, (), limit=limit))
        self._tellings.note(asked, now_ns)

    def _finish(self, message: bytes, answer: bytes, asked: Asked, reply: Send, now_ns: int, fresh_ns: int) -> None:
        reply(answer)
        self._tellings.note(asked, now_ns)
        if asked.protocol != _PROTOCOL_UDP or fresh_ns <= now_ns or asked.size > MIN_PAYLOAD:  # padded: nobody's habit
            return
        if len(self._again) >= _AGAIN_MAX:
            self._fold(now_ns)
            self._again.clear()
        before = self._again.get(message[2:])
        if before and before.count:  # they got that answer, which may have been another
            self._tellings.note(replace(before.asked, count=before.count), now_ns)
        self._again[message[2:]] = _Again(answer[2:], fresh_ns, asked)

    def _explain(self, reason: Reason) -> str:
        return f"exeat: {STORIES[reason]} [{reason.word}; policy {self._desk.policy_name}]"

    def _fold(self, now_ns: int | None, gone: Collection[str] = ()) -> None:
        """Counts what was answered again, and tells what is due; None: all of it."""
        for message, again in list(self._again.items()):
            if again.count:
                self._tellings.note(replace(again.asked, count=again.count), now_ns or boot_ns())
                again.count = 0
            if now_ns is None or again.until_ns <= now_ns or again.asked.name in gone:
                del self._again[message]
        self._tellings.tell_due(now_ns)


def _send(send: Callable[..., int], answer: bytes, peer: tuple[object, ...]) -> None:
    try:
        send(answer, peer)
    except OSError:  # its queue is full, or it has gone: it asks again, as with any resolver
        return
