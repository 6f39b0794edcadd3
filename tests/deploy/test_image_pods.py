"""The images under exactly what the chart says of their pods, on a node with other pods: they do their job.

Enforcement outlives the agent's container, and the next one takes over. No API server and no kubelet can be had here:
image_pod.py reads the manifest and asks containerd for it over CRI, as kubelet does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from bed import run_in
from bed.containerd import CriContainer
from deploy.container_stage import knock, reach, soon
from deploy.image_fixtures import images_of
from deploy.image_pod import NODE_NAME, RunningPod, capabilities_of, listed, volume_directory, write_files
from deploy.image_stage import READY_S, Stage, open_stage
from e2e.agent_stage import EXEAT
from exeat.kernel.filesystems import levels_above, mount_point

# Building takes minutes on a machine that has other things to do, and counts as the first test's.
pytestmark = pytest.mark.timeout(1500)
CODER = "pod/ml/coder-1/main"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A node with the agent's pod."""
    mount = mount_point("cgroup2")
    if mount is None or levels_above(mount) != 0:
        pytest.skip("an agent's pod judges all cgroups of its machine, and these tests see a part of them: a namespace")
    with open_stage(images_of(tmp_path_factory), tmp_path_factory.mktemp("node")) as stage:
        yield stage


@pytest.fixture(scope="module")
def pods(stage: Stage) -> list[RunningPod]:
    """The agent's, the newest last."""
    pod = stage.start()
    soon(lambda: stage.is_ready(pod), READY_S)
    return [pod]


@pytest.fixture(scope="module")
def coder(stage: Stage, pods: list[RunningPod]) -> CriContainer:
    """A container of a pod that a policy names."""
    container = stage.container("coder-1", "ml", app="coder")
    soon(lambda: CODER in stage.workloads(), READY_S)
    return container


def workloads(pod: RunningPod) -> list[str]:
    """What the agent judges."""
    done = pod.exec("exeat", "workloads", "-o", "json")
    assert done.returncode == 0, done
    return [one["name"] for one in json.loads(done.stdout).get("workloads", ())]


def denied(stage: Stage, coder: CriContainer) -> None:
    """By name and by address, and nothing of it reached the other side."""
    stage.evil.reset()
    assert reach(coder, "a.evil.test") == "curl 6"
    assert knock(coder, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0


def test_the_container_has_the_manifests_rights_and_no_others(stage: Stage, pods: list[RunningPod]) -> None:
    """As the kernel has them; its root file system and the cgroups are read-only."""
    (manifest,) = stage.objects().one("DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert capabilities_of(pods[-1].pid) == {*manifest["securityContext"]["capabilities"]["add"]}
    assert "Read-only file system" in pods[-1].exec("touch", "/opt/agent/x").stderr
    assert pods[-1].exec("sh", "-c", "rm /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/x").returncode != 0
    for kind in ("net", "pid"):
        assert os.readlink(f"/proc/{pods[-1].pid}/ns/{kind}") == os.readlink(f"/proc/{stage.cri.daemon.pid}/ns/{kind}")
    assert os.readlink(f"/proc/{pods[-1].pid}/ns/mnt") != os.readlink(f"/proc/{stage.cri.daemon.pid}/ns/mnt")


def test_a_neighbours_connections_are_denied_and_allowed(
    stage: Stage, pods: list[RunningPod], coder: CriContainer
) -> None:
    """Each denial beside an allowed twin; the servers counted; verdicts carry the names."""
    neighbour = stage.container("neighbour", "ml", app="other")
    assert reach(coder, "a.shop.test") == "a.shop.test"
    assert knock(coder, stage.shop) == "shop"
    denied(stage, coder)
    assert knock(neighbour, stage.evil) == "evil"  # the same way, without a policy
    shown = pods[-1].exec("exeat", "verdicts", "--since", "10m", "--verdict", "DROPPED", "-o", "json").stdout
    assert {one["who"]["pod"] for one in listed(shown)} == {"coder-1"}
    assert not [name for name in workloads(pods[-1]) if "exeat" in name or "neighbour" in name]
    neighbour.pod.remove()


def test_a_change_of_the_config_map_is_in_force_at_once(
    stage: Stage, pods: list[RunningPod], coder: CriContainer
) -> None:
    """Kubelet changes one link of three; the agent sees it."""
    volume = volume_directory(stage.node, "exeat-agent", "policies")
    assert knock(coder, stage.shop) == "shop"
    write_files(volume, {"coder.yaml": stage.policy(9).encode()})
    soon(lambda: knock(coder, stage.shop) == "EPERM")
    write_files(volume, {"coder.yaml": stage.policy().encode()})
    soon(lambda: knock(coder, stage.shop) == "shop")
    denied(stage, coder)


def test_enforcement_outlives_the_container_and_the_next_one_takes_over(
    stage: Stage, pods: list[RunningPod], coder: CriContainer
) -> None:
    """What the kernel holds is in the node's file systems, not in the pod's."""
    pods[-1].kill()
    assert knock(coder, stage.shop) == "shop"
    stage.evil.reset()
    assert knock(coder, stage.evil) == "EPERM"
    assert reach(coder, "a.shop.test") != "a.shop.test"  # nobody resolves
    pods[-1].remove()
    assert knock(coder, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    pods.append(stage.start())
    soon(lambda: stage.is_ready(pods[-1]), READY_S)
    assert CODER in workloads(pods[-1])
    soon(lambda: reach(coder, "a.shop.test") == "a.shop.test")
    denied(stage, coder)
    log = pods[-1].exec("exeat", "audit", "verify", "/var/log/exeat")
    assert log.returncode == 0, log


def test_the_pods_of_plane_and_agent_find_each_other(stage: Stage, pods: list[RunningPod], coder: CriContainer) -> None:
    """By the script's certificates; what is applied at the plane is enforced, and the plane has no right of root's."""
    plane = stage.start("Deployment", plane=True)
    soon(lambda: stage.is_ready(plane, "Deployment"), READY_S)
    assert capabilities_of(plane.pid) == set()
    assert "uid=65532 gid=65532" in plane.exec("id").stdout
    assert plane.exec("touch", "/etc/exeat-signing/x").returncode != 0
    assert "Read-only file system" in plane.exec("touch", "/opt/plane/x").stderr
    added = plane.exec("exeat", "plane", "tokens", "add", "root", "--role=admin", "--config=/etc/exeat/plane.yaml")
    token = added.stdout.strip()
    (stage.node.root / "coder.yaml").write_text(stage.policy())
    plane_command(stage, token, "policies", "apply", str(stage.node.root / "coder.yaml"))

    pods[-1].remove()
    pods.append(stage.start(plane=True))  # without the policy in a file
    soon(lambda: stage.is_ready(pods[-1]), READY_S)
    soon(lambda: reach(coder, "a.shop.test") == "a.shop.test", READY_S)
    assert knock(coder, stage.shop) == "shop"
    denied(stage, coder)
    nodes = ("nodes", NODE_NAME, "-o", "json")
    soon(lambda: '"current"' in plane_command(stage, token, *nodes), READY_S)
    soon(lambda: "a.evil.test" in plane_command(stage, token, "denials", "-o", "json"), READY_S)
    plane.remove()
    denied(stage, coder)


def plane_command(stage: Stage, token: str, *words: str) -> str:
    """Somebody's, on the node."""
    access = ["--plane", "https://localhost:9471", "--ca", str(stage.node.root / "certificates/plane-ca.crt")]
    line = [*EXEAT, "plane", *words, *access]
    done = run_in(stage.bed, line, env={"EXEAT_PLANE_TOKEN": token})
    assert done.returncode == 0, done
    return done.stdout


def test_detach_takes_exeat_out_of_the_node(stage: Stage, pods: list[RunningPod], coder: CriContainer) -> None:
    """`agent.detach`: before an uninstall."""
    assert knock(coder, stage.evil) == "EPERM"
    pods[-1].remove()
    pods.append(stage.start(detach=True))
    soon(lambda: "detached agent" in pods[-1].said(), READY_S)
    assert knock(coder, stage.evil) == "evil"
    assert not (stage.node.root / "sys/fs/bpf/exeat").exists()
