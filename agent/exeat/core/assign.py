"""Which policies a workload falls under: what a policy's `subject` says against what is known of the workload.

Every kind that a subject gives must match: `cgroups`, `interfaces`, `images`, `pods`, `labels`, `session` and `nodes`.
Several cgroups, interfaces or images are alternatives; of labels, of a session's words, and of the node's labels, all
must be there and equal. A subject that names no workload matches nobody: such a policy is selected by its name only.

A cgroup pattern is matched segment by segment, so that no `*` crosses a slash: `/agents.slice/coder-*.scope` is a
`coder-1.scope` right below `agents.slice`, and neither one deeper nor the cgroups inside it. The cgroup that matched is
the workload, with everything below. Labels are known of workloads that were registered with some, and of containers
and pods.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from exeat.core.globs import Globs, is_match
from exeat.core.image_text import is_image_match
from exeat.model.identity import Pod, Session
from exeat.model.policy import Pods, Policy, Subject


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of something that may be a workload; empty is what it has not."""

    cgroup: str = ""  # its path in the hierarchy, `/agents.slice/coder-1.scope`
    interface: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    node_labels: Mapping[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()  # every name of its container's
    pod: Pod | None = None
    session: Session | None = None


def matches(subject: Subject, candidate: Candidate) -> bool:
    """Whether a policy with this subject is for the candidate."""
    if not subject.names_workloads:
        return False
    cgroup, interface = candidate.cgroup, candidate.interface
    if subject.cgroups and not any(is_cgroup_match(pattern, cgroup) for pattern in subject.cgroups):
        return False
    if subject.interfaces and not (interface and any(is_match(pattern, interface) for pattern in subject.interfaces)):
        return False
    if subject.images and not any(is_image_match(pattern, candidate.images) for pattern in subject.images):
        return False
    if subject.pods and not (candidate.pod and _is_pod_match(subject.pods, candidate.pod)):
        return False
    if subject.session and not (candidate.session and _is_session_match(subject.session, candidate.session)):
        return False
    return all(candidate.labels.get(name) == value for name, value in subject.labels) and is_for_node(
        subject, candidate.node_labels
    )


def _is_pod_match(pods: Pods, pod: Pod) -> bool:
    is_there = not pods.namespace or pods.namespace == pod.namespace
    return is_there and set(pods.labels) <= set(pod.labels)


def _is_session_match(wanted: tuple[tuple[str, str], ...], session: Session) -> bool:
    return all(getattr(session, key) == value for key, value in wanted)


def is_for_node(subject: Subject, node_labels: Mapping[str, str]) -> bool:
    """Whether a policy with this subject may be for workloads of a node with these labels."""
    return all(node_labels.get(name) == value for name, value in subject.nodes)


def is_cgroup_match(pattern: str, cgroup: str) -> bool:
    """Whether a pattern covers a cgroup's path, each segment its own. The root has none: only `/` covers it."""
    globs, segments = _segments(pattern), _segments(cgroup)
    return bool(cgroup) and len(globs) == len(segments) and all(map(is_match, globs, segments))


class _Directory:
    """A place in the tree of all cgroup patterns."""

    def __init__(self) -> None:
        self.below: Globs[_Directory] = Globs()
        self.policies: list[Policy] = []


class Roster:
    """Every policy that has a subject, arranged for finding: hundreds of policies, ten thousands of cgroups."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._root = _Directory()
        self._interfaces: Globs[list[Policy]] = Globs()
        self._labels: dict[tuple[str, str], list[Policy]] = {}
        self._by_who: list[Policy] = []  # for images, pods and sessions: few have one
        for policy in sorted(policies, key=lambda one: one.name):
            self._add(policy)

    def policies_of(self, candidate: Candidate) -> tuple[Policy, ...]:
        """The policies that match a candidate, by name."""
        found = {policy.name: policy for policy in self._near(candidate) if matches(policy.subject, candidate)}
        return tuple(found[name] for name in sorted(found))

    def _add(self, policy: Policy) -> None:
        subject = policy.subject
        if subject.cgroups:
            for pattern in subject.cgroups:
                self._directory(pattern).policies.append(policy)
        elif subject.interfaces:
            for pattern in subject.interfaces:
                self._interfaces.setdefault(pattern, []).append(policy)
        elif subject.labels:
            self._labels.setdefault(subject.labels[0], []).append(policy)
        else:
            self._by_who.append(policy)

    def _directory(self, pattern: str) -> _Directory:
        directory = self._root
        for segment in _segments(pattern):
            directory = directory.below.setdefault(segment, _Directory())
        return directory

    def _near(self, candidate: Candidate) -> Iterator[Policy]:
        """The policies of which one kind matches: all that can, and few others."""
        if candidate.cgroup:
            for directory in self._at(candidate.cgroup):
                yield from directory.policies
        if candidate.interface:
            for policies in self._interfaces.covering(candidate.interface):
                yield from policies
        for label in candidate.labels.items():
            yield from self._labels.get(label, ())
        if candidate.images or candidate.pod or candidate.session:
            yield from self._by_who

    def _at(self, cgroup: str) -> list[_Directory]:
        """Every place of the tree to which a path leads."""
        directories = [self._root]
        for segment in _segments(cgroup):
            directories = [found for directory in directories for found in directory.below.covering(segment)]
        return directories


def _segments(path: str) -> list[str]:
    return [] if path == "/" else path.split("/")[1:]
