"""The gate of one workload, put together: its listeners, its policy, the book of its grants, and the kernel's tables.

The book belongs to the gate's thread. Everything else asks it by way of `_in_thread`.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from exeat.core.grants import Change, Grants
from exeat.dns.desk import Desk
from exeat.dns.gate import Gate, boot_ns
from exeat.dns.listeners import Listeners, inside, open_listeners
from exeat.dns.tellings import Asked
from exeat.dns.upstream import Upstream
from exeat.errors import KernelError
from exeat.kernel.entries import GATE_PRIORITY
from exeat.kernel.grants import GateTables, GrantTables
from exeat.kernel.instance import Instance
from exeat.kernel.sockets import Diagnosis
from exeat.kernel.sweep import destination
from exeat.kernel.telling import address_of
from exeat.model.networks import Address
from exeat.model.policy import DnsSettings, Mode, Server
from exeat.model.record import Process, Record
from exeat.model.tables import TableSet
from exeat.model.verdicts import Reason, Verdict

_T = TypeVar("_T")
_COLLECT_NS = 10 * 10**9  # how often grants that ended are looked at: a walk over the workload's sockets
_ANSWERED_MAX = 65536  # addresses whose names are remembered for learning
_NAMES_MAX = 64  # of one address
_NOBODY = Process(0, "", 0)


@dataclass(frozen=True, slots=True)
class Ward:
    """Whose gate it is, and by which policy it answers."""

    workload: int
    path: str
    policy_id: int
    table_set: TableSet
    dns: DnsSettings


class Gatehouse:
    """One workload's gate, from open() to finish()."""

    def __init__(
        self, instance: Instance, ward: Ward, host_servers: tuple[Server, ...], take: Callable[[Record], None]
    ) -> None:
        self._instance = instance
        self._ward = ward
        self._host_servers = host_servers
        self._take = take
        self._book = Grants(ward.dns.max_grants)
        self._tables = GrantTables(instance, ward.policy_id)
        self._gates = GateTables(instance, ward.workload)
        self._desk = Desk(ward.table_set, ward.dns, self._names_at)
        self._answered: dict[bytes, set[str]] = {}
        self._collected_ns = 0
        self._listeners: Listeners | None = None
        self._diagnosis: Diagnosis | None = None  # where the workload's sockets are
        self._gate: Gate | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failures: list[BaseException] = []
        self._has_served = False
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        for name in ("stamps", "names"):
            instance.map(name)  # opened now: at the end the pins go first

    def open(self, namespace: int | None = None) -> None:
        """Opens the listeners in a network namespace and leads the workload there; questions wait for start()."""
        self._listeners = open_listeners(GATE_PRIORITY, namespace)
        self._diagnosis = Diagnosis() if namespace is None else inside(namespace, Diagnosis)
        self._gates.open(self._listeners.network, self._listeners.port)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()
        self._ready.wait()

    def finish(self) -> None:
        """Stops. A failure on the way is raised here."""
        if self._loop and self._stop and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.ident:
            self._thread.join()
        elif self._listeners:
            self._listeners.close()
        if self._diagnosis:
            self._diagnosis.close()
        if self._thread.ident and not self._has_served and not self._failures:
            raise KernelError("the gate ended before its time: its error stands above")
        if self._failures:
            raise KernelError(f"the gate failed: {self._failures[0]!r}") from self._failures[0]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many questions got which verdict."""
        return self._gate.counts if self._gate else {}

    def names_of(self, address: bytes) -> tuple[str, ...]:
        """Every name that was ever answered with this address."""
        return tuple(sorted(self._answered.get(address, ())))

    def switch(self, ward: Ward) -> None:
        """Moves what was granted to a new policy's tables, then answers by it. The workload is switched after that."""

        def move() -> None:
            now_ns = boot_ns()
            desk = Desk(ward.table_set, ward.dns, self._names_at)
            desk.inherit(self._desk, now_ns)
            tables = GrantTables(self._instance, ward.policy_id)
            ports_id_of = partial(desk.ports_id_of, boot_ns=now_ns)
            book, change = self._book.rebased(ports_id_of, ward.dns.max_grants, now_ns)
            tables.apply(change)
            is_same = ward.dns.upstreams == self._ward.dns.upstreams
            self._ward, self._desk, self._book, self._tables = ward, desk, book, tables
            if self._gate:
                self._gate.switch(desk, None if is_same else self._upstream(ward), ward.dns.min_grant_s)
            self._tell_evicted(change)

        self._in_thread(move)

    def _in_thread(self, act: Callable[[], _T]) -> _T:
        if not self._loop or not self._thread.is_alive():
            return act()

        async def call() -> _T:
            return act()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def _upstream(self, ward: Ward) -> Upstream:
        return Upstream(ward.dns.upstreams, self._host_servers)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
            self._has_served = True
        except (KernelError, OSError) as error:
            self._failures.append(error)
        finally:
            self._ready.set()
            if self._listeners:
                self._listeners.close()  # whatever happened: who asks is told at once that nobody listens

    async def _serve(self) -> None:
        assert self._listeners
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._note_failure)
        self._stop = asyncio.Event()
        ward = self._ward
        self._gate = Gate(self._desk, self._upstream(ward), ward.dns.min_grant_s, self._grant, self._tell)
        self._ready.set()
        await self._gate.serve(self._listeners, self._stop, self._collect)

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A question that broke something gets no answer; the gate goes on with the others, and says so at the end."""
        error = context.get("exception")
        self._failures.append(error if isinstance(error, BaseException) else KernelError(str(context.get("message"))))

    def _names_at(self, address: bytes, now_ns: int) -> tuple[str, ...]:
        return self._book.names_at(address, now_ns)

    def _grant(
        self, name: str, addresses: Sequence[bytes], ports_id: int, until_ns: int, now_ns: int
    ) -> Sequence[bytes]:
        """Opens addresses in the kernel, if the name has ports; returns those that it could not open."""
        if ports_id:
            change = self._book.grant(name, addresses, ports_id, until_ns, now_ns, self._tables.used)
            try:
                self._tables.apply(change)
            except KernelError:  # the tables are full: an answer would lead where the kernel lets nobody
                undone = self._book.forget(name, addresses)
                self._tables.apply(
                    replace(
                        undone,
                        gone_granted=change.gone_granted + undone.gone_granted,
                        gone_grants=change.gone_grants + undone.gone_grants,
                    )
                )
                self._tell_evicted(change)
                return addresses
            self._tell_evicted(change)
        else:
            change = Change()
        if self._ward.table_set.mode is Mode.OPEN:
            self._remember(name, addresses)
        return change.refused

    def _remember(self, name: str, addresses: Sequence[bytes]) -> None:
        for address in addresses:
            if address in self._answered or len(self._answered) < _ANSWERED_MAX:
                names = self._answered.setdefault(address, set())
                if len(names) < _NAMES_MAX:
                    names.add(name)

    def _collect(self, now_ns: int) -> None:
        """Takes back what ended and no open connection uses."""
        if now_ns - self._collected_ns < _COLLECT_NS:
            return
        self._collected_ns = now_ns
        used: set[bytes] | None = None

        def is_in_use(address: bytes) -> bool:
            nonlocal used
            if used is None:
                used = self._addresses_in_use()
            return address in used

        try:
            change = self._book.expire(now_ns, is_in_use)
        except (KernelError, OSError):  # as when descriptors are short: what ended is closed, and is looked at again
            return
        if change:
            self._tables.apply(change)

    def _addresses_in_use(self) -> set[bytes]:
        assert self._diagnosis
        stamps = [one.stamp for one in self._diagnosis.stamped(self._instance)]
        ends = [destination(stamp) for stamp in stamps if stamp.workload == self._ward.workload]
        return {end[1] for end in ends if end}

    def _tell_evicted(self, change: Change) -> None:
        """Once for each name, with one of its addresses: a single answer may drive out as many as it brings."""
        if not change.evicted:
            return
        first = dict(reversed(change.evicted))
        if self._gate:
            self._gate.forget(first)
        counts = Counter(name for name, _ in change.evicted)
        for name, count in counts.items():
            asked = Asked(Verdict.DROPPED, Reason.GRANT_EVICTED, None, name, 0, 0, 0, 0, first[name], count=count)
            self._take(self._record(asked, _NOBODY, None))

    def _tell(self, asked: Asked) -> None:
        asking = self._gates.asking(asked.protocol, asked.port)
        process = asking.process if asking else _NOBODY
        self._take(self._record(asked, process, asking.server if asking else None))

    def _record(self, asked: Asked, process: Process, server: Address | None) -> Record:
        return Record(
            time_ns=time.time_ns(),
            verdict=asked.verdict,
            reason=asked.reason,
            hook="query",
            workload=self._ward.path,
            policy=self._ward.table_set.policy_name,
            rule=asked.rule,
            process=process,
            protocol=asked.protocol,
            address=address_of(asked.address) if asked.address else server,
            port=0 if asked.address else 53,
            source=None,
            source_port=asked.port,
            name=asked.name or None,
            bytes=asked.size,
            detail=asked.kind,
            judged_ns=asked.took_ns,
            count=asked.count,
            evidence=asked.evidence or None,
        )
