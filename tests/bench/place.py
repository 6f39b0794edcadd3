"""Where it is measured: a bed, an enforcer, and one workload for each setting that is compared."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from bed import Bed, start_in
from e2e.guard import Guard, Workload, remove_cgroup, rule
from exeat.core.names import parse_host_pattern
from exeat.kernel.filesystems import mount_point
from exeat.model.policy import PortRange, Protocol, Rule

OFF, UNMANAGED, TEN, TEN_THOUSAND = "off", "unmanaged", "10 rules", "10,000 rules"
SETTINGS = (OFF, UNMANAGED, TEN, TEN_THOUSAND)
HERE = Path(__file__).parent
NAME = "bench.test"
CLIENT = {
    "net.ipv4.ip_local_port_range": "1024 65535",
    "net.ipv4.tcp_max_tw_buckets": 0,  # or the ports run out, and finding a free one grows slower from round to round
}
HOSTS_NET = IPv4Network("203.0.113.0/24")


def ten_rules() -> tuple[Rule, ...]:
    """What the measurements need, as seven plain rules and three for names."""
    return (
        rule(str(HOSTS_NET), ports=(5001,)),
        rule(str(HOSTS_NET), ports=(5002,)),
        rule(str(HOSTS_NET), ports=(5003,), protocol="udp"),
        rule(str(HOSTS_NET), hosts=(NAME,), ports=(443, 8443), protocol="tls"),
        rule("192.0.0.0/24", hosts=("**.example.com", "api.example.net"), protocol="tls"),
        rule("192.88.99.0/24", hosts=("*.example.org",), protocol="tls"),
        *(rule(f"20.0.{number}.0/24", ports=(5432,)) for number in range(4)),
    )


def ten_thousand_rules(count: int = 10_000) -> tuple[Rule, ...]:
    """The same, and so many names and so many networks beside."""
    hosts = tuple(parse_host_pattern(f"h{number}.example{number % 100}.com") for number in range(count))
    first = int(IPv4Address("20.0.0.0"))
    networks = tuple(IPv4Network((first + 2 * number, 32)) for number in range(count))
    return (
        *ten_rules(),
        Rule("names", hosts=hosts, cidrs=(HOSTS_NET,), ports=(PortRange(443, 443),)),
        Rule("networks", Protocol.TCP, cidrs=networks, ports=(PortRange(5432, 5432),)),
    )


def client_hello(name: str = NAME) -> bytes:
    """What this machine's OpenSSL sends first."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


class Client:
    """One process that obeys orders (load.c), in one setting."""

    def __init__(self, bed: Bed, argv: list[str], cgroup: Path) -> None:
        with tempfile.TemporaryFile() as hello:
            hello.write(client_hello())
            hello.flush()
            environment = {"LOAD_HELLO": f"/proc/{os.getpid()}/fd/{hello.fileno()}"}
            self._process = start_in(
                bed, argv, cgroup=cgroup, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._answer("to start")

    def order(self, order: str) -> tuple[int, int]:
        """Obeys; how many, and nanoseconds."""
        assert self._process.stdin
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return self._answer(order)

    def _answer(self, order: str) -> tuple[int, int]:
        assert self._process.stdout
        answer = self._process.stdout.readline().split()
        if len(answer) != 2:
            raise RuntimeError(f"the client gave up on {order!r} (its last words are on stderr)")
        return int(answer[0]), int(answer[1])


class Place:
    """Bed, enforcer and settings. `is_native`: there was a C compiler."""

    def __init__(self, bed: Bed, guard: Guard, off: Path, directory: Path) -> None:
        self.bed, self.guard = bed, guard
        self.ten, self.many = Workload(guard, guard.leaf()), Workload(guard, guard.leaf())
        self.cgroups = {OFF: off, UNMANAGED: guard.leaf(), TEN: self.ten.cgroup, TEN_THOUSAND: self.many.cgroup}
        self.ten.switch(*ten_rules())
        self.many.switch(*ten_thousand_rules())
        self.address = bed.network.next_addresses()[0]
        self._program, self.is_native = _program(directory)
        self._server = start_in(
            bed, [*self._program, "serve", self.address, "0"], at=bed.network.hosts,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._server.stdout
        if self._server.stdout.readline() != "ready\n":
            raise RuntimeError("the benchmarks' server did not start (its last words are on stderr)")
        self._clients: dict[str, Client] = {}

    def forget_events(self) -> None:
        """Empties the ring: into a full one no event is written, and that would cost less than it should."""
        for _ in self.guard.ring.drain():
            pass

    def client(self, setting: str) -> Client:
        """The client of a setting, started once."""
        if setting not in self._clients:
            cpu = str((os.cpu_count() or 1) - 1)
            argv = [*self._program, "client", self.address, cpu]
            self._clients[setting] = Client(self.bed, argv, self.cgroups[setting])
        return self._clients[setting]


def _program(directory: Path) -> tuple[list[str], bool]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return [sys.executable, str(HERE / "load.py")], False
    target = directory / "load"
    subprocess.run([compiler, "-O2", "-pthread", "-o", str(target), str(HERE / "load.c")], check=True)
    return [str(target)], True


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Set up, and taken down again."""
    root = mount_point("cgroup2")
    assert root
    off = root / f"exeat-bench-off-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="exeat-bench-"))
        off.mkdir()
        stack.callback(remove_cgroup, off)
        guard = Guard()
        stack.callback(guard.close)
        bed = stack.enter_context(Bed(CLIENT))
        yield Place(bed, guard, off, Path(directory))
