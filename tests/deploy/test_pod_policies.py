"""Real pods of containerd under policies by namespace and label: each container is a workload in the pod's namespace.

Verdicts, workloads and metrics tell pod, namespace and uid; a kubelet's restart, a silent runtime and a new agent
change nothing of what is judged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bed import run_in
from bed.container_wire import connect
from bed.containerd import Containerd, CriContainer, CriPod, containerd_daemon, missing_containerd
from deploy.container_stage import (
    IMAGE,
    OTHER,
    Door,
    fresh,
    furnish,
    has_tools,
    knock,
    knock_from,
    open_container_stage,
    policy_for,
    reach,
    session_file,
    soon,
    verdicts_of,
)
from deploy.container_stage import (
    views as every_view,
)
from e2e.agent_stage import AgentStage
from exeat.core.sandbox_labels import NAME_HASH, name_hash

KNOWN_S = 3.0  # from a container's cgroup to its policy, beside other tests; 30 ms where nothing else is done
_TRIES = 3  # the machine may have something else to do


@pytest.fixture(scope="module")
def cri() -> Iterator[Containerd]:
    """One daemon, two images."""
    if missing := missing_containerd() or has_tools():
        pytest.skip(missing)
    with containerd_daemon() as cri:
        cri.image(IMAGE)
        cri.image(OTHER)
        yield cri


@pytest.fixture(scope="module")
def opened(cri: Containerd) -> Iterator[tuple[AgentStage, Door]]:
    """One agent, which knows containerd; a policy for pods, one for an image inside of them, one for a session."""
    with open_container_stage("cri", cri.socket) as (stage, door):
        pods = "pods: {namespace: ml, matchLabels: {app: coder}}"
        stage.write("coder", policy_for(stage, pods))
        other = 'pods: {namespace: ml}, images: ["ghcr.io/acme/other"]'
        stage.write("other", policy_for(stage, other, "b.shop.test", name="other"))
        stage.write("alice", policy_for(stage, "session: {user: alice}", "b.shop.test", name="alice"))
        stage.start()
        yield stage, door


@pytest.fixture
def stage(opened: tuple[AgentStage, Door]) -> AgentStage:
    """Fresh."""
    return fresh(opened[0])


@pytest.fixture
def pods(cri: Containerd, stage: AgentStage) -> Iterator[Pods]:
    """They go after the test."""
    pods = Pods(cri, stage)
    yield pods
    for pod in pods.made:
        pod.remove()


class Pods:
    """Pods with a way to the hosts."""

    def __init__(self, cri: Containerd, stage: AgentStage) -> None:
        self.made: list[CriPod] = []
        self._cri = cri
        self._stage = stage

    def __call__(self, name: str, namespace: str = "ml", **labels: str) -> CriPod:
        """One more."""
        pod = self._cri.pod(name, namespace, labels)
        self.made.append(pod)
        connect(self._stage.bed, pod.pid)
        return pod


def started(pod: CriPod, name: str = "main", image: str = IMAGE) -> CriContainer:
    """A container that asks for names as it should."""
    container = pod.run(image, name=name, tools=True)
    furnish(container)
    return container


def views(stage: AgentStage) -> dict[str, dict[str, Any]]:
    """Those of the workloads that are pods, by name."""
    return {name: view for name, view in every_view(stage).items() if name.startswith("pod/")}


def known(stage: AgentStage, *names: str) -> None:
    """Waits until these are workloads."""
    soon(lambda: set(names) <= views(stage).keys())


def test_a_policy_by_pod_is_enforced_for_each_container_in_the_pods_namespace(
    cri: Containerd, stage: AgentStage, pods: Pods
) -> None:
    """Names through gates that stand side by side; the neighbours by label and by namespace are free."""
    coder = pods("coder-1", app="coder")
    main, side = started(coder), started(coder, "side", OTHER)
    sandbox = cri.daemon.directory_of(coder.cgroup)  # its process itself does nothing
    stranger = started(pods("stranger", app="other"))
    abroad = started(pods("coder-1", "prod", app="coder"))
    known(stage, "pod/ml/coder-1/main", "pod/ml/coder-1/side", "pod/ml/coder-1")
    assert reach(main, "a.shop.test") == "a.shop.test"
    assert reach(main, "b.shop.test") == "curl 6"  # no such name, for it
    assert reach(side, "b.shop.test") == "b.shop.test"  # of the same namespace, by the policy for its image
    assert reach(main, "a.evil.test") == reach(side, "a.evil.test") == "curl 6"
    assert knock(main, stage.shop) == "shop"
    assert knock(main, stage.evil) == knock(side, stage.evil) == "EPERM"
    assert knock_from(sandbox, coder.pid, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    assert knock_from(sandbox, coder.pid, stage.shop) == "shop"
    assert knock(stranger, stage.evil) == knock(abroad, stage.evil) == "evil"  # the same way, without a policy
    assert set(views(stage)) == {"pod/ml/coder-1", "pod/ml/coder-1/main", "pod/ml/coder-1/side"}


def test_pod_and_namespace_are_told_everywhere(stage: AgentStage, pods: Pods) -> None:
    """In verdicts, in `exeat workloads`, in the metrics; an agent-sandbox by its name."""
    coder = pods("sand-1", app="coder", **{NAME_HASH: name_hash("sand-1")})
    main = started(coder)
    known(stage, "pod/ml/sand-1/main")
    view = views(stage)["pod/ml/sand-1/main"]
    its = {"namespace": "ml", "pod": "sand-1", "pod_uid": coder.uid, "container": "main", "sandbox": "sand-1"}
    assert its.items() <= view["who"].items()
    assert view["policies"] == ["coder"]
    assert view["labels"]["app"] == "coder"

    assert knock(main, stage.evil) == "EPERM"
    soon(lambda: verdicts_of(stage, pod="sand-1"))
    who = verdicts_of(stage, pod="sand-1")[-1]["who"]
    assert (who["name"], who["namespace"], who["pod_uid"]) == ("pod/ml/sand-1/main", "ml", coder.uid)
    assert (who["container"], who["container_id"], who["image"]) == ("main", main.id, IMAGE)
    assert (who["sandbox"], who["labels"]["app"]) == ("sand-1", "coder")
    shown = stage.exeat("workloads", "pod/ml/sand-1/main").stdout
    assert f"ml/sand-1 ({coder.uid})" in shown
    page = run_in(stage.bed, ["curl", "-s", "http://127.0.0.1:9469/metrics/workloads"]).stdout
    info = next(line for line in page.splitlines() if "exeat_workload_info" in line and "sand-1/main" in line)
    for label in ('namespace="ml"', 'pod="sand-1"', 'container="main"', 'sandbox="sand-1"', f'image="{IMAGE}"'):
        assert label in info
    assert knock(main, stage.shop) == "shop"
    assert stage.evil.count().connections == 0


def test_a_session_is_set_for_a_pod_by_its_uid(stage: AgentStage, pods: Pods) -> None:
    """For one of its containers, which is allowed more by it; no container of another pod takes the token."""
    pod, other = pods("signed-for", app="coder"), pods("not-signed-for", app="coder")
    mine, others = started(pod), started(other)
    known(stage, "pod/ml/signed-for/main", "pod/ml/not-signed-for/main")
    assert reach(mine, "b.shop.test") == "curl 6"
    token = session_file(stage, pod.uid)
    refused = stage.exeat("session", "set", "pod/ml/not-signed-for/main", "--token-file", token, check=False)
    assert refused.returncode != 0
    assert "the token is for workload" in refused.stderr
    stage.exeat("session", "set", "pod/ml/signed-for/main", "--token-file", token)
    view = views(stage)["pod/ml/signed-for/main"]
    assert (sorted(view["policies"]), view["who"]["user"]) == (["alice", "coder"], "alice")
    assert reach(mine, "b.shop.test") == "b.shop.test"
    assert reach(others, "b.shop.test") == "curl 6"
    assert knock(mine, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0


def test_an_image_by_its_digest_is_that_one_and_no_other(cri: Containerd, stage: AgentStage, pods: Pods) -> None:
    """Under whichever name it runs; another one of the same name is free."""
    cri.image("ghcr.io/acme/pinned:1")
    cri.image("ghcr.io/acme/pinned:2", {"made": "later"})
    pinned = cri.digest_of("ghcr.io/acme/pinned:1")
    file = stage.write("pinned", policy_for(stage, f'images: ["{pinned}"]', name="pinned"))
    try:
        one = started(pods("pinned", "ops"), image="ghcr.io/acme/pinned:1")
        other = started(pods("not-pinned", "ops"), image="ghcr.io/acme/pinned:2")
        soon(lambda: list(views(stage)) == ["pod/ops/pinned/main"])
        assert views(stage)["pod/ops/pinned/main"]["policies"] == ["pinned"]
        assert knock(one, stage.shop) == "shop"
        assert knock(one, stage.evil) == "EPERM"
        assert stage.evil.count().connections == 0
        assert knock(other, stage.evil) == "evil"
    finally:
        file.unlink()


def test_a_container_that_a_kubelet_starts_again_is_judged_under_its_new_id(stage: AgentStage, pods: Pods) -> None:
    """The old one is no workload any more; the name is the same."""
    first = started(pods("again", app="coder"))
    name = "pod/ml/again/main"
    known(stage, name)
    before = views(stage)[name]["id"]
    first.kill()
    soon(lambda: name not in views(stage))
    second = first.again()
    furnish(second)
    known(stage, name)
    assert second.id != first.id
    view = views(stage)[name]
    assert view["id"] != before
    assert view["who"]["container_id"] == second.id
    assert reach(second, "a.shop.test") == "a.shop.test"
    assert knock(second, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0


def test_a_pod_of_which_containerd_has_not_told_yet_is_denied_everything(
    stage: AgentStage, pods: Pods, door: Door
) -> None:
    """Then each falls under its own policy, or under none."""
    door.shut()
    late = started(pods("late", app="coder"))
    foreign = started(pods("late-foreign", app="other"))
    assert knock(late, stage.shop) == knock(foreign, stage.shop) == "EPERM"
    assert reach(late, "a.shop.test").startswith("curl")
    assert stage.shop.count().connections == 0
    door.open()
    known(stage, "pod/ml/late/main")
    assert reach(late, "a.shop.test") == "a.shop.test"
    assert knock(late, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    soon(lambda: knock(foreign, stage.evil) == "evil")


def test_a_new_agent_knows_its_pods_though_containerd_is_silent(stage: AgentStage, pods: Pods, door: Door) -> None:
    """In between the kernel judges on."""
    kept = started(pods("kept", app="coder"))
    known(stage, "pod/ml/kept/main", "pod/ml/kept")
    door.shut()
    stage.kill()
    assert knock(kept, stage.evil) == "EPERM"
    assert knock(kept, stage.shop) == "shop"
    stage.start()
    assert views(stage)["pod/ml/kept/main"]["policies"] == ["coder"]
    assert reach(kept, "a.shop.test") == "a.shop.test"
    assert knock(kept, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0


def test_a_container_is_under_its_policy_soon_after_its_cgroup_was_made(
    cri: Containerd, stage: AgentStage, pods: Pods
) -> None:
    """Until then it is denied everything, which is no time to spend long in."""
    pod = pods("quick", app="coder")
    took: list[float] = []
    for number in range(_TRIES):
        born: list[float] = []
        parent = cri.daemon.directory_of(pod.parent)
        watching = threading.Thread(target=_note_birth, args=(parent, set(parent.iterdir()), born))
        watching.start()
        name = f"pod/ml/quick/c{number}"
        pod.run(IMAGE, name=f"c{number}")
        known(stage, name)
        watching.join(20)
        since = datetime.fromisoformat(views(stage)[name]["since"])
        took.append(since.timestamp() - born[0])
    print(f"from a cgroup to its policy: {', '.join(f'{one * 1000:.0f} ms' for one in took)}")
    assert min(took) < KNOWN_S


def _note_birth(parent: Path, before: set[Path], born: list[float]) -> None:
    deadline = time.monotonic() + 15
    while not {path for path in parent.iterdir() if path.is_dir()} - before:
        if time.monotonic() > deadline:
            return
        time.sleep(0.002)
    born.append(time.time())
