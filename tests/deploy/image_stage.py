"""A node for the pods of the chart: containerd is its runtime, in the network of a bed's client.

Its BPF file system is one of its own: what a pod pins outlives the pod, and goes with the node.
"""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from bed import Bed, Dns, Host, Tcp, Tls, container_wire, run_in
from bed.containerd import Containerd, CriContainer, containerd_daemon
from deploy.chart_render import KUBERNETES, ask
from deploy.container_stage import IMAGE, furnish
from deploy.image_pod import NODE_NAME, Node, Objects, RunningPod, run_pod
from exeat.control.client import connect, trouble_at
from exeat.v1.agent_pb2 import ListWorkloadsRequest

READY_S = 90.0  # how long the compiler may take on a busy machine
# Found before the real one: the daemon begins in its own mount namespace already, and not yet in the node's network.
_CONTAINERD = """#!/bin/sh
mount -t bpf none {bpf}
exec nsenter --net={network} /usr/bin/containerd "$@"
"""
POLICY = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {{name: coder}}
spec:
  subject: {{pods: {{namespace: ml, matchLabels: {{app: coder}}}}}}
  dns: {{upstreams: ["{resolver}"]}}
  egress:
  - {{name: web, hosts: [a.shop.test]}}
  - {{name: plain, cidrs: ["{shop}"], ports: [{port}], protocol: tcp}}
"""


@dataclass
class Stage:
    """A node: its runtime, hosts, and what pods find on it."""

    bed: Bed
    cri: Containerd
    node: Node
    shop: Host
    evil: Host
    resolver: Host
    _manifests: dict[tuple[bool, bool], list[dict[str, Any]]] = field(default_factory=dict)

    def objects(self, *, detach: bool = False, plane: bool = False) -> Objects:
        """The chart, for this node: with a policy in a file, or with a plane that has it."""
        return Objects(self.manifests(detach=detach, plane=plane), self.secrets() if plane else {})

    def manifests(self, *, detach: bool = False, plane: bool = False) -> list[dict[str, Any]]:
        """The same without the secrets, rendered once."""
        if (detach, plane) not in self._manifests:
            self._manifests[detach, plane] = self._rendered(detach, plane)
        return self._manifests[detach, plane]

    def _rendered(self, detach: bool, plane: bool) -> list[dict[str, Any]]:
        settings = {"runtimes": {"docker": "off", "podman": "off", "cri": [str(self.cri.socket)]}}
        agent = {
            "settings": settings,
            "runtimeDirectories": [str(self.cri.daemon.directory)],
            "policies": {} if plane else {"coder.yaml": self.policy()},
            "detach": detach,
        }
        (answer,) = ask([{"values": {"plane": {"enabled": plane, "cluster": False}, "agent": agent}}])
        texts = [text for name, text in answer["manifests"].items() if name.endswith(".yaml")]
        return [each for text in texts for each in yaml.safe_load_all(text) if isinstance(each, dict)]

    def secrets(self) -> dict[str, dict[str, bytes]]:
        """Made by the script once, then the same ones."""
        words = [KUBERNETES / "certificates.sh", "--directory", self.node.root / "certificates", NODE_NAME]
        made = subprocess.run(words, capture_output=True, check=True, timeout=60, text=True).stdout
        return {
            each["metadata"]["name"]: {name: base64.b64decode(data) for name, data in each["data"].items()}
            for each in yaml.safe_load_all(made)
        }

    def policy(self, port: int = 7) -> str:
        """For the coder's pods."""
        return POLICY.format(resolver=self.resolver.address4, shop=self.shop.address4, port=port)

    def start(self, kind: str = "DaemonSet", **values: bool) -> RunningPod:
        """The agent's pod, or the plane's, which is on the node's network here: there is no other."""
        return run_pod(self.cri, self.objects(**values), kind, self.node, on_node=True)

    def is_ready(self, pod: RunningPod, kind: str = "DaemonSet") -> bool:
        """As kubelet asks: where the manifest says."""
        assert pod.is_running, pod.said()
        container = Objects(self.manifests(plane=True)).one(kind)["spec"]["template"]["spec"]["containers"][0]
        probe = container["readinessProbe"]["httpGet"]
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        host = f"{probe.get('host', '127.0.0.1')}:{ports.get(probe['port'], probe['port'])}"
        url = f"{probe.get('scheme', 'HTTP').lower()}://{host}{probe['path']}"
        quiet = ["--silent", "--insecure", "--noproxy", "*", "--output", "/dev/null", "--write-out", "%{http_code}"]
        return run_in(self.bed, ["curl", *quiet, "--max-time", "3", url]).stdout.strip() == "200"

    def workloads(self) -> list[str]:
        """What the agent judges, asked over its socket on the node; nothing, while it does not listen."""
        socket = self.node.path("/run/exeat/agent.sock")
        if trouble_at(socket):
            return []
        with connect(socket) as agent:
            return [one.name for one in agent.list_workloads(ListWorkloadsRequest()).workloads]

    def container(self, name: str, namespace: str, **labels: str) -> CriContainer:
        """One of a pod of somebody's, with a way to the hosts."""
        pod = self.cri.pod(name, namespace, labels)
        container_wire.connect(self.bed, pod.pid)
        container = pod.run(IMAGE, tools=True)
        furnish(container)
        return container


@contextlib.contextmanager
def open_stage(images: Mapping[str, Path], root: Path) -> Iterator[Stage]:
    """The node, with the images loaded and no pod."""
    with Bed() as bed:
        shop = bed.add("shop", Tls(names=("a.shop.test",)), Tcp(7))
        evil = bed.add("evil", Tls(names=("a.evil.test",)), Tcp(7))
        zone = {"a.shop.test": shop.addresses, "a.evil.test": evil.addresses}
        resolver = bed.add("resolver", Dns(zone))
        with _containerd_of(bed, root / "sys/fs/bpf") as cri:
            for image in images.values():
                cri.load(image)
            cri.image(IMAGE)
            yield Stage(bed, cri, Node(root, (Path("/sys/fs/cgroup"), cri.daemon.directory)), shop, evil, resolver)


@contextlib.contextmanager
def _containerd_of(bed: Bed, bpf: Path) -> Iterator[Containerd]:
    """Its node's network is that of the bed's client."""
    bpf.mkdir(parents=True)
    programs = bpf.parents[2] / "programs"
    programs.mkdir()
    (programs / "containerd").write_text(_CONTAINERD.format(bpf=bpf, network=bed.network.client.path))
    (programs / "containerd").chmod(0o755)
    with contextlib.ExitStack() as opening:
        with mock.patch.dict(os.environ, PATH=f"{programs}:{os.environ['PATH']}"):
            cri = opening.enter_context(containerd_daemon())
        yield cri
