"""The bed's wire: a client namespace and a hosts namespace, joined by a veth pair and by nothing else.

    client namespace                                hosts namespace
    uplink 198.51.100.1   <------- veth ------->    wire 198.51.100.2
           2001:db8:1::1                                 2001:db8:1::2
    default route to wire                           203.0.113.0/24, 2001:db8:2::/64 and what is added are local
                                                    default route back to uplink; nothing is forwarded

Every packet of the client, to whatever address, goes over the veth, so a sniffer on `wire` sees it; none reaches the
machine, for neither namespace has another device. The neighbours are permanent entries and IPv6 addresses skip
duplicate detection: no ARP, no NDP, and an address is usable at once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType

from bed.namespace import Namespace
from bed.sniffer import QUEUE_BYTES, Sniffer

CLIENT4, CLIENT6 = "198.51.100.1", "2001:db8:1::1"
WIRE4, WIRE6 = "198.51.100.2", "2001:db8:1::2"
HOSTS4, HOSTS6 = ipaddress.IPv4Network("203.0.113.0/24"), ipaddress.IPv6Network("2001:db8:2::/64")
FIRST_HOST = 10  # 203.0.113.10 and 2001:db8:2::a; those below are free for tests
UPLINK_MAC, WIRE_MAC = "02:00:5e:00:53:01", "02:00:5e:00:53:02"

QUIET = {  # set before the veth is made, so that it starts with them
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.all.forwarding": 0,  # a new namespace inherits the machine's, which may route
    "net.ipv4.conf.default.forwarding": 0,
    "net.ipv6.conf.all.forwarding": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.accept_ra": 0,
    "net.ipv6.conf.default.router_solicitations": 0,
}
_HOSTS = {
    "net.ipv4.tcp_fastopen": 3,  # client and server; 0x203 would also take data without a cookie
    "net.ipv4.ip_nonlocal_bind": 1,
    "net.ipv6.ip_nonlocal_bind": 1,  # an address that is only a local route can be bound to
    "net.ipv4.icmp_ratelimit": 0,
    "net.ipv4.icmp_msgs_per_sec": 1_000_000,  # per namespace only since 6.13; without it the kernel's default stays
    "net.ipv6.icmp.ratelimit": 0,
}

_CLIENT_SIDE = f"""\
link set lo up
link add uplink address {UPLINK_MAC} type veth peer name wire address {WIRE_MAC} netns {{hosts}}
addr add {CLIENT4}/24 dev uplink
addr add {CLIENT6}/64 dev uplink nodad
link set uplink up
neigh add {WIRE4} lladdr {WIRE_MAC} nud permanent dev uplink
neigh add {WIRE6} lladdr {WIRE_MAC} nud permanent dev uplink
"""
_HOSTS_SIDE = f"""\
link set lo up
addr add {WIRE4}/24 dev wire
addr add {WIRE6}/64 dev wire nodad
link set wire up
neigh add {CLIENT4} lladdr {UPLINK_MAC} nud permanent dev wire
neigh add {CLIENT6} lladdr {UPLINK_MAC} nud permanent dev wire
route add default via {CLIENT4} dev wire
route add default via {CLIENT6} dev wire
route add local {HOSTS4} dev lo
route add local {HOSTS6} dev lo
"""
_CLIENT_ROUTES = f"""\
route add default via {WIRE4} dev uplink
route add default via {WIRE6} dev uplink
"""


class Network:
    """The two namespaces, from `with` to its end. `client` and `hosts` are Namespace objects.

    The sysctls given are set in addition, e.g. client_sysctls={"net.ipv4.ping_group_range": "0 65535"}.
    """

    def __init__(
        self,
        client_sysctls: Mapping[str, str | int] | None = None,
        hosts_sysctls: Mapping[str, str | int] | None = None,
    ) -> None:
        self._client_sysctls = dict(client_sysctls or {})
        self._hosts_sysctls = dict(hosts_sysctls or {})
        self._given = 0
        self._sniffers: list[Sniffer] = []
        self._opened: list[Namespace] = []

    def __enter__(self) -> Network:
        with ExitStack() as unfinished:
            unfinished.callback(self.close)
            self.client = self._open()
            self.hosts = self._open()
            self._configure()
            unfinished.pop_all()
        return self

    def _open(self) -> Namespace:
        namespace = Namespace()
        self._opened.append(namespace)
        return namespace

    def _configure(self) -> None:
        for namespace in (self.client, self.hosts):
            for key, value in QUIET.items():
                namespace.sysctl(key, value)
        for key, value in _HOSTS.items():
            try:
                self.hosts.sysctl(key, value)
            except FileNotFoundError:  # a kernel that has it not per namespace, or not at all
                continue
        ip_batch(self.client, _CLIENT_SIDE.format(hosts=self.hosts.path))
        ip_batch(self.hosts, _HOSTS_SIDE)
        ip_batch(self.client, _CLIENT_ROUTES)
        for key, value in self._client_sysctls.items():
            self.client.sysctl(key, value)
        for key, value in self._hosts_sysctls.items():
            self.hosts.sysctl(key, value)

    def next_addresses(self) -> tuple[str, str]:
        """A fresh IPv4 and IPv6 address on the hosts' side, one pair for each host."""
        number = FIRST_HOST + self._given
        if number >= HOSTS4.num_addresses - 1:
            raise RuntimeError("the bed has no more host addresses: 203.0.113.0/24 is used up")
        self._given += 1
        return str(HOSTS4[number]), str(HOSTS6[number])

    def add_address(self, address: str) -> None:
        """Make any address, such as 8.8.8.8 or 169.254.169.254, a local one of the hosts; the client has the route."""
        ip_batch(self.hosts, f"route replace local {address} dev lo\n")

    def sniff(self, queue_bytes: int = QUEUE_BYTES) -> Sniffer:
        """Start to record what arrives on the wire from the client, from now on. See Sniffer."""
        sniffer = self.hosts.call(lambda: Sniffer("wire", queue_bytes))
        self._sniffers.append(sniffer)
        return sniffer

    def close(self) -> None:
        """End everything inside and let the kernel destroy both namespaces. May be called twice."""
        for sniffer in self._sniffers:
            sniffer.close()
        for namespace in self._opened:
            namespace.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lay_line(inside: Namespace, outside: Namespace, device: str, networks: tuple[str, ...], macs: str = "") -> None:
    """Join two namespaces: `eth0` inside, which has each network's second address, and a device outside.

    That has the first ones, and is the way out. `macs`: both link addresses, with a blank between.
    """
    mac, outer_mac = (f"address {one} " for one in macs.split()) if macs else ("", "")
    lines = [f"link set lo up\nlink add eth0 {mac}type veth peer name {device} {outer_mac}netns {outside.path}"]
    ends = [(network[1], network[2], network) for network in map(ipaddress.ip_network, networks)]
    nodad = {4: "", 6: " nodad"}
    lines += [f"addr add {own}/{net.prefixlen} dev eth0{nodad[net.version]}" for _, own, net in ends]
    lines += ["link set eth0 up", *(f"route add default via {first}" for first, _, _ in ends), ""]
    ip_batch(inside, "\n".join(lines))
    lines = [f"addr add {first}/{net.prefixlen} dev {device}{nodad[net.version]}" for first, _, net in ends]
    ip_batch(outside, "\n".join([*lines, f"link set {device} up", ""]))


def ip_batch(namespace: Namespace, lines: str) -> None:
    """Run lines of `ip` inside the namespace, in one process."""
    namespace.command("ip", "-batch", "-", stdin=lines)
