"""Who makes containers, or is in one, tries to fall under another's policy, or under none. Real Docker, real agent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from bed import run_in
from bed.daemons import end_all_in
from bed.docker import Docker
from deploy.container_stage import (
    IMAGE,
    OTHER,
    TALK,
    Door,
    docker_with,
    fresh,
    knock,
    knock_from,
    open_container_stage,
    policy_for,
    reach,
    soon,
    started,
    verdicts_of,
    views,
)
from e2e.agent_stage import AgentStage

POD_UID = "0f6c3f0e-6a55-4f0b-8a77-0c7b6a1d2e3f"
SOME_USER = 12345
_SYS_ADMIN = ("--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined")


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    """One daemon, two images."""
    with docker_with({IMAGE: {}, OTHER: {}}) as docker:
        yield docker


@pytest.fixture(scope="module")
def opened(docker: Docker) -> Iterator[tuple[AgentStage, Door]]:
    """One agent, which knows Docker; a policy for an image, and one for pods that would let them go everywhere."""
    with open_container_stage("docker", docker.socket) as (stage, door):
        stage.write("coder", policy_for(stage, 'images: ["ghcr.io/acme/agent"]'))
        system = stage.policy("system", stage.rules(stage.shop, stage.evil))
        stage.write("system", system.replace(f'cgroups: ["{stage.subject}"]', "pods: {namespace: kube-system}"))
        stage.start()
        yield stage, door


@pytest.fixture
def stage(opened: tuple[AgentStage, Door], docker: Docker) -> Iterator[AgentStage]:
    """Fresh; no container is left."""
    yield fresh(opened[0])
    docker.remove_all()


def test_cgroups_that_a_container_makes_in_itself_stay_under_its_policy(docker: Docker, stage: AgentStage) -> None:
    """Called like another container's, like a pod's, like a unit: what is below a container is the container's."""
    free = started(docker, stage, "free", OTHER)
    jailer = started(docker, stage, "jailer", IMAGE, *_SYS_ADMIN, "--cgroupns=private")
    soon(lambda: "docker/jailer" in views(stage))
    names = [
        f"docker-{free.id}.scope", f"docker/{free.id}", free.id, f"libpod-{free.id}.scope",
        f"kubepods.slice/kubepods-pod{POD_UID.replace('-', '_')}.slice/cri-containerd-{free.id}.scope",
        "system.slice/nginx.service",
    ]  # fmt: skip
    talk = " && ".join(f'python3 -c "$0" {host.address4} 7 tcp' for host in (stage.shop, stage.evil))
    for name in names:
        script = (
            f"mkdir -p /cg && mount -t cgroup2 none /cg && mkdir -p /cg/{name} && echo 0 >/cg/{name}/cgroup.procs && "
            f"{talk} && cat /proc/self/cgroup; umount /cg"
        )
        done = jailer.exec("sh", "-ec", script, TALK, timeout=30)
        assert done.returncode == 0, done
        assert done.stdout.split("\n")[:3:2] == ["I am shop", "EPERM"], name
        assert name in done.stdout  # it was there
    assert stage.evil.count().connections == 0
    assert knock(free, stage.evil) == "evil"
    assert list(views(stage)) == ["docker/jailer"]


def test_a_look_alike_in_a_users_part_of_the_tree_is_not_the_container(docker: Docker, stage: AgentStage) -> None:
    """Whom systemd gave a part of it; the same by root is taken for one."""
    real = started(docker, stage, "real")
    wire = started(docker, stage, "wire", OTHER)
    soon(lambda: list(views(stage)) == ["docker/real"])
    users, roots = stage.top / "delegated", stage.top / "docker"
    try:
        users.mkdir()
        for path in (users, users / "cgroup.procs", users / "cgroup.subtree_control"):
            os.chown(path, SOME_USER, SOME_USER)
        theirs, ours = users / f"docker-{real.id}.scope", roots / real.id
        subprocess.run(["setpriv", f"--reuid={SOME_USER}", "--clear-groups", "mkdir", theirs], check=True)
        ours.mkdir(parents=True)
        soon(lambda: len([one for one in stage.json("workloads")["workloads"] if one["name"] == "docker/real"]) == 2)
        cgroups = {one["cgroup"] for one in stage.json("workloads")["workloads"]}
        assert cgroups == {real.cgroup, f"/{stage.top.name}/docker/{real.id}"}
        assert knock_from(ours, wire.pid, stage.evil) == "EPERM"
        assert stage.evil.count().connections == 0
        assert knock_from(ours, wire.pid, stage.shop) == "shop"
        assert knock_from(theirs, wire.pid, stage.evil, SOME_USER) == "evil"  # as it was: nobody's
    finally:
        for cgroup in (users, roots):
            end_all_in(cgroup)


def test_labels_of_dockers_make_no_pod_and_no_sandbox(docker: Docker, stage: AgentStage) -> None:
    """Who may only give labels does not come under the policy for kube-system; nor out of that for its image."""
    labels = {
        "io.kubernetes.pod.namespace": "kube-system", "io.kubernetes.pod.name": "kube-proxy",
        "io.kubernetes.pod.uid": POD_UID, "io.kubernetes.container.name": "main",
        "io.kubernetes.docker.type": "podsandbox",
    }  # fmt: skip
    pretender = started(docker, stage, "pretender", **labels)
    soon(lambda: "docker/pretender" in views(stage))
    view = views(stage)["docker/pretender"]
    assert (view["policies"], view["who"]["namespace"], view["who"]["pod"]) == (["coder"], "", "")
    assert knock(pretender, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    assert knock(pretender, stage.shop) == "shop"
    parent = f"--cgroup-parent={docker.cgroup}/kubepods/burstable/pod{POD_UID}"
    sandbox = started(docker, stage, "sandbox", OTHER, parent, **labels)
    own = {**labels, "io.kubernetes.docker.type": "container", "io.kubernetes.sandbox.id": sandbox.id}
    whole = started(docker, stage, "whole", OTHER, parent, **own)
    soon(lambda: "pod/kube-system/kube-proxy/main" in views(stage))  # who may choose the cgroup is root on this host
    assert knock(whole, stage.evil) == "evil"
    assert knock(whole, stage.evil, 443) == "EPERM"
    assert stage.evil.count().connections == 1


def test_what_a_container_is_called_moves_no_terminal(docker: Docker, stage: AgentStage) -> None:
    """Escape sequences, line ends, a hundred kilobytes, hundreds of labels: shown as text, some of it."""
    nasty = {f"l{number}": "x" for number in range(300)} | {
        "a\x1b[2J": "b\x1b]0;title\x07", "line": "one\ntwo\rthree", "dir": "\u202eevil", "big": "b" * 100_000,
    }  # fmt: skip
    loud = started(docker, stage, "loud", **nasty)
    soon(lambda: "docker/loud" in views(stage))
    assert knock(loud, stage.shop) == "shop"
    assert knock(loud, stage.evil) == "EPERM"
    soon(lambda: verdicts_of(stage, container="loud"))
    for words in (
        ("workloads",), ("workloads", "docker/loud"), ("verdicts", "--since", "5m", "--workload", "loud"), ("status",)
    ):  # fmt: skip
        shown = stage.exeat(*words, check=False).stdout
        assert not {"\x1b", "\r", "\x07", "\u202e"} & set(shown), words
        assert len(shown) < 300_000
    page = run_in(stage.bed, ["curl", "-s", "http://127.0.0.1:9469/metrics/workloads"]).stdout
    assert "docker/loud" in page
    assert not {"\x1b", "\r", "\u202e"} & set(page)
    line = (stage.directory / "log" / "verdicts.jsonl").read_bytes()
    assert b"\x1b" not in line
    assert stage.evil.count().connections == 0


def test_two_workloads_of_one_name_are_told_apart(docker: Docker, stage: AgentStage) -> None:
    """One was registered by the name of a container that came later: who writes the name alone is told."""
    cgroup = stage.cgroup("by-hand")
    try:
        stage.exeat("register", "docker/taken", "--cgroup", stage.path(cgroup), "--policy", "coder")
        taken = started(docker, stage, "taken")
        soon(lambda: len([one for one in stage.json("workloads")["workloads"] if one["name"] == "docker/taken"]) == 2)
        asked = stage.exeat("mode", "docker/taken", "open", "--for", "1m", "--reason", "a test", check=False)
        assert asked.returncode != 0
        assert "could be" in asked.stderr
        assert knock(taken, stage.evil) == "EPERM"
        assert knock(taken, stage.shop) == "shop"
        page = run_in(stage.bed, ["curl", "-s", "http://127.0.0.1:9469/metrics/workloads"]).stdout
        series = [line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")]
        assert len(series) == len(set(series)), "Prometheus takes no page on which a series is twice"
        assert stage.evil.count().connections == 0
    finally:
        stage.exeat("unregister", stage.path(cgroup), check=False)
        cgroup.rmdir()


def test_a_policy_begins_to_ask_while_containers_run_and_ends(docker: Docker, stage: AgentStage, door: Door) -> None:
    """Who is not known then waits behind the wall; who is known is not troubled; afterwards all is as it was."""
    coder = (stage.directory / "policies.d/coder.yaml").read_text()
    files = [stage.directory / "policies.d" / f"{name}.yaml" for name in ("coder", "system")]
    kept = {file: file.read_text() for file in files}
    free = started(docker, stage, "known-free", OTHER)
    soon(lambda: knock(free, stage.evil) == "evil")
    try:
        for file in files:
            file.unlink()
        soon(lambda: not views(stage))
        door.shut()
        late = started(docker, stage, "late")
        assert knock(late, stage.evil) == "evil"  # no policy asks who it is
        stage.evil.reset()
        stage.write("coder", coder)
        soon(lambda: len(views(stage)) == 1)
        assert knock(late, stage.shop) == "EPERM"
        assert stage.shop.count().connections == 0
        assert knock(free, stage.shop) == "shop"  # the runtime had told
        files[0].unlink()
        soon(lambda: not views(stage))
        assert knock(late, stage.shop) == "shop"
        stage.write("coder", coder)
        soon(lambda: len(views(stage)) == 1)
        door.open()
        soon(lambda: list(views(stage)) == ["docker/late"])
        files[0].unlink()
        soon(lambda: not views(stage))
        stage.write("coder", coder)
        soon(lambda: list(views(stage)) == ["docker/late"])
        assert reach(late, "a.evil.test") == "curl 6"
        soon(lambda: "name_not_allowed" in {one["reason"] for one in verdicts_of(stage, container="late")})
        assert knock(late, stage.evil) == "EPERM"
        assert stage.evil.count().connections == 0
    finally:
        for file, text in kept.items():
            stage.write(file.stem, text)


def test_policies_that_only_watch_hold_nobody_back_whom_nobody_knows(
    docker: Docker, stage: AgentStage, door: Door
) -> None:
    """As for those whom they know: what would be denied is told."""
    files = {name: stage.directory / "policies.d" / f"{name}.yaml" for name in ("coder", "system")}
    kept = {name: file.read_text() for name, file in files.items()}
    try:
        files["system"].unlink()
        stage.write("coder", kept["coder"].replace("mode: enforce", "mode: monitor"))
        door.shut()
        unknown = started(docker, stage, "unknown")
        soon(lambda: len(views(stage)) == 1)
        assert knock(unknown, stage.evil) == "evil"
        soon(lambda: "no-policy" in {one["policy"] for one in verdicts_of(stage, "AUDIT")})
        stage.evil.reset()
        stage.write("coder", kept["coder"])
        soon(lambda: next(iter(views(stage).values()))["mode"] == "MODE_ENFORCE")
        assert knock(unknown, stage.evil) == "EPERM"
        assert stage.evil.count().connections == 0
    finally:
        for name, text in kept.items():
            stage.write(name, text)


def test_words_of_operators_hold_for_a_container_by_its_name(docker: Docker, stage: AgentStage) -> None:
    """A mode, an allowance, a registration beside what its runtime says."""
    coder = started(docker, stage, "operated", team="ml")
    soon(lambda: "docker/operated" in views(stage))
    assert knock(coder, stage.evil) == "EPERM"
    assert stage.evil.count().connections == 0
    stage.exeat("allow", "docker/operated", f"{stage.evil.address4}:7", "--for", "5m", "--reason", "a test")
    assert knock(coder, stage.evil) == "evil"
    stage.exeat("register", "by-hand", "--cgroup", coder.cgroup, "--label", "team=ops", "--label", "more=yes")
    view = views(stage)["by-hand"]
    assert (view["labels"], view["who"]["container"]) == ({"team": "ops", "more": "yes"}, "operated")
    assert view["policies"] == ["coder"]
    docker("rename", "operated", "renamed")
    assert reach(coder, "a.shop.test") == "a.shop.test"
    assert reach(coder, "a.evil.test") == "curl 6"


def test_a_container_in_a_network_that_is_there_already_does_not_slip_through(
    docker: Docker, stage: AgentStage
) -> None:
    """Its first process is there within milliseconds, and tries at once: a way to both servers is laid already."""
    holder = started(docker, stage, "holder", OTHER)
    tries = (
        "i=0; while [ $i -lt 300 ]; do echo x | nc -w 1 $0 7 2>&1; i=$((i+1)); done; "
        "until echo x | nc -w 1 $1 7 2>&1 | busybox grep I.am; do sleep 0.1; done"
    )
    for number in range(3):
        line = ("sh", "-c", tries, stage.evil.address4, stage.shop.address4)
        breath = docker.run(IMAGE, *line, name=f"breath-{number}", options=[f"--network=container:{holder.id}"])
        assert docker("wait", breath.id) == "0"
        *denied, allowed = docker("logs", breath.id).splitlines()
        assert len(denied) == 300
        assert all("not permitted" in line for line in denied)
        assert allowed == "I am shop"
    assert stage.evil.count().connections == 0
    assert knock(holder, stage.evil) == "evil"
