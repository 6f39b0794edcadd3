"""A real `openssl s_server` inside the hosts namespace, for what Python's ssl cannot show: two contexts, a log."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence

from bed.certificates import Authority
from bed.network import Network

START_LIMIT_S = 5.0
HELLO_LINE = re.compile(r"^<<< .*ClientHello", re.MULTILINE)
SERVED = re.compile(r'^Hostname in TLS extension: "(.*)"', re.MULTILINE)


class OpensslServer:
    """`s_server` with a certificate for `name`, and for `second_name` the one it switches to by SNI.

    groups="P-384" makes it send HelloRetryRequest to clients with the usual key shares. It answers GET / with its
    status page (-www). IPv4 only.
    """

    def __init__(
        self,
        network: Network,
        authority: Authority,
        names: tuple[str, str],
        groups: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.name, self.second_name = names
        self.address4, self.port = network.next_addresses()[0], 443
        first, second = authority.certificate(self.name), authority.certificate(self.second_name)
        argv = ["openssl", "s_server", "-4", "-accept", f"{self.address4}:{self.port}", "-www", "-msg"]
        argv += ["-cert", str(first.chain), "-key", str(first.key), "-servername", self.second_name]
        argv += ["-cert2", str(second.chain), "-key2", str(second.key)]
        argv += ["-groups", groups] if groups else []
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # close() closes it
        self._process = network.hosts.call(
            lambda: subprocess.Popen(
                [*argv, *options], stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
            )
        )
        deadline = time.monotonic() + START_LIMIT_S
        while "ACCEPT" not in self.log():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self.log()
                self.close()
                raise RuntimeError(f"openssl s_server did not start: {said}")
            time.sleep(0.005)

    def log(self) -> str:
        """What it has printed so far: each handshake message, each server name, each switch of context."""
        descriptor = self._log.fileno()
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)  # not read(): the program writes at this offset
        return text.decode(errors="replace")

    def hellos(self) -> int:
        """How many ClientHello messages it has read."""
        return len(HELLO_LINE.findall(self.log()))

    def names_seen(self) -> list[str]:
        """The server name of each ClientHello that had one."""
        return SERVED.findall(self.log())

    def close(self) -> None:
        """End it. May be called twice."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._log.close()
