"""Which policies a node is to have, and the manifest that tells it. Pure: time is an argument.

A policy is for every node, or for those whose labels are as its `subject.nodes` says. While a change is rolled out, the
chosen nodes have the new revision and the others the one before, or none. Which are chosen is core.rollout's matter:
with few nodes, a small share may be nobody.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exeat.core.assign import is_for_node
from exeat.core.rollout import is_chosen
from exeat.model.policy import Subject
from exeat.v1 import plane_pb2

VALID_NS = 7 * 86_400 * 1_000_000_000
_MS = 1_000_000

Entries = tuple[tuple[str, str], ...]  # names with revisions, by name


@dataclass(frozen=True, slots=True)
class Version:
    """A revision of a policy, and for which nodes that is."""

    revision: str
    subject: Subject = field(default_factory=Subject)


@dataclass(frozen=True, slots=True)
class Placement:
    """A policy that shall hold, and how far it has come."""

    name: str
    version: Version
    before: Version | None = None  # for nodes that are not chosen; None: nothing
    percent: int = 100


@dataclass(frozen=True, slots=True)
class Issued:
    """The manifest that a node was sent last, or says that it has."""

    serial: int
    entries: Entries
    issued_ns: int

    @classmethod
    def told(cls, hello: plane_pb2.Hello) -> "Issued | None":
        """What a node has by its own word. Serials are milliseconds, so that its age can be told."""
        if not hello.serial:
            return None
        entries = tuple(sorted((one.name, one.revision) for one in hello.holdings))
        return cls(hello.serial, entries, hello.serial * _MS)


def entries_for(node: str, labels: Mapping[str, str], placements: Iterable[Placement]) -> Entries:
    """What a node with these labels is to have."""
    found = []
    for one in placements:
        version = one.version if is_chosen(node, one.name, one.percent) else one.before
        if version is not None and is_for_node(version.subject, labels):
            found.append((one.name, version.revision))
    return tuple(sorted(found))


def is_due(last: Issued | None, entries: Entries, now_ns: int) -> bool:
    """Whether a node needs a new manifest: another content, or less than half of its time is left."""
    if last is None or last.entries != entries:
        return True
    return not last.issued_ns <= now_ns < last.issued_ns + VALID_NS // 2


def serial_after(last: int, now_ns: int) -> int:
    """The next one. It is the time where that is later, so that a store brought back from a backup goes on above."""
    return max(last + 1, now_ns // _MS)


def manifest_for(node: str, entries: Entries, serial: int, now_ns: int) -> plane_pb2.Manifest:
    """What is signed and sent."""
    manifest = plane_pb2.Manifest(node=node, serial=serial)
    manifest.issued.FromNanoseconds(now_ns)
    manifest.expires.FromNanoseconds(now_ns + VALID_NS)
    for name, revision in entries:
        manifest.policies.add(name=name, revision=revision)
    return manifest
