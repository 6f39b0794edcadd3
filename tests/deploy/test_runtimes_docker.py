"""Real Docker and Podman, asked who is in a container's cgroup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from bed.docker import Docker, docker_daemon, missing_docker
from bed.podman import missing_podman, podman_daemon
from deploy.asked import assert_silence_is_an_error, find
from exeat.core.cgroup_names import name_of
from exeat.core.runtime_words import WITHIN_S
from exeat.model.identity import Identity
from exeat.runtimes.docker import DockerRuntime
from exeat.runtimes.owner import is_made_by_root

TAG, OTHER_TAG, OTHER_IMAGE = "ghcr.io/acme/agent:1.0", "agent:latest", "ghcr.io/acme/other:2.0"
NOBODYS = "0" * 64
_DAEMONS = {"docker": (missing_docker, docker_daemon), "podman": (missing_podman, podman_daemon)}


class Asked:
    """A daemon, and what it tells of its containers."""

    def __init__(self, name: str, daemon: Docker) -> None:
        self.name, self.daemon = name, daemon

    def runtime(self) -> DockerRuntime:
        """To ask it."""
        return DockerRuntime(self.name, self.daemon.socket)

    def find(self, container_id: str) -> Identity | None:
        """Once."""
        return find(self.runtime, container_id)


@pytest.fixture(scope="module", params=["docker", "podman"])
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    """One daemon of each kind for the module."""
    missing, start = _DAEMONS[request.param]
    if why := missing():
        pytest.skip(why)
    starting: AbstractContextManager[Docker] = start()
    with starting as daemon:
        daemon.image(TAG, labels={"team": "images", "maker": "somebody"})
        daemon("tag", TAG, OTHER_TAG)
        daemon.image(OTHER_IMAGE)
        yield Asked(request.param, daemon)


def test_a_container_is_told_with_its_name_its_image_and_its_own_labels(asked: Asked) -> None:
    """Not with those that came with the image, but with every name of that image."""
    one = asked.daemon.run(TAG, name="web", labels={"team": "ml", "empty": ""})
    other = asked.daemon.run(OTHER_IMAGE, name="other")
    identity, others = asked.find(one.id), asked.find(other.id)
    assert identity
    assert identity.pod is None
    told = identity.container
    assert told
    assert (told.runtime, told.id, told.name, told.image) == (asked.name, one.id, "web", TAG)
    assert told.labels == (("empty", ""), ("team", "ml"))
    tags = {name.removeprefix("docker.io/library/").removeprefix("localhost/") for name in told.images}
    assert {TAG, OTHER_TAG} <= tags
    assert others
    assert others.container
    assert (others.container.name, others.container.labels) == ("other", ())
    assert not set(others.container.images) & set(told.images)


def test_a_containers_cgroup_is_recognised_and_what_is_made_below_is_not(asked: Asked) -> None:
    """Under its parent, or under another one; only root can have made it."""
    for options in ((), (f"--cgroup-parent={asked.daemon.cgroup}/docker",)):
        container = asked.daemon.run(TAG, options=options)
        name = name_of(container.cgroup)
        assert name.container_id == container.id
        assert name.runtime in ("", asked.name)
        directory = asked.daemon.daemon.directory_of(container.cgroup)
        assert is_made_by_root(directory)
        (below := directory / NOBODYS).mkdir()
        assert name_of(f"{container.cgroup}/{below.name}").container_id == ""
        below.rmdir()


def test_a_container_that_is_started_again_is_the_same(asked: Asked) -> None:
    """Its cgroup is made anew, under the same path."""
    container = asked.daemon.run(TAG, labels={"team": "ml"})
    before, cgroup = asked.find(container.id), container.cgroup
    container.kill()
    container.start()
    assert before
    assert asked.find(container.id) == before
    assert container.cgroup == cgroup


def test_a_container_that_was_removed_or_never_was_is_nobodys(asked: Asked) -> None:
    """No error: another runtime may know it."""
    container = asked.daemon.run(TAG)
    assert asked.find(container.id)
    container.remove()
    assert asked.find(container.id) is None
    assert asked.find(NOBODYS) is None


def test_a_name_that_looks_like_an_id_makes_nobody_another(asked: Asked) -> None:
    """Docker also takes names: who is called like an id is not whom that id means."""
    looks_like_an_id = "ab" * 32
    named = asked.daemon.run(TAG, name=looks_like_an_id)
    with pytest.raises(Exception, match="another container than it was asked for"):
        asked.find(looks_like_an_id)
    assert asked.find(named.id)


def test_a_container_whose_image_lost_its_name_keeps_what_it_was_asked_for(asked: Asked) -> None:
    """As after a new image of that name was pulled."""
    name = "ghcr.io/acme/moving:1.0"
    asked.daemon.image(name, mark="old")
    container = asked.daemon.run(name)
    asked.daemon.image(name, mark="new")
    identity = asked.find(container.id)
    assert identity
    assert identity.container
    assert identity.container.image == name
    assert name not in identity.container.images


def test_a_daemon_that_is_silent_is_an_error_in_bounded_time(asked: Asked) -> None:
    """And it is asked again."""
    container = asked.daemon.run(TAG)
    assert_silence_is_an_error(asked.runtime, asked.daemon.daemon.pid, container.id, WITHIN_S)
