"""A policy's `subject` section: which workloads it is for."""

from collections.abc import Callable
from dataclasses import dataclass

from exeat.core.image_text import why_no_image
from exeat.core.interface_text import why_no_interface
from exeat.core.problems import Problems, shown
from exeat.core.yaml_fields import Fields, read_list, read_text
from exeat.core.yaml_nodes import Mapping
from exeat.model.policy import Pods, Subject

SESSION_KEYS = ("session", "user", "tool", "run")
_WORKLOADS = ("cgroups", "interfaces", "images", "pods", "labels", "session")
_FIELDS = (*_WORKLOADS, "nodes")
_KEY_MAX, _VALUE_MAX = 317, 253  # a label of Kubernetes: a prefix of 253, a slash, a name of 63

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SubjectReader:
    """Reads the `subject` section of one policy."""

    problems: Problems

    def read(self, spec: Fields) -> Subject:
        """The subject; empty where there is none."""
        subject = spec.mapping(spec.get("subject"), "`subject`", _FIELDS)
        if subject is None:
            return Subject()
        if not any(name in subject for name in _WORKLOADS):
            where = " of these nodes" if "nodes" in subject else ""
            self.problems.add(
                spec.line_of("subject"),
                f"`subject` could mean nobody or everybody{where}: write one of {', '.join(_WORKLOADS)}, "
                "or leave it out",
            )
        return Subject(
            cgroups=self._patterns(subject, "cgroups", _why_no_cgroup),
            interfaces=self._patterns(subject, "interfaces", why_no_interface),
            images=self._patterns(subject, "images", why_no_image),
            pods=self._pods(subject),
            labels=self._pairs(subject, "labels"),
            session=self._session(subject),
            nodes=self._pairs(subject, "nodes"),
        )

    def _pods(self, subject: Fields) -> Pods | None:
        pods = subject.mapping(subject.get("pods"), "`pods`", ("namespace", "matchLabels"))
        if pods is None:
            return None
        read = Pods(
            read_text(pods.get("namespace"), "`namespace`", self.problems, 63) or "",
            self._pairs(pods, "matchLabels"),
        )
        if not any(name in pods for name in ("namespace", "matchLabels")):
            self.problems.add(
                subject.line_of("pods"),
                "`pods` could mean all pods or none: write `namespace`, `matchLabels` or both, as in "
                "`pods: {namespace: ml, matchLabels: {app: coder}}`",
            )
        return read

    def _session(self, subject: Fields) -> Pairs:
        fields = subject.mapping(subject.get("session"), "`session`", SESSION_KEYS)
        return () if fields is None else self._pairs(subject, "session")

    def _pairs(self, fields: Fields, name: str) -> Pairs:
        read = read_pairs(fields, name, self.problems)
        node = fields.get(name)
        if isinstance(node, Mapping) and not node.fields:  # all of nothing is everything
            self.problems.add(node.line, f"`{name}` is empty: write what must be equal, or leave it out")
        return read

    def _patterns(self, subject: Fields, name: str, why_bad: Callable[[str], str | None]) -> tuple[str, ...]:
        patterns = []
        for node in read_list(subject.get(name), f"`{name}`", self.problems):
            pattern = read_text(node, f"an entry of `{name}`", self.problems)
            if pattern is None:
                continue
            if why := why_bad(pattern):
                self.problems.add(node.line, why)
            patterns.append(pattern)
        return tuple(dict.fromkeys(patterns))


def read_pairs(fields: Fields, name: str, problems: Problems) -> Pairs:
    """Labels and their values."""
    node = fields.get(name)
    if node is None:
        return ()
    if not isinstance(node, Mapping):
        problems.add(node.line, f"`{name}` is no mapping: write `{name}: {{label: value}}`")
        return ()
    pairs = []
    for label, field in node.fields.items():
        key = read_text(field.key, "a label's name", problems, _KEY_MAX)
        value = read_text(field.node, f"the label {shown(label)}", problems, _VALUE_MAX)
        if key is not None and value is not None:
            pairs.append((key, value))
    return tuple(pairs)


def _why_no_cgroup(pattern: str) -> str | None:
    parts = pattern.split("/")
    if parts[0] or (pattern != "/" and any(part in ("", ".", "..") for part in parts[1:])):
        return (
            f"{shown(pattern)} is no cgroup: write its path below /sys/fs/cgroup, from a slash on, "
            "as in `/agents.slice/coder-*.scope`"
        )
    return None
