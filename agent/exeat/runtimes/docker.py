"""Docker's API, which Podman serves too: who is in a container's cgroup.

    GET /containers/ID/json    name, image as it was asked for, labels
    GET /images/ID/json        all names of that image, and the labels that it brings

Labels that come with the image are not the container's own: whoever makes images would choose them, and with them the
policies that select by labels. Docker mixes both; here the image's are left out, as CRI leaves them out, and told as
doubtful: an image must not take its container out of a policy either, by bringing the very label that selects it.

cri-dockerd keeps what CRI needs in labels: pod and sandbox of a container, and the pod's own labels at its sandbox. Who
may give containers labels could write the same: it counts only in the cgroup that the kubelet made for this pod.
"""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from exeat.core.cgroup_names import name_of
from exeat.core.runtime_words import ANSWER_MAX, WITHIN_S, images_of, labels_of, plain_text
from exeat.errors import ExeatError
from exeat.model.identity import Container, Identity, Labels, Pod
from exeat.runtimes.http_answer import Answer, BadAnswer, read_answer

_ID = re.compile(r"[0-9a-f]{64}")
_IMAGE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_FOUND, _NOT_FOUND = 200, 404
_KUBERNETES, _ANNOTATION = "io.kubernetes.", "annotation."  # how cri-dockerd's own labels begin
_POD = "io.kubernetes.pod."
_SANDBOX_ID, _KIND, _SANDBOX = "io.kubernetes.sandbox.id", "io.kubernetes.docker.type", "podsandbox"
_CONTAINER_NAME = "io.kubernetes.container.name"


class DockerRuntime:
    """Docker's or Podman's daemon, asked anew by a connection of its own for each question."""

    def __init__(self, name: str, socket: Path) -> None:
        self.name = name
        self.socket = socket

    async def find(self, container_id: str) -> Identity | None:
        """See Runtime."""
        try:
            async with asyncio.timeout(WITHIN_S):
                return await self._find(container_id)
        except TimeoutError:
            raise self._cannot_say(f"it has not answered within {WITHIN_S:g} s") from None
        except OSError as error:
            raise self._cannot_say(error.strerror or str(error)) from error

    async def close(self) -> None:
        """Nothing is open."""

    async def _find(self, container_id: str) -> Identity | None:
        told = await self._container(container_id)
        if told is None:
            return None
        settings = _mapping(told.get("Config"))
        image: dict[str, Any] = {}
        is_known = True  # what the image brings
        if isinstance(image_id := told.get("Image"), str) and _IMAGE_ID.fullmatch(image_id):
            found = await self._get(f"/images/{image_id}/json")
            image, is_known = found or {}, found is not None
        every = labels_of(settings.get("Labels"))
        labels = labels_of(settings.get("Labels"), _mapping(image.get("Config")).get("Labels")) if is_known else ()
        doubtful = tuple(label for label in every if label not in labels)
        name = plain_text(told.get("Name")).removeprefix("/")
        asked = plain_text(settings.get("Image"))
        names = images_of(image.get("RepoTags") or (), image.get("RepoDigests") or ())
        container = Container(self.name, container_id, name, asked, names, labels, doubtful)
        return await self._with_pod(container, dict(every), _pod_uid(told))

    async def _with_pod(self, container: Container, labels: dict[str, str], uid: str) -> Identity:
        """As cri-dockerd tells it, if it made the container. `uid`: of the pod in whose cgroup it is.

        The kubelet writes these labels over an image's; that an image brings the same one makes it no other pod.
        """
        if _POD + "name" not in labels or _POD + "namespace" not in labels:
            return Identity(container)
        if not uid or labels.get(_POD + "uid") != uid:
            return Identity(container)
        if labels.get(_KIND) == _SANDBOX:
            return Identity(None, _pod(labels, container.labels))
        sandbox_id = labels.get(_SANDBOX_ID, "")
        sandbox = await self._container(sandbox_id) if _ID.fullmatch(sandbox_id) else None
        if sandbox is None or _pod_uid(sandbox) != uid:
            raise self._cannot_say("it does not tell the sandbox of a pod's container")
        pods = labels_of(_mapping(sandbox.get("Config")).get("Labels"))
        named = Container(
            container.runtime, container.id, labels.get(_CONTAINER_NAME) or container.name, container.image,
            container.images, container.labels, container.doubtful,
        )  # fmt: skip
        return Identity(named, _pod(labels, pods))

    async def _container(self, container_id: str) -> dict[str, Any] | None:
        told = await self._get(f"/containers/{container_id}/json")
        if told is not None and told.get("Id") != container_id:  # it takes names too
            raise self._cannot_say("it answers for another container than it was asked for")
        return told

    async def _get(self, path: str) -> dict[str, Any] | None:
        """None: it says that there is no such thing."""
        try:
            answer = read_answer(await self._ask(path))
        except BadAnswer as error:
            raise self._cannot_say(f"{error}") from None
        if answer.status == _NOT_FOUND:
            return None
        if answer.status != _FOUND:
            raise self._cannot_say(f"it answers with status {answer.status}")
        return self._object(answer)

    async def _ask(self, path: str) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            pieces, size = [], 0
            while piece := await reader.read(ANSWER_MAX):
                pieces.append(piece)
                if (size := size + len(piece)) > ANSWER_MAX:
                    raise self._cannot_say(f"its answer is longer than {ANSWER_MAX} bytes")
            return b"".join(pieces)
        finally:
            writer.transport.abort()

    def _object(self, answer: Answer) -> dict[str, Any]:
        try:
            told = json.loads(answer.body)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise self._cannot_say("its answer is no JSON object")
        return told

    def _cannot_say(self, why: str) -> ExeatError:
        return ExeatError(
            f"{self.name} at {self.socket} cannot say who is in a container: {why}. Check that it runs and answers, "
            "or write `off` for it under `spec.runtimes`"
        )


def _mapping(told: object) -> dict[str, Any]:
    return told if isinstance(told, dict) else {}


def _pod_uid(told: dict[str, Any]) -> str:
    """Of the pod in whose cgroup the kubelet had it made; empty: in none."""
    parent = _mapping(told.get("HostConfig")).get("CgroupParent")
    return name_of(parent).pod_uid if isinstance(parent, str) else ""


def _pod(container: dict[str, str], sandbox: Labels) -> Pod:
    """The pod's own labels stand at its sandbox, between those of the kubelet and annotations."""
    own = tuple((key, value) for key, value in sandbox if not key.startswith((_KUBERNETES, _ANNOTATION)))
    return Pod(container[_POD + "namespace"], container[_POD + "name"], container.get(_POD + "uid", ""), own)
