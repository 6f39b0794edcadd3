"""The same place under another address, and places that a wide network does not mean."""

import socket
import time
from typing import Any

import pytest

from bed import Bed, Host, Sniffer, Tcp, Udp, call_in
from e2e.escapes import ALLOWED_TCP, dial, dropped, judged, post, rules, says, tcp
from e2e.guard import Guard, rule
from exeat.model.verdicts import Reason

SPECIAL4 = ("169.254.169.254", "10.1.2.3", "172.16.5.5", "192.168.7.7", "100.64.1.1", "168.63.129.16", "198.18.0.1")
SPECIAL6 = ("64:ff9b::cb00:710a", "64:ff9b:1::1", "2002:cb00:710a::1", "fd00:ec2::254", "fd12::1", "100::1")
EVERYWHERE = ("0.0.0.0/0", "::/0")


@pytest.fixture(scope="module")
def anywhere(bed: Bed) -> Host:
    """A host that has public addresses, and all the special ones besides."""
    return bed.add("anywhere.test", Tcp(7), Udp(5000), also=(*SPECIAL4, *SPECIAL6, "8.8.8.8"))


@pytest.mark.parametrize("address", SPECIAL4 + SPECIAL6)
def test_everywhere_does_not_mean_special_places(
    guard: Guard, bed: Bed, anywhere: Host, wire: Sniffer, address: str
) -> None:
    """The host would answer there, and does outside; under 0.0.0.0/0 and ::/0 only its public addresses are open."""
    assert call_in(bed, lambda: dial(address), cgroup=guard.top) == says(anywhere, b"hello")
    time.sleep(0.05)  # its last segments
    wire.clear()
    both = (rule(*EVERYWHERE, ports=(7,)), rule(*EVERYWHERE, ports=(5000,), protocol="udp"))
    with guard.workload(*both) as w:
        with judged(w, *[dropped(Reason.ADDRESS_NOT_ALLOWED)] * 2):
            assert call_in(bed, lambda: dial(address), cgroup=w.cgroup) == "EPERM"
            assert call_in(bed, lambda: post(address), cgroup=w.cgroup) == "EPERM"
        assert wire.toward(address).frames == 0
        public = anywhere.address6 if ":" in address else "8.8.8.8"
        with judged(w, *[ALLOWED_TCP] * 2):
            assert call_in(bed, lambda: dial(public), cgroup=w.cgroup) == says(anywhere, b"hello")
            assert call_in(bed, lambda: post(public), cgroup=w.cgroup) == says(anywhere)
        w.switch(rule(f"{address}/{128 if ':' in address else 32}", ports=(7,)))
        with judged(w, ALLOWED_TCP):
            assert call_in(bed, lambda: dial(address), cgroup=w.cgroup) == says(anywhere, b"hello")


def test_ipv4_compatible_addresses_are_not_everywhere(guard: Guard, bed: Bed, good: Host, wire: Sniffer) -> None:
    """::a.b.c.d, long deprecated; the kernel routes it as IPv6."""
    with guard.workload(rule(*EVERYWHERE, ports=(7,))) as w:
        with judged(w, dropped(Reason.ADDRESS_NOT_ALLOWED)):
            assert call_in(bed, lambda: dial(f"::{good.address4}"), cgroup=w.cgroup) == "EPERM"
        assert wire.frames() == []
        with judged(w, ALLOWED_TCP):
            assert call_in(bed, lambda: dial(good.address6), cgroup=w.cgroup) == says(good, b"hello")


def test_a_mapped_address_is_the_ipv4_address(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """An IPv6 socket that connects to ::ffff:a.b.c.d passes the IPv6 hook and sends IPv4."""

    def run(address: str) -> Any:
        return dial(f"::ffff:{address}", sock=tcp("", socket.AF_INET6))

    with guard.workload(*rules(good)) as w:
        with judged(w, dropped(Reason.ADDRESS_NOT_ALLOWED)):
            assert call_in(bed, lambda: run(evil.address4), cgroup=w.cgroup) == "EPERM"
        assert evil.count().is_untouched
        with judged(w, ALLOWED_TCP):
            assert call_in(bed, lambda: run(good.address4), cgroup=w.cgroup) == says(good, b"hello")
    with guard.workload(rule("::/0", ports=(7,))) as w, judged(w, dropped(Reason.ADDRESS_NOT_ALLOWED)):
        assert call_in(bed, lambda: run(good.address4), cgroup=w.cgroup) == "EPERM"


def test_large_writes_arrive_whole(guard: Guard, bed: Bed, good: Host) -> None:
    """64 KB writes make packets of 64 KB that the hook sees in one piece."""
    data = b"x" * 65536

    def run() -> int:
        sock = tcp(good.address4)
        sock.settimeout(5)
        sock.connect((good.address4, 7))
        back = 0
        for _ in range(8):
            sock.sendall(data)
            heard = 0
            while heard < len(data):
                heard += len(sock.recv(1 << 18))
            back += heard
        return back

    with guard.workload(*rules(good)) as w, judged(w, ALLOWED_TCP):
        assert call_in(bed, run, cgroup=w.cgroup) >= 8 * len(data)
        assert guard.tables.traffic(w.id).bytes_out > 8 * len(data)
    assert good.count().bytes == 8 * len(data)
