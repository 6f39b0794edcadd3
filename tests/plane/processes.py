"""`exeat plane serve` as a process of its own, which a test may stop, kill and start again."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from exeat.plane_access import PlaneAccess
from plane.certificates import Authority


@dataclass
class PlaneProcess:
    """One replica, with its settings in a directory. `more`: further lines of `spec`."""

    directory: Path
    authority: Authority
    store: str
    name: str = "plane-1"
    more: str = ""
    agents_port: int = field(default_factory=lambda: free_port())
    web_port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None
    _accesses: dict[str, PlaneAccess] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """The file of its settings."""
        return self.directory / f"{self.name}.yaml"

    def access(self, node: str) -> PlaneAccess:
        """How a node reaches it; the same files each time."""
        if node not in self._accesses:
            self._accesses[node] = self.authority.node(node, self.agents_port)
        return self._accesses[node]

    def start(self, within_s: float = 30.0) -> None:
        """Returns when it is ready."""
        files = self.authority.plane
        self.config.write_text(
            f"""\
apiVersion: exeat.dev/v1
kind: PlaneSettings
spec:
  name: {self.name}
  agents:
    listen: 127.0.0.1:{self.agents_port}
    certificate: {files.certificate}
    key: {files.key}
    ca: {files.ca}
{self._web}  store: {json.dumps(self.store)}
{self.more}"""
        )
        command = [sys.executable, "-m", "exeat.cli.main", "plane", "serve", "--config", str(self.config)]
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline_s = time.monotonic() + within_s
        while not self.is_well():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the plane does not start: {self.said()}")
            time.sleep(0.05)

    @property
    def _web(self) -> str:
        return "" if "  web:" in self.more else f'  web: {{listen: "127.0.0.1:{self.web_port}"}}\n'

    def said(self) -> str:
        """Its log so far."""
        return (self.directory / f"{self.name}.log").read_text()

    def is_well(self) -> bool:
        """By its own word."""
        try:
            return self.page("/healthz") == "ok\n"
        except OSError:
            return False

    def page(self, path: str) -> str:
        """Of its web door."""
        scheme = "https" if "certificate:" in self.more else "http"
        context = ssl.create_default_context(cafile=str(self.authority.ca)) if scheme == "https" else None
        with urllib.request.urlopen(
            f"{scheme}://localhost:{self.web_port}{path}", timeout=5, context=context
        ) as answer:
            return str(answer.read().decode())

    def post(self, path: str, token: str, body: object) -> object:
        """A request to the API; its answer."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.web_port}{path}", data, headers, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def metric(self, sample: str) -> float:
        """A line of /metrics, by all that stands before its number."""
        return next(
            float(line.split(" ")[-1]) for line in self.page("/metrics").splitlines() if line.startswith(sample)
        )

    def stop(self, within_s: float = 15.0) -> int:
        """In order; its exit status."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def kill(self) -> None:
        """As when the power fails."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def cpu_s(self) -> float:
        """Of all its threads, since its start."""
        assert self.process
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def plane_process(process: PlaneProcess) -> Iterator[PlaneProcess]:
    """It runs, and is gone after the block."""
    try:
        process.start()
        yield process
    finally:
        process.kill()


def free_port() -> int:
    """That nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
