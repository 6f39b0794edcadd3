"""Guests behind veths in network namespaces, and a stub of tap.c: who stands in `interfaces` may send and receive."""

import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bed.namespace import Namespace
from exeat.kernel.guests import GuestPlace
from exeat.kernel.network_links import NetworkLinks
from exeat.kernel.programs import GUEST_STEPS
from exeat.kernel.source import joined_source

_INCLUDES = "".join(
    f"#include <linux/{name}.h>\n" for name in ("bpf", "if_ether", "in", "in6", "ip", "ipv6", "pkt_cls", "tcp")
)
_PROGRAMS = """
static __always_inline int pass_known(struct __sk_buff *skb) {
  __u64 workload = INTERFACE_BIT | skb->ifindex;
  return interfaces.lookup(&workload) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
int on_guest_hello(struct __sk_buff *skb) { return pass_known(skb); }
int on_guest_out(struct __sk_buff *skb) {
  guest_steps.call(skb, 0);
  return TC_ACT_SHOT;
}
int on_guest_in(struct __sk_buff *skb) { return pass_known(skb); }
"""
_OTHER_STEPS = "".join(f"int {name}(struct __sk_buff *skb) {{ return TC_ACT_SHOT; }}\n" for name in GUEST_STEPS[1:])
PORT = 7000
_NUMBERS = itertools.count()


def stub(remark: str = "") -> str:
    """The text; another remark makes another build."""
    return f"{_INCLUDES}{joined_source('guest_maps.h')}{_PROGRAMS}{_OTHER_STEPS}/* {remark} */\n"


def place(**more: object) -> GuestPlace:
    """What the stub does not read is of no importance."""
    said: dict[str, object] = {
        "network": 1, "gate": (), "guest_mac": None, "gateway_macs": (bytes(6),), "addresses": (), "gateways": (),
        "learn": (), "allows_dhcp": True,
    }  # fmt: skip
    return GuestPlace(**{**said, **more})  # type: ignore[arg-type]


@dataclass
class StubGuest:
    """A namespace behind a veth; `name` and `index` are those of the host's end."""

    host: Namespace
    inside: Namespace
    name: str
    index: int
    host_address: str
    address: str
    at_host: socket.socket
    at_guest: socket.socket

    def send_out(self, count: int = 5) -> int:
        """Sends datagrams to the host; how many its server received of them."""
        return _exchange(self.at_guest, self.at_host, self.host_address, count)

    def send_in(self, count: int = 5) -> int:
        """The same from the host to the guest."""
        return _exchange(self.at_host, self.at_guest, self.address, count)

    def close(self) -> None:
        """Leaves nothing behind."""
        self.at_host.close()
        self.at_guest.close()
        self.inside.close()


def _exchange(sender: socket.socket, receiver: socket.socket, to: str, count: int) -> int:
    mark = struct.pack("=QI", time.monotonic_ns(), os.getpid())
    for _ in range(count):
        sender.sendto(mark, (to, PORT))
    received = 0
    receiver.settimeout(0.3)  # the other end of a veth receives within the call that sends
    while received < count:
        try:
            received += receiver.recv(100) == mark
        except TimeoutError:
            break
    return received


def _server(address: str) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE: nothing is lost for lack of room
    server.bind((address, PORT))
    return server


@contextmanager
def guest(host: Namespace) -> Iterator[StubGuest]:
    """A guest whose neighbours are known on both sides: whether ARP gets through is no matter."""
    number = next(_NUMBERS) % 60
    name, near, far = (
        f"gst{os.getpid() % 100000}n{number}",
        f"198.51.100.{4 * number + 1}",
        f"198.51.100.{4 * number + 2}",
    )
    inside = Namespace()
    try:
        host.command("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", inside.path)
        for space, link, own in ((host, name, near), (inside, "eth0", far)):
            space.command("ip", "addr", "add", f"{own}/30", "dev", link)
            space.command("ip", "link", "set", link, "up")
        for space, link, other, of, there in ((host, name, far, inside, "eth0"), (inside, "eth0", near, host, name)):
            space.command("ip", "neigh", "replace", other, "lladdr", mac_of(of, there), "nud", "permanent", "dev", link)
        index = host.call(lambda: socket.if_nametoindex(name))
        at_host, at_guest = host.call(lambda: _server(near)), inside.call(lambda: _server(far))
        one = StubGuest(host, inside, name, index, near, far, at_host, at_guest)
    except BaseException:
        inside.close()
        raise
    try:
        yield one
    finally:
        one.close()


def mac_of(space: Namespace, name: str) -> str:
    """An interface's address, as text."""
    return in_links(space, lambda links: links.named(name).mac.hex(":"))  # type: ignore[union-attr]


def in_links(space: Namespace, function: Callable[[NetworkLinks], str]) -> str:
    """Asks the links of a namespace."""

    def asked() -> str:
        links = NetworkLinks()
        try:
            links.look()
            return function(links)
        finally:
            links.close()

    return space.call(asked)
