"""An object's spec as the document of a policy, and the reader's sentences as an object's author needs them. Pure.

The document is JSON, one value a line, so that a line leads back to a field: nobody sees the lines but the reader.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from exeat.core.compile_rules import RankedRules
from exeat.core.problems import shown
from exeat.core.yaml_nodes import TEXT_MAX
from exeat.errors import ExeatError, PolicyError
from exeat.model.policy import Pods, Policy
from exeat.plane.cluster.objects import API_VERSION, Item, Key, Kind, Outcome, Reason
from exeat.plane.policies import policies
from exeat.plane.policies.policies import Draft

_DEPTH_MAX = 20  # as of the reader
_LABEL_MAX = 317  # the longest that the reader takes, and Kubernetes
_HOSTS_OWN = ("cgroups", "interfaces", "nodes")
_LINE = re.compile(r"\bin line ([0-9]+)")
_WHERE = "object"

_NOT_YOURS = (
    "spec.subject.{field}: an {kind} is for pods of its own namespace, and {field} belong to the whole host: leave it "
    "out, or write a ClusterEgressPolicy"
)
_NOT_HERE = (
    "spec.subject.pods.namespace: {given} is not the namespace of this object, which is {own}: leave it out, and write "
    "an EgressPolicy there"
)
_UPSTREAMS = (
    "spec.dns.upstreams: it is the node that asks them, from its own network, and not a pod: leave it out, or write a "
    "ClusterEgressPolicy"
)
_NAME = (
    "metadata.name: {name} is no name of a policy: write at most 63 small letters, digits and hyphens, no two hyphens "
    "in a row, beginning and ending with a letter or digit"
)


class Unfit(ExeatError):
    """No policy can be made of an object."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.outcome = Outcome.of(reason, message)


def document_of(item: Item) -> str:
    """The text that the reader is given, bound to the object's namespace if it has one. Raises Unfit."""
    try:
        return _text_of(item)
    except Unfit:
        raise
    except Exception as error:  # half a character, no number: one object must not keep all others from being read
        raise Unfit(Reason.INVALID, f"spec: it has a value that no policy can have: {error}") from error


def read_document(key: Key, text: str) -> Draft:
    """The policy in it. Raises Unfit with the reader's sentences, each with the field that it is about."""
    try:
        draft = policies.read_all([(_WHERE, text)])[0]
        RankedRules.of(draft.policy)  # what no agent could take would keep it from everything else
    except PolicyError as error:
        raise Unfit(Reason.INVALID, explained(text, error.problems)) from error
    except ValueError as error:
        raise Unfit(Reason.INVALID, f"spec.egress: {error}") from error
    except Exception as error:  # one tenant's object must not keep all others from being read
        raise Unfit(Reason.INVALID, f"spec: it cannot be read ({type(error).__name__}): write less into it") from error
    _check(key, draft.policy)
    return draft


def explained(text: str, problems: Iterable[str]) -> str:
    """Sentences about lines of a document, as sentences about fields of the object."""
    fields = [path for path, _ in _lines(json.loads(text), "")]

    def field_at(line: str) -> str:
        at = int(line) - 1
        return fields[at] if at < len(fields) and fields[at] else "spec"

    found = []
    for problem in problems:
        where, line, sentence = ["", "", *problem.split(":", 2)][-3:]
        sentence = _LINE.sub(lambda match: f"at {field_at(match[1])}", sentence.strip())
        found.append(f"{field_at(line)}: {sentence}" if where == _WHERE and line.isdecimal() else problem)
    return "\n".join(dict.fromkeys(found))


def _text_of(item: Item) -> str:
    key = item.key
    if "--" in key.name or "." in key.name or len(key.name) > 63:
        raise Unfit(Reason.INVALID, _NAME.format(name=shown(key.name)))
    metadata: dict[str, Any] = {"name": key.policy}
    labels = {
        name: value
        for name, value in sorted(item.labels.items())
        if isinstance(value, str) and value and len(name) <= _LABEL_MAX  # Kubernetes allows an empty one
    }
    if labels:
        metadata["labels"] = labels
    document = {"apiVersion": API_VERSION, "kind": Kind.NAMESPACED.value, "metadata": metadata}
    if item.spec is not None:
        document["spec"] = _bound(key, item.spec) if key.namespace else item.spec
    text = "\n".join(line for _, line in _lines(document, ""))
    size = len(text.encode())
    if size > TEXT_MAX:
        sentence = f"spec: as a document it has {size:,} bytes, of which at most {TEXT_MAX:,} are read: split it"
        raise Unfit(Reason.TOO_LARGE, sentence)
    return text


def _bound(key: Key, spec: Any) -> Any:
    """Selecting pods of its namespace, and nothing else. What is no mapping stays, for the reader to refuse."""
    if not isinstance(spec, dict):
        return spec
    subject = spec.get("subject", {})
    if not isinstance(subject, dict):
        return spec
    if "subject" in spec and not subject:
        sentence = "it could mean no pod or every one: write a selector, or leave it out for all pods of the namespace"
        raise Unfit(Reason.INVALID, f"spec.subject: {sentence}")
    for field in _HOSTS_OWN:
        if field in subject:
            raise Unfit(Reason.SUBJECT, _NOT_YOURS.format(field=field, kind=key.kind))
    pods = subject.get("pods", {"namespace": key.namespace})
    if isinstance(pods, dict) and pods:
        given = pods.get("namespace", key.namespace)
        if given != key.namespace:
            raise Unfit(Reason.SUBJECT, _NOT_HERE.format(given=shown(str(given)), own=key.namespace))
        pods = {**pods, "namespace": key.namespace}
    return {**spec, "subject": {**subject, "pods": pods}}


def _check(key: Key, policy: Policy) -> None:
    """The same asked of what was read, and what only that can tell."""
    subject = policy.subject
    if policy.name != key.policy:
        raise Unfit(Reason.INVALID, _NAME.format(name=shown(key.name)))
    if key.kind is Kind.CLUSTER:
        if not subject.names_workloads:
            sentence = "it is required here: write one of cgroups, interfaces, images, pods, labels, session"
            raise Unfit(Reason.INVALID, f"spec.subject: {sentence}")
        return
    if policy.dns.upstreams:
        raise Unfit(Reason.SUBJECT, _UPSTREAMS)
    for field in _HOSTS_OWN:
        if getattr(subject, field):
            raise Unfit(Reason.SUBJECT, _NOT_YOURS.format(field=field, kind=key.kind))
    if (subject.pods or Pods()).namespace != key.namespace:
        raise Unfit(Reason.SUBJECT, _NOT_HERE.format(given="what it selects", own=key.namespace))


def _lines(value: Any, path: str, depth: int = 0, before: str = "", after: str = "") -> Iterator[tuple[str, str]]:
    """JSON, one value a line, each with its field. Raises ValueError for what JSON has no word for."""
    if depth > _DEPTH_MAX:
        raise Unfit(Reason.INVALID, f"{path}: it nests deeper than {_DEPTH_MAX} levels: no policy needs that")
    if isinstance(value, Mapping) and value:
        yield path, before + "{"
        for at, (name, one) in enumerate(value.items(), 1):
            head = json.dumps(name, ensure_ascii=False) + ": "
            inner = f"{path}.{shown(name)[1:-1]}" if path else name
            yield from _lines(one, inner, depth + 1, head, "" if at == len(value) else ",")
        yield path, "}" + after
    elif isinstance(value, list) and value:
        yield path, before + "["
        for at, one in enumerate(value):
            yield from _lines(one, f"{path}[{at}]", depth + 1, "", "" if at == len(value) - 1 else ",")
        yield path, "]" + after
    else:
        yield path, before + json.dumps(value, ensure_ascii=False, allow_nan=False) + after
