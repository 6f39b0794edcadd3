"""A real containerd, asked over CRI who is in a pod's or a container's cgroup."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bed.containerd import Containerd, CriPod, containerd_daemon, missing_containerd
from deploy.asked import assert_silence_is_an_error, find
from exeat.control.cri import CriRuntime
from exeat.core.cgroup_names import name_of
from exeat.core.runtime_words import WITHIN_S
from exeat.core.sandbox_labels import NAME_HASH, name_hash, sandbox_of
from exeat.model.identity import Identity, Pod
from exeat.runtimes.owner import is_made_by_root

TAG = "ghcr.io/acme/agent:1.0"
NOBODYS = "0" * 64
KNOWN_S = 20.0


@pytest.fixture(scope="module")
def cri() -> Iterator[Containerd]:
    """One daemon for the module."""
    if why := missing_containerd():
        pytest.skip(why)
    with containerd_daemon() as daemon:
        daemon.image(TAG, labels={"team": "images"})
        yield daemon


def ask(cri: Containerd, container_id: str) -> Identity | None:
    """Once."""
    return find(lambda: CriRuntime(cri.socket), container_id)


def pod_of(identity: Identity | None) -> Pod:
    """It has one."""
    assert identity
    assert identity.pod
    return identity.pod


def own(labels: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Without those of the kubelet."""
    return {key: value for key, value in labels if not key.startswith("io.kubernetes.")}


def test_a_container_is_told_with_its_image_its_labels_and_its_pod(cri: Containerd) -> None:
    """Labels of the image are not its own."""
    pod = cri.pod("coder-1", "ml", {"app": "coder", NAME_HASH: name_hash("coder-1")})
    container = pod.run(TAG, name="main", labels={"team": "ml"})
    identity = ask(cri, container.id)
    its = pod_of(identity)
    assert identity
    assert identity.container
    told = identity.container
    assert (told.runtime, told.id, told.name, told.image, told.images) == (
        "containerd",
        container.id,
        "main",
        TAG,
        (TAG,),
    )
    assert own(told.labels) == {"team": "ml"}
    assert dict(told.labels)["io.kubernetes.pod.name"] == "coder-1"
    assert (its.namespace, its.name, its.uid) == ("ml", "coder-1", pod.uid)
    assert own(its.labels)["app"] == "coder"
    assert sandbox_of(its) == "coder-1"


def test_a_pods_sandbox_is_the_pod_without_a_container(cri: Containerd) -> None:
    """And two pods of one name in two namespaces are two."""
    one, other = cri.pod("web", "ml"), cri.pod("web", "ops")
    identity = ask(cri, one.id)
    assert identity
    assert identity.container is None
    assert (pod_of(identity).namespace, pod_of(ask(cri, other.id)).namespace) == ("ml", "ops")
    assert sandbox_of(pod_of(identity)) == ""


def test_the_cgroups_of_a_pod_are_recognised(cri: Containerd) -> None:
    """The sandbox's, the container's, and that above both, which is no container's."""
    pod = cri.pod("cgroups")
    container = pod.run(TAG)
    for cgroup, container_id in ((pod.cgroup, pod.id), (container.cgroup, container.id), (pod.parent, "")):
        name = name_of(cgroup)
        assert (name.container_id, name.pod_uid) == (container_id, pod.uid)
        assert name.runtime in ("", "cri")
        assert is_made_by_root(cri.daemon.directory_of(cgroup))
    assert container.pid in map(int, (cri.daemon.directory_of(container.cgroup) / "cgroup.procs").read_text().split())


def test_a_container_that_is_started_again_is_another_of_the_same_name(cri: Containerd) -> None:
    """As a kubelet starts it: with a new id, in the same pod; the old one is known until it is removed."""
    pod = cri.pod("again", "ml")
    first = pod.run(TAG, name="main")
    first.kill()
    second = first.again()
    old, new = ask(cri, first.id), ask(cri, second.id)
    assert old
    assert new
    assert old.container
    assert new.container
    assert (new.container.id, new.container.name, pod_of(new)) == (second.id, old.container.name, pod_of(old))
    first.remove()
    assert ask(cri, first.id) is None
    assert ask(cri, second.id) == new


def test_who_was_removed_or_never_was_is_nobodys(cri: Containerd) -> None:
    """No error: another runtime may know it."""
    pod = cri.pod("removed")
    container = pod.run(TAG)
    assert ask(cri, pod.id)
    pod.remove()
    assert ask(cri, container.id) is None
    assert ask(cri, pod.id) is None
    assert ask(cri, NOBODYS) is None


def test_a_sandbox_is_nobodys_or_itself_from_its_first_moment(cri: Containerd) -> None:
    """Its cgroup is there before containerd lists it: who asks early is told nothing, and asks again."""
    made: list[CriPod] = []
    making = threading.Thread(target=lambda: made.append(cri.pod("early", "ml", {"app": "coder"})))
    above = cri.daemon.directory_of(f"{cri.daemon.cgroup}/kubepods/burstable")
    before = set(above.glob("pod*/*"))
    making.start()
    deadline = time.monotonic() + KNOWN_S
    while not (cgroups := [path for path in above.glob("pod*/*") if path.is_dir() and path not in before]):
        assert time.monotonic() < deadline, "no cgroup was made"
        time.sleep(0.002)
    while (identity := ask(cri, cgroups[0].name)) is None:
        assert time.monotonic() < deadline, "it never became known"
        time.sleep(0.01)
    making.join(KNOWN_S)
    assert made[0].id == cgroups[0].name
    assert (identity.container, pod_of(identity).name, own(pod_of(identity).labels)) == (
        None,
        "early",
        {"app": "coder"},
    )


def test_a_daemon_that_is_silent_is_an_error_in_bounded_time(cri: Containerd) -> None:
    """And it is asked again."""
    pod = cri.pod("silent")
    assert_silence_is_an_error(lambda: CriRuntime(cri.socket), cri.daemon.pid, pod.id, WITHIN_S)
