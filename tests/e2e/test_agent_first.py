"""A first agent on a node whose containers run and are connected: who is known in time keeps what is allowed."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.made_up_docker import MadeUpDocker, made_up_docker
from e2e.agent_holder import hold
from e2e.agent_stage import NO_RUNTIMES, AgentStage, open_agent_stage, say

pytestmark = pytest.mark.alone  # an agent waits half a second for its runtimes
IMAGE = "ghcr.io/acme/agent:1.0"
CUT = ("ECONNABORTED", "EPERM")


@pytest.fixture
def stage() -> Iterator[AgentStage]:
    """No agent was ever here, and there is nothing of one in the kernel."""
    with open_agent_stage(keeps_programs=False) as stage:
        text = stage.policy("coder", stage.rules(stage.shop))
        subject = f'{{cgroups: ["{stage.subject}"]'
        stage.write("coder", text.replace(subject, f'{subject}, images: ["ghcr.io/acme/agent"]'))
        yield stage


@pytest.fixture
def docker(stage: AgentStage) -> Iterator[MadeUpDocker]:
    """Whom the agent asks."""
    path = stage.directory / "docker.sock"
    settings = stage.directory / "exeat.yaml"
    sockets = json.dumps({"docker": str(path), "podman": "off", "cri": "off"})
    settings.write_text(settings.read_text().replace(NO_RUNTIMES, sockets))
    with made_up_docker(path) as docker:
        yield docker


def container(stage: AgentStage, docker: MadeUpDocker, number: int, image: str) -> Path:
    """As Docker and systemd call its cgroup."""
    docker.image_of[f"{number:064x}"] = image
    return stage.cgroup(f"docker-{number:064x}.scope")


def test_who_is_known_when_a_first_agent_starts_loses_nothing_and_the_others_are_cut(
    stage: AgentStage, docker: MadeUpDocker
) -> None:
    """Of three that were connected everywhere: one has a policy, one has none, of one Docker tells late."""
    known, nobodys = container(stage, docker, 1, IMAGE), container(stage, docker, 2, "nobody/other")
    late = container(stage, docker, 3, IMAGE)
    may_tell, tell = threading.Event(), docker.answer

    def answer(container_id: str) -> object:
        if container_id in late.name:
            may_tell.wait(60)
        return tell(container_id)

    docker.answer = answer
    where = {"shop": stage.shop.address4, "evil": stage.evil.address4}
    with (
        hold(stage, known, **where) as of_known,
        hold(stage, nobodys, **where) as of_nobody,
        hold(stage, late, **where) as of_late,
    ):
        for held in (of_known, of_nobody, of_late):
            held.wait_open()
        stage.start()
        for held, name in [(of_known, "evil"), (of_late, "shop"), (of_late, "evil")]:
            assert held.ended(f"{name} busy")[0] in CUT  # what says nothing, no program has seen yet
        assert of_known.is_open("shop idle", "shop busy")
        assert of_nobody.is_open(*of_nobody.names)
        stage.shop.reset()
        assert stage.run(lambda: say(stage.shop.address4), late) == "EPERM"
        assert stage.shop.count().connections == 0
        assert "it is not known who 1 container is" in str(stage.json("status")["complaints"])
        may_tell.set()
        stage.wait_until(lambda: stage.run(lambda: say(stage.shop.address4), late) == "hello")
        assert stage.run(lambda: say(stage.evil.address4), late) == "EPERM"
        assert of_known.is_open("shop idle", "shop busy")
        assert of_nobody.is_open(*of_nobody.names)
    assert stage.evil.count().connections == 3 * 2
