"""Many containers, and a runtime that is slow, lies or flaps: the agent stays in control, and small."""

from __future__ import annotations

import errno
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bed import start_in
from bed.daemons import end_all_in
from deploy.container_stage import IMAGE, fresh, policy_for, soon
from deploy.made_up_docker import MadeUpDocker, made_up_docker
from e2e.agent_stage import NO_RUNTIMES, AgentStage, open_agent_stage, say
from exeat.v1 import agent_pb2 as pb

MANY, WAVES, WAVE = 500, 10, 200
KNOWN_S = 30.0  # for all of them, on a machine that has other things to do
LONGEST_S = 3.0  # of one answer, likewise
GROWTH_BYTES = 12_000_000  # over what a warm agent had
_ids = itertools.count(1)


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[AgentStage, MadeUpDocker]]:
    """An agent that asks a Docker of ours."""
    with open_agent_stage() as stage:
        path = stage.directory / "docker.sock"
        with made_up_docker(path) as docker:
            settings = stage.directory / "exeat.yaml"
            sockets = json.dumps({"docker": str(path), "podman": "off", "cri": "off"})
            settings.write_text(settings.read_text().replace(NO_RUNTIMES, sockets))
            stage.write("coder", policy_for(stage, 'images: ["ghcr.io/acme/agent"]'))
            stage.start()
            yield stage, docker


@pytest.fixture
def stage(opened: tuple[AgentStage, MadeUpDocker]) -> Iterator[AgentStage]:
    """With a directory of Docker's, which goes with all that is in it."""
    stage = fresh(opened[0])
    above = stage.top / "docker"
    above.mkdir()
    yield stage
    end_all_in(above)
    soon(lambda: not workloads(stage))


@pytest.fixture
def docker(opened: tuple[AgentStage, MadeUpDocker]) -> Iterator[MadeUpDocker]:
    """Quick and honest again after the test."""
    docker = opened[1]
    answer = docker.answer
    yield docker
    docker.delay_s, docker.is_silent, docker.answer = 0.0, False, answer


def container(stage: AgentStage, docker: MadeUpDocker, image: str = IMAGE) -> Path:
    """A cgroup of one."""
    container_id = f"{next(_ids):064x}"
    docker.image_of[container_id] = image
    cgroup = stage.top / "docker" / container_id
    cgroup.mkdir()
    return cgroup


def workloads(stage: AgentStage) -> list[dict[str, Any]]:
    """All."""
    found: list[dict[str, Any]] = stage.json("workloads").get("workloads", [])
    return found


def resident_bytes(stage: AgentStage) -> int:
    """Of the agent."""
    assert stage.process
    status = Path(f"/proc/{stage.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def test_five_hundred_containers_at_once_are_known_soon_and_the_agent_answers_meanwhile(
    stage: AgentStage, docker: MadeUpDocker
) -> None:
    """Half of them under a policy; Docker needs 20 ms for each, and for its image."""
    docker.delay_s = 0.02
    began = time.monotonic()
    for number in range(MANY):
        container(stage, docker, IMAGE if number % 2 else "nobody/other")
    took_s: list[float] = []
    with stage.client() as client:
        while True:
            asked = time.monotonic()
            count = client.get_status().workloads
            took_s.append(time.monotonic() - asked)
            if count == MANY // 2 and len(took_s) > 3:
                listed = client.list_workloads(pb.ListWorkloadsRequest()).workloads
                if all(one.name.startswith("docker/") for one in listed):
                    break
            assert time.monotonic() - began < KNOWN_S
            time.sleep(0.01)
    known_s = time.monotonic() - began
    print(f"{MANY} known in {known_s:.1f} s; the agent answered in {statistics.median(took_s) * 1000:.0f} ms,")
    print(f"at most {max(took_s) * 1000:.0f} ms, {len(took_s)} times")
    assert statistics.median(took_s) < 0.1
    assert max(took_s) < LONGEST_S


def test_two_thousand_containers_that_come_and_go_leave_nothing(stage: AgentStage, docker: MadeUpDocker) -> None:
    """Memory of a warm agent, before and after."""
    sizes: list[int] = []
    for _ in range(WAVES):
        cgroups = [container(stage, docker) for _ in range(WAVE)]
        soon(lambda: len(workloads(stage)) == WAVE)
        for cgroup in cgroups:
            cgroup.rmdir()
        soon(lambda: not workloads(stage))
        sizes.append(resident_bytes(stage))
    print(f"resident after each {WAVE}: {', '.join(f'{one / 1e6:.1f}' for one in sizes)} MB")
    assert not list((stage.directory / "run" / "identities").glob("*.json"))
    assert sizes[-1] - sizes[2] < GROWTH_BYTES


def test_an_answer_for_another_container_or_none_leaves_it_behind_the_wall(
    stage: AgentStage, docker: MadeUpDocker
) -> None:
    """Denied everything, and told why; let go to its policy when the runtime says the truth."""
    honest = docker.answer
    docker.answer = lambda container_id: honest("f" * 64)
    cgroup = container(stage, docker)
    soon(lambda: len(workloads(stage)) == 1)
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "EPERM"
    assert stage.shop.count().connections == 0
    soon(lambda: "another container" in workloads(stage)[0]["unknown"])
    docker.is_silent = True
    soon(lambda: "no answer of HTTP" in workloads(stage)[0]["unknown"])
    docker.answer, docker.is_silent = honest, False
    soon(lambda: workloads(stage)[0]["policies"] == ["coder"])
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.evil.count().connections == 0


def test_a_policy_that_changes_while_the_runtime_thinks_is_the_one_that_holds(
    stage: AgentStage, docker: MadeUpDocker
) -> None:
    """Not the one of the time when it was asked."""
    docker.delay_s = 0.5  # and for its image as long again
    cgroup = container(stage, docker)
    soon(lambda: len(workloads(stage)) == 1)
    text = (stage.directory / "policies.d/coder.yaml").read_text()
    swapped = stage.policy("coder", stage.rules(stage.evil)).replace(
        f'cgroups: ["{stage.subject}"]', 'images: ["ghcr.io/acme/agent"]'
    )
    try:
        stage.write("coder", swapped)
        soon(lambda: workloads(stage)[0]["policies"] == ["coder"])
        assert stage.run(lambda: say(stage.evil.address4), cgroup) == "hello"
        assert stage.run(lambda: say(stage.shop.address4), cgroup) == "EPERM"
        assert stage.shop.count().connections == 0
    finally:
        stage.write("coder", text)


def test_a_connection_of_before_is_judged_when_the_runtime_remembers_the_container(
    stage: AgentStage, docker: MadeUpDocker
) -> None:
    """It had said often enough that it knew nothing of it. What was opened meanwhile carries nothing more out."""
    honest = docker.answer
    docker.answer = lambda container_id: None
    before = docker.asked
    cgroup = container(stage, docker)
    soon(lambda: docker.asked >= before + 4 and not workloads(stage))
    script = (
        "import socket, sys\n"
        f"hosts = ({stage.shop.address4!r}, {stage.evil.address4!r})\n"
        "socks = [socket.create_connection((host, 7), 15) for host in hosts]\n"
        "for s in socks: s.sendall(b'x'); s.recv(99)\n"
        "print('open'); sys.stdin.readline()\n"
        "for s in socks:\n"
        "    try: s.sendall(b'more'); print(s.recv(99).decode())\n"
        "    except OSError as e: print(e.errno)\n"
    )
    how: dict[str, Any] = {"cgroup": cgroup, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = start_in(stage.bed, [sys.executable, "-uc", script], **how)
    assert process.stdout
    assert process.stdout.readline().strip() == "open"
    docker.answer = honest
    soon(lambda: [one["policies"] for one in workloads(stage)] == [["coder"]])
    said, _ = process.communicate("go on\n", timeout=40)
    stage.bed.disown(process)
    assert said.split() == ["more", str(errno.ECONNABORTED)]
    assert stage.evil.count().bytes == len(b"x")


def test_a_cgroup_made_anew_under_the_same_path_is_asked_for_anew(stage: AgentStage, docker: MadeUpDocker) -> None:
    """Docker starts a container again: nothing of the one before holds for it while nobody has said who it is."""
    cgroup = container(stage, docker)
    soon(lambda: [one["name"] for one in workloads(stage)] == [f"docker/c-{cgroup.name[-6:]}"])
    first = workloads(stage)[0]["id"]
    docker.is_silent = True
    cgroup.rmdir()
    cgroup.mkdir()
    soon(lambda: [one["id"] for one in workloads(stage)] not in ([], [first]))
    assert workloads(stage)[0]["policies"] == ["no-policy"]
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "EPERM"
    assert stage.shop.count().connections == 0
    docker.is_silent = False
    soon(lambda: workloads(stage)[0]["policies"] == ["coder"])
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
