"""A newer agent takes over: other programs under the same links, or maps of another layout beside the old ones."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.agent_builds import as_it_is, changed_layout, changed_programs
from e2e.agent_stage import INSTANCE, AgentStage, open_agent_stage, say
from e2e.agent_traffic import Traffic, all_was_allowed, everywhere, start_traffic
from exeat.kernel.abi import LAYOUT
from exeat.kernel.filesystems import bpf_root
from exeat.kernel.instance import Instance, remove_instance
from exeat.kernel.pins import opened

HOME = bpf_root() / "exeat"


@dataclass(frozen=True)
class Build:
    """One exeat: what has an agent run it, and the layout of its maps."""

    environment: dict[str, str]
    layout: int = LAYOUT


@dataclass
class Builds:
    """All there are, copied once. `old`: with which a test begins; `left`: whose programs it has left in the kernel.

    An upgrade shows the same from either of two builds to the other, so a test begins where the one before has ended.
    """

    first: Build
    other: Build
    next_layout: Build
    old: Build
    left: Build | None = None  # a failed test leaves nobody knows what

    def newer(self) -> Build:
        """Other programs, the same layout."""
        return self.first if self.old is self.other else self.other

    def of_another_layout(self) -> Build:
        """The same, or other programs."""
        return self.first if self.old is self.next_layout else self.next_layout


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    """Each in a place of its own."""
    place = tmp_path_factory.mktemp("builds")
    first, other = Build(as_it_is(place / "first")), Build(changed_programs(place / "other"))
    yield Builds(first, other, Build(changed_layout(place / "layout"), LAYOUT + 1), first)
    remove_instance(INSTANCE)


@pytest.fixture
def stage(builds: Builds) -> Iterator[AgentStage]:
    """A workload under a policy, and an agent of the old build in control."""
    builds.old, is_kept = builds.left or builds.first, builds.left is not None
    builds.left = None
    if not is_kept:
        remove_instance(INSTANCE)
    with open_agent_stage() as stage:
        stage.write("coder", stage.policy("coder", stage.rules(stage.shop) + stage.names("a.shop.test")))
        stage.cgroup("coder-1")
        stage.environment = builds.old.environment
        stage.start()
        yield stage


def test_changed_programs_take_over_with_no_gap(stage: AgentStage, builds: Builds) -> None:
    """Every program is another one afterwards, status shows both until then, no connection breaks, nothing leaks."""
    before, first = programs(), stage.json("status")
    assert first["programs"] == first["own_programs"]
    holder, hammer = traffic(stage)
    stage.kill()
    stage.environment = builds.newer().environment
    stage.start(wait=False)
    stage.wait_until(stage.answers, 30)
    both = stage.status()
    wait_until_compiled(stage, builds.newer(), holder, hammer)
    assert both["own_programs"] != first["programs"]
    stage.wait_until(lambda: stage.status()["programs"] == both["own_programs"], 30)
    assert both["programs"] == first["programs"], "the upgrade was done before anybody could ask"
    after = programs()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    nothing_broke_or_leaked(stage, holder, hammer)
    assert stage.json("status").get("complaints", []) == []
    builds.left = builds.newer()


@pytest.mark.parametrize("after", ["half of the links", "all links", "no mark"])
def test_an_upgrade_that_was_killed_is_completed_by_the_next(stage: AgentStage, builds: Builds, after: str) -> None:
    """Wherever it stopped: the kernel has programs of both builds then, and both judge alike."""
    holder, hammer = traffic(stage)
    stage.environment = builds.newer().environment
    stage.kill()
    old = programs()
    stage.start(wait=False)
    incoming = Instance(INSTANCE).directory / "incoming"
    wait_until_compiled(stage, builds.newer(), holder, hammer)
    wanted = {"half of the links": len(old) // 2, "all links": len(old) - 1, "no mark": len(old)}[after]
    deadline = time.monotonic() + 90
    while len({name for name, one in programs().items() if one != old[name]}) < wanted and incoming.exists():
        assert time.monotonic() < deadline
    stage.kill()
    if after == "no mark":
        for mark in Instance(INSTANCE).directory.glob("build-*"):
            mark.rmdir()
    stage.start()
    stage.wait_until(lambda: is_current(stage), 90)
    assert not set(programs().values()) & set(old.values())
    assert not incoming.exists()
    nothing_broke_or_leaked(stage, holder, hammer)
    builds.left = builds.newer()


def test_another_layout_takes_over_and_only_then_the_old_one_goes(stage: AgentStage, builds: Builds) -> None:
    """Two sets of programs judge for a moment; plain connections go on, and nothing is judged by nobody.

    A connection by a name is ended, and told so: that its name was allowed stands in the old maps only.
    """
    holder, hammer = traffic(stage, name="")
    where = everywhere(stage.shop, stage.evil, name="a.shop.test")
    named = start_traffic(stage.bed, stage.top / "coder-1", "hold", where)
    named.wait_until_up()
    newer = builds.of_another_layout()
    stage.environment = newer.environment
    stage.kill()
    stage.start(wait=False)
    wait_until_compiled(stage, newer, holder, hammer, named)
    stage.wait_until(lambda: not links_of(builds.old).parent.exists(), 30)
    assert links_of(newer).is_dir()
    nothing_broke_or_leaked(stage, holder, hammer)
    assert "timed out" not in "".join(named.finish()["failures"] or ["timed out"])
    cgroup = stage.top / "coder-1"
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
    builds.left = newer


def test_a_change_of_layout_that_was_killed_is_completed_by_the_next(stage: AgentStage, builds: Builds) -> None:
    """At any moment of it the old programs enforce, or the new ones, or both."""
    holder, hammer = traffic(stage, name="")
    stage.environment = builds.of_another_layout().environment
    stage.kill()
    old, new = links_of(builds.old), links_of(builds.of_another_layout())
    stage.start(wait=False)
    wait_until_compiled(stage, builds.of_another_layout(), holder, hammer)
    stage.wait_until(lambda: new.is_dir() and len(os.listdir(new)) > 3, 30)
    stage.kill()
    assert (old / "on_packet_out").exists()
    stage.start(wait=False)
    stage.wait_until(lambda: len(os.listdir(new)) > 12, 30)  # all of them, perhaps with no workload yet
    stage.kill()
    stage.start()
    stage.wait_until(lambda: not old.parent.exists(), 30)
    nothing_broke_or_leaked(stage, holder, hammer)
    builds.left = builds.of_another_layout()


def test_the_old_layout_stays_while_it_is_unknown_whom_it_judges(
    stage: AgentStage, builds: Builds, tmp_path: Path
) -> None:
    """A registration that cannot be read: its workload is under the old programs until somebody mends that."""
    policy = tmp_path / "own.yaml"
    policy.write_text(stage.policy("own", stage.rules(stage.shop), subject="/nowhere"))
    (stage.top / "coder-1").rmdir()
    (stage.directory / "policies.d" / "coder.yaml").unlink()
    cgroup = stage.cgroup("mine")
    stage.exeat("register", "mine", "--cgroup", stage.path(cgroup), "--policy-file", str(policy))
    stage.kill()
    for kept in (stage.directory / "run" / "state" / "workloads").glob("*.json"):
        kept.write_text("{")
    stage.environment = builds.of_another_layout().environment
    stage.start()
    time.sleep(6)  # the agent looks again every five seconds
    assert any("older programs enforce on" in one for one in stage.status()["complaints"])
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
    assert stage.evil.count().connections == 0


def traffic(stage: AgentStage, name: str = "a.shop.test") -> tuple[Traffic, Traffic]:
    """Connections that must not break, and one who tries what is denied."""
    cgroup = stage.top / "coder-1"
    where = everywhere(stage.shop, stage.evil, name=name)
    holder = start_traffic(stage.bed, cgroup, "hold", where)
    holder.wait_until_up()  # it resolves the name by which the other one comes
    hammer = start_traffic(stage.bed, cgroup, "hammer", where)
    hammer.wait_until_up()
    return holder, hammer


def nothing_broke_or_leaked(stage: AgentStage, holder: Traffic, hammer: Traffic) -> None:
    """By what the clients and the hosts say."""
    held, told = holder.finish(), hammer.finish()
    assert held["failures"] == []
    assert held["plain"] > 20
    assert stage.evil.count().is_untouched, told
    assert "a.evil.test" not in stage.shop.count().sni
    assert told["connect PermissionError"] > 3
    assert all_was_allowed(told) or held["tls"] == 0  # names were resolved under the old layout only


def programs() -> dict[str, int]:
    """The id of the program under each link to the cgroups, as the kernel tells it."""
    found = {}
    for path in (Instance(INSTANCE).directory / "links").iterdir():
        if path.is_dir():  # of interfaces
            continue
        with opened(path) as fd:
            fields = dict(line.split() for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
        found[path.name] = int(fields["prog_id:"])
    return found


def wait_until_compiled(stage: AgentStage, build: Build, *busy: Traffic) -> None:
    """Returns when a starting agent is about to attach its programs. Until then nothing changes in the kernel."""
    with ExitStack() as walking:
        for one in busy:
            walking.enter_context(one.at_a_walk())
        stage.wait_for_new_programs(links_of(build).parent)


def links_of(build: Build) -> Path:
    """Where an agent of this build pins what it attaches."""
    return HOME / f"v{build.layout}" / INSTANCE / "links"


def is_current(stage: AgentStage) -> bool:
    """Whether the agent's own programs are in the kernel."""
    status = stage.status()
    return bool(status["programs"] == status["own_programs"])
