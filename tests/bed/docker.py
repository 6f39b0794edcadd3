"""A real Docker daemon of the test's own: its socket, its images, its containers; nothing of the host's Docker.

    with docker_daemon() as docker:                       # half a second; keep it for a module or a session
        docker.image("ghcr.io/acme/agent:1.0")            # busybox; 0.2 s
        web = docker.run("ghcr.io/acme/agent:1.0", name="web", labels={"team": "ml"})
        web.id, web.pid, web.cgroup                       # 64 hex digits; as the host sees it; /bed-docker-.../<id>
        web.exec("wget", "-qO-", "http://198.51.100.2/")  # -> bed.Finished
        web.kill(); web.start(); web.remove()
        docker("inspect", "web")                          # any command of docker's; its output, or RuntimeError

A container has no network but `lo`: there is no bridge, and no packet filter of the host is touched. A wire to the
hosts of a Bed is laid by `bed.container_wire`:

    connect(bed, web.pid)                                 # 198.51.100.70 and 2001:db8:1:1::2, default routes to the bed

`run(..., tools=True)` mounts the host's /usr, so that curl, dig and python3 are there. `options` go to `docker run`.
All containers are under `docker.cgroup` unless `--cgroup-parent` says otherwise; they end with the daemon, at once.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bed import Finished
from bed.container_root import root_tar
from bed.daemons import Daemon, cgroup_of, daemon, missing_for

COMMAND_S = 60.0
CLIENT = "/usr/bin/docker"  # Debian's; another may come first in PATH
_TOOLS = ("--volume", "/usr:/usr:ro")


def missing_docker() -> str | None:
    """Why there can be none here, as a sentence for a skip."""
    return missing_for("dockerd", "containerd", "runc", CLIENT, with_busybox=True)


@dataclass(frozen=True)
class Container:
    """One that was run; the id stays the same when it is started again."""

    docker: Docker
    id: str

    @property
    def pid(self) -> int:
        """Its first process."""
        return int(self.docker("inspect", "--format", "{{.State.Pid}}", self.id))

    @property
    def cgroup(self) -> str:
        """Its path in the hierarchy, while it runs."""
        return cgroup_of(self.pid)

    def exec(self, *argv: str, timeout: float = COMMAND_S) -> Finished:
        """Run a command inside, to its end."""
        return self.docker.ask("exec", self.id, *argv, timeout=timeout)

    def kill(self) -> None:
        """All its processes."""
        self.docker("kill", self.id)

    def start(self) -> None:
        """Again."""
        self.docker("start", self.id)

    def remove(self) -> None:
        """Ended or not."""
        self.docker("rm", "--force", self.id)


class Docker:
    """A daemon that serves, as a function that runs docker's commands."""

    def __init__(self, own: Daemon) -> None:
        self.daemon = own
        self.socket = own.directory / "docker.sock"
        self.cgroup = own.cgroup

    def ask(self, *argv: str, stdin: bytes = b"", timeout: float = COMMAND_S) -> Finished:
        """One command, whatever comes of it."""
        words = [CLIENT, "--host", f"unix://{self.socket}", *argv]
        began = time.monotonic()
        done = subprocess.run(words, input=stdin, capture_output=True, timeout=timeout)
        out, complaints = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return Finished(words, done.returncode, out, complaints, time.monotonic() - began)

    def __call__(self, *argv: str, stdin: bytes = b"", timeout: float = COMMAND_S) -> str:
        """One command that must succeed; its output."""
        done = self.ask(*argv, stdin=stdin, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(argv)} failed ({done.returncode}): {done.stderr}")
        return done.stdout.strip()

    def image(self, name: str, labels: Mapping[str, str] | None = None, mark: str = "") -> str:
        """Makes a busybox image under this name; its id. Another mark makes another image."""
        changes = [f"--change=LABEL {key}={json.dumps(value)}" for key, value in (labels or {}).items()]
        return self("import", *changes, "-", name, stdin=root_tar(mark or name))

    def run(
        self, image: str, *command: str, name: str = "", labels: Mapping[str, str] | None = None,
        options: Sequence[str] = (), tools: bool = False,
    ) -> Container:  # fmt: skip
        """Starts a container; without a command it sleeps."""
        words = ["--name", name] if name else []
        words += [f"--label={key}={value}" for key, value in (labels or {}).items()]
        words += [*(_TOOLS if tools else ()), *options]
        if not any(word.startswith(("--network", "--net")) for word in options):
            words.append("--network=none")
        if not any(word.startswith("--cgroup-parent") for word in options):
            words.append(f"--cgroup-parent={self.cgroup}")
        return Container(self, self("run", "--detach", *words, image, *(command or ("sleep", "1000000"))))

    def remove_all(self) -> None:
        """Every container."""
        for container in self("ps", "--all", "--quiet").split():
            self("rm", "--force", container)

    def inspect(self, what: str) -> Any:
        """As the API tells it."""
        return json.loads(self("inspect", what))[0]


@contextlib.contextmanager
def docker_daemon(*options: str) -> Iterator[Docker]:
    """Start a daemon and wait until it serves; options go to dockerd."""
    with daemon("docker") as own:
        docker = Docker(own)
        settings = own.directory / "daemon.json"  # else it would read the host's
        settings.write_text("{}")
        own.start(
            "dockerd", f"--config-file={settings}", f"--host=unix://{docker.socket}",
            f"--data-root={own.directory / 'data'}", f"--exec-root={own.directory / 'exec'}",
            f"--pidfile={own.directory / 'pid'}", "--storage-driver=vfs", "--bridge=none", "--iptables=false",
            "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent={own.cgroup}", "--log-level=warn", *options,
        )  # fmt: skip
        own.wait_until(lambda: docker.socket.exists() and docker.ask("version").returncode == 0)
        yield docker
