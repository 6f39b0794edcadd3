"""What people call a workload: its container and pod, for whom it works, and what of that a verdict carries."""

from dataclasses import dataclass

Labels = tuple[tuple[str, str], ...]  # by name


@dataclass(frozen=True, slots=True)
class Container:
    """As its runtime tells it."""

    runtime: str  # docker, podman, containerd, cri-o
    id: str
    name: str
    image: str  # as it was asked for
    images: tuple[str, ...] = ()  # every name that the image has, digests too
    labels: Labels = ()
    doubtful: Labels = ()  # that the image brings too: nobody can tell who meant them


@dataclass(frozen=True, slots=True)
class Pod:
    """Of Kubernetes."""

    namespace: str
    name: str
    uid: str
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is in a container's cgroup. Without a container: it is the sandbox that holds the pod's namespaces."""

    container: Container | None = None
    pod: Pod | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """For whom a workload works, by the signed word of its orchestrator."""

    session: str
    user: str = ""
    tool: str = ""
    run: str = ""
    until_ns: int = 0  # wall clock


@dataclass(frozen=True, slots=True)
class Who:
    """What a verdict carries of its workload's names. Twin: Who in proto/exeat/v1/verdict.proto. Empty: it has none."""

    name: str = ""  # as it was registered, or of its container: docker/NAME, pod/NAMESPACE/POD/CONTAINER
    unit: str = ""  # systemd's
    container: str = ""
    container_id: str = ""
    image: str = ""
    namespace: str = ""  # the pod's
    pod: str = ""
    pod_uid: str = ""
    sandbox: str = ""  # agent-sandbox's
    session: str = ""
    user: str = ""
    tool: str = ""
    run: str = ""
    labels: Labels = ()  # some of them: WHO_LABELS_MAX
