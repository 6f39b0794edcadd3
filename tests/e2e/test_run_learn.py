"""`exeat run --learn`: from a run in the open to a policy by name, under which the same run is denied nothing."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bed import Bed, Dns, Finished, Host, Tcp, Tls, Udp, missing_capability, run_in
from exeat.core.policy_file import read_policy
from exeat.model.policy import Mode, Protocol

EXEAT = (sys.executable, "-m", "exeat.cli.main")
START_S = 60.0
PROGRAM = """\
import socket, sys
shop, plain, time, silent = sys.argv[1:5]
with socket.create_connection((plain, 7)) as sock:
    sock.sendall(b"hello"); sock.recv(5)
with socket.create_connection((silent, 9)) as sock:
    pass
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.sendto(b"what time", (socket.gethostbyname(time), 123)); sock.recv(9)
with socket.create_connection((sys.argv[5], 7)) as sock:
    sock.sendall(b"hello"); sock.recv(5)
"""


@dataclass
class Learning:
    """Hosts that one run reaches, and a place for files."""

    bed: Bed
    shop: Host
    plain: Host
    other: Host
    resolver: Host
    directory: Path

    @property
    def learned(self) -> Path:
        """Where the policy is written."""
        return self.directory / "learned.yaml"

    def run(self, *options: str) -> Finished:
        """The run: TLS by name, TCP by name with and without a byte, UDP by name, TCP by address, a name alone."""
        program = self.directory / "program.py"
        program.write_text(PROGRAM)
        words = f"plain.test time.test silent.test {self.other.address4}"
        script = (
            f"curl -sS https://shop.test/ && getent hosts only.test && /usr/bin/python3 {program} shop.test {words}"
        )
        upstream = f"--dns-upstream={self.resolver.address4}"
        line = [*EXEAT, "run", upstream, *options, "--", "sh", "-c", script]
        return run_in(self.bed, line, env={"CURL_CA_BUNDLE": str(self.bed.authority.ca_file)}, timeout=START_S)


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learning]:
    """One bed for the module."""
    if missing := missing_capability():
        pytest.skip(missing)
    with Bed() as bed:
        shop = bed.add("shop.test", Tls(names=("shop.test",)))
        plain = bed.add("plain.test", Tcp(7), Tcp(9), Udp(123))
        other = bed.add("other.test", Tcp(7))
        names = ("plain.test", "time.test", "silent.test", "only.test")
        zone = {"shop.test": shop.addresses} | {name: [plain.address4] for name in names}
        resolver = bed.add("resolver.test", Dns(zone))
        yield Learning(bed, shop, plain, other, resolver, tmp_path_factory.mktemp("learning"))


def test_the_same_run_is_denied_nothing_under_what_it_taught(learning: Learning) -> None:
    """Learnt by name where a name led there, by address where none did; what it did not do is denied afterwards."""
    first = learning.run("--learn", str(learning.learned))
    assert (first.returncode, first.stdout.splitlines()[0]) == (0, "I am shop.test"), first.stderr
    reading = read_policy(learning.learned.read_text(), str(learning.learned))
    policy = reading.policy
    assert policy.mode is Mode.ENFORCE
    hosts = {
        (rule.protocol, str(host), port.first) for rule in policy.rules for host in rule.hosts for port in rule.ports
    }
    # A plain connection does not say which of an address's names it meant: both may use the port.
    assert hosts >= {
        (Protocol.TLS, "shop.test", 443),
        (Protocol.TCP, "plain.test", 7),
        (Protocol.TCP, "silent.test", 9),
        (Protocol.UDP, "time.test", 123),
    }
    cidrs = {(rule.protocol, str(cidr)) for rule in policy.rules for cidr in rule.cidrs}
    assert cidrs == {(Protocol.TCP, f"{learning.other.address4}/32")}

    learning.other.reset()
    second = learning.run("--policy", str(learning.learned), "--fail-on-deny")
    assert second.returncode == 0, second.stderr
    assert ", 0 denied" in second.stderr
    assert "denied:" not in second.stderr
    assert learning.other.count().bytes == len(b"hello")


def test_what_was_not_learnt_is_denied(learning: Learning) -> None:
    """The twin: the same run under the policy of another."""
    line = [*EXEAT, "run", f"--dns-upstream={learning.resolver.address4}", "--learn", str(learning.learned), "--"]
    taught = run_in(learning.bed, [*line, "getent", "hosts", "only.test"], timeout=START_S)
    assert taught.returncode == 0, taught.stderr
    learning.shop.reset()
    denied = learning.run("--policy", str(learning.learned), "--fail-on-deny")
    assert denied.returncode != 0
    assert "denied: shop.test (dns A)" in denied.stderr
    assert learning.shop.count().connections == 0


def test_learning_is_not_enforcing(learning: Learning) -> None:
    """Both at once could only be one of them."""
    refused = run_in(
        learning.bed, [*EXEAT, "run", "--learn", "/dev/null", "--mode", "enforce", "--", "true"], timeout=9
    )
    assert refused.returncode == 125
    assert "--learn lets everything pass" in refused.stderr


def test_a_policy_that_cannot_be_written_is_said(learning: Learning) -> None:
    """At the end, with the reason."""
    nowhere = str(learning.directory / "no" / "such" / "place.yaml")
    refused = run_in(learning.bed, [*EXEAT, "run", "--learn", nowhere, "--", "true"], timeout=START_S)
    assert refused.returncode == 125
    assert f"cannot write the learned policy to {nowhere}" in refused.stderr
