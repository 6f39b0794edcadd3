"""Real Docker containers under policies by image and by label: enforced inside their own network namespaces.

The gate listens in the container's namespace, verdicts carry the container's names, and a runtime that answers late or
not at all opens nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bed.container_wire import connect
from bed.docker import Docker
from bed.frames import DATA
from deploy.container_stage import (
    IMAGE,
    OTHER,
    Door,
    docker_with,
    framed,
    fresh,
    furnish,
    knock,
    open_container_stage,
    policy_for,
    reach,
    session_file,
    soon,
    started,
    verdicts_of,
    views,
)
from e2e.agent_stage import AgentStage
from exeat.kernel.tcx import has_tcx


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    """One daemon, two images."""
    with docker_with({IMAGE: {"maintainer": "acme", "tier": "of-image"}, OTHER: {}}) as docker:
        yield docker


@pytest.fixture(scope="module")
def opened(docker: Docker) -> Iterator[tuple[AgentStage, Door]]:
    """One agent, which knows Docker; a policy for an image, one for a label, one for a session."""
    with open_container_stage("docker", docker.socket) as (stage, door):
        stage.write("coder", policy_for(stage, 'images: ["ghcr.io/acme/agent"]'))
        stage.write("labelled", policy_for(stage, "labels: {team: ml}", "b.shop.test", name="labelled"))
        stage.write("alice", policy_for(stage, "session: {user: alice}", "b.shop.test", name="alice"))
        stage.start()
        yield stage, door


@pytest.fixture
def stage(opened: tuple[AgentStage, Door], docker: Docker) -> Iterator[AgentStage]:
    """Fresh; no container is left."""
    yield fresh(opened[0])
    docker.remove_all()


def test_a_policy_by_image_is_enforced_and_told_by_the_containers_name(docker: Docker, stage: AgentStage) -> None:
    """Allowed by name through the gate in its namespace; denied by name and by address; the neighbour is free."""
    coder = started(docker, stage, "coder-1", team="none")
    neighbour = started(docker, stage, "neighbour", OTHER)
    soon(lambda: "docker/coder-1" in views(stage))
    assert reach(coder, "a.shop.test") == "a.shop.test"
    assert reach(coder, "a.evil.test") == "curl 6"  # no such name, for it
    assert knock(coder, stage.shop) == "shop"
    assert knock(coder, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    assert knock(neighbour, stage.evil) == "evil"  # the same way, without a policy
    assert "docker/neighbour" not in views(stage)

    view = views(stage)["docker/coder-1"]
    assert view["policies"] == ["coder"]
    assert view["who"]["image"] == IMAGE
    assert view["labels"] == {"team": "none"}  # not those of the image, which its maker wrote
    soon(lambda: len(verdicts_of(stage, container="coder-1")) >= 2)
    told = verdicts_of(stage, container="coder-1")
    assert {one["reason"] for one in told} >= {"name_not_allowed", "not_resolved"}
    who = told[-1]["who"]
    assert (who["name"], who["container_id"], who["image"]) == ("docker/coder-1", coder.id, IMAGE)
    assert who["labels"] == {"team": "none"}
    shown = stage.exeat("verdicts", "--since", "10m", "--workload", "coder-1", "--verdict", "DROPPED").stdout
    assert "docker/coder-1 denied" in shown
    details = stage.exeat("workloads", "coder-1").stdout
    assert f"coder-1 ({coder.id[:12]}) of {IMAGE}" in details
    assert ("can get around its policy" in details) is not has_tcx()  # by CAP_NET_RAW, which Docker gives
    coder.remove()
    neighbour.remove()
    soon(lambda: "docker/coder-1" not in views(stage))


def test_every_way_out_of_a_container_is_judged(docker: Docker, stage: AgentStage) -> None:
    """IPv6 as IPv4, datagrams as connections; each beside the allowed one, and the neighbour's."""
    coder = started(docker, stage, "ways")
    neighbour = started(docker, stage, "ways-free", OTHER)
    soon(lambda: "docker/ways" in views(stage))
    for protocol in ("tcp", "udp"):
        for number in (0, 1):
            near, far = stage.shop.addresses[number], stage.evil.addresses[number]
            assert knock(coder, stage.shop, protocol=protocol, address=near) == "shop"
            assert knock(coder, stage.evil, protocol=protocol, address=far) == "EPERM"
            assert stage.evil.count().is_untouched
            assert knock(neighbour, stage.evil, protocol=protocol, address=far) == "evil"
            stage.evil.reset()


def test_a_containers_frames_are_stopped_though_docker_lets_it_send_them(docker: Docker, stage: AgentStage) -> None:
    """The right to send them is Docker's default; the neighbour's arrive."""
    if not has_tcx():
        pytest.skip("this kernel has no tcx")
    coder = started(docker, stage, "frames")
    neighbour = started(docker, stage, "frames-free", OTHER)
    soon(lambda: "docker/frames" in views(stage))
    time.sleep(3)  # its wire was laid after its first process was seen, and its other end is not in the agent's sight
    assert framed(neighbour, stage.evil) == "sent"
    soon(lambda: stage.evil.datagrams() == [DATA])
    stage.evil.reset()
    assert framed(coder, stage.evil) == "ENOBUFS"
    assert stage.evil.count().is_untouched
    soon(lambda: len(verdicts_of(stage, container="frames")) > 0)
    (told,) = [one for one in verdicts_of(stage, container="frames") if one["reason"] == "packet_socket"]
    assert told["who"]["name"] == "docker/frames"


def test_a_session_is_set_for_a_container_by_its_id(docker: Docker, stage: AgentStage) -> None:
    """Nobody's before, it is a workload with what the session allows; another container does not take the token."""
    mine, other = started(docker, stage, "signed-for", OTHER), started(docker, stage, "not-signed-for", OTHER)
    token = session_file(stage, mine.id)
    soon(lambda: knock(mine, stage.evil) == "evil")
    stage.evil.reset()
    refused = stage.exeat("session", "set", other.id, "--token-file", token, check=False)
    assert refused.returncode != 0
    assert "the token is for workload" in refused.stderr
    assert not views(stage)
    stage.exeat("session", "set", mine.id, "--token-file", token)
    assert reach(mine, "b.shop.test") == "b.shop.test"
    assert knock(mine, stage.shop) == "shop"
    assert knock(mine, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    (view,) = views(stage).values()
    assert (view["policies"], view["who"]["user"], view["who"]["container_id"]) == (["alice"], "alice", mine.id)
    assert knock(other, stage.evil) == "evil"


def test_a_policy_by_label_adds_what_it_allows(docker: Docker, stage: AgentStage) -> None:
    """To that of the image, if both match; a label of the image itself selects nothing."""
    only = started(docker, stage, "labelled-only", OTHER, team="ml")
    both = started(docker, stage, "both", IMAGE, team="ml")
    soon(lambda: {"docker/labelled-only", "docker/both"} <= views(stage).keys())
    assert reach(only, "b.shop.test") == "b.shop.test"
    assert reach(only, "a.shop.test") == "curl 6"
    assert reach(both, "a.shop.test") == "a.shop.test"
    assert reach(both, "b.shop.test") == "b.shop.test"
    assert reach(both, "a.evil.test") == "curl 6"
    assert knock(only, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    only.remove()
    both.remove()


def test_an_image_neither_chooses_a_policy_nor_escapes_one_by_its_labels(docker: Docker, stage: AgentStage) -> None:
    """Docker cannot tell whose label it is: nothing passes, and the reason is told. The twin has it from its user."""
    docker.image("ghcr.io/evil/agent:1", {"team": "ml"})
    chooses = started(docker, stage, "chooses", "ghcr.io/evil/agent:1")
    escapes = started(docker, stage, "escapes", "ghcr.io/evil/agent:1", team="ml")
    honest = started(docker, stage, "honest", OTHER, team="ml")
    soon(lambda: {"docker/chooses", "docker/escapes", "docker/honest"} <= views(stage).keys())
    assert reach(honest, "b.shop.test") == "b.shop.test"
    stage.shop.reset()
    for container in (chooses, escapes):
        assert reach(container, "b.shop.test").startswith("curl")
        assert knock(container, stage.shop) == knock(container, stage.evil) == "EPERM"
    assert stage.shop.count().connections == stage.evil.count().connections == 0
    assert "brings labels that select labelled" in str(views(stage)["docker/escapes"]["unknown"])
    assert not views(stage)["docker/honest"]["unknown"]


def test_a_container_that_is_killed_and_started_again_is_judged_from_its_first_breath(
    docker: Docker, stage: AgentStage
) -> None:
    """Its first process tries without end; the server has not heard of it."""
    tries = (
        "import socket, sys, time\n"
        f"where = ({stage.evil.address4!r}, 7)\n"
        "while True:\n"
        "    try:\n"
        "        s = socket.create_connection(where, 0.5); s.sendall(b'x'); print('through', flush=True); break\n"
        "    except OSError as e:\n"
        "        print(e.errno, flush=True)\n"
        "    time.sleep(0.002)\n"
    )
    restless = docker.run(IMAGE, "python3", "-c", tries, name="restless", tools=True)
    connect(stage.bed, restless.pid)
    denials = lambda: docker("logs", "restless").split().count("1")  # noqa: E731  # EPERM
    soon(lambda: "docker/restless" in views(stage))
    first = views(stage)["docker/restless"]["id"]
    soon(lambda: denials() > 20)
    restless.kill()
    soon(lambda: "docker/restless" not in views(stage))
    before = denials()
    restless.start()
    connect(stage.bed, restless.pid)
    soon(lambda: "docker/restless" in views(stage))
    assert views(stage)["docker/restless"]["id"] != first
    soon(lambda: denials() > before + 20)
    assert "through" not in docker("logs", "restless").split()
    assert stage.evil.count().connections == 0
    furnish(restless)
    assert reach(restless, "a.shop.test") == "a.shop.test"
    restless.remove()


def test_who_is_not_known_yet_is_denied_everything_until_docker_answers(
    docker: Docker, stage: AgentStage, door: Door
) -> None:
    """A container that no policy is for is let go as soon as that is known."""
    door.shut()
    late = started(docker, stage, "late")
    foreign = started(docker, stage, "late-foreign", OTHER)
    soon(lambda: len(views(stage)) == 2)
    assert reach(late, "a.shop.test").startswith("curl")
    assert knock(late, stage.shop) == knock(foreign, stage.shop) == "EPERM"
    assert stage.shop.count().connections == 0
    soon(lambda: any("not known who 2 containers are" in text for text in stage.json("status")["complaints"]))
    assert all(one["unknown"] for one in views(stage).values())
    door.open()
    soon(lambda: list(views(stage)) == ["docker/late"])
    assert reach(late, "a.shop.test") == "a.shop.test"
    assert knock(late, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    assert knock(foreign, stage.evil) == "evil"
    assert stage.json("status").get("complaints", []) == []
    late.remove()
    foreign.remove()


def test_an_agent_that_is_killed_and_started_anew_knows_its_containers_though_docker_is_silent(
    docker: Docker, stage: AgentStage, door: Door
) -> None:
    """In between the kernel judges on; the open connection lives through it."""
    kept = started(docker, stage, "kept")
    soon(lambda: "docker/kept" in views(stage))
    script = (
        "import itertools, socket, time\n"
        f"s = socket.create_connection(({stage.shop.address4!r}, 7), 5)\n"
        "s.settimeout(20)\n"
        "for n in itertools.count():\n"
        "    s.sendall(b'%d.' % n); s.recv(99); print(n, flush=True); time.sleep(0.1)\n"
    )
    talker = docker("exec", "--detach", kept.id, "sh", "-c", f'exec python3 -c "{script}" > /said 2>&1')
    assert talker == ""
    said = lambda: kept.exec("cat", "/said").stdout.split()  # noqa: E731
    soon(said)
    door.shut()
    stage.kill()
    assert knock(kept, stage.evil) == "EPERM"
    assert knock(kept, stage.shop) == "shop"
    stage.start()
    assert views(stage)["docker/kept"]["policies"] == ["coder"]
    assert knock(kept, stage.shop) == "shop"
    assert knock(kept, stage.evil) == "EPERM"
    assert reach(kept, "a.shop.test") == "a.shop.test"
    assert stage.evil.count().connections == 0
    before = int(said()[-1])
    soon(lambda: int(said()[-1]) > before)
    kept.remove()
