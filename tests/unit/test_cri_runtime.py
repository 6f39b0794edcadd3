"""CRI asked who is in a container: what is read of a runtime's answers, and what of bad ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from exeat.control import cri
from exeat.control.cri import CriRuntime
from exeat.errors import ExeatError
from exeat.model.identity import Container, Identity, Pod
from exeat.v1 import cri_pb2 as pb

ID, SANDBOX_ID, IMAGE_ID = "4b" * 32, "5c" * 32, "sha256:" + "6d" * 32
TAG, DIGEST = "ghcr.io/acme/agent:1.0", "ghcr.io/acme/agent@sha256:" + "7e" * 32
POD = pb.CriSandbox(
    id=SANDBOX_ID, labels={"app": "coder"}, metadata=pb.CriSandboxMetadata(name="coder-1", uid="u-1", namespace="ml")
)
CONTAINER = pb.CriContainer(
    id=ID, pod_sandbox_id=SANDBOX_ID, metadata=pb.CriContainerMetadata(name="main"), image_ref=IMAGE_ID,
    image=pb.CriImageSpec(image=IMAGE_ID), labels={"io.kubernetes.container.name": "main"},
)  # fmt: skip
IMAGE = pb.CriImage(repo_tags=[TAG], repo_digests=[DIGEST])

Answers = Mapping[str, Callable[[bytes], bytes]]


class Fake(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers by method; others are not known."""

    def __init__(self, answers: Answers, delay_s: float) -> None:
        self._answers, self._delay_s = answers, delay_s

    def service(self, details: Any) -> Any:
        """One call."""
        answer = self._answers.get(details.method)
        if answer is None:
            return None

        async def run(raw: bytes, context: Any) -> bytes:
            await asyncio.sleep(self._delay_s)
            return answer(raw)

        return grpc.unary_unary_rpc_method_handler(run)


def answers(
    containers: list[pb.CriContainer] | None = None, sandboxes: list[pb.CriSandbox] | None = None,
    image: pb.CriImage | None = IMAGE,
) -> dict[str, Callable[[bytes], bytes]]:  # fmt: skip
    """As a runtime that knows these."""

    def list_containers(raw: bytes) -> bytes:
        wanted = pb.ListCriContainersRequest.FromString(raw).filter.id
        found = [one for one in containers or [] if one.id.startswith(wanted)]
        return pb.ListCriContainersResponse(containers=found).SerializeToString()

    def list_sandboxes(raw: bytes) -> bytes:
        wanted = pb.ListCriSandboxesRequest.FromString(raw).filter.id
        found = [one for one in sandboxes or [] if one.id.startswith(wanted)]
        return pb.ListCriSandboxesResponse(items=found).SerializeToString()

    return {
        "/runtime.v1.RuntimeService/ListContainers": list_containers,
        "/runtime.v1.RuntimeService/ListPodSandbox": list_sandboxes,
        "/runtime.v1.RuntimeService/Version": lambda raw: pb.CriVersionResponse(
            runtime_name="containerd"
        ).SerializeToString(),
        "/runtime.v1.ImageService/ImageStatus": lambda raw: pb.CriImageStatusResponse(image=image).SerializeToString(),
    }


def find(socket: Path, known: Answers, container_id: str = ID, delay_s: float = 0.0) -> Identity | None:
    """Ask once, at a socket where nothing was asked before.

    gRPC shares connections within a process by their address: one with much of an answer left to read outlives its
    channel for a moment, and the next channel to that address gets it, and hears that the server before has ended.
    """

    async def once() -> Identity | None:
        server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        server.add_generic_rpc_handlers((Fake(known, delay_s),))
        server.add_insecure_port(f"unix://{socket}")
        await server.start()
        runtime = CriRuntime(socket)
        try:
            return await runtime.find(container_id)
        finally:
            await runtime.close()
            await server.stop(None)

    return asyncio.run(once())


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where nobody listens yet."""
    return tmp_path / "cri.sock"


def test_a_container_is_told_with_its_pod(socket: Path) -> None:
    """An image that the kubelet names by its id is called by its tag."""
    container = Container("containerd", ID, "main", TAG, (TAG, DIGEST), (("io.kubernetes.container.name", "main"),))
    pod = Pod("ml", "coder-1", "u-1", (("app", "coder"),))
    assert find(socket, answers([CONTAINER], [POD])) == Identity(container, pod)


def test_the_image_is_called_as_the_pod_has_it_where_the_runtime_knows(socket: Path) -> None:
    """Since Kubernetes 1.29."""
    told = pb.CriContainer()
    told.CopyFrom(CONTAINER)
    told.image.user_specified_image = "agent"
    identity = find(socket, answers([told], [POD]))
    assert identity
    assert identity.container
    assert (identity.container.image, identity.container.images) == ("agent", (TAG, DIGEST))


def test_a_sandbox_is_a_pod_without_a_container(socket: Path) -> None:
    """Its cgroup holds the pod's namespaces."""
    identity = find(socket, answers([CONTAINER], [POD]), SANDBOX_ID)
    assert identity == Identity(None, Pod("ml", "coder-1", "u-1", (("app", "coder"),)))


def test_another_whose_id_only_begins_so_is_not_it(socket: Path) -> None:
    """The filter takes beginnings, a cgroup's name could be one."""
    assert find(socket, answers([CONTAINER], [POD]), ID[:60]) is None
    assert find(socket.with_suffix(".other"), answers([], [POD]), SANDBOX_ID[:60]) is None


def test_an_unknown_container_is_nobodys_here(socket: Path) -> None:
    """No error: another runtime may know it."""
    assert find(socket, answers([], [POD])) is None


def test_a_container_whose_pod_is_not_told_is_an_error(socket: Path) -> None:
    """Half an identity would select by half of the labels."""
    with pytest.raises(ExeatError, match="tells no pod"):
        find(socket, answers([CONTAINER], []))


def test_a_container_whose_image_has_gone_is_told_without_its_names(socket: Path) -> None:
    """It runs on."""
    identity = find(socket, answers([CONTAINER], [POD], image=None))
    assert identity
    assert identity.container
    assert (identity.container.image, identity.container.images) == (IMAGE_ID, ())


@pytest.mark.parametrize(
    "method", ["RuntimeService/ListContainers", "RuntimeService/ListPodSandbox", "ImageService/ImageStatus"]
)
@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\xff\xff\xff", "none of runtime.v1"),
        (b"\x0a\x05ab", "none of runtime.v1"),
        (b"\x0a\x00" * 300_000, "too many parts"),
        (b"\x0a\x01x" * 400_000, "longer than"),
    ],
)
def test_a_bad_answer_is_an_error_with_a_sentence(socket: Path, method: str, raw: bytes, why: str) -> None:
    """Which names the socket, and what to do."""
    with pytest.raises(ExeatError, match=why) as caught:
        find(socket, {**answers([CONTAINER], [POD]), "/runtime.v1." + method: lambda asked: raw})
    assert str(socket) in str(caught.value)
    assert "spec.runtimes.cri" in str(caught.value)


def test_who_does_not_speak_cri_is_an_error_with_a_sentence(socket: Path) -> None:
    """A daemon that serves gRPC, and none of these methods."""
    with pytest.raises(ExeatError, match=r"does not know runtime\.v1"):
        find(socket, {})


def test_what_a_runtime_complains_of_is_shown_without_its_control_characters(socket: Path) -> None:
    """It ends in somebody's terminal."""

    def fail(raw: bytes) -> bytes:
        raise ValueError("\x1b[2J" + "x" * 5000)

    with pytest.raises(ExeatError, match="UNKNOWN") as caught:
        find(socket, {**answers(), "/runtime.v1.RuntimeService/ListContainers": fail})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_who_does_not_listen_is_an_error_with_a_sentence(socket: Path) -> None:
    """With or without a socket; and it is asked again as soon as it listens."""

    async def ask() -> Identity | None:
        runtime = CriRuntime(socket)
        for is_there in (False, True):
            if is_there:
                socket.write_bytes(b"")
            with pytest.raises(ExeatError, match="nobody answers there"):
                await runtime.find(ID)
        socket.unlink()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Fake(answers([CONTAINER], [POD]), 0.0),))
        server.add_insecure_port(f"unix://{socket}")
        await server.start()
        deadline = time.monotonic() + 5
        try:
            while True:
                try:
                    return await runtime.find(ID)
                except ExeatError:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
        finally:
            await runtime.close()
            await server.stop(None)

    assert asyncio.run(ask())


def test_who_is_slow_is_an_error_after_a_bounded_time(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All questions together: none of them alone takes as long."""
    assert find(socket, answers([CONTAINER], [POD]), delay_s=0.01)  # before the limit is short: machines are busy
    monkeypatch.setattr(cri, "WITHIN_S", 0.5)
    with pytest.raises(ExeatError, match=r"not answered within 0\.5 s"):
        find(socket.with_suffix(".slow"), answers([CONTAINER], [POD]), delay_s=0.3)
