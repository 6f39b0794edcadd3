"""A wire from a container's own network namespace to the hosts of a Bed: a veth pair beside the bed's own client.

connect(bed, container.pid)                      # at most 40 times for a bed
container.exec("wget", "-qO-", f"http://{shop.addresses[0]}/")
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from bed import Bed
from bed.network import ip_batch

NUMBERS = range(1, 41)
_last: WeakKeyDictionary[Bed, int] = WeakKeyDictionary()


@dataclass(frozen=True)
class Addresses:
    """Of the container, and of the hosts' end, which is its router."""

    address4: str
    address6: str
    router4: str
    router6: str


def connect(bed: Bed, pid: int) -> Addresses:
    """Lays it for the namespace of this process. It goes with either end."""
    number = _last[bed] = _last.get(bed, 0) + 1
    assert number in NUMBERS, f"a bed has room for {len(NUMBERS)} containers"
    base = 64 + 4 * number
    its = Addresses(
        f"198.51.100.{base + 2}", f"2001:db8:1:{number:x}::2", f"198.51.100.{base + 1}", f"2001:db8:1:{number:x}::1"
    )
    mac, router_mac = f"02:00:5e:00:54:{number:02x}", f"02:00:5e:00:55:{number:02x}"
    outer = f"wire{number}"
    ip_batch(
        bed.network.hosts,
        f"link add {outer} address {router_mac} type veth peer name eth0 address {mac} netns {pid}\n"
        f"addr add {its.router4}/30 dev {outer}\naddr add {its.router6}/64 dev {outer} nodad\nlink set {outer} up\n"
        f"neigh add {its.address4} lladdr {mac} nud permanent dev {outer}\n"
        f"neigh add {its.address6} lladdr {mac} nud permanent dev {outer}\n",
    )
    _batch_inside(
        pid,
        f"link set lo up\naddr add {its.address4}/30 dev eth0\naddr add {its.address6}/64 dev eth0 nodad\n"
        "link set eth0 up\n"
        f"neigh add {its.router4} lladdr {router_mac} nud permanent dev eth0\n"
        f"neigh add {its.router6} lladdr {router_mac} nud permanent dev eth0\n"
        f"route add default via {its.router4} dev eth0\nroute add default via {its.router6} dev eth0\n",
    )
    return its


def _batch_inside(pid: int, lines: str) -> None:
    """`ip` of the host: the container need not have one."""
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "sh", "-ec"]
    script = "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6; ip -batch -"  # Docker leaves IPv6 off without a bridge
    done = subprocess.run([*inside, script], input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no wire to the container: {done.stderr}{done.stdout}")
