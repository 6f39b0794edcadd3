"""What a cgroup's path tells, in the forms that Docker, Podman, containerd, CRI-O, kubelets and systemd give it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.cgroup_names import CgroupName, name_of
from exeat.runtimes.owner import is_made_by_root

ID, OTHER = "4b" * 32, "0c" * 32
UID = "0f1e2d3c-1111-2222-3333-444455556666"
OTHER_UID = "1f1e2d3c-1111-2222-3333-444455556666"
SLICE_UID = UID.replace("-", "_")
STATIC_UID = "d41d8cd98f00b204e9800998ecf8427e"  # of a pod from a file: a hash
PODS = "/kubepods.slice/kubepods-burstable.slice"
QUADLET = f"/system.slice/web.service/libpod-payload-{ID}"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/docker/{ID}", CgroupName(ID, "docker")),
        (f"/some-parent/{ID}", CgroupName(ID)),
        (f"/{ID}", CgroupName(ID)),
        (f"/system.slice/docker-{ID}.scope", CgroupName(ID, "docker")),
        (f"/machine.slice/libpod-{ID}.scope", CgroupName(ID, "podman")),
        (f"/libpod_parent/libpod-{ID}", CgroupName(ID, "podman")),
        (f"/libpod_parent/{ID}", CgroupName(ID, "podman")),
        (QUADLET, CgroupName(ID, "podman", unit="web.service")),
        (f"/kubepods/burstable/pod{UID}/{ID}", CgroupName(ID, "", UID)),
        (f"/kubepods/pod{STATIC_UID}/{ID}", CgroupName(ID, "", STATIC_UID)),
        (f"{PODS}/kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope", CgroupName(ID, "cri", UID)),
        (f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-{ID}.scope", CgroupName(ID, "cri", UID)),
        (f"{PODS}/kubepods-burstable-pod{SLICE_UID}.slice/docker-{ID}.scope", CgroupName(ID, "docker", UID)),
        (f"/kubepods/besteffort/pod{UID}/crio-{ID}", CgroupName(ID, "cri", UID)),
        (f"/k8s.io/{ID}", CgroupName(ID, "cri")),
        (f"/system.slice/nerdctl-{ID}.scope", CgroupName(ID)),
        (f"/../../docker/{ID}", CgroupName(ID, "docker")),  # as an agent in a cgroup namespace reads it
    ],
)
def test_a_containers_own_cgroup_is_recognised(path: str, expected: CgroupName) -> None:
    """In each form that a runtime gives it."""
    assert name_of(path) == expected


@pytest.mark.parametrize("below", ["/container", "/init.scope", "/system.slice/sshd.service", f"/docker/{OTHER}"])
@pytest.mark.parametrize("container", [f"/docker/{ID}", f"/machine.slice/libpod-{ID}.scope", QUADLET])
def test_what_is_below_a_container_is_no_container_and_no_unit(container: str, below: str) -> None:
    """Its inhabitants choose the names there: only what stands above counts."""
    assert name_of(container + below) == CgroupName(unit=name_of(container).unit)


def test_in_a_node_that_is_a_container_the_node_is_the_container() -> None:
    """As kind makes nodes: the pods in it are the node's own affair."""
    node = f"/docker/{ID}"
    assert name_of(f"{node}/kubelet/kubepods/pod{UID}/{OTHER}") == CgroupName()
    assert name_of(node).container_id == ID


@pytest.mark.parametrize(
    "path",
    [
        f"/machine.slice/libpod-conmon-{ID}.scope", f"/kubepods/crio-conmon-{ID}", f"/x/{ID[:-1]}", f"/x/{ID}0",
        f"/x/{ID.upper()}", f"/x/docker-{ID}.slice", f"/system.slice/{ID}.service", f"/x/{ID}.scope.d",
        "/x/docker-.scope",
        f"/machine.slice/machine-libpod_pod_{ID}.slice", f"/x/{ID}\n", f"/x/-{ID}", f"/x/a--b-{ID}.scope",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_container_is_none(path: str) -> None:
    """Its watchers bear its id, and so do timers for its health."""
    assert name_of(path).container_id == ""


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/nginx.service/workers/3", "nginx.service"),
        ("/system.slice/nginx.service/sshd.service", "nginx.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/sshd.service", "user@1000.service"),
        ("/user.slice/user-1000.slice/session-2.scope", "session-2.scope"),
        ("/init.scope", "init.scope"),
        ("/system.slice/docker.socket", "docker.socket"),
        ("/system.slice/home.mount", "home.mount"),
        ("/system.slice/dev-vda2.swap", "dev-vda2.swap"),
        ("/system.slice/nightly.timer", ""),
        ("/system.slice", ""),
        ("/mine/sshd.service", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_the_unit_is_the_one_that_systemd_made(path: str, unit: str) -> None:
    """Slices lead to it; below a unit, and below what is not systemd's, names are others'."""
    assert name_of(path) == CgroupName(unit=unit)


def test_a_pod_is_known_by_its_own_cgroup_only_below_the_kubelets() -> None:
    """Anybody may call a cgroup `pod...`."""
    assert name_of(f"/kubepods/besteffort/pod{UID}") == CgroupName(pod_uid=UID)
    assert name_of(f"{PODS}/kubepods-burstable-pod{SLICE_UID}.slice") == CgroupName(pod_uid=UID)
    assert name_of(f"/mine/pod{UID}/{ID}") == CgroupName(ID)
    assert name_of(f"/mine/pod{UID}/kubepods/{ID}") == CgroupName(ID)


def test_the_pod_is_the_one_that_the_kubelet_made() -> None:
    """What is below it, its inhabitants may call like another's."""
    assert name_of(f"/kubepods/pod{UID}/pod{OTHER_UID}/{ID}") == CgroupName(ID, pod_uid=UID)
    assert name_of(f"/kubepods/pod{OTHER_UID}/{ID}") == CgroupName(ID, pod_uid=OTHER_UID)


@given(st.lists(st.sampled_from(["docker", f"docker-{ID}.scope", ID, "..", "a.slice", "b.service", "", f"pod{UID}"])))
def test_a_container_is_found_at_most_at_the_end_and_only_the_first(segments: list[str]) -> None:
    """Whatever the path is made of."""
    named = [at for at, segment in enumerate(segments) if ID in segment]
    real = [at for at, segment in enumerate(segments) if segment not in ("", "..")]
    is_its_own = bool(named) and named[0] == real[-1]
    assert (name_of("/" + "/".join(segments)).container_id == ID) is is_its_own


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757], ids=oct)
def test_a_cgroup_beside_which_a_user_may_make_another_is_not_roots(tmp_path: Path, mode: int) -> None:
    """A user with a delegated tree could call a cgroup like a privileged container."""
    roots, users, others = tmp_path / "root", tmp_path / "user", tmp_path / "others"
    for parent in (roots, users, others):
        (parent / ID).mkdir(parents=True)
        os.chown(parent / ID, 65534, 65534)  # the container's own may be its user's
    os.chown(users, 65534, 65534)
    roots.chmod(0o755)
    others.chmod(mode)
    assert is_made_by_root(roots / ID)
    assert not is_made_by_root(users / ID)
    assert not is_made_by_root(others / ID)
    assert not is_made_by_root(tmp_path / "gone" / ID)
