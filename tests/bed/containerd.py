"""A real containerd of the test's own, with pods and containers made over CRI as a kubelet makes them.

    with containerd_daemon() as cri:                      # a second; keep it for a module or a session
        cri.image("ghcr.io/acme/agent:1.0")               # busybox
        cri.digest_of("ghcr.io/acme/agent:1.0")           # ghcr.io/acme/agent@sha256:...
        pod = cri.pod("coder-1", "ml", {"app": "coder"})
        main = pod.run("ghcr.io/acme/agent:1.0", name="main")
        pod.id, pod.uid, pod.pid, pod.cgroup              # the sandbox: its process holds the network namespace
        main.id, main.pid, main.cgroup                    # .../kubepods/burstable/pod<uid>/<id>
        main.exec("wget", "-qO-", "http://198.51.100.2/") # -> bed.Finished
        main.kill(); main = main.again()                  # as a kubelet starts a container again: with a new id
        pod.remove()

A pod has no network but `lo`: `bed.container_wire.connect(bed, pod.pid)` lays a wire to the hosts of a Bed, for all
its containers. `run(..., tools=True)` mounts the host's /usr. `cri.socket` is what an agent is told.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from bed import Finished
from bed.container_image import image_archive
from bed.daemons import Daemon, daemon, missing_for
from bed.wire_format import decode, encode, pairs

CALL_S = 60.0
LOAD_S = 300.0  # an image of hundreds of megabytes
PAUSE = "localhost/bed/pause:1"
CNI_PROGRAMS = Path("/usr/lib/cni")  # of Debian's containernetworking-plugins
_RUNTIME, _IMAGES = "/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"
_SETTINGS = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{directory}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{directory}/cni"
    conf_dir = "{directory}/cni"
"""
# A sandbox gets a share of the CPU, which a machine with cgroups of both versions cannot give.
_RUNC = """#!/bin/sh
for word; do
  [ "$last" = --bundle ] && sed -i 's/"cpu":{[^{}]*}/"cpu":{}/' "$word/config.json"
  last=$word
done
exec runc "$@"
"""
_NETWORK = {"cniVersion": "0.4.0", "name": "bed", "plugins": [{"type": "bed"}]}
# A pod without an address is none to containerd. The wire is laid later, by the test.
_NETWORK_PROGRAM = """#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
cat <<end
{"cniVersion": "0.4.0", "interfaces": [{"name": "$CNI_IFNAME", "sandbox": "$CNI_NETNS"}],
 "ips": [{"version": "4", "interface": 0, "address": "198.51.100.254/32"}]}
end
"""


def missing_containerd() -> str | None:
    """Why there can be none here, as a sentence for a skip."""
    if missing := missing_for("containerd", "ctr", "runc", with_busybox=True):
        return missing
    is_there = (CNI_PROGRAMS / "loopback").exists()
    return None if is_there else "these tests need Debian's package containernetworking-plugins"


@dataclass(frozen=True)
class CriContainer:
    """One that was started."""

    pod: CriPod
    id: str
    arguments: dict[str, Any]

    @property
    def cgroup(self) -> str:
        """Its path in the hierarchy."""
        return f"{self.pod.parent}/{self.id}"

    @property
    def pid(self) -> int:
        """Its first process."""
        return self.pod.cri.first_process(self.cgroup)

    def exec(self, *argv: str, timeout: float = CALL_S) -> Finished:
        """Run a command inside, to its end."""
        began = time.monotonic()
        told = self.pod.cri.ask(_RUNTIME + "ExecSync", {1: self.id, 2: list(argv), 3: int(timeout)})
        out, complaints = (b"".join(told.get(number, [])).decode(errors="replace") for number in (1, 2))
        return Finished(list(argv), told.get(3, [0])[0], out, complaints, time.monotonic() - began)

    def kill(self) -> None:
        """All its processes."""
        self.pod.cri.ask(_RUNTIME + "StopContainer", {1: self.id})

    def again(self) -> CriContainer:
        """Another of the same name, as a kubelet makes it."""
        attempt = self.arguments.pop("attempt", 0) + 1
        return self.pod.run(**self.arguments, attempt=attempt)

    def remove(self) -> None:
        """Ended or not."""
        self.pod.cri.ask(_RUNTIME + "RemoveContainer", {1: self.id})


@dataclass(frozen=True)
class CriPod:
    """A sandbox and its containers."""

    cri: Containerd
    id: str
    uid: str
    parent: str  # cgroup of all of it
    config: dict[int, Any] = field(repr=False)

    @property
    def cgroup(self) -> str:
        """The sandbox's own."""
        return f"{self.parent}/{self.id}"

    @property
    def pid(self) -> int:
        """The sandbox's process."""
        return self.cri.first_process(self.cgroup)

    def run(
        self, image: str, *, name: str = "main", command: tuple[str, ...] = (), labels: Mapping[str, str] | None = None,
        tools: bool = False, mounts: Mapping[str, str] | None = None, attempt: int = 0,
    ) -> CriContainer:  # fmt: skip
        """Starts a container; without a command it sleeps. `mounts`: of the host's paths, to where (read-only)."""
        arguments: dict[str, Any] = {
            "image": image, "name": name, "command": command, "labels": labels, "tools": tools, "mounts": mounts,
        }  # fmt: skip
        mounted = {**({"/usr": "/usr"} if tools else {}), **(mounts or {})}
        kubelets = {
            "io.kubernetes.container.name": name, "io.kubernetes.pod.name": self.config[1][1],
            "io.kubernetes.pod.namespace": self.config[1][3], "io.kubernetes.pod.uid": self.uid,
        }  # fmt: skip
        config = {
            1: {1: name, 2: attempt}, 2: {1: image}, 3: list(command),
            7: [{1: there, 2: here, 3: True} for here, there in mounted.items()],
            9: pairs({**kubelets, **(labels or {})}),
            15: {2: {3: {2: 1}}},  # processes see those of their container, as in Kubernetes
        }  # fmt: skip
        made = self.cri.ask(_RUNTIME + "CreateContainer", {1: self.id, 2: config, 3: self.config})
        container_id = made[1][0].decode()
        self.cri.ask(_RUNTIME + "StartContainer", {1: container_id})
        return CriContainer(self, container_id, {**arguments, "attempt": attempt})

    def remove(self) -> None:
        """With all its containers."""
        self.cri.ask(_RUNTIME + "StopPodSandbox", {1: self.id})
        self.cri.ask(_RUNTIME + "RemovePodSandbox", {1: self.id})


class Containerd:
    """A daemon that serves CRI."""

    def __init__(self, own: Daemon) -> None:
        self.daemon = own
        self.socket = own.directory / "containerd.sock"
        self.snapshotter = "overlayfs" if _has_overlays(own.directory) else "native"  # which copies each container's
        self._channel = grpc.insecure_channel(f"unix://{self.socket}", [("grpc.default_authority", "localhost")])

    def close(self) -> None:
        """The client's end."""
        self._channel.close()

    def ask(self, method: str, request: Mapping[int, Any], timeout: float = CALL_S) -> dict[int, list[Any]]:
        """One call."""
        return decode(self._channel.unary_unary(method)(encode(request), timeout=timeout))

    def is_ready(self) -> bool:
        """Whether pods can be made."""
        try:
            told = self.ask(_RUNTIME + "Status", {}, timeout=1.0)
        except grpc.RpcError:
            return False
        conditions = [decode(one) for one in decode(told[1][0])[1]]
        return all(2 in condition for condition in conditions)  # RuntimeReady, NetworkReady

    def image(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Makes a busybox image under this name."""
        file = self.daemon.directory / "image.tar"
        file.write_bytes(image_archive(name, labels))
        self.load(file)
        self._wait_for_image(name)

    def load(self, file: Path) -> None:
        """The images of an archive."""
        self._images("import", "--snapshotter", self.snapshotter, "--digests=false", str(file))

    def digest_of(self, image: str) -> str:
        """Its name by its digest, which it has from now on, as one that was pulled has it."""
        (digest,) = set(re.findall("sha256:[0-9a-f]{64}", self._images("list", f"name=={image}")))
        name = f"{image.rpartition(':')[0]}@{digest}"
        self._images("tag", image, name)
        self._wait_for_image(name)
        return name

    def _images(self, *words: str) -> str:
        line = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", "images", *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=LOAD_S)
        if done.returncode:
            raise RuntimeError(f"ctr images {' '.join(words)} failed: {done.stderr}{done.stdout}")
        return done.stdout

    def _wait_for_image(self, name: str) -> None:
        deadline = time.monotonic() + CALL_S
        while 1 not in self.ask(_IMAGES + "ImageStatus", {1: {1: name}}):  # it is told of it by an event
            assert time.monotonic() < deadline, f"containerd does not see the image {name}"
            time.sleep(0.01)

    def pod(self, name: str, namespace: str = "default", labels: Mapping[str, str] | None = None) -> CriPod:
        """Runs a sandbox."""
        uid = str(uuid.uuid4())
        parent = f"{self.daemon.cgroup}/kubepods/burstable/pod{uid}"
        kubelets = {
            "io.kubernetes.pod.name": name,
            "io.kubernetes.pod.namespace": namespace,
            "io.kubernetes.pod.uid": uid,
        }
        config = {
            1: {1: name, 2: uid, 3: namespace}, 2: name, 6: pairs({**kubelets, **(labels or {})}),
            8: {1: parent, 2: {1: {2: 1}}},
        }  # fmt: skip
        made = self.ask(_RUNTIME + "RunPodSandbox", {1: config})
        return CriPod(self, made[1][0].decode(), uid, parent, config)

    def first_process(self, cgroup: str) -> int:
        """Of a cgroup."""
        return int((self.daemon.directory_of(cgroup) / "cgroup.procs").read_text().split()[0])


@contextlib.contextmanager
def containerd_daemon() -> Iterator[Containerd]:
    """Start a daemon and wait until it serves."""
    with daemon("cri") as own, contextlib.closing(Containerd(own)) as cri:
        _program(own.directory / "runc", _RUNC)
        network = own.directory / "cni"
        network.mkdir()
        (network / "bed.conflist").write_text(json.dumps(_NETWORK))
        _program(network / "bed", _NETWORK_PROGRAM)
        (network / "loopback").symlink_to(CNI_PROGRAMS / "loopback")
        settings = own.directory / "config.toml"
        places = {"directory": own.directory, "socket": cri.socket, "snapshotter": cri.snapshotter}
        settings.write_text(_SETTINGS.format(**places, pause=PAUSE))
        own.start("containerd", "--config", str(settings), "--log-level", "warn")
        own.wait_until(cri.is_ready)
        cri.image(PAUSE)
        yield cri


def _has_overlays(directory: Path) -> bool:
    """Whether a file system here can be below an overlay's; one that is an overlay itself cannot."""
    place = directory / "overlay"
    for name in ("lower", "upper", "work", "top"):
        (place / name).mkdir(parents=True)
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    line = ["unshare", "--mount", "mount", "-t", "overlay", "-o", options, "none", str(place / "top")]
    return subprocess.run(line, capture_output=True).returncode == 0


def _program(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)
