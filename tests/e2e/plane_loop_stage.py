"""The whole loop on one host: `exeat plane serve`, a real `exeat agent` that knows it, and an operator with a token.

    with open_loop() as loop:
        loop.apply("base", loop.stage.names("a.shop.test"))     # in force when this returns
        cgroup = loop.stage.cgroup("coder-1")
        assert loop.visit(cgroup, "a.shop.test") == "I am a.shop.test"
        loop.plane("quarantine", loop.named(cgroup), "--reason", "it scans")

`cafe` is one more host (a.cafe.test): what nobody opens. All of it is in the bed's client namespace.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bed import Finished, Host, Tcp, Tls, run_in, start_in
from e2e.agent_stage import EXEAT, AgentStage, open_agent_stage
from e2e.gatekeeper import fetch, look_up
from e2e.plane_holder import PORT
from e2e.plane_holder import SETTINGS as AGENT_SETTINGS
from exeat.audit.files import log_files
from unit.fake_plane import NODE, papers

WEB = "http://127.0.0.1:9471"
BACK_S = 45.0  # an agent waits longer each time, at random
SETTINGS = """\
apiVersion: exeat.dev/v1
kind: PlaneSettings
spec:
  name: plane-1
  agents: {{listen: "127.0.0.1:{port}", certificate: {papers.server[0]}, key: {papers.server[1]}, ca: {papers.ca}}}
  web: {{listen: "127.0.0.1:9471"}}
  store: sqlite:{directory}/plane.db
  signing_key: {directory}/plane.key
"""


@dataclass
class Loop:
    """What an operator, a workload and somebody who looks into the store see."""

    stage: AgentStage
    cafe: Host
    directory: Path
    process: subprocess.Popen[str] | None = None

    def start_plane(self) -> None:
        """Returns when it is ready."""
        line = [*EXEAT, "plane", "serve", "--config", str(self.directory / "plane.yaml")]
        with (self.directory / "out").open("a") as out:
            self.process = start_in(self.stage.bed, line, stdout=out, stderr=out)
        self.stage.wait_until(self._is_well, 30)

    def kill_plane(self) -> None:
        """As a crash does."""
        assert self.process
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.stage.bed.disown(self.process)
        self.process = None

    def plane(self, *arguments: str, check: bool = True) -> Finished:
        """`exeat plane ...`, as the operator types it."""
        environment = {"EXEAT_PLANE": WEB, "EXEAT_PLANE_TOKEN_FILE": str(self.token)}
        finished = run_in(self.stage.bed, [*EXEAT, "plane", *arguments], env=environment)
        assert not check or finished.returncode == 0, finished
        return finished

    def ask(self, *arguments: str) -> Any:
        """The same, read back."""
        return json.loads(self.plane(*arguments, "-o", "json").stdout)

    @property
    def token(self) -> Path:
        """The operator's."""
        return self.directory / "token"

    @property
    def store(self) -> Path:
        """The plane's."""
        return self.directory / "plane.db"

    def named(self, cgroup: Path) -> str:
        """A workload as `exeat plane` takes it: it has its cgroup's path for a name."""
        return f"{NODE}/{self.stage.path(cgroup)}"

    def apply(self, name: str, rules: str, **how: str) -> Finished:
        """By command; returns when the agent enforces it."""
        file = self.directory / f"{name}.yaml"
        file.write_text(self.stage.policy(name, rules, **how))
        finished = self.plane("policies", "apply", str(file), "--reason", "a test")
        self.wait_in_force()
        return finished

    def remove_all(self) -> None:
        """No policy holds any more."""
        for name, _ in self.rows("SELECT name, revision FROM policies"):
            self.plane("policies", "remove", name, "--reason", "the test is over")
        self.wait_in_force()

    def wait_in_force(self, within_s: float = 10.0) -> None:
        """Until the agent has said that it enforces what the plane wants."""
        self.stage.wait_until(self._is_in_force, within_s)

    def visit(self, cgroup: Path, name: str) -> str:
        """What any client does: it asks for the address and says hello. The server's words, or what went wrong."""

        def go() -> str:
            addresses = look_up(name)
            return fetch(addresses[0], name) if addresses else "no address"

        return str(self.stage.run(go, cgroup))

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Out of the store."""
        with closing(sqlite3.connect(self.store, timeout=10)) as connection:
            return connection.execute(query, values).fetchall()

    def stored(self) -> list[int]:
        """Numbers of the verdicts, as they came."""
        return [row[0] for row in self.rows("SELECT number FROM verdicts WHERE node = ? ORDER BY id", NODE)]

    def logged(self) -> list[int]:
        """Numbers of the verdicts in the agent's own log."""
        lines = [line for path in log_files(self.stage.directory / "log") for line in path.read_bytes().splitlines()]
        return [json.loads(line)["seq"] for line in lines if line.startswith(b'{"time":"')]

    def status(self) -> dict[str, Any]:
        """What the agent says of its plane."""
        return dict(self.stage.json("status")["plane"])

    def wait_reported(self) -> None:
        """Until the plane has the agent's log to its end."""

        def is_reported() -> bool:
            status = self.status()
            return status["state"] == "connected" and status.get("unreported", "0") == "0"

        self.stage.wait_until(is_reported, BACK_S)

    def _is_in_force(self) -> bool:
        wanted = self.rows("SELECT name, revision FROM policies ORDER BY name")
        held = self.rows("SELECT name, revision FROM holdings WHERE node = ? ORDER BY name", NODE)
        return wanted == held

    def _is_well(self) -> bool:
        assert self.process
        if self.process.poll() is not None:
            raise AssertionError(f"the plane ended: {(self.directory / 'out').read_text()}")
        return self.stage.bed.network.client.call(_page) == "ok\n"


@contextmanager
def open_loop() -> Iterator[Loop]:
    """Plane and agent run, and are connected."""
    with open_agent_stage() as stage:
        cafe = stage.bed.add("cafe", Tls(names=("a.cafe.test",)), Tcp(7))
        hosts = {"shop": stage.shop, "evil": stage.evil, "cafe": cafe}
        zone = {f"a.{name}.test": host.addresses for name, host in hosts.items()}
        stage.resolver.set_zone(zone | {"b.shop.test": stage.shop.addresses})
        loop = Loop(stage, cafe, stage.directory / "plane")
        loop.directory.mkdir()
        config = loop.directory / "plane.yaml"
        config.write_text(SETTINGS.format(port=PORT, papers=papers(), directory=loop.directory))
        loop.start_plane()
        try:
            made = loop.plane("tokens", "add", "olga", "--role", "admin", "--config", str(config))
            loop.token.write_text(made.stdout)
            public_key = loop.directory / "plane.pub"
            with (stage.directory / "exeat.yaml").open("a") as settings:
                settings.write(AGENT_SETTINGS.format(node=NODE, port=PORT, papers=papers(), public_key=public_key))
            stage.start()
            loop.wait_reported()
            yield loop
        finally:
            if loop.process:
                loop.kill_plane()


def _page() -> str:
    try:
        with urllib.request.urlopen(f"{WEB}/healthz", timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return ""
