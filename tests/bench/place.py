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

from bed import Bed, Host, start_in
from bed.namespace import Namespace
from e2e.guard import Guard, Workload, remove_cgroup, rule
from exeat.core.compile import compile_policy
from exeat.core.grants import Grants
from exeat.core.names import parse_host_pattern
from exeat.core.resolvable import Resolvable
from exeat.dns.gate import GRANT_MAX_NS, boot_ns
from exeat.kernel.filesystems import mount_point
from exeat.kernel.grants import GrantTables
from exeat.model.networks import mapped
from exeat.model.policy import Policy, PortRange, Protocol, Rule

OFF, UNMANAGED, TEN, TEN_THOUSAND, GRANTS = "off", "unmanaged", "10 rules", "10,000 rules", "10,000 grants"
SETTINGS = (OFF, UNMANAGED, TEN, TEN_THOUSAND, GRANTS)
JUDGED_BY_NAME = (TEN, TEN_THOUSAND, GRANTS)
HERE = Path(__file__).parent
NAME = "bench.test"
CLIENT_CPU = str((os.cpu_count() or 1) - 1)
CLIENT: dict[str, str | int] = {
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


def granted_rules(count: int = 10_000) -> tuple[Rule, ...]:
    """The same by names only: what they resolve to is granted."""
    names = (NAME, *(f"h{number}.example{number % 100}.com" for number in range(1, count)))
    hosts = tuple(parse_host_pattern(name) for name in names)
    return (
        Rule("tls", hosts=hosts, ports=(PortRange(443, 443), PortRange(8443, 8443))),
        Rule("tcp", Protocol.TCP, hosts, ports=(PortRange(5001, 5002),)),
        Rule("udp", Protocol.UDP, hosts, ports=(PortRange(5003, 5003),)),
    )


def client_hello(name: str = NAME) -> bytes:
    """What this machine's OpenSSL sends first."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


class Client:
    """One process that obeys orders (load.c), in one setting: a cgroup, or a network namespace."""

    def __init__(
        self, bed: Bed, argv: list[str], cgroup: Path | None = None, at: Namespace | None = None, name: str = NAME
    ) -> None:
        with tempfile.TemporaryFile() as hello:
            hello.write(client_hello(name))
            hello.flush()
            environment = {"LOAD_HELLO": f"/proc/{os.getpid()}/fd/{hello.fileno()}"}
            self._process = start_in(
                bed, argv, cgroup=cgroup, at=at, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._answer("to start")

    def order(self, order: str) -> tuple[int, int]:
        """Obeys; how many, and nanoseconds."""
        count, ns = self.each(order)[:2]
        return count, ns

    def each(self, order: str) -> list[int]:
        """Obeys; how many, nanoseconds, and where the program tells them those of each."""
        assert self._process.stdin
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return self._answer(order)

    def end(self) -> None:
        """Ends it, as its input ends."""
        self._process.communicate()

    def _answer(self, order: str) -> list[int]:
        assert self._process.stdout
        answer = self._process.stdout.readline().split()
        if len(answer) < 2:
            raise RuntimeError(f"the client gave up on {order!r} (its last words are on stderr)")
        return [int(word) for word in answer]


class Place:
    """Bed, enforcer and settings. `is_native`: there was a C compiler."""

    settings = SETTINGS

    def __init__(self, bed: Bed, guard: Guard, off: Path, directory: Path) -> None:
        self.bed, self.guard = bed, guard
        self.ten, self.many = Workload(guard, guard.leaf()), Workload(guard, guard.leaf())
        self.granted = Workload(guard, guard.leaf())
        self.cgroups = {
            OFF: off,
            UNMANAGED: guard.leaf(),
            TEN: self.ten.cgroup,
            TEN_THOUSAND: self.many.cgroup,
            GRANTS: self.granted.cgroup,
        }
        self.ten.switch(*ten_rules())
        self.many.switch(*ten_thousand_rules())
        self._granting = _Granting(guard, self.granted.switch(*granted_rules()))
        self.address = bed.network.next_addresses()[0]
        self.grant(self.address)
        self.directory = directory
        native = compiled("load.c", directory)
        self.is_native = native is not None
        self.program = [native] if native else [sys.executable, str(HERE / "load.py")]
        self._server = start_in(
            bed, [*self.program, "serve", self.address, "0"], at=bed.network.hosts,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._server.stdout
        if self._server.stdout.readline() != "ready\n":
            raise RuntimeError("the benchmarks' server did not start (its last words are on stderr)")
        self._clients: dict[str, Client] = {}
        self._tls_host: Host | None = None

    def tls_host(self) -> Host:
        """A real TLS host of that name, put up once."""
        if self._tls_host is None:
            self._tls_host = self.bed.add(NAME)
            self.grant(self._tls_host.address4)
        return self._tls_host

    def grant(self, address: str) -> None:
        """As if a gate had answered NAME with it."""
        self._granting.grant(NAME, address)

    def forget_events(self) -> None:
        """Empties the ring: into a full one no event is written, and that would cost less than it should."""
        for _ in self.guard.ring.drain():
            pass

    def client(self, setting: str) -> Client:
        """The client of a setting, started once."""
        if setting not in self._clients:
            argv = [*self.program, "client", self.address, CLIENT_CPU]
            self._clients[setting] = Client(self.bed, argv, self.cgroups[setting])
        return self._clients[setting]


class _Granting:
    """What a gate would have granted: an address for each of 10,000 names, for longer than any measurement."""

    def __init__(self, guard: Guard, policy_id: int) -> None:
        policy = Policy("test", granted_rules())
        self._resolvable = Resolvable(compile_policy(policy))
        self._tables = GrantTables(guard.instance, policy_id)
        self._book = Grants(20_000)
        first = int(IPv4Address("20.0.0.0"))
        for number, host in enumerate(policy.rules[0].hosts):
            self.grant(str(host), str(IPv4Address(first + 2 * number)))

    def grant(self, name: str, address: str) -> None:
        """Opens an address for a name."""
        found = self._resolvable.find(name)
        assert found
        key, now_ns = mapped(IPv4Address(address)), boot_ns()
        until_ns = now_ns + GRANT_MAX_NS
        self._tables.apply(self._book.grant(name, [key], found.slot.ports_id, until_ns, now_ns, self._tables.used))


def compiled(source: str, directory: Path) -> str | None:
    """One of our C files as a program; None where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    target = directory / Path(source).stem
    subprocess.run([compiler, "-O2", "-pthread", "-o", str(target), str(HERE / source)], check=True)
    return str(target)


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
