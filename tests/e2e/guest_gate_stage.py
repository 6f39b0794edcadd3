"""A stage for the gate of guests: one behind a veth, the agent's parts on the host, and hosts beyond it.

    guest namespace              the host: the bed's client namespace            the bed's hosts
    eth0 198.51.100.130  <-----> tap0 198.51.100.129/28         uplink  <----->  shop, resolver
         2001:db8:9::2                2001:db8:9::1/64
                                 lo   169.254.101.120, fd65:7865:6174::53

The parts run inside the host's namespace, with real programs on tap0.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, cast

from bed import Bed, Dns, Host, Tcp
from bed.namespace import Namespace
from bed.network import ip_batch, lay_line
from e2e.gatekeeper import Said, ask_dns
from e2e.guard import rule
from exeat.agent.enforcer import Bound
from exeat.agent.guest_said import GuestSaid
from exeat.agent.guests import Guests
from exeat.agent.sets import TableSetInKernel
from exeat.core.compile import compile_policy
from exeat.dns.gate import boot_ns
from exeat.dns.keeping import Keeping, NothingKept
from exeat.dns.listeners import Listeners
from exeat.gate_thread import GateThread
from exeat.gatehouse import Gatehouse
from exeat.interface_settings import GATE_ADDRESSES, InterfaceSettings
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.guests import GuestTables
from exeat.kernel.instance import Instance
from exeat.kernel.network_links import NetworkLinks
from exeat.kernel.tables import Tables
from exeat.kernel.telling import address_of
from exeat.ledger import Ledger
from exeat.model.policy import Policy, Server
from exeat.model.record import Record

GATE4, GATE6 = (str(address) for address in GATE_ADDRESSES)
GUEST4, GUEST6 = "198.51.100.130", "2001:db8:9::2"
NOBODY4, NOBODY6 = "8.8.8.8", "2001:db8:53::53"  # servers that are nowhere: whoever answers is the gate
_NETWORKS, _MACS = ("198.51.100.128/28", "2001:db8:9::/64"), "02:00:5e:00:53:10 02:00:5e:00:53:11"
_STRANGERS = f"""\
route add 198.51.100.128/28 via 198.51.100.1
route add 2001:db8:9::/64 via 2001:db8:1::1
route add {GATE4} via 198.51.100.1
route add {GATE6} via 2001:db8:1::1
"""


@dataclass
class GuestStage:
    """The host, its guest, and the agent's parts."""

    bed: Bed
    guest: Namespace
    shop: Host
    resolver: Host
    instance: Instance
    tables: Tables
    guests: Guests
    guest_tables: GuestTables
    links: NetworkLinks
    index: int

    @property
    def host(self) -> Namespace:
        """Where the agent's parts are."""
        return self.bed.network.client

    @property
    def workload(self) -> int:
        """The guest's id."""
        return INTERFACE_BIT | self.index

    def ask(self, name: str, kind: str = "A", server: str = NOBODY4, transport: str = "udp") -> Said:
        """What the guest is told."""
        return self.guest.call(lambda: ask_dns(name, kind, server, transport))

    @contextmanager
    def judged(self, keeping: Keeping | None = None, said: GuestSaid | None = None) -> Iterator["KeptGuest"]:
        """The guest under a policy that allows the shop, with its gate."""
        with self.bound(keeping) as kept:
            self.host.call(lambda: self.guests.attend(self.index, said))
            try:
                assert self.host.call(lambda: self.guests.open_gate(kept.bound))
                yield kept
            finally:
                self.host.call(lambda: self.guests.leave(self.index))

    @contextmanager
    def bound(self, keeping: Keeping | None = None) -> Iterator["KeptGuest"]:
        """The same before anybody attends to its interface."""
        rules = (rule(hosts=("shop.test",), ports=(7,)),)
        table_set = compile_policy(Policy("test", rules))
        policy_id = self.tables.add(table_set)
        ledger = Ledger(self.instance, policy_id, table_set, Policy("test", rules).dns)
        self.tables.switch(self.workload, policy_id)
        thread, records = GateThread(), cast("list[Record]", [])
        upstream = (Server(ip_address(self.resolver.address4)),)
        house = Gatehouse(
            thread, self.workload, "tap0", ledger, upstream, records.append, keeping=keeping or NothingKept()
        )
        nothing = cast(TableSetInKernel, None)  # of which a gate knows nothing
        bound = Bound(self.workload, "tap0", "tap0", nothing, house, None, 0)
        try:
            self.host.call(thread.start)
            yield KeptGuest(bound, thread, records)
        finally:
            house.close()
            thread.finish()
            self.tables.unbind(self.workload)
            self.tables.remove(policy_id)


@dataclass
class KeptGuest:
    """A guest's gate."""

    bound: Bound
    thread: GateThread
    records: list[Record] = field(default_factory=list)

    @property
    def listeners(self) -> Listeners:
        """Where it listens."""
        house = self.bound.house
        return house.listeners(house.networks[0])

    def collect(self, in_s: float) -> None:
        """Takes back what is unused and will have ended by then, as the gate does every ten seconds."""
        ledger = self.bound.house._ledger
        ledger._collected_ns = 0
        self.thread.do(lambda: ledger.collect(boot_ns() + int(in_s * 1e9)))

    def granted(self) -> set[str]:
        """The addresses that are granted, or still used."""
        book = self.bound.house._ledger.book
        return {str(address_of(grant.address)) for grant in book.alive(0)}

    def told(self) -> list[Record]:
        """Its verdicts so far."""
        self.thread.do(lambda: None)  # it answers first, and tells then
        return list(self.records)


@contextmanager
def open_guest_stage() -> Iterator[GuestStage]:
    """Programs loaded once; each test attends to the interface and leaves it."""
    with Bed({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}) as bed:
        guest = Namespace()
        instance = Instance(f"test-guest-gate-{os.getpid()}")
        links = bed.network.client.call(NetworkLinks)
        try:
            for namespace in (guest, bed.network.client):
                namespace.sysctl("net.ipv6.conf.default.accept_dad", 0)
            lay_line(guest, bed.network.client, "tap0", _NETWORKS, _MACS)
            ip_batch(bed.network.hosts, _STRANGERS)
            yield _built(bed, guest, instance, links)
        finally:
            links.close()
            guest.close()
            instance.remove()


def _built(bed: Bed, guest: Namespace, instance: Instance, links: NetworkLinks) -> GuestStage:
    shop = bed.add("shop.test", Tcp(7, "echo"))
    zone: Any = {name: {"A": [shop.address4], "AAAA": [shop.address6]} for name in ("shop.test", "evil.test")}
    resolver = bed.add("resolver.test", Dns(zone))
    host = bed.network.client
    instance.load()
    hooks, tables = GuestHooks(instance), GuestTables(instance)
    guests = Guests(hooks, tables, links, InterfaceSettings())
    links.look()
    host.call(guests.start)
    link = links.named("tap0")
    assert link
    return GuestStage(bed, guest, shop, resolver, instance, Tables(instance), guests, tables, links, link.index)
