"""What people call a workload, put together, and as a verdict's line of JSON carries it. Pure."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from exeat.core.cgroup_names import name_of
from exeat.core.sandbox_labels import sandbox_of
from exeat.model.identity import Identity, Labels, Session, Who

WHO_LABELS_MAX = 16  # in a verdict, of which there are many; a workload's state shows all
WHO_TEXT_MAX = 253
TEXTS = (
    "name", "unit", "container", "container_id", "image", "namespace", "pod", "pod_uid", "sandbox", "session", "user",
    "tool", "run",
)  # fmt: skip
# Labels that say again what other fields say, or what only the runtime reads.
_UNTOLD = (
    "io.kubernetes.", "io.cri-containerd.", "io.podman.", "io.buildah.", "org.opencontainers.image.",
    "com.docker.compose.", "pod-template-hash", "controller-revision-hash",
)  # fmt: skip
_REMEMBERED = 4096  # one workload's verdicts come one after the other


def labels_of(identity: Identity | None, registered: Mapping[str, str]) -> dict[str, str]:
    """All of them. What was registered counts before the pod's, and that before the container's, which images set."""
    labels: dict[str, str] = {}
    if identity and identity.container:
        labels.update(identity.container.labels)
    if identity and identity.pod:
        labels.update(identity.pod.labels)
    return labels | dict(registered)


def name_from(identity: Identity | None) -> str:
    """What a container is called, unique on its host; empty: it is none."""
    if identity is None:
        return ""
    container, pod = identity.container, identity.pod
    if pod:
        return _short("/".join(("pod", pod.namespace, pod.name, *([container.name] if container else []))))
    return _short(f"{container.runtime}/{container.name}") if container else ""


def who_of(name: str, path: str, identity: Identity | None, session: Session | None, labels: Mapping[str, str]) -> Who:
    """For verdicts. `path`: the cgroup's, or the interface's name; `labels`: all of them."""
    container = identity.container if identity else None
    pod = identity.pod if identity else None
    texts = {
        "name": name,
        "unit": name_of(path).unit if path.startswith("/") else "",
        "container": container.name if container else "",
        "container_id": container.id if container else "",
        "image": container.image if container else "",
        "namespace": pod.namespace if pod else "",
        "pod": pod.name if pod else "",
        "pod_uid": pod.uid if pod else "",
        "sandbox": sandbox_of(pod) if pod else "",
        "session": session.session if session else "",
        "user": session.user if session else "",
        "tool": session.tool if session else "",
        "run": session.run if session else "",
    }
    return Who(**{key: _clean(text) for key, text in texts.items()}, labels=_told(labels))


@lru_cache(maxsize=_REMEMBERED)
def who_json(who: Who) -> str:
    """A JSON object with what is not empty."""
    parts = [f'"{key}":{_quoted(text)}' for key in TEXTS if (text := getattr(who, key))]
    if who.labels:
        parts.append(f'"labels":{json.dumps(dict(who.labels), separators=(",", ":"))}')
    return f"{{{','.join(parts)}}}"


def read_who(found: object) -> Who | None:
    """The same the other way round. Raises ValueError with a sentence."""
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueError("`who` is not an object or null")
    texts = {key: found.get(key, "") for key in TEXTS}
    labels = found.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in (*texts.values(), *labels.values())):
        raise ValueError("`who` has a value that is no text")
    return _known(Who(**texts, labels=tuple(labels.items())))


@lru_cache(maxsize=_REMEMBERED)
def _known(who: Who) -> Who:
    return who  # a log of a million verdicts has a few of these


def _told(labels: Mapping[str, Any]) -> Labels:
    told = [(key, value) for key, value in sorted(labels.items()) if not key.startswith(_UNTOLD)]
    return tuple((_clean(key), _clean(value)) for key, value in told[:WHO_LABELS_MAX])


def _short(name: str) -> str:
    """No two long names become one: what stands for the rest of each is its own."""
    if len(name) > WHO_TEXT_MAX:
        mark = "~" + hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:12]
        name = name[: WHO_TEXT_MAX - len(mark)] + mark
    return _clean(name)


def _clean(text: str) -> str:
    """What can be shown and kept everywhere, whatever somebody called his container."""
    cut = text if len(text) <= WHO_TEXT_MAX else text[: WHO_TEXT_MAX - 3] + "..."
    if cut.isprintable():
        return cut
    return "".join(letter if letter.isprintable() else "?" for letter in cut)
