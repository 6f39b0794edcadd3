"""An object of the cluster as the plane needs it, read out of what the API server says. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any

from exeat.core.problems import shown
from exeat.errors import ExeatError

GROUP, VERSION = "exeat.dev", "v1"
API_VERSION = f"{GROUP}/{VERSION}"
_POLICY_MAX = 63  # of a policy's name
_CUT, _DIGITS = 40, 20
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # Kubernetes lets no other in
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MESSAGE_MAX = 1024  # of a status; Kubernetes takes 32 KiB


class Garbled(ExeatError):
    """What came is not what an API server says; nothing of it counts."""


class Kind(StrEnum):
    """Which objects are policies; the values are Kubernetes' kinds."""

    NAMESPACED = "EgressPolicy"
    CLUSTER = "ClusterEgressPolicy"

    @property
    def plural(self) -> str:
        """As it stands in paths."""
        return "egresspolicies" if self is Kind.NAMESPACED else "clusteregresspolicies"


class Reason(StrEnum):
    """What became of an object; the values stand in its status."""

    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    SUBJECT = "SubjectNotAllowed"
    NAME_TAKEN = "NameTaken"
    TOO_LARGE = "TooLarge"
    PENDING = "Pending"


@dataclass(frozen=True, slots=True)
class Outcome:
    """And why, for its author."""

    reason: Reason
    message: str = ""

    @classmethod
    def of(cls, reason: Reason, message: str) -> "Outcome":
        """With as much of the message as a status should have."""
        return cls(reason, message if len(message) <= _MESSAGE_MAX else message[: _MESSAGE_MAX - 4] + " ...")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which object: two with the same are one after the other."""

    kind: Kind
    namespace: str  # empty: it is the cluster's
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    @property
    def policy(self) -> str:
        """The name of its policy, which no other object's has: only namespaced ones have two hyphens in a row, the
        last of them before the object's name; three are before a hash."""
        if self.kind is Kind.CLUSTER:
            return self.name
        whole = f"{self.namespace}--{self.name}"
        if len(whole) <= _POLICY_MAX:
            return whole
        digits = sha256(f"{self.namespace}/{self.name}".encode()).hexdigest()[:_DIGITS]
        return f"{whole[:_CUT].rstrip('-')}---{digits}"


def kind_of(policy: str) -> Kind:
    """Of which kind the object of a policy is, by the policy's name."""
    return Kind.NAMESPACED if "--" in policy else Kind.CLUSTER


@dataclass(frozen=True, slots=True)
class Item:
    """An object as it is now."""

    key: Key
    uid: str
    version: str  # its resourceVersion
    generation: int
    labels: Mapping[str, str] = field(default_factory=dict)
    spec: Any = None  # None: it has none
    status: Mapping[str, Any] = field(default_factory=dict)


def read_item(kind: Kind, said: Any) -> Item:
    """One object of a list or an event. Raises Garbled."""
    metadata = said.get("metadata") if isinstance(said, dict) else None
    if not isinstance(metadata, dict):
        raise Garbled(f"there is something among the {kind.plural} that is no object")
    if said.get("kind", kind) != kind or said.get("apiVersion", API_VERSION) != API_VERSION:
        raise Garbled(f"there is a {shown(str(said.get('kind')))} among the {kind.plural}")
    name, namespace = metadata.get("name"), metadata.get("namespace", "")
    uid, version, generation = (metadata.get(one) for one in ("uid", "resourceVersion", "generation"))
    is_named = isinstance(name, str) and _NAME.fullmatch(name) is not None and isinstance(namespace, str)
    is_placed = is_named and bool(_NAMESPACE.fullmatch(namespace) if kind is Kind.NAMESPACED else not namespace)
    if not is_placed or not is_version(version) or not isinstance(uid, str) or not uid:
        raise Garbled(f"there is an object among the {kind.plural} without a name, a uid or a resourceVersion")
    labels, status = metadata.get("labels"), said.get("status")
    return Item(
        key=Key(kind, str(namespace), str(name)),
        uid=uid,
        version=str(version),
        generation=generation if type(generation) is int else 0,
        labels=labels if isinstance(labels, dict) else {},
        spec=said.get("spec"),
        status=status if isinstance(status, dict) else {},
    )


def is_version(text: Any) -> bool:
    """Whether this may be a resourceVersion."""
    return isinstance(text, str) and 0 < len(text) <= 100 and text.isascii() and text.isprintable()


def is_older(one: str, other: str) -> bool:
    """Whether a resourceVersion is of an earlier time: etcd counts. Where they are no numbers, nobody can tell."""
    return one.isdecimal() and other.isdecimal() and int(one) < int(other)
