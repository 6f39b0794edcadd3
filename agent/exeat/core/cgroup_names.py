"""What a cgroup's path tells: whether it is a container's own, of which pod, in which systemd unit.

    name_of("/system.slice/docker-<64 hex digits>.scope")    container_id, runtime "docker"
    name_of("/kubepods/burstable/pod<uid>/<64 hex digits>")  container_id, pod_uid
    name_of("/system.slice/nginx.service/workers")           unit "nginx.service"

A path is a claim: whoever may make cgroups below one may give them any name. So the way is read from the root, and ends
at the first container: what is below has names of its inhabitants' choosing, and so has a container's look-alike below
a unit that was delegated to a user (`runtimes/owner.py` tells). What the container really is says its runtime.
"""

import re
from dataclasses import dataclass

# Who calls them so: Docker and Podman (libpod; -payload: `--cgroups=split`, as Quadlet has it), containerd's CRI
# plug-in and CRI-O, each with `.scope` where systemd makes the cgroup; the bare id where they make it themselves.
_CONTAINER = re.compile(r"(?:(?P<maker>[a-z]+(?:-[a-z]+)*)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?")
_MAKERS = {
    "docker": "docker", "libpod": "podman", "libpod-payload": "podman", "cri-containerd": "cri", "crio": "cri",
}  # fmt: skip
_PARENTS = {"docker": "docker", "libpod_parent": "podman", "k8s.io": "cri"}  # of the bare ids
# Not containers, though they bear a container's id: `libpod-conmon-`, `crio-conmon-` are those who watch them.
_WATCHER = "conmon"
# The kubelet: `pod<uid>`, with underscores in slices; a static pod's uid is a hash.
_POD = re.compile(
    r"(?:[a-z0-9-]+-)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?"
)
_KUBEPODS = "kubepods"
_UNIT = re.compile(r".+\.(?:service|scope|socket|mount|swap)")
_SLICE = ".slice"


@dataclass(frozen=True, slots=True)
class CgroupName:
    """What is said of one cgroup. Empty: nothing."""

    container_id: str = ""  # it is this container's own cgroup, not one below
    runtime: str = ""  # docker, podman or cri, where the name tells; else any of them may know it
    pod_uid: str = ""  # of the pod that it belongs to
    unit: str = ""  # systemd's, the outermost; not the scope that is a container's own


def name_of(path: str) -> CgroupName:
    """Reads a path of the hierarchy ("/" is its root), or one that begins outside (`/../..`)."""
    segments = [segment for segment in path.split("/") if segment not in ("", ".", "..")]
    unit = pod_uid = ""
    is_systemds = True  # so far
    for depth, segment in enumerate(segments):
        if found := _container(segment):
            if depth != len(segments) - 1:
                return CgroupName(pod_uid=pod_uid, unit=unit)
            parent = segments[depth - 1] if depth else ""
            maker = found["maker"]
            runtime = _MAKERS.get(maker, "") if maker else _PARENTS.get(parent, "")
            return CgroupName(found["id"], runtime, pod_uid, unit)
        if not pod_uid and (pod := _POD.fullmatch(segment)) and any(_KUBEPODS in s for s in segments[: depth + 1]):
            pod_uid = pod["uid"].replace("_", "-")
        if is_systemds and not segment.endswith(_SLICE):
            # systemd's own reading (cg_path_get_unit): slices, then one unit; the rest is the unit's business.
            is_systemds = False
            unit = segment if _UNIT.fullmatch(segment) else ""
    return CgroupName(pod_uid=pod_uid, unit=unit)


def _container(segment: str) -> re.Match[str] | None:
    found = _CONTAINER.fullmatch(segment)
    return None if found and (found["maker"] or "").endswith(_WATCHER) else found
