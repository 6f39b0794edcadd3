"""Where the real guest lives: a host that routes between its tap and the bed's servers, with an agent of its own.

    guest                     host: the bed's client namespace                  the bed's hosts
    eth0 198.51.100.130  ---  tap0 198.51.100.129/25    uplink 198.51.100.1  ---  wire
         2001:db8:3::2             2001:db8:3::1               2001:db8:1::1

    good, bad   hosts with TLS on 443 (good.test, also.good.test; bad.test), QUIC's port, plain TCP on 7, UDP on 5000
    metadata    169.254.169.254, plain HTTP on 80
    public      8.8.8.8, a resolver that knows all; the guest asks it. The agent asks another, `resolver`

The guest has run before the agent begins: `ways` were walked without exeat, and all were open. That is the twin of each
denial: the same command, in the same guest, over the same path.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bed import Bed, Dns, Host, Tcp, Tls, Udp
from bed.network import ip_batch
from e2e.agent_stage import AgentStage, open_agent_stage
from guest.real.machine import Machine, Plug, Said, Setting, boot
from hellos.build import Hello

TAP, GUEST_MAC, OTHER_MAC = "tap0", "02:00:5e:00:53:10", "02:00:5e:00:53:66"
HOST4, GUEST4, OTHER4 = "198.51.100.129", "198.51.100.130", "198.51.100.200"
HOST6, GUEST6, OTHER6 = "2001:db8:3::1", "2001:db8:3::2", "2001:db8:9::2"
BESIDE6 = "2001:db8:3::77"  # one that a guest may take if nobody says which are its own
METADATA, PUBLIC = "169.254.169.254", "8.8.8.8"
HOST_PORT = 9000  # of a service on the guest's host itself
_TAP = f"""\
tuntap add dev {TAP} mode tap vnet_hdr
addr add {HOST4}/25 dev {TAP}
addr add {HOST6}/64 dev {TAP} nodad
link set {TAP} up
route add 2001:db8:9::/64 dev {TAP}
"""
_BACK = """\
route add 198.51.100.128/25 via 198.51.100.1
route add 2001:db8:3::/64 via 2001:db8:1::1
"""
_OTHERS = f"ip addr {{verb}} {OTHER4}/25 dev eth0; ip -6 addr {{verb}} {OTHER6}/128 dev eth0"
_ROUTER = {"net.ipv4.conf.all.forwarding": 1, "net.ipv6.conf.all.forwarding": 1}
_SETTING = Setting(f"{GUEST4}/25", f"{GUEST6}/64", HOST4, HOST6, PUBLIC)
_POLICY = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {{name: guests}}
spec:
  owner: tests@example.com
  reason: "a real guest"
  subject: {{interfaces: ["tap*"]}}
  dns: {{upstreams: ["{resolver}"]}}
  egress:
  - {{name: web, hosts: [good.test, "*.good.test"]}}
  - {{name: plain, cidrs: {good}, ports: [7], protocol: tcp}}
  - {{name: games, cidrs: {good}, ports: [5000], protocol: udp}}
"""


@dataclass(frozen=True)
class Tried:
    """What `probe` said."""

    outcome: str
    ms: float
    answer: str = ""


@dataclass
class Home:
    """The host, its servers, the guest, and the agent once it has begun."""

    agent: AgentStage
    good: Host
    bad: Host
    metadata: Host
    public: Host
    guest: Machine
    before: dict[str, Said] = field(default_factory=dict, repr=False)
    walked_at: str = ""  # when the last way was begun, as verdicts write it

    @property
    def resolver(self) -> Host:
        """Whom the agent asks."""
        return self.agent.resolver

    @property
    def bed(self) -> Bed:
        """Namespaces and servers."""
        return self.agent.bed

    def ways(self) -> dict[str, str]:
        """By name: a command for the guest, that succeeds where nobody judges."""
        ways = {
            "games from beside v6": f"probe -f {BESIDE6} -w 1 udp {self.good.address6} 5000",
            "metadata": f"probe -w 1 tcp {METADATA} 80 /request",
            "dns udp": f"dig +short +tries=1 +timeout=3 @{PUBLIC} good.test A",
            "dns tcp": f"dig +short +tries=1 +timeout=3 +tcp @{PUBLIC} good.test A",
            "dns udp v6": f"dig +short +tries=1 +timeout=3 @{self.public.address6} good.test AAAA",
            "dns tcp v6": f"dig +short +tries=1 +timeout=3 +tcp @{self.public.address6} good.test AAAA",
        }
        for family, good, bad, other in (
            (4, self.good.address4, self.bad.address4, OTHER4),
            (6, self.good.address6, self.bad.address6, OTHER6),
        ):
            curl = f"curl -{family} --silent --show-error --max-time 10 --cacert /ca.pem"
            ways |= {
                f"web v{family}": f"{curl} https://good.test/",
                f"web by another name v{family}": f"{curl} https://bad.test/",
                f"hello with another name v{family}": f"probe tcp {good} 443 /bad-hello",
                f"name at another address v{family}": f"probe tcp {bad} 443 /good-hello",
                f"plain v{family}": f"probe tcp {good} 7 /words",
                f"plain elsewhere v{family}": f"probe tcp {bad} 7 /words",
                f"quic v{family}": f"probe udp {good} 443",
                f"games v{family}": f"probe udp {good} 5000",
                f"games elsewhere v{family}": f"probe udp {bad} 5000",
                f"ping v{family}": f"ping -{family} -c 1 -W 1 {bad}",
                f"plain from another address v{family}": f"probe -f {other} -w 1 tcp {good} 7 /words",
                f"games from another address v{family}": f"probe -f {other} -w 1 udp {good} 5000",
            }
        return ways

    def walk(self, name: str) -> Said:
        """Walks one of the ways; nobody has counted anything before."""
        for host in (self.good, self.bad, self.metadata, self.public, self.resolver):
            host.reset()
        self.walked_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
        return self.guest.sh(self.ways()[name])

    def probe(self, name: str) -> Tried:
        """The same, for those of `probe`."""
        return read_probe(self.walk(name))

    def put(self, path: str, content: bytes) -> None:
        """Writes a file in the guest."""
        text = base64.b64encode(content).decode()
        assert self.guest.sh(f"echo {text} | base64 -d >{path}").status == 0

    def verdicts(self) -> list[dict[str, Any]]:
        """Those in the agent's log of the guest since the last way was begun, oldest first."""
        files = sorted((self.agent.directory / "log").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        lines = (line for file in files for line in file.read_text().splitlines() if line.startswith('{"time"'))
        told = map(json.loads, lines)
        return [one for one in told if one["workload"] == TAP and one["time"] >= self.walked_at]

    @contextmanager
    def other_address(self) -> Iterator[None]:
        """The guest has addresses more, which nobody gave it."""
        self.guest.sh(_OTHERS.format(verb="add"))
        try:
            yield
        finally:
            self.guest.sh(_OTHERS.format(verb="del"))

    @contextmanager
    def address_beside(self) -> Iterator[None]:
        """The guest has one more of its own network."""
        self.guest.sh(f"ip -6 addr add {BESIDE6}/64 dev eth0")
        try:
            yield
        finally:
            self.guest.sh(f"ip -6 addr del {BESIDE6}/64 dev eth0")

    @contextmanager
    def other_mac(self) -> Iterator[None]:
        """The guest's card has another address."""
        assert self.guest.sh(f"ip link set eth0 address {OTHER_MAC}").status == 0
        try:
            yield
        finally:
            self.guest.sh(f"ip link set eth0 address {GUEST_MAC}")

    @contextmanager
    def host_service(self, address: str) -> Iterator[Callable[[], int]]:
        """A service on the guest's own host, HOST_PORT; gives how many have come since it was asked last."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.bed.network.client.call(lambda: socket.socket(family, socket.SOCK_STREAM)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, HOST_PORT))
            listener.listen()
            listener.setblocking(False)
            yield lambda: _accepted(listener)

    def policy(self) -> str:
        """What the guest may do."""
        return _POLICY.format(resolver=self.resolver.address4, good=json.dumps(self.good.addresses))


def _accepted(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def read_probe(said: Said) -> Tried:
    """From its line."""
    outcome, ms, answer = said.text.rstrip("\n").split(" ", 2)
    return Tried(outcome, float(ms), answer)


@contextmanager
def open_home(directory: Path) -> Iterator[Home]:
    """The host with its guest, every way walked once. No agent runs yet."""
    with open_agent_stage(keeps_programs=False) as agent:
        bed = agent.bed
        for key, value in _ROUTER.items():
            bed.network.client.sysctl(key, value)
        ip_batch(bed.network.client, _TAP)
        ip_batch(bed.network.hosts, _BACK)
        plain = (Tcp(7), Udp(443), Udp(5000))
        good = bed.add("good", Tls(names=("good.test", "also.good.test")), *plain)
        bad = bed.add("bad", Tls(names=("bad.test",)), *plain)
        metadata = bed.add("metadata", Tcp(80, "http"), also=(METADATA,))
        zone = {"good.test": good.addresses, "also.good.test": good.addresses, "bad.test": bad.addresses}
        public = bed.add("public", Dns(zone), also=(PUBLIC,))
        agent.resolver.set_zone(zone)
        with boot(bed, Plug(TAP, GUEST_MAC), _SETTING, directory) as guest:
            home = Home(agent, good, bad, metadata, public, guest)
            home.put("/words", b"hello")
            home.put("/request", b"GET / HTTP/1.1\r\n\r\n")
            home.put("/good-hello", Hello("good.test").stream())
            home.put("/bad-hello", Hello("bad.test").stream())
            with home.other_address(), home.address_beside():
                home.before = {name: home.walk(name) for name in home.ways()}
            yield home
