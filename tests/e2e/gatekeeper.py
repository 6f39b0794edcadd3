"""A workload with a gate of its own: the guard judges it, and its questions go to a resolver among the bed's hosts.

    resolver = fresh_resolver(bed, {"shop.test": shop.addresses})
    with keep_gate(guard, bed, resolver, rule(hosts=("shop.test",), protocol="tls")) as kept:
        assert kept.run(lambda: look_up("shop.test")) == [shop.address4]
        assert kept.reasons() == [(Verdict.FORWARDED, Reason.RESOLVED)]        # of the questions
        assert kept.workload.reasons() == []                                   # of everything else

The gate's thread lives in the bed's client namespace, as the agent's does on a host. `namespace` puts its listeners in
another one, as for a container. The clients answer in plain values, because they run inside call_in.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from bed import Bed, Dns, Host, call_in
from bed.namespace import Namespace, enter
from bed.services import Zone
from e2e.escapes import family_of, got
from e2e.guard import Guard, Workload
from exeat.core.compile import compile_policy
from exeat.core.grants import SOMEWHERE, Change, Slot
from exeat.dns.gate import boot_ns
from exeat.dns.listeners import Listeners
from exeat.gate_thread import GateThread
from exeat.gatehouse import Gatehouse
from exeat.kernel.grants import GateTables, GrantTables
from exeat.kernel.sweep import cut_revoked
from exeat.ledger import Ledger
from exeat.model.networks import mapped
from exeat.model.policy import DnsSettings, Mode, Policy, Rule, Server
from exeat.model.record import Record
from exeat.model.verdicts import Reason, Verdict

RESOLVER = "resolver.test"
SOMEBODY = "192.0.2.53"  # whom clients ask; nobody is there, and no question arrives anywhere but at the gate
PLENTY_S = 10.0  # a busy machine may take so long; an answer takes a millisecond


@dataclass
class Kept:
    """A workload under a policy, and its gate."""

    bed: Bed
    workload: Workload
    thread: GateThread
    gatehouse: Gatehouse
    ledger: Ledger
    records: list[Record] = field(default_factory=list)

    @property
    def listeners(self) -> Listeners:
        """Where the gate listens."""
        return self.gatehouse.listeners(self.gatehouse.networks[0])

    @property
    def policy_id(self) -> int:
        """The present policy's."""
        return self.ledger.policy_id

    @property
    def grants(self) -> GrantTables:
        """The kernel's tables of the present policy, to write to behind the gate's back."""
        return GrantTables(self.workload.guard.instance, self.policy_id)

    def run(self, function: Callable[[], Any], **how: Any) -> Any:
        """Calls a function inside the workload."""
        return call_in(self.bed, function, cgroup=self.workload.cgroup, **how)

    def ports_id(self, name: str) -> int:
        """What the present policy opens an address for once this name leads there."""
        return self.gatehouse._desk.ports_id_of(name, boot_ns()) or 0

    def write_grant(self, name: str, address: str, lasts_s: float = 600.0) -> None:
        """Grants an address in the kernel's tables, of which the gate knows nothing."""
        until_ns = boot_ns() + int(lasts_s * 1e9)
        place, ports_id = at(address), self.ports_id(name)
        pairs = tuple((name, there, ports_id, until_ns) for there in (place, SOMEWHERE))
        self.grants.apply(Change(grants=pairs, granted=((place, (Slot(ports_id, until_ns),)),)))

    def grant(self, name: str, address: str, lasts_s: float) -> None:
        """Grants an address as the gate does, only for as short a time as no gate would."""
        now_ns = boot_ns()
        until_ns = now_ns + int(lasts_s * 1e9)
        ports_id, gatehouse = self.ports_id(name), self.gatehouse
        assert not self.thread.do(lambda: gatehouse._grant(name, [at(address)], ports_id, until_ns, now_ns))

    def collect(self, in_s: float = 0.0) -> None:
        """Takes back what is unused and will have ended by then, as the gate does every ten seconds."""
        ledger = self.ledger

        def collect() -> None:
            ledger._collected_ns = 0
            ledger.collect(boot_ns() + int(in_s * 1e9))

        self.thread.do(collect)

    def holds(self, address: str, port: int = 7) -> bool:
        """Whether the kernel's tables know an address, though its grant may have ended: open connections may go on."""
        answer = self.workload.guard.tables.ask(self.policy_id, 6, at(address), port, is_established=True)
        return answer.reason is not Reason.NOT_RESOLVED

    def asked(self) -> list[Record]:
        """What the gate told of questions and grants since the last call; a repeated question is told at the end."""
        self.settle()
        records, self.records[:] = list(self.records), []
        return records

    def reasons(self) -> list[tuple[Verdict, Reason]]:
        """Verdict and reason of each of these."""
        return [(record.verdict, record.reason) for record in self.asked()]

    def settle(self) -> None:
        """Returns when the gate has told what it answered so far: it answers first."""
        self.thread.do(lambda: None)

    def switch(
        self, *rules: Rule, mode: Mode = Mode.ENFORCE, dns: DnsSettings | None = None, cuts: bool = True, **more: object
    ) -> int:
        """Puts it under a new policy as the agent does: the gate, the kernel, then revoked connections are cut.

        Returns how many were.
        """
        guard, workload = self.workload.guard, self.workload
        ledger = _ledger(workload, rules, mode, dns, more)

        def switch() -> None:
            self.gatehouse.tell_evicted(ledger.adopt(self.ledger, boot_ns()))
            self.gatehouse.switch(ledger)
            guard.tables.switch(workload.id, ledger.policy_id)

        self.thread.do(switch)
        self.ledger = ledger
        return self.cut() if cuts else 0

    def cut(self) -> int:
        """Ends the connections that the present policy does not allow; how many were."""
        guard = self.workload.guard
        client = self.bed.network.client
        return client.call(lambda: cut_revoked(guard.instance, guard.tables, self.workload.id, self.policy_id))


def fresh_resolver(bed: Bed, zone: Zone) -> Host:
    """The bed's one resolver, with this zone and no manners; it has counted nothing yet."""
    try:
        resolver = bed.host(RESOLVER)
    except KeyError:
        return bed.add(RESOLVER, Dns(zone))
    resolver.behave(None)
    resolver.set_zone(zone)
    resolver.reset()
    return resolver


@contextmanager
def keep_gate(
    guard: Guard,
    bed: Bed,
    resolver: Host,
    *rules: Rule,
    mode: Mode = Mode.ENFORCE,
    dns: DnsSettings | None = None,
    namespace: int | None = None,
    **more: object,
) -> Iterator[Kept]:
    """A workload and its gate, for one test. A failure inside the gate is raised at the end."""
    client = bed.network.client
    with guard.workload(mode=Mode.QUARANTINE) as workload:
        ledger = _ledger(workload, rules, mode, dns, more)
        guard.tables.switch(workload.id, ledger.policy_id)
        upstream = (Server(ip_address(resolver.address4)),)
        records: list[Record] = []
        thread = GateThread()
        gatehouse = Gatehouse(thread, workload.id, str(workload.cgroup), ledger, upstream, records.append)
        network = gatehouse.open(client.fd if namespace is None else namespace)
        try:
            client.call(thread.start)
            yield Kept(bed, workload, thread, gatehouse, ledger, records)
        finally:
            thread.finish()
            GateTables(guard.instance, workload.id).close(network)


def _ledger(
    workload: Workload, rules: tuple[Rule, ...], mode: Mode, dns: DnsSettings | None, more: dict[str, object]
) -> Ledger:
    policy = Policy("test", rules, mode=mode, dns=dns or DnsSettings(), **more)  # type: ignore[arg-type]
    table_set = compile_policy(policy)
    policy_id = workload.guard.tables.add(table_set)
    workload.policy_ids.append(policy_id)
    return Ledger(workload.guard.instance, policy_id, table_set, policy.dns)


def at(address: str) -> bytes:
    """An address as the kernel's tables know it."""
    return mapped(ip_address(address))


class Said(NamedTuple):
    """An answer: its code, the records of its answer section as "TYPE data", and the text of its extended error."""

    rcode: str
    records: list[str]
    why: str = ""

    @property
    def addresses(self) -> list[str]:
        """Those of its A and AAAA records."""
        return [record.partition(" ")[2] for record in self.records if record.partition(" ")[0] in ("A", "AAAA")]


def ask_dns(name: str, kind: str = "A", server: str = SOMEBODY, transport: str = "udp") -> Said:
    """Asks a server as a resolver library does, and waits for its answer."""
    query = dns.message.make_query(name, kind, use_edns=0)
    return read_answer(exchange(query.to_wire(), server, transport))


def exchange(message: bytes, server: str = SOMEBODY, transport: str = "udp") -> bytes:
    """Sends one message to port 53 and returns the one that comes back."""
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(family_of(server), kind) as sock:
        sock.settimeout(PLENTY_S)
        sock.connect((server, 53))
        if transport == "udp":
            sock.send(message)
            return sock.recv(1 << 16)
        sock.sendall(len(message).to_bytes(2, "big") + message)
        length = int.from_bytes(_exactly(sock, 2), "big")
        return _exactly(sock, length)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise ConnectionResetError(f"the server closed after {len(data)} of {count} bytes")
        data += part
    return data


def read_answer(message: bytes) -> Said:
    """What an answer says."""
    reply = dns.message.from_wire(message)
    records = [
        f"{dns.rdatatype.to_text(records.rdtype)} {record.to_text()}" for records in reply.answer for record in records
    ]
    why = next((option.text or "" for option in reply.options if isinstance(option, dns.edns.EDEOption)), "")
    return Said(dns.rcode.to_text(reply.rcode()), records, why)


def look_up(name: str, kind: str = "A", server: str = SOMEBODY) -> list[str]:
    """The addresses of a name; [] if there are none."""
    return ask_dns(name, kind, server).addresses


def look_up_after_moving(inside: Namespace, after_s: float, name: str) -> list[str]:
    """As a container does: its runtime's process moves into the namespace, and becomes the program that asks later."""
    time.sleep(after_s)
    enter(inside.fd)
    time.sleep(after_s + 0.2)
    return look_up(name)


def fetch(address: str, name: str | None, port: int = 443) -> str:
    """Says hello with this name over TLS: the first words of the server that answers, or the name of the errno."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def do() -> str:
        with socket.socket(family_of(address), socket.SOCK_STREAM) as plain:
            plain.settimeout(PLENTY_S)
            plain.connect((address, port))
            with context.wrap_socket(plain, server_hostname=name) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: exeat.test\r\n\r\n")
                said = b""
                while not said.partition(b"\r\n\r\n")[2].endswith(b"\n") and (part := sock.recv(1 << 16)):
                    said += part
        return said.partition(b"\r\n\r\n")[2].decode().strip()

    return got(do)
