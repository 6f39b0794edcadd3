"""A machine with our packages, the bed's hosts that it reaches, and units in it that are under a policy, or not yet.

shop, evil   hosts with TLS on 443 (a.shop.test, a.evil.test), plain TCP on 7 and UDP on 5000
resolver     knows both by name; /etc/resolv.conf of the machine names it
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bed import Bed, Dns, Host, Tcp, Tls, Udp
from deploy.deb_machine import Machine, boot

UNIT = "exeat.service"
_SLICE = "agents.slice"
_SRV = "/srv/exeat-tests"
_POLICY = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {{name: coder}}
spec:
  owner: tests@example.com
  reason: "tests of the Debian package"
  subject: {{cgroups: ["/{slice}"]}}
  dns: {{upstreams: ["{resolver}"]}}
  egress:
  - {{name: shop, cidrs: {addresses}, ports: [7], protocol: tcp}}
  - {{name: web, hosts: [a.shop.test]}}
"""


@dataclass
class DebStage:
    """The bed, its hosts, the machine."""

    bed: Bed
    machine: Machine
    shop: Host
    evil: Host
    resolver: Host
    _units: list[str] = field(default_factory=list)

    def install(self, *packages: Path, how: str = "install") -> str:
        """Installs package files with all that they depend on; what apt and the packages said."""
        there = []
        for package in packages:
            self.machine.path(f"{_SRV}/{package.name}").write_bytes(package.read_bytes())
            there.append(f"{_SRV}/{package.name}")
        return self.apt(how, "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", *there)

    def apt(self, *arguments: str) -> str:
        """What apt-get and the packages' scripts said."""
        done = self.machine.run("apt-get", "-y", *arguments, timeout=200)
        return done.stdout + done.stderr

    def exeat(self, *arguments: str) -> str:
        """A command that must succeed."""
        return self.machine.run("exeat", *arguments).stdout

    def status(self) -> Any:
        """The agent's, whatever it complains about."""
        return json.loads(self.machine.run("exeat", "status", "-o", "json", check=False).stdout or "{}")

    def put_under_policy(self) -> None:
        """Everything in the slice."""
        text = _POLICY.format(slice=_SLICE, resolver=self.resolver.address4, addresses=json.dumps(self.shop.addresses))
        self.machine.path("/etc/exeat/policies.d/coder.yaml").write_text(text)
        self.machine.wait_until(lambda: "coder" in self.machine.run("exeat", "workloads", check=False).stdout)

    def start(self, what: str) -> None:
        """Starts a unit with traffic (deb_traffic.py) in the slice; returns when it is under way."""
        where = {
            "shop": self.shop.address4,
            "evil": [self.evil.address4, self.evil.address6],
            "name": "a.shop.test",
            "denied": "a.evil.test",
        }
        told = f"/run/told/{what}.json"
        for old in (told, f"{told}.up"):
            self.machine.path(old).unlink(missing_ok=True)
        program = ("/usr/bin/python3", f"{_SRV}/deb_traffic.py", what, told, json.dumps(where))
        self.machine.run("systemd-run", "--quiet", "--collect", f"--unit={what}", f"--slice={_SLICE}", *program)
        self._units.append(what)
        self.machine.wait_until(self.machine.path(f"{told}.up").exists)

    def stop(self, what: str) -> Any:
        """Stops it; what it tells."""
        self.machine.run("systemctl", "stop", what)
        self._units.remove(what)
        return json.loads(self.machine.path(f"/run/told/{what}.json").read_text())

    def stop_all(self) -> None:
        """What a failed test left running."""
        for what in list(self._units):
            self.machine.run("systemctl", "stop", what, check=False)
            self._units.remove(what)

    def say(self, address: str) -> str:
        """One connection out of a new unit in the slice: `sent`, or what the system call answered."""
        code = (
            "import socket, sys; s = socket.create_connection((sys.argv[1], 7), 5); s.sendall(b'out'); s.recv(1)"
            "\nprint('sent')"
        )
        run = ("systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--slice={_SLICE}")
        done = self.machine.run(*run, "/usr/bin/python3", "-c", code, address, check=False)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1].partition(":")[0]

    def agent(self) -> int:
        """The agent's pid, inside."""
        return int(self.machine.show(UNIT, "MainPID"))

    def wait_for_agent(self, other_than: int) -> None:
        """Until another one is ready."""
        self.machine.wait_until(
            lambda: self.machine.show(UNIT, "ActiveState") == "active" and self.agent() != other_than, 90
        )


@contextmanager
def open_deb_stage(place: Path) -> Iterator[DebStage]:
    """The stage; nothing of ours is installed yet."""
    with Bed() as bed, boot(bed, place) as machine:
        shop = bed.add("shop", Tls(names=("a.shop.test",)), Tcp(7))
        evil = bed.add("evil", Tls(names=("a.evil.test",)), Tcp(7), Udp(5000))
        resolver = bed.add("resolver", Dns({"a.shop.test": shop.addresses, "a.evil.test": evil.addresses}))
        for inside in (_SRV, "/run/told"):
            machine.path(inside).mkdir(parents=True)
        client = Path(__file__).with_name("deb_traffic.py")
        machine.path(f"{_SRV}/{client.name}").write_bytes(client.read_bytes())
        machine.path("/etc/resolv.conf").write_text(f"nameserver {resolver.address4}\n")
        machine.run("systemctl", "start", _SLICE)
        yield DebStage(bed, machine, shop, evil, resolver)
