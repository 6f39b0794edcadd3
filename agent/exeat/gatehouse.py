"""The gate of one workload, put together: its listeners, its policy's ledger, and whom it tells.

A gate is made when the first question comes: most workloads of a large host ask none for hours.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from exeat.core.grants import Change
from exeat.dns.desk import Decision, Desk
from exeat.dns.gate import Gate, boot_ns
from exeat.dns.keeping import Keeping, NothingKept
from exeat.dns.listeners import Listeners, inside, listeners_of, network_cookie, open_listeners
from exeat.dns.tellings import Asked
from exeat.dns.upstream import Upstream
from exeat.gate_thread import GateThread
from exeat.kernel.entries import GATE_PRIORITY
from exeat.kernel.grants import GateTables
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.kernel.sockets import Diagnosis
from exeat.kernel.telling import address_of
from exeat.ledger import Ledger
from exeat.model.networks import Address
from exeat.model.policy import Mode, Server
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict

_ANSWERED_MAX = 65536  # addresses whose names are remembered for learning
_NAMES_MAX = 64  # of one address
_NOBODY = Process(0, "", 0)


class Gatehouse:
    """One workload's gate, from its making to close()."""

    def __init__(
        self,
        thread: GateThread,
        workload: int,
        path: str,
        ledger: Ledger,
        host_servers: tuple[Server, ...],
        take: Callable[[Record], None],
        mode: Mode | None = None,
        keeping: Keeping | None = None,
        timed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._timed = timed
        self.workload = workload
        self._thread = thread
        self._path = path
        self._ledger = ledger
        self._host_servers = host_servers
        self._take = take
        self._mode = mode  # in place of the policy's own
        self._keeping = keeping or NothingKept()
        self._gates = GateTables(ledger.instance, workload)
        self._desk = self._new_desk()
        self._answered: dict[bytes, set[str]] = {}
        self._listeners: dict[int, Listeners] = {}  # by network namespace
        self._diagnoses: dict[int, Diagnosis] = {}
        self._gate: Gate | None = None
        self._counts: dict[Verdict, int] = {}
        for name in ("stamps", "names"):
            ledger.instance.map(name)  # opened now: at the end the pins go first
        ledger.join(self)
        thread.add(self)

    def open(self, namespace: int | None = None) -> int:
        """Opens listeners in a network namespace (a descriptor; None: this one), and leads the workload there."""

        def make() -> tuple[Listeners, Diagnosis]:
            kept = listeners_of(self._keeping.take(self.workload, network_cookie()))
            return kept or open_listeners(GATE_PRIORITY, self._gates.port), Diagnosis()

        return self._open(*(make() if namespace is None else inside(namespace, make)))

    def open_for_guest(self, addresses: Sequence[Address]) -> int:
        """The same on addresses of this host, to which the programs lead what a guest asks. It has no sockets here."""
        kept = listeners_of(self._keeping.take(self.workload, network_cookie()), addresses)
        return self._open(kept or open_listeners(GATE_PRIORITY, self._gates.port, addresses), None)

    def _open(self, listeners: Listeners, diagnosis: Diagnosis | None) -> int:
        network = listeners.network
        self._keeping.keep(self.workload, listeners)

        def admit() -> None:
            self._drop(network)
            self._listeners[network] = listeners
            if diagnosis:
                self._diagnoses[network] = diagnosis
            self._attend(listeners)

        self._thread.do(admit)
        self._gates.open(network, listeners.port)
        return network

    def leave(self, network: int) -> None:
        """Nobody of the workload is in that namespace any more."""
        self._gates.close(network)
        self._keeping.drop(self.workload, network)
        self._thread.do(lambda: self._drop(network))

    @property
    def networks(self) -> tuple[int, ...]:
        """The namespaces in which it listens."""
        return tuple(self._listeners)

    def listeners(self, network: int) -> Listeners:
        """Those of a namespace."""
        return self._listeners[network]

    @property
    def desk(self) -> Desk:
        """By which it answers."""
        return self._desk

    def diagnoses(self) -> dict[int, Diagnosis]:
        """Where the workload's sockets are."""
        return dict(self._diagnoses)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many questions got which verdict."""
        return self._gate.counts if self._gate else self._counts

    def foretell(self, name: str, kind: int) -> tuple[Decision, list[bytes]]:
        """What it would decide on a question, which counts nowhere; and where the name leads now."""

        def look() -> tuple[Decision, list[bytes]]:
            now_ns = boot_ns()
            desk = self._new_desk()  # it has seen no question yet, so that this one is no step towards a tunnel
            desk.inherit(self._desk, now_ns)
            return desk.decide(name, kind, time.time_ns(), now_ns), self._ledger.addresses_of(name, now_ns)

        return self._thread.do(look)

    def names_of(self, address: bytes) -> tuple[str, ...]:
        """Every name that was ever answered with this address."""
        return tuple(sorted(self._answered.get(address, ())))

    def switch(self, ledger: Ledger, mode: Mode | None = None) -> None:
        """Answers by another policy, which has adopted this one's grants. In the thread, with the kernel's switch."""
        now_ns = boot_ns()
        before, self._ledger, self._mode = self._ledger, ledger, mode
        if before is not ledger:
            ledger.join(self)
            before.leave(self)
        desk = self._new_desk()
        desk.inherit(self._desk, now_ns)
        self._desk = desk
        if self._gate:
            is_same = ledger.dns.upstreams == before.dns.upstreams
            self._gate.switch(desk, None if is_same else self._upstream(), ledger.dns.min_grant_s)

    def forget(self, names: Sequence[str]) -> None:
        """What was granted to these names was taken back."""
        if self._gate:
            self._gate.forget(names)

    def tell_evicted(self, change: Change) -> None:
        """Once for each name, with one of its addresses: a single answer may drive out as many as it brings."""
        first = dict(reversed(change.evicted))
        for name, count in Counter(name for name, _ in change.evicted).items():
            asked = Asked(Verdict.DROPPED, Reason.GRANT_EVICTED, None, name, 0, 0, 0, 0, first[name], count=count)
            self._take(self._record(asked, _NOBODY, None))

    def close(self) -> None:
        """Ends the gate. What asks on is denied."""
        for network in list(self._listeners):
            self._gates.close(network)
            self._keeping.drop(self.workload, network)
        self._thread.remove(self)

    def begin(self) -> None:
        """The thread runs."""
        for listeners in self._listeners.values():
            self._attend(listeners)

    def tick(self, now_ns: int) -> None:
        """Once a second."""
        if self._gate:
            self._gate.tick(now_ns)
        self._ledger.collect(now_ns)

    def end(self) -> None:
        """The thread ends, or this gate does."""
        for network in list(self._listeners):
            self._drop(network)
        if self._gate:
            self._gate.close()
            self._counts = self._gate.counts
            self._gate = None
        if self._ledger:
            self._ledger.leave(self)

    def _attend(self, listeners: Listeners) -> None:
        """Waits for the first question, or answers like the other listeners."""
        loop = self._thread.loop
        if loop is None:
            return
        if self._gate:
            self._gate.listen(listeners)
            return
        for one in listeners.udp + listeners.tcp:
            loop.add_reader(one, self._wake)

    def _wake(self) -> None:
        for listeners in self._listeners.values():
            self._ignore(listeners)
        if self._gate is None:
            is_led = self._is_led if self.workload & INTERFACE_BIT else None
            min_grant_s = self._ledger.dns.min_grant_s
            self._gate = Gate(self._desk, self._upstream(), min_grant_s, self._grant, self._tell, self._timed, is_led)
        for listeners in self._listeners.values():
            self._gate.listen(listeners)

    def _drop(self, network: int) -> None:
        listeners = self._listeners.pop(network, None)
        diagnosis = self._diagnoses.pop(network, None)
        if listeners and self._gate:
            self._gate.leave(network)
        elif listeners:
            self._ignore(listeners)
            listeners.close()
        if diagnosis:
            diagnosis.close()

    def _ignore(self, listeners: Listeners) -> None:
        loop = self._thread.loop
        for one in listeners.udp + listeners.tcp if loop else ():
            if loop:
                loop.remove_reader(one)

    def _new_desk(self) -> Desk:
        ledger = self._ledger
        return Desk(ledger.table_set, ledger.dns, ledger.names_at, resolvable=ledger.resolvable, mode=self._mode)

    def _upstream(self) -> Upstream:
        return Upstream(self._ledger.dns.upstreams, self._host_servers)

    def _grant(
        self, name: str, addresses: Sequence[bytes], ports_id: int, until_ns: int, now_ns: int
    ) -> Sequence[bytes]:
        """Opens addresses in the kernel, if the name has ports; returns those that it could not open."""
        change = Change()
        if ports_id:
            change = self._ledger.grant(name, addresses, ports_id, until_ns, now_ns)
            self.tell_evicted(change)
        if self._desk.mode is Mode.OPEN:
            self._remember(name, addresses)
        return change.refused

    def _remember(self, name: str, addresses: Sequence[bytes]) -> None:
        for address in addresses:
            if address in self._answered or len(self._answered) < _ANSWERED_MAX:
                names = self._answered.setdefault(address, set())
                if len(names) < _NAMES_MAX:
                    names.add(name)

    def _is_led(self, protocol: int, address: Address, port: int) -> bool:
        return self._gates.guest_asking(protocol, address, port) is not None

    def _tell(self, asked: Asked) -> None:
        if asked.source:
            asking = self._gates.guest_asking(asked.protocol, asked.source, asked.port)
        else:
            asking = self._gates.asking(asked.protocol, asked.port)
        process = asking.process if asking else _NOBODY
        self._take(self._record(asked, process, asking.server if asking else None))

    def _record(self, asked: Asked, process: Process, server: Address | None) -> Record:
        return Record(
            time_ns=time.time_ns(),
            verdict=asked.verdict,
            reason=asked.reason,
            hook="query",
            workload=self._path,
            policy=self._ledger.table_set.policy_name,
            rule=asked.rule,
            process=process,
            protocol=asked.protocol,
            address=address_of(asked.address) if asked.address else server,
            port=0 if asked.address else 53,
            source=asked.source,
            source_port=asked.port,
            name=asked.name or None,
            bytes=asked.size,
            detail=asked.kind,
            judged_ns=asked.took_ns,
            count=asked.count,
            evidence=asked.evidence or None,
        )
