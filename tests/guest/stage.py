"""Guests behind interfaces, a host that judges and routes, and real servers behind it: a test bed with one more hop.

    guest namespaces            router namespace                                    hosts namespace
    eth0 198.51.100.2+32n  ---  tap<n> 198.51.100.1+32n, forwarding, ways .253  ---  wire 198.51.100.254, 203.0.113.0/24
         2001:db8:1:<n>::2             2001:db8:1:<n>::1         2001:db8:9::1           2001:db8:9::2, 2001:db8:2::/64

`.10` to `.17` of each guest's network (`::10` to `::17`) are for raw clients: frames to them reach the guest, whose
kernel does not have them and keeps silent. Guest 0 is what the bed calls its client. All neighbours are permanent.
"""

from __future__ import annotations

import fcntl
import selectors
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ctypes import addressof, create_string_buffer
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from bed import Bed
from bed.namespace import Namespace
from bed.network import HOSTS4, HOSTS6, QUIET, Network, ip_batch
from e2e.guard import Guard, Workload
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.guests import GuestPlace, GuestTables
from exeat.model.networks import mapped
from exeat.model.policy import Mode, Rule
from guest.packets import PATIENCE_S, RawClient, RawLink

GUESTS = 3
RAW = range(10, 18)
WAYS4, WIRE4, WAYS6, WIRE6 = "198.51.100.253", "198.51.100.254", "2001:db8:9::1", "2001:db8:9::2"
WAYS_MAC, WIRE_MAC = "02:00:5e:00:53:f1", "02:00:5e:00:53:f2"

_ROUTER = f"""\
link set lo up
link add ways address {WAYS_MAC} type veth peer name wire address {WIRE_MAC} netns {{hosts}}
addr add {WAYS4}/30 dev ways
addr add {WAYS6}/64 dev ways nodad
link set ways up
neigh add {WIRE4} lladdr {WIRE_MAC} nud permanent dev ways
neigh add {WIRE6} lladdr {WIRE_MAC} nud permanent dev ways
"""
_HOSTS = f"""\
link set lo up
addr add {WIRE4}/30 dev wire
addr add {WIRE6}/64 dev wire nodad
link set wire up
neigh add {WAYS4} lladdr {WAYS_MAC} nud permanent dev wire
neigh add {WAYS6} lladdr {WAYS_MAC} nud permanent dev wire
route add default via {WAYS4} dev wire
route add default via {WAYS6} dev wire
route add local {HOSTS4} dev lo
route add local {HOSTS6} dev lo
"""
_ROUTES = f"""\
route add {HOSTS4} via {WIRE4} dev ways
route add {HOSTS6} via {WIRE6} dev ways
"""


@dataclass
class Guest:
    """One guest: its namespace, and the host's end of its line."""

    number: int
    namespace: Namespace
    index: int = 0
    link: RawLink | None = None

    @property
    def tap(self) -> str:
        """The host's interface."""
        return f"tap{self.number}"

    @property
    def mac(self) -> bytes:
        """The guest's."""
        return bytes((2, 0, 0x5E, 0, 0x53, 0x10 + self.number))

    @property
    def gateway_mac(self) -> bytes:
        """The host's."""
        return bytes((2, 0, 0x5E, 0, 0x53, 0x80 + self.number))

    def address4(self, place: int = 2) -> str:
        """Its kernel's (2), a raw client's, or the host's (1)."""
        return f"198.51.100.{32 * self.number + place}"

    def address6(self, place: int = 2) -> str:
        """The same of IPv6; in words, so that it is written as the kernel writes it."""
        return str(ip_address(f"2001:db8:1:{self.number}::{place:x}"))

    @property
    def workload(self) -> int:
        """Its id in the kernel's tables."""
        return INTERFACE_BIT | self.index

    def place(self) -> GuestPlace:
        """What the agent would say of it."""
        own = [self.address4(one) for one in (2, *RAW)] + [self.address6(one) for one in (2, *RAW)]
        return GuestPlace(
            network=0,
            gate=(),
            guest_mac=self.mac,
            gateway_macs=(self.gateway_mac,),
            addresses=tuple(mapped(ip_address(one)) for one in own),
            gateways=tuple(mapped(ip_address(one)) for one in (self.address4(1), self.address6(1))),
            learn=(),
            allows_dhcp=False,
        )


class GuestNetwork(Network):
    """The wire of the bed, with a router in between."""

    router: Namespace
    guests: list[Guest]

    def _configure(self) -> None:
        self.router = self._open()
        self.guests = [Guest(number, self._open() if number else self.client) for number in range(GUESTS)]
        for one in (self.router, *(guest.namespace for guest in self.guests), self.hosts):
            for key, value in QUIET.items():
                one.sysctl(key, value)
        for key in ("net.ipv4.conf.all.forwarding", "net.ipv4.conf.default.forwarding", "net.ipv6.conf.all.forwarding"):
            self.router.sysctl(key, 1)
        for key in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit", "net.ipv4.conf.all.send_redirects"):
            self.router.sysctl(key, 0)
        for key in ("net.ipv4.ip_nonlocal_bind", "net.ipv6.ip_nonlocal_bind"):
            self.hosts.sysctl(key, 1)
        self.hosts.sysctl("net.ipv4.tcp_invalid_ratelimit", 0)
        ip_batch(self.router, _ROUTER.format(hosts=self.hosts.path))
        ip_batch(self.hosts, _HOSTS)
        ip_batch(self.router, _ROUTES)
        for guest in self.guests:
            self._connect(guest)
        for namespace, sysctls in ((self.client, self._client_sysctls), (self.hosts, self._hosts_sysctls)):
            for key, value in sysctls.items():
                namespace.sysctl(key, value)

    def _connect(self, guest: Guest) -> None:
        own, host = guest.mac.hex(":"), guest.gateway_mac.hex(":")
        raw = "".join(
            f"neigh add {address} lladdr {own} nud permanent dev {guest.tap}\n"
            for place in (2, *RAW)
            for address in (guest.address4(place), guest.address6(place))
        )
        ip_batch(
            self.router,
            f"link add {guest.tap} address {host} type veth peer name eth0 address {own} netns {guest.namespace.path}\n"
            f"addr add {guest.address4(1)}/27 dev {guest.tap}\n"
            f"addr add {guest.address6(1)}/64 dev {guest.tap} nodad\n"
            f"link set {guest.tap} up\n{raw}",
        )
        ip_batch(
            guest.namespace,
            f"link set lo up\naddr add {guest.address4()}/27 dev eth0\naddr add {guest.address6()}/64 dev eth0 nodad\n"
            f"link set eth0 up\n"
            f"neigh add {guest.address4(1)} lladdr {host} nud permanent dev eth0\n"
            f"neigh add {guest.address6(1)} lladdr {host} nud permanent dev eth0\n"
            f"route add default via {guest.address4(1)} dev eth0\nroute add default via {guest.address6(1)} dev eth0\n",
        )
        guest.index = self.router.call(lambda: socket.if_nametoindex(guest.tap))
        guest.link = RawLink(guest.namespace, "eth0", guest.mac, guest.gateway_mac)

    def close(self) -> None:
        """Ends everything inside."""
        for guest in getattr(self, "guests", ()):
            if guest.link:
                guest.link.close()
        super().close()


@dataclass
class Heard:
    """One connection, as the server's program had it."""

    peer: str
    port: int
    sock: socket.socket | None
    data: bytes = b""
    ended: str = ""  # "fin", or the errno by which reading ended


class Recorder:
    """A server that writes down every byte. It lives in the test's own thread: `look` is when it reads."""

    def __init__(self, namespace: Namespace, address: str, port: int, answer: bytes = b"") -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.address, self.port, self._answer = address, port, answer
        self.connections: list[Heard] = []
        self._selector = selectors.DefaultSelector()

        def listen() -> socket.socket:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(4096)
            sock.setblocking(False)
            return sock

        self._listener = namespace.call(listen)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def look(self, quiet_s: float = 0.001) -> list[Heard]:
        """All connections so far, after it was quiet for a moment."""
        while ready := self._selector.select(quiet_s):
            for key, _ in ready:
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
        return self.connections

    def of(self, client: RawClient) -> Heard | None:
        """The last connection of a client, with all that the client knows to have arrived; None: it has none."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.look()
            heard = self.last(client.source, client.source_port)
            is_whole = heard and (heard.sock is None or len(heard.data) >= client.acked)
            if is_whole or client.peer_isn < 0 or time.monotonic() > deadline:
                return heard

    def last(self, source: str, port: int) -> Heard | None:
        """The last connection from there, as it was when somebody looked."""
        found = [heard for heard in self.connections if (heard.peer, heard.port) == (source, port)]
        return found[-1] if found else None

    def say(self, heard: Heard, data: bytes) -> None:
        """Sends to the client."""
        assert heard.sock
        heard.sock.send(data)

    def forget(self) -> None:
        """Ends all connections, at once, and what was written down."""
        self.look(0)
        for heard in self.connections:
            self._close(heard, "")
        self.connections.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            sock, peer = self._listener.accept()
            sock.setblocking(False)
            heard = Heard(peer[0], peer[1], sock)
            self.connections.append(heard)
            self._selector.register(sock, selectors.EVENT_READ, heard)
            if self._answer:
                sock.send(self._answer)

    def _read(self, heard: Heard) -> None:
        assert heard.sock
        try:
            data = heard.sock.recv(1 << 18)
        except OSError as error:
            self._close(heard, type(error).__name__)
            return
        heard.data += data
        if not data:
            self._close(heard, "fin")

    def _close(self, heard: Heard, ended: str) -> None:
        if heard.sock is None:
            return
        heard.ended = ended
        self._selector.unregister(heard.sock)
        if ended != "fin":  # no TIME_WAIT of what was cut
            heard.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        heard.sock.close()
        heard.sock = None

    def close(self) -> None:
        """No more."""
        self.forget()
        self._selector.close()
        self._listener.close()


@dataclass
class GuestWorkload(Workload):
    """A guest under a policy."""

    guest: Guest = field(kw_only=True)

    def begin_anew(self) -> None:
        """What is known of the guest's connections is forgotten; its policy stays."""
        assert isinstance(self.guard, GuestGuard)
        self.guard.guests.forget(self.guest.index)
        self.guard.guests.put(self.guest.index, self.guest.place())
        self.told()

    @property
    def id(self) -> int:
        """Its id in the kernel's tables."""
        return self.guest.workload


class GuestGuard(Guard):
    """The programs of cgroups and of interfaces, in one instance."""

    def __init__(self) -> None:
        super().__init__()
        try:
            self.hooks = GuestHooks(self.instance)
            self.hooks.load()
            self.guests = GuestTables(self.instance)
        except BaseException:
            self.close()
            raise


class Stage(Bed):
    """Guests, router and servers together. Without a guard nobody judges."""

    def __init__(self, guard: GuestGuard | None = None, hosts_sysctls: Mapping[str, str | int] | None = None) -> None:
        super().__init__()
        self.network: GuestNetwork = GuestNetwork(None, hosts_sysctls)
        self.guard = guard
        self._recorders: list[Recorder] = []

    def __enter__(self) -> Stage:
        super().__enter__()
        self.offload(self.network.router, "ways", False)  # as behind a real card: what is left to it, it does
        for guest in self.guests:
            for address in (guest.address4(RAW[-1]), guest.address6(RAW[-1])):
                self._wait_for_the_line(guest, address)
        return self

    def _wait_for_the_line(self, guest: Guest, address: str) -> None:
        """Until a SYN is answered by the hosts' kernel: a new veth takes a moment to carry anything."""
        assert guest.link
        for _ in range(20):
            client = RawClient(guest.link, address, "2001:db8:2::1" if ":" in address else "203.0.113.1", 9)
            client.connect()
            guest.link.clients.clear()
            if client.resets:
                return
        raise RuntimeError(f"nothing that {address} sends is answered")

    @property
    def guests(self) -> list[Guest]:
        """All of them."""
        return self.network.guests

    def recorder(self, port: int, address: str | None = None, answer: bytes = b"") -> Recorder:
        """A server at a fresh address of IPv4, or at this one."""
        recorder = Recorder(self.network.hosts, address or self.network.next_addresses()[0], port, answer)
        self._recorders.append(recorder)
        return recorder

    def raw(self, recorder: Recorder, guest: Guest | None = None, place: int = RAW[0], **more: Any) -> RawClient:
        """A raw client that could talk to a server."""
        guest = guest or self.guests[0]
        source = guest.address6(place) if ":" in recorder.address else guest.address4(place)
        assert guest.link
        return RawClient(guest.link, source, recorder.address, recorder.port, **more)

    @contextmanager
    def judged(
        self, *rules: Rule, guest: Guest | None = None, mode: Mode = Mode.ENFORCE, **more: Any
    ) -> Iterator[GuestWorkload]:
        """Has a guest judged by a policy of these rules."""
        guard, guest = self.guard, guest or self.guests[0]
        assert guard
        workload = GuestWorkload(guard, Path(), guest=guest)
        try:
            workload.switch(*rules, mode=mode, **more)
            guard.guests.put(guest.index, guest.place())
            self.network.router.call(lambda: guard.hooks.attach(guest.index))
            yield workload
        finally:
            for namespace in (guest.namespace, self.network.hosts):  # what they still say would be told later
                namespace.command("ss", "--kill", "--tcp", "state", "connected")
            self.network.router.call(lambda: guard.hooks.detach(guest.index))
            guard.guests.forget(guest.index)
            guard.tables.unbind(workload.id)
            for policy_id in workload.policy_ids:
                guard.tables.remove(policy_id)
            workload.told()

    def offload(self, namespace: Namespace, device: str, is_on: bool) -> None:
        """What a card does for its kernel: checksums and cutting up."""
        SIOCETHTOOL, orders = 0x8946, (0x17, 0x1F, 0x24)  # noqa: N806  # linux/ethtool.h: STXCSUM, STSO, SGSO

        def order() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for command in orders if is_on else reversed(orders):
                    value = create_string_buffer(struct.pack("=II", command, is_on))
                    fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sQ16x", device.encode(), addressof(value)))

        namespace.call(order)

    def close(self) -> None:
        """Ends everything."""
        for recorder in self._recorders:
            recorder.close()
        super().close()
