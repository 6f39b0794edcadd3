"""Docker's API asked who is in a container: what is read of its answers, and what of bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exeat.core import runtime_words
from exeat.errors import ExeatError
from exeat.model.identity import Container, Identity, Pod
from exeat.runtimes import docker
from exeat.runtimes.docker import DockerRuntime
from unit.fake_docker import answer, fake_docker

ID, SANDBOX_ID, IMAGE_ID = "4b" * 32, "5c" * 32, "sha256:" + "6d" * 32
UID = "f3b9c1d2-1a2b-4c3d-8e9f-0a1b2c3d4e5f"
IN_POD = {"HostConfig": {"CgroupParent": f"/kubepods/burstable/pod{UID}"}}  # as the kubelet asks for it
CONTAINER, SANDBOX, IMAGE = f"/containers/{ID}/json", f"/containers/{SANDBOX_ID}/json", f"/images/{IMAGE_ID}/json"
TAGS, DIGESTS = ["ghcr.io/acme/agent:1.0", "agent:latest"], ["ghcr.io/acme/agent@sha256:" + "7e" * 32]


def told(labels: Mapping[str, str] | None = None, **other: Any) -> dict[str, Any]:
    """Of a container."""
    settings = {"Image": "ghcr.io/acme/agent:1.0", "Labels": labels}
    return {"Id": ID, "Name": "/web", "Image": IMAGE_ID, "Config": settings, **other}


def image(labels: Mapping[str, str] | None = None) -> bytes:
    """Its image."""
    return answer({"RepoTags": TAGS, "RepoDigests": DIGESTS, "Config": {"Labels": labels}})


def find(socket: Path, answers: Mapping[str, bytes], delay_s: float = 0.0, asked: list[str] | None = None) -> Any:
    """Ask once."""

    async def once() -> Identity | None:
        async with fake_docker(socket, answers, delay_s) as fake:
            try:
                return await DockerRuntime("docker", socket).find(ID)
            finally:
                if asked is not None:
                    asked.extend(fake.asked)

    return asyncio.run(once())


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where nobody listens yet."""
    return tmp_path / "docker.sock"


def test_a_container_is_told_with_its_name_image_labels_and_all_names_of_the_image(socket: Path) -> None:
    """In two questions."""
    asked: list[str] = []
    identity = find(socket, {CONTAINER: answer(told({"team": "ml"})), IMAGE: image()}, asked=asked)
    names = (*TAGS, *DIGESTS)
    assert identity == Identity(Container("docker", ID, "web", "ghcr.io/acme/agent:1.0", names, (("team", "ml"),)))
    assert asked == [CONTAINER, IMAGE]


def test_an_unknown_container_is_nobodys_here(socket: Path) -> None:
    """No error: another runtime may know it."""
    assert find(socket, {}) is None


def test_labels_that_come_with_the_image_are_not_the_containers(socket: Path) -> None:
    """Whoever makes images would choose them, and with them policies; and even be a pod."""
    brought = {"team": "ops", "io.kubernetes.pod.name": "db", "io.kubernetes.pod.namespace": "prod", "tier": "gold"}
    mixed = {**brought, "tier": "free"}  # docker run --label tier=free
    identity = find(socket, {CONTAINER: answer(told(mixed)), IMAGE: image(brought)})
    assert identity.container.labels == (("tier", "free"),)
    assert identity.container.doubtful == tuple(sorted(set(brought.items()) - {("tier", "gold")}))
    assert identity.pod is None


def test_without_its_image_nothing_is_known_of_its_labels(socket: Path) -> None:
    """They may be the image's."""
    identity = find(socket, {CONTAINER: answer(told({"team": "ml"}))})
    assert (identity.container.image, identity.container.images) == ("ghcr.io/acme/agent:1.0", ())
    assert (identity.container.labels, identity.container.doubtful) == ((), (("team", "ml"),))


def test_a_container_without_an_image_has_its_own_labels(socket: Path) -> None:
    """As `podman run --rootfs` makes it."""
    identity = find(socket, {CONTAINER: answer(told({"team": "ml"}, Image=""))})
    assert (identity.container.labels, identity.container.doubtful) == ((("team", "ml"),), ())


def test_a_container_of_cri_dockerd_is_told_with_its_pod_and_the_pods_labels(socket: Path) -> None:
    """Which stand at its sandbox, between other things."""
    pod = {
        "io.kubernetes.pod.name": "coder-1", "io.kubernetes.pod.namespace": "ml", "io.kubernetes.pod.uid": UID,
    }  # fmt: skip
    own = {**pod, "io.kubernetes.container.name": "main", "io.kubernetes.sandbox.id": SANDBOX_ID,
           "io.kubernetes.docker.type": "container"}  # fmt: skip
    its = {**pod, "app": "coder", "annotation.x": "y", "io.kubernetes.docker.type": "podsandbox"}
    sandbox = answer({"Id": SANDBOX_ID, "Config": {"Labels": its}, **IN_POD})
    identity = find(socket, {CONTAINER: answer(told(own, **IN_POD)), SANDBOX: sandbox, IMAGE: image()})
    assert (identity.container.name, identity.container.labels) == ("main", tuple(sorted(own.items())))
    assert identity.pod == Pod("ml", "coder-1", UID, (("app", "coder"),))
    of_sandbox = find(socket, {CONTAINER: answer(told(its, **IN_POD)), IMAGE: image()})
    assert of_sandbox == Identity(None, Pod("ml", "coder-1", UID, (("app", "coder"),)))


@pytest.mark.parametrize(
    "parent", [None, "", "/docker", f"/pod{UID}", "/kubepods/burstable/pod" + UID.replace("f3", "a0"), 5]
)
def test_labels_alone_make_no_pod_of_a_container(socket: Path, parent: object) -> None:
    """Who may give it labels writes what he likes; the kubelet has it made in the pod's cgroup."""
    labels = {
        "io.kubernetes.pod.name": "db", "io.kubernetes.pod.namespace": "kube-system", "io.kubernetes.pod.uid": UID,
        "io.kubernetes.container.name": "main",
    }  # fmt: skip
    for more in ({}, {"io.kubernetes.docker.type": "podsandbox"}):
        made = told({**labels, **more}, HostConfig={"CgroupParent": parent})
        identity = find(socket, {CONTAINER: answer(made), IMAGE: image()})
        assert identity.pod is None
        assert identity.container.name == "web"


OWN = {
    "io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ml", "io.kubernetes.pod.uid": UID,
    "io.kubernetes.sandbox.id": SANDBOX_ID,
}  # fmt: skip


def of_pod(sandbox: object, labels: Mapping[str, str] = OWN) -> dict[str, bytes]:
    """A container with such labels in a pod's cgroup, and what its sandbox is said to be."""
    return {CONTAINER: answer(told(labels, **IN_POD)), SANDBOX: answer(sandbox), IMAGE: image()}


def test_a_pods_labels_are_those_of_a_sandbox_in_its_own_cgroup(socket: Path) -> None:
    """Who names another pod's, or none that is there, is nobody who is known: half an identity selects by half."""
    sandbox = {"Id": SANDBOX_ID, "Config": {"Labels": {"app": "coder"}}, **IN_POD}
    assert find(socket, of_pod(sandbox)).pod == Pod("ml", "p", UID, (("app", "coder"),))
    not_found = {path: told for path, told in of_pod(sandbox).items() if path != SANDBOX}
    for answers in (of_pod({**sandbox, "HostConfig": {"CgroupParent": "/x"}}), not_found):
        with pytest.raises(ExeatError, match="does not tell the sandbox of a pod's container"):
            find(socket, answers)


def test_a_label_that_the_image_brings_as_well_takes_no_container_out_of_its_pod(socket: Path) -> None:
    """The kubelet has written its own over it."""
    sandbox = {"Id": SANDBOX_ID, "Config": {"Labels": {"app": "coder"}}, **IN_POD}
    brought = image({"io.kubernetes.pod.namespace": "ml"})
    assert find(socket, of_pod(sandbox) | {IMAGE: brought}).pod == Pod("ml", "p", UID, (("app", "coder"),))


@pytest.mark.parametrize(
    "sandbox_id", ["", "web", "../x\r\n", f"{SANDBOX_ID}\n", "x HTTP/1.1\r\n\r\nPOST /containers/x/start"]
)
def test_no_question_is_made_of_what_is_no_id_of_a_sandbox(socket: Path, sandbox_id: str) -> None:
    """It comes from a label, and would go to a socket that may do everything."""
    asked: list[str] = []
    with pytest.raises(ExeatError, match="does not tell the sandbox of a pod's container"):
        find(socket, of_pod({}, {**OWN, "io.kubernetes.sandbox.id": sandbox_id}), asked=asked)
    assert asked == [CONTAINER, IMAGE]


def test_an_answer_for_another_container_is_refused(socket: Path) -> None:
    """Docker also takes a name, and somebody may have given one that looks like an id."""
    for other in (told(Id="1" * 64), {}):
        with pytest.raises(ExeatError, match="another container than it was asked for"):
            find(socket, {CONTAINER: answer(other)})
    assert find(socket, {CONTAINER: answer({"Id": ID})})


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "no answer of HTTP"),
        (b"\x16\x03\x01garbage", "no answer of HTTP"),
        (answer(told())[:-20], "breaks off"),
        (answer({}, "500 Internal Server Error"), "status 500"),
        (answer({}, "301 Moved"), "status 301"),
        (HEAD + b"[]", "no JSON object"),
        (HEAD + b"{", "no JSON object"),
        (HEAD + b"\xff\xfe", "no JSON object"),
        (HEAD + b"[" * 500_000, "no JSON object"),
        (HEAD + b" " * (runtime_words.ANSWER_MAX + 1), "longer than"),
    ],
)
def test_a_bad_answer_is_an_error_with_a_sentence(socket: Path, raw: bytes, why: str) -> None:
    """Which names the socket, and what to do."""
    for answers in ({CONTAINER: raw}, {CONTAINER: answer(told()), IMAGE: raw}):
        with pytest.raises(ExeatError, match=why) as caught:
            find(socket, answers)
        assert str(socket) in str(caught.value)
        assert "spec.runtimes" in str(caught.value)


@pytest.mark.parametrize(
    "odd",
    [
        {"Name": None, "Image": 3, "Config": None},
        {"Name": ["web"], "Image": "../../x", "Config": {"Image": {}, "Labels": ["a"]}},
        {"Image": "sha256:short"},
        {"Name": "/" + "x" * 100_000, "Config": {"Labels": {"a": "v" * 100_000, "b": None}}},
    ],
)
def test_odd_parts_of_an_answer_are_left_out(socket: Path, odd: dict[str, Any]) -> None:
    """And no question is made of them."""
    asked: list[str] = []
    identity = find(socket, {CONTAINER: answer(told(**odd))}, asked=asked)
    assert identity.container.labels == ()
    assert len(identity.container.name) <= runtime_words.NAME_MAX
    assert asked[1:] in ([], [IMAGE])


def test_who_does_not_listen_is_an_error_with_a_sentence(socket: Path) -> None:
    """With or without a socket."""
    for is_there in (False, True):
        if is_there:
            socket.write_bytes(b"")
        with pytest.raises(ExeatError, match=r"docker at .*docker\.sock cannot say who is in a container"):
            asyncio.run(DockerRuntime("docker", socket).find(ID))


def test_who_is_slow_is_an_error_after_a_bounded_time_and_nobody_else_waits(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All questions together: two that take half of it each are too much."""
    answers = {CONTAINER: answer(told()), IMAGE: image()}

    async def ask(delay_s: float) -> int:
        ticks = 0
        async with fake_docker(socket, answers, delay_s):
            asking = asyncio.create_task(DockerRuntime("docker", socket).find(ID))
            while not asking.done():
                await asyncio.sleep(0.01)
                ticks += 1
            await asking
        return ticks

    assert asyncio.run(ask(0.05)) > 0  # before the limit is short: machines are busy
    monkeypatch.setattr(docker, "WITHIN_S", 0.3)
    with pytest.raises(ExeatError, match=r"not answered within 0\.3 s"):
        asyncio.run(ask(0.2))
