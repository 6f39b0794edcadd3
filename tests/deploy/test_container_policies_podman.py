"""Real containers of Podman under a policy by their image, as those of Docker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bed.docker import Docker
from deploy.container_stage import (
    IMAGE,
    OTHER,
    Door,
    docker_with,
    fresh,
    knock,
    open_container_stage,
    policy_for,
    reach,
    soon,
    started,
    verdicts_of,
    views,
)
from e2e.agent_stage import AgentStage


@pytest.fixture(scope="module")
def podman() -> Iterator[Docker]:
    """One service, two images."""
    with docker_with({IMAGE: {}, OTHER: {}}, "podman") as podman:
        yield podman


@pytest.fixture(scope="module")
def opened(podman: Docker) -> Iterator[tuple[AgentStage, Door]]:
    """One agent, which knows Podman; a policy for an image."""
    with open_container_stage("podman", podman.socket) as (stage, door):
        stage.write("coder", policy_for(stage, 'images: ["ghcr.io/acme/agent"]'))
        stage.start()
        yield stage, door


@pytest.fixture
def stage(opened: tuple[AgentStage, Door], podman: Docker) -> Iterator[AgentStage]:
    """Fresh; no container is left."""
    yield fresh(opened[0])
    podman.remove_all()


def test_a_policy_by_image_is_enforced_and_told_by_the_containers_name(podman: Docker, stage: AgentStage) -> None:
    """Allowed by name through the gate in its namespace; denied by name and by address; the neighbour is free."""
    coder = started(podman, stage, "coder-1", team="ml")
    neighbour = started(podman, stage, "neighbour", OTHER)
    soon(lambda: list(views(stage)) == ["podman/coder-1"])
    assert reach(coder, "a.shop.test") == "a.shop.test"
    assert reach(coder, "a.evil.test") == "curl 6"  # no such name, for it
    assert knock(coder, stage.shop) == "shop"
    assert knock(coder, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    assert knock(neighbour, stage.evil) == "evil"  # the same way, without a policy
    soon(lambda: len(verdicts_of(stage, container="coder-1")) >= 2)
    who = verdicts_of(stage, container="coder-1")[-1]["who"]
    assert (who["name"], who["container_id"], who["image"]) == ("podman/coder-1", coder.id, IMAGE)
    assert who["labels"] == {"team": "ml"}
    coder.remove()
    soon(lambda: not views(stage))


def test_who_is_not_known_yet_is_denied_everything_until_podman_answers(
    podman: Docker, stage: AgentStage, door: Door
) -> None:
    """Then each falls under its policy, or under none."""
    door.shut()
    late, foreign = started(podman, stage, "late"), started(podman, stage, "late-foreign", OTHER)
    soon(lambda: len(views(stage)) == 2)
    assert reach(late, "a.shop.test").startswith("curl")
    assert knock(late, stage.shop) == knock(foreign, stage.shop) == "EPERM"
    assert stage.shop.count().connections == 0
    door.open()
    soon(lambda: list(views(stage)) == ["podman/late"])
    assert reach(late, "a.shop.test") == "a.shop.test"
    assert knock(late, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    assert knock(foreign, stage.evil) == "evil"
