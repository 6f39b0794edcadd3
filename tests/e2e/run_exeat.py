"""A stage for `exeat run`: a client namespace, hosts that must and must not be reached, and one policy.

    shop   its addresses and its names are allowed: TLS on 443 for *.shop.test, plain TCP on 7
    evil   its addresses are allowed and its names are not: TLS on 443 for *.evil.test
    far    its names are allowed and its addresses are not: TLS on 443 for far4.shop.test and far6.shop.test

Every command sees an /etc/hosts in which v4.shop.test, v6.evil.test, far4.shop.test ... stand, so that clients which
cannot be told an address are tested as they are used.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, Finished, Host, Tcp, Tls, missing_capability, run_in, start_in

PYTHON = "/usr/bin/python3"  # one that every user may execute
EXEAT = (sys.executable, "-m", "exeat.cli.main")
PINS = Path("/sys/fs/bpf/exeat")
START_S = 60.0  # how long the compiler may take on a busy machine

POLICY = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {{name: shop-only}}
spec:
  owner: tests@example.com
  reason: "end-to-end tests of exeat run"
  egress:
  - name: shop
    hosts: ["*.shop.test"]
    cidrs: [{cidrs}]
  - name: plain
    cidrs: [{cidrs}]
    ports: [7]
    protocol: tcp
"""


@dataclass(frozen=True)
class Stage:
    """The bed, its hosts, and files in a directory that every user may read."""

    bed: Bed
    shop: Host
    evil: Host
    far: Host
    directory: Path

    @property
    def policy(self) -> Path:
        """The policy file."""
        return self.directory / "policy.yaml"

    @property
    def ca_file(self) -> str:
        """What clients must trust."""
        return str(self.bed.authority.ca_file)

    @property
    def denied(self) -> tuple[Host, Host]:
        """Those that no byte may reach."""
        return self.evil, self.far

    def reset(self) -> None:
        """Counts from nothing."""
        for host in (self.shop, self.evil, self.far):
            host.reset()

    def file(self, name: str, text: str) -> Path:
        """A file that every user may read."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def around(self, argv: list[str]) -> list[str]:
        """The command line with the stage's /etc/hosts in a mount namespace of its own."""
        hosts = str(self.directory / "hosts")
        return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts, *argv]

    def without_exeat(self, *argv: str, **how: Any) -> Finished:
        """The twin: the same command with nobody in its way."""
        return run_in(self.bed, self.around(list(argv)), **{"timeout": START_S, **how})

    def line(self, *argv: str, options: tuple[str, ...] = (), policy: Path | str | None = "") -> list[str]:
        """The command line of `exeat run`; policy=None gives none."""
        chosen = [] if policy is None else ["--policy", str(policy or self.policy)]
        return self.around([*EXEAT, "run", *chosen, *options, "--", *argv])

    def run(
        self,
        *argv: str,
        options: tuple[str, ...] = (),
        policy: Path | str | None = "",
        env: Mapping[str, str] | None = None,
        **how: Any,
    ) -> Finished:
        """`exeat run` to its end. Who calls sudo is said by `env` alone."""
        clean = {name: "" for name in os.environ if name.startswith("SUDO_")}
        line = ["env", *(f"-u{name}" for name in clean), *self.line(*argv, options=options, policy=policy)]
        return run_in(self.bed, line, env=env, **{"timeout": START_S, **how})

    def start(
        self, *argv: str, options: tuple[str, ...] = (), policy: Path | str | None = "", **how: Any
    ) -> subprocess.Popen[str]:
        """`exeat run` in the background; the process's pid is the supervisor's."""
        return start_in(self.bed, self.line(*argv, options=options, policy=policy), **how)


@contextmanager
def open_stage() -> Iterator[Stage]:
    """The stage, or a skip with a sentence."""
    if missing := missing_capability():
        pytest.skip(missing)
    sysctls = {"net.ipv4.tcp_fastopen": 5}  # a client may send data in the SYN without a cookie, and the hosts take it
    with (
        tempfile.TemporaryDirectory(prefix="exeat-run-") as place,
        Bed(sysctls, {"net.ipv4.tcp_fastopen": 0x203}) as bed,
    ):
        directory = Path(place)
        directory.chmod(0o755)
        shop = bed.add("shop", Tls(names=("v4.shop.test", "v6.shop.test")), Tcp(7, fastopen=True))
        evil = bed.add("evil", Tls(names=("v4.evil.test", "v6.evil.test"), fastopen=True), Tcp(7, fastopen=True))
        far = bed.add("far", Tls(names=("far4.shop.test", "far6.shop.test")), Tcp(7))
        stage = Stage(bed, shop, evil, far, directory)
        cidrs = ", ".join(f'"{address}"' for host in (shop, evil) for address in host.addresses)
        stage.file("policy.yaml", POLICY.format(cidrs=cidrs))
        lines = [f"{host.address4} v4.{host.name}.test\n{host.address6} v6.{host.name}.test\n" for host in (shop, evil)]
        lines += [f"{far.address4} far4.shop.test\n{far.address6} far6.shop.test\n", "127.0.0.1 localhost\n"]
        stage.file("hosts", "".join(lines))
        yield stage


def verdicts(path: Path) -> list[dict[str, Any]]:
    """The lines of a verdicts file; a line that is no JSON raises."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def pins_of(supervisor: int) -> list[str]:
    """What is still pinned of a supervisor's runs."""
    return [str(path) for path in PINS.glob(f"*/run-{supervisor}-*")]


def denials(stderr: str) -> list[str]:
    """The lines by which exeat told a denial; a command that writes letter by letter may stand before one."""
    return re.findall(r"exeat: (?:would be denied|denied\b).*", stderr)


def summary(stderr: str) -> str:
    """The last line of exeat's."""
    return re.findall(r"exeat: .* bytes out, .*", stderr)[-1]
