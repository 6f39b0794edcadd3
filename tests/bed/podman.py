"""Podman's API service, which answers Docker's client: the same words as for `bed.docker`.

with podman_daemon() as podman:                       # two seconds
    podman.image("ghcr.io/acme/agent:1.0")
    web = podman.run("ghcr.io/acme/agent:1.0", name="web")
    web.cgroup                                        # /bed-podman-.../libpod-<id>
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bed.daemons import daemon, missing_for
from bed.docker import CLIENT, Docker

# Limits that may be set without CAP_SYS_RESOURCE; the default ones are higher than a test machine may have.
_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""


def missing_podman() -> str | None:
    """Why there can be none here, as a sentence for a skip."""
    return missing_for("podman", "conmon", "runc", CLIENT, with_busybox=True)


@contextlib.contextmanager
def podman_daemon() -> Iterator[Docker]:
    """Start the service and wait until it answers."""
    with daemon("podman") as own:
        podman = Docker(own)
        settings = own.directory / "containers.conf"
        settings.write_text(_SETTINGS)
        own.start(
            "podman", "--root", f"{own.directory / 'root'}", "--runroot", f"{own.directory / 'run'}",
            "--tmpdir", f"{own.directory / 'tmp'}", "--storage-driver", "vfs",
            "system", "service", "--time=0", f"unix://{podman.socket}",
            env={"CONTAINERS_CONF": str(settings)},
        )  # fmt: skip
        own.wait_until(lambda: podman.socket.exists() and podman.ask("version").returncode == 0)
        yield podman
