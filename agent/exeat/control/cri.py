"""Kubernetes' Container Runtime Interface: who is in a container's or a pod's cgroup, as containerd or CRI-O tell it.

Messages come as bytes and are parsed here, because gRPC would only log that it cannot.
"""

import asyncio
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from exeat.control.plane_fields import has_too_many_fields
from exeat.core.runtime_words import ANSWER_MAX, WITHIN_S, images_of, labels_of, plain_text
from exeat.errors import ExeatError
from exeat.model.identity import Container, Identity, Pod
from exeat.v1 import cri_pb2 as pb

_RUNTIME, _IMAGES = "/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"
_OPTIONS = (
    ("grpc.max_receive_message_length", ANSWER_MAX),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_retries", 0),
    # A runtime that was started anew is found at once: the default waits for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", int(WITHIN_S * 1000)),  # so long a connection may take to come about
    # Over a unix socket gRPC says `localhost`; others take the path for a name, which is none.
    ("grpc.default_authority", "localhost"),
)
_BY_ID = "sha256:"  # how the kubelet names an image: as no person does

Said = TypeVar("Said", bound=Message)


class CriRuntime:
    """One connection, made when something is asked first."""

    name = "cri"

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._channel: Any = None
        self._runtime = ""  # its name, once it has told

    async def find(self, container_id: str) -> Identity | None:
        """See runtimes.runtime.Runtime."""
        try:
            async with asyncio.timeout(WITHIN_S):
                return await self._find(container_id)
        except TimeoutError:
            raise self._cannot_say(f"it has not answered within {WITHIN_S:g} s") from None
        except grpc.RpcError as error:
            raise self._cannot_say(_reason(error)) from error

    async def close(self) -> None:
        """Ends the connection."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def _find(self, container_id: str) -> Identity | None:
        request = pb.ListCriContainersRequest(filter=pb.CriFilter(id=container_id))
        listed = await self._ask(_RUNTIME + "ListContainers", request, pb.ListCriContainersResponse())
        for told in listed.containers:
            if told.id == container_id:
                pod = await self._pod(told.pod_sandbox_id)
                if pod is None:
                    raise self._cannot_say(f"it tells no pod of the container {container_id[:12]}")
                return Identity(await self._container(told), pod)
        pod = await self._pod(container_id)
        return Identity(None, pod) if pod else None

    async def _container(self, told: pb.CriContainer) -> Container:
        spec = pb.CriImageSpec(image=told.image_ref or told.image.image)
        request = pb.CriImageStatusRequest(image=spec)
        image = (await self._ask(_IMAGES + "ImageStatus", request, pb.CriImageStatusResponse())).image
        names = images_of(image.repo_tags, image.repo_digests)
        asked = plain_text(told.image.user_specified_image) or plain_text(told.image.image)
        if asked.startswith(_BY_ID) and names:
            asked = names[0]
        if not self._runtime:
            version = await self._ask(_RUNTIME + "Version", pb.CriVersionRequest(), pb.CriVersionResponse())
            self._runtime = plain_text(version.runtime_name) or self.name
        name = plain_text(told.metadata.name)
        return Container(self._runtime, told.id, name, asked, names, labels_of(told.labels))

    async def _pod(self, sandbox_id: str) -> Pod | None:
        request = pb.ListCriSandboxesRequest(filter=pb.CriFilter(id=sandbox_id))
        listed = await self._ask(_RUNTIME + "ListPodSandbox", request, pb.ListCriSandboxesResponse())
        for told in listed.items:
            if told.id == sandbox_id:
                its = told.metadata
                labels = labels_of(told.labels)
                return Pod(plain_text(its.namespace), plain_text(its.name), plain_text(its.uid), labels)
        return None

    async def _ask(self, method: str, request: Message, answer: Said) -> Said:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"unix://{self.socket}", options=list(_OPTIONS))
        raw = await self._channel.unary_unary(method)(request.SerializeToString())
        if has_too_many_fields(raw):
            raise self._cannot_say("its answer has too many parts")
        try:
            answer.ParseFromString(raw)
        except DecodeError:
            raise self._cannot_say("its answer is none of runtime.v1") from None
        return answer

    def _cannot_say(self, why: str) -> ExeatError:
        return ExeatError(
            f"the container runtime at {self.socket} cannot say who is in a container: {why}. Check that it runs and "
            "serves CRI (runtime.v1), or take it out of `spec.runtimes.cri`"
        )


def _reason(error: Any) -> str:
    code = error.code()
    details = "".join(c if c.isprintable() else "?" for c in plain_text(error.details(), ANSWER_MAX))
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "it does not know runtime.v1"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"its answer is longer than {ANSWER_MAX} bytes"
    if code is grpc.StatusCode.UNAVAILABLE:
        return "nobody answers there"
    return f"it answers {code.name}: {details[:200]}"
