"""A pod of a rendered manifest, made over CRI as kubelet makes it: image, command, user, rights, mounts, namespaces.

What kubelet does beside that is done here: ConfigMaps and Secrets as files behind `..data`, variables from fields,
directories of the node. The node is a directory of the test, but for cgroups and the runtime's own. Numbers are those
of the fields of `runtime.v1` (kubernetes/cri-api, pkg/apis/runtime/v1/api.proto).
"""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bed import Finished
from bed.containerd import Containerd, CriContainer, CriPod
from bed.wire_format import pairs

NODE_NAME = "node-1.example.com"
_PROPAGATION = {None: 0, "None": 0, "HostToContainer": 1}
_OF_POD, _OF_CONTAINER, _OF_NODE = range(3)  # NamespaceMode
_RUNTIME_DEFAULT, _UNCONFINED = range(2)  # SecurityProfile.ProfileType
# What kubelet asks for where procMount is not said (kubernetes, pkg/securitycontext).
_MASKED = ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
           "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"]  # fmt: skip
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_RUNTIME = "/runtime.v1.RuntimeService/"
_stamps = itertools.count(1)


@dataclass(frozen=True)
class Node:
    """Where pods find what is the node's. `real`: paths that are the machine's own."""

    root: Path
    real: tuple[Path, ...]

    def path(self, path: str) -> Path:
        """Of a hostPath."""
        is_real = any(Path(path).is_relative_to(each) for each in self.real)
        return Path(path) if is_real else self.root / path.lstrip("/")


@dataclass
class Objects:
    """What a chart was rendered to, and Secrets beside it."""

    objects: list[dict[str, Any]]
    secrets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)

    def one(self, kind: str, name: str = "") -> dict[str, Any]:
        """An object by its kind, and its name where there are several."""
        found = [each for each in self.objects if each["kind"] == kind and name in ("", each["metadata"]["name"])]
        assert len(found) == 1, [each["metadata"]["name"] for each in found]
        return found[0]

    def files(self, volume: Mapping[str, Any]) -> dict[str, bytes] | None:
        """Of a volume of files."""
        if "configMap" in volume:
            data = self.one("ConfigMap", volume["configMap"]["name"]).get("data") or {}
            return {name: text.encode() for name, text in data.items()}
        if "secret" in volume:
            return dict(self.secrets[volume["secret"]["secretName"]])
        return None


def write_files(directory: Path, files: Mapping[str, bytes], group: int = 0) -> None:
    """As kubelet does: all at once, by a change of one link."""
    now = directory / f"..stamp_{next(_stamps)}"
    now.mkdir(parents=True)
    for name, data in files.items():
        (now / name).write_bytes(data)
        (now / name).chmod(0o640)
        os.chown(now / name, 0, group)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    draft = directory / "..data_tmp"
    draft.symlink_to(now.name)
    old = (directory / "..data").resolve() if (directory / "..data").is_symlink() else None
    draft.rename(directory / "..data")
    for link in directory.iterdir():
        if not link.name.startswith("..") and link.name not in files:
            link.unlink()
    if old:
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def volume_directory(node: Node, workload: str, volume: str) -> Path:
    """Where kubelet would have it."""
    return node.root / "var/lib/kubelet/pods" / workload / volume


@dataclass(frozen=True)
class RunningPod:
    """A pod with its one container."""

    pod: CriPod
    container: CriContainer
    log: Path

    @property
    def pid(self) -> int:
        """The container's first process."""
        return self.container.pid

    @property
    def is_running(self) -> bool:
        """Whether the container has processes."""
        procs = self.pod.cri.daemon.directory_of(self.container.cgroup) / "cgroup.procs"
        return procs.exists() and procs.read_text() != ""

    def exec(self, *argv: str, timeout: float = 60.0) -> Finished:
        """Run a command inside, to its end."""
        return self.container.exec(*argv, timeout=timeout)

    def kill(self) -> None:
        """All processes of the container; nothing starts it again, as there is no kubelet."""
        self.container.kill()

    def remove(self) -> None:
        """As `kubectl delete pod`."""
        self.pod.remove()

    def said(self) -> str:
        """By its program."""
        return self.log.read_text() if self.log.exists() else ""


def run_pod(cri: Containerd, objects: Objects, kind: str, node: Node, *, on_node: bool = False) -> RunningPod:
    """Starts the one workload of this kind. `on_node`: in the node's network, whatever the manifest says."""
    spec = objects.one(kind)["spec"]["template"]["spec"]
    name, uid = objects.one(kind)["metadata"]["name"], str(uuid.uuid4())
    (container,) = spec["containers"]
    modes = {
        1: _OF_NODE if on_node or spec.get("hostNetwork") else _OF_POD,
        2: _OF_NODE if spec.get("hostPID") else _OF_CONTAINER,
    }
    logs = node.root / "var/log/pods" / uid
    logs.mkdir(parents=True)
    parent = f"{cri.daemon.cgroup}/kubepods/burstable/pod{uid}"
    labels = {
        "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "exeat", "io.kubernetes.pod.uid": uid,
    }  # fmt: skip
    sandbox = {
        1: {1: name, 2: uid, 3: "exeat"}, 2: "" if modes[1] == _OF_NODE else name, 3: str(logs), 6: pairs(labels),
        8: {1: parent, 2: {1: modes}},
    }  # fmt: skip
    made = cri.ask(_RUNTIME + "RunPodSandbox", {1: sandbox})
    pod = CriPod(cri, made[1][0].decode(), uid, parent, sandbox)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = [
        _mount(objects, volumes[mount["name"]], mount, node, name, _group(spec)) for mount in container["volumeMounts"]
    ]
    for variable in container.get("env", ()):
        assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}, variable
    config = {
        1: {1: container["name"]}, 2: {1: f"docker.io/{container['image']}"}, 3: container.get("command", []),
        4: container.get("args", []), 6: [{1: each["name"], 2: NODE_NAME} for each in container.get("env", ())],
        7: [*mounts, _hosts(node)], 9: pairs({**labels, "io.kubernetes.container.name": container["name"]}),
        11: "log", 15: {2: {3: modes, **_rights(spec, container)}},
    }  # fmt: skip
    started = cri.ask(_RUNTIME + "CreateContainer", {1: pod.id, 2: config, 3: sandbox})[1][0].decode()
    cri.ask(_RUNTIME + "StartContainer", {1: started})
    return RunningPod(pod, CriContainer(pod, started, {}), logs / "log")


def _group(spec: Mapping[str, Any]) -> int:
    return int(spec.get("securityContext", {}).get("fsGroup", 0))


def _rights(spec: Mapping[str, Any], container: Mapping[str, Any]) -> dict[int, Any]:
    """Of LinuxContainerSecurityContext."""
    security = {**spec.get("securityContext", {}), **container["securityContext"]}
    assert security["privileged"] is False
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    rights: dict[int, Any] = {
        1: {1: security["capabilities"].get("add", []), 2: security["capabilities"].get("drop", [])},
        5: {1: security["runAsUser"]}, 7: int(security["readOnlyRootFilesystem"]),
        11: int(not security["allowPrivilegeEscalation"]), 13: _MASKED, 14: _READ_ONLY,
        15: {1: _RUNTIME_DEFAULT},
    }  # fmt: skip
    if "appArmorProfile" in security:  # else kubelet says nothing
        assert security["appArmorProfile"] == {"type": "Unconfined"}
        rights[16] = {1: _UNCONFINED}
    if "runAsGroup" in security:
        rights[12] = {1: security["runAsGroup"]}
    if group := _group(spec):
        rights[8] = [group]
    return rights


def _hosts(node: Node) -> dict[int, Any]:
    """/etc/hosts, which kubelet writes; here it knows the plane's Service, because nobody resolves it."""
    file = node.root / "hosts"
    file.write_text("127.0.0.1 localhost exeat-plane.exeat.svc\n")
    return {1: "/etc/hosts", 2: str(file), 3: 1}


def _mount(
    objects: Objects, volume: Mapping[str, Any], mount: Mapping[str, Any], node: Node, workload: str, group: int
) -> dict[int, Any]:
    source = volume_directory(node, workload, volume["name"])
    if (files := objects.files(volume)) is not None:
        write_files(source, files, group)
    elif "hostPath" in volume:
        source = node.path(volume["hostPath"]["path"])
        if volume["hostPath"]["type"] == "DirectoryOrCreate":
            source.mkdir(mode=0o755, parents=True, exist_ok=True)
        assert source.is_dir(), source
    else:  # emptyDir, or a claim
        source.mkdir(parents=True, exist_ok=True)
        os.chown(source, 0, group)
        source.chmod(0o2777 if "emptyDir" in volume else 0o2775)
    propagation = _PROPAGATION[mount.get("mountPropagation")]
    return {1: mount["mountPath"], 2: str(source), 3: int(mount.get("readOnly", False)), 5: propagation}


def capabilities_of(pid: int) -> set[str]:
    """Those that it may use, by their names."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)
    return {name for bit, name in _CAPABILITIES.items() if mask >> bit & 1} | {
        str(bit) for bit in range(64) if mask >> bit & 1 and bit not in _CAPABILITIES
    }


# linux/capability.h
_CAPABILITIES = {
    0: "CHOWN", 1: "DAC_OVERRIDE", 2: "DAC_READ_SEARCH", 12: "NET_ADMIN", 19: "SYS_PTRACE", 21: "SYS_ADMIN",
    24: "SYS_RESOURCE", 34: "SYSLOG", 38: "PERFMON", 39: "BPF",
}  # fmt: skip


def listed(text: str) -> list[dict[str, Any]]:
    """JSON objects, one a line."""
    return [json.loads(line) for line in text.splitlines()]
