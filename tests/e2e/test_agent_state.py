"""Whatever becomes of the agent's files, pins and clock: what was enforced is, and status says what is wrong."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ctypes import sizeof
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bed import start_in
from e2e.agent_builds import as_it_is
from e2e.agent_damage import GARBAGE, die_before, fill, small_disk, unpin
from e2e.agent_stage import EXEAT, INSTANCE, AgentStage, open_agent_stage, say
from e2e.agent_traffic import everywhere, start_traffic
from exeat.kernel import libbpf
from exeat.kernel.entries import NetworkKey
from exeat.kernel.instance import Instance, remove_instance
from exeat.kernel.takeover import policies_left


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """This exeat, from a place of its own; all its programs are in the kernel, for each stage to take over."""
    environment = as_it_is(tmp_path_factory.mktemp("build") / "one")
    with open_agent_stage() as stage:
        stage.environment = environment
        stage.start()
        stage.wait_for_guest_programs()
    return environment


@pytest.fixture
def stage(build: dict[str, str]) -> Iterator[AgentStage]:
    """A workload that a policy's subject names, and one that will be registered; no agent yet."""
    with open_agent_stage() as stage:
        stage.environment = dict(build)
        stage.write(
            "coder", stage.policy("coder", stage.rules(stage.shop), subject=stage.path(stage.cgroup("coder-1")))
        )
        stage.cgroup("mine")
        yield stage


def subject(stage: AgentStage) -> str:
    """The one workload that the policy is for: other stages have cgroups of the same name."""
    return stage.path(stage.top / "coder-1")


def register(stage: AgentStage, *, check: bool = True) -> subprocess.CompletedProcess[str] | object:
    """By a policy of its own, which allows the shop."""
    own = stage.directory / "own.yaml"
    own.write_text(stage.policy("own", stage.rules(stage.shop), subject="/nowhere"))
    path = stage.path(stage.top / "mine")
    return stage.exeat("register", "mine", "--cgroup", path, "--policy-file", str(own), check=check)


def vanish(directory: Path) -> None:
    """Removes a directory into which somebody writes meanwhile."""
    for _ in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.01)


def is_enforced(stage: AgentStage, *names: str) -> None:
    """The shop may be reached, if not in the moment in which two sets of programs judge; the other host never."""
    for name in names or ("coder-1", "mine"):
        assert stage.run(lambda: say(stage.evil.address4), stage.top / name) == "EPERM"
        stage.wait_until(lambda: stage.run(lambda: say(stage.shop.address4), stage.top / name) == "hello", 10)  # noqa: B023
        assert stage.run(lambda: say(stage.evil.address4), stage.top / name) == "EPERM"


def is_well(stage: AgentStage) -> bool:
    """Whether the agent answers and has nothing to complain about."""
    return stage.answers() and not complaints(stage)


def complaints(stage: AgentStage) -> str:
    """All of them."""
    return "\n".join(stage.status()["complaints"])


def test_files_that_cannot_be_read_are_said_and_change_nothing(stage: AgentStage) -> None:
    """Of the state, whatever stands in them: the kernel knows who is judged, and by what."""
    state = stage.directory / "run" / "state"
    stage.start()
    register(stage)
    mine = next((state / "workloads").glob("*.json"))
    stage.wait_until((state / "sets.json").exists)
    for text in GARBAGE.values():
        stage.kill()
        (state / "sets.json").write_bytes(text)
        mine.write_bytes(text)
        (state / "workloads" / "nonsense.json").write_bytes(b"{}")
        stage.start()
        said = complaints(stage)
        assert "sets.json cannot be read" in said
        assert f"{mine.name} cannot be read" in said
        assert "1 workloads are judged by policies that nobody knows any more" in said
        is_enforced(stage)
    assert stage.evil.count().connections == 0
    register(stage)
    stage.kill()
    stage.start()
    assert complaints(stage) == ""
    is_enforced(stage)


def test_a_bad_policy_without_a_good_copy_leaves_its_workloads_as_they_were(stage: AgentStage) -> None:
    """Nobody knows whom the file meant: until it is mended, those who were judged are judged."""
    stage.start()
    good = (stage.directory / "policies.d" / "coder.yaml").read_text()
    for damage in GARBAGE["half"], GARBAGE["no text"], None:
        copy = stage.directory / "lib" / "accepted" / "coder.yaml"
        stage.wait_until(copy.exists)
        stage.kill()
        stage.write("coder", "spec: [")
        shutil.rmtree(copy.parent) if damage is None else copy.write_bytes(damage)
        stage.start()
        assert "coder.yaml is not in force" in complaints(stage)
        is_enforced(stage, "coder-1")
        stage.write("coder", good)
        stage.wait_until(lambda: complaints(stage) == "")
        is_enforced(stage, "coder-1")
    stage.kill()
    (stage.directory / "policies.d").rename(stage.directory / "elsewhere")
    stage.start()
    assert "policies.d" in complaints(stage)
    is_enforced(stage, "coder-1")
    (stage.directory / "elsewhere").rename(stage.directory / "policies.d")
    stage.wait_until(lambda: complaints(stage) == "")
    is_enforced(stage, "coder-1")
    assert stage.evil.count().connections == 0


def test_directories_that_vanish_are_made_anew(stage: AgentStage) -> None:
    """Changes and registrations go on; the agent after this one knows them."""
    stage.start()
    vanish(stage.directory / "run" / "state")
    vanish(stage.directory / "lib")
    register(stage)
    stage.write("coder", stage.policy("coder", stage.rules(stage.shop, port=443), subject=subject(stage)))
    stage.wait_until(lambda: stage.run(lambda: say(stage.shop.address4), stage.top / "coder-1") == "EPERM")
    stage.write("coder", stage.policy("coder", stage.rules(stage.shop), subject=subject(stage)))
    stage.wait_until(lambda: stage.run(lambda: say(stage.shop.address4), stage.top / "coder-1") == "hello")
    time.sleep(1.5)  # it keeps what it knows once a second
    stage.kill()
    stage.start()
    assert complaints(stage) == ""
    is_enforced(stage)


@pytest.mark.parametrize("which", ["run", "lib"])
def test_a_full_disk_keeps_nobody_from_enforcing(stage: AgentStage, which: str) -> None:
    """What need not be kept is done and said; what must be kept is refused. With room again, all is well."""
    directory = stage.directory / which
    with small_disk(directory):
        stage.start()
        filling = fill(directory)
        stage.write("coder", stage.policy("coder", stage.rules(stage.evil), subject=subject(stage)))
        stage.wait_until(lambda: stage.run(lambda: say(stage.evil.address4), stage.top / "coder-1") == "hello")
        assert stage.run(lambda: say(stage.shop.address4), stage.top / "coder-1") == "EPERM"
        stage.wait_until(lambda: "No space left on device" in complaints(stage))
        asked = register(stage, check=False)
        if which == "run":
            assert "cannot be kept, so it is not done" in str(asked)
            assert stage.run(lambda: say(stage.evil.address4), stage.top / "mine") == "hello"
        stage.kill()
        stage.start()
        assert stage.run(lambda: say(stage.evil.address4), stage.top / "coder-1") == "hello"
        assert stage.run(lambda: say(stage.shop.address4), stage.top / "coder-1") == "EPERM"
        filling.unlink()
        stage.write("coder", stage.policy("coder", stage.rules(stage.shop), subject=subject(stage)))
        stage.wait_until(lambda: complaints(stage) == "")
        register(stage)
        is_enforced(stage)
        stage.kill()


def test_what_ends_ends_also_when_the_disk_is_full(stage: AgentStage) -> None:
    """The end of a mode and of an allowance cannot be written down: it happens."""
    with small_disk(stage.directory / "run"):
        stage.start()
        stage.exeat("allow", "coder-1", f"{stage.evil.address4}:7/tcp", "--for", "4s", "--reason", "a test")
        register(stage)
        stage.exeat("mode", "mine", "open", "--for", "4s")
        for name in ("coder-1", "mine"):
            assert stage.run(lambda: say(stage.evil.address4), stage.top / name) == "hello"
        fill(stage.directory / "run")
        time.sleep(4.5)
        is_enforced(stage)
        assert stage.status()["workloads"] == 2
        stage.kill()


def test_the_wall_clock_may_jump(stage: AgentStage) -> None:
    """What ends by the clock ends when it says so, forward or back, also where it was set while nobody ran."""
    ahead = stage.directory / "ahead"
    ahead.write_text("0")
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    expiring = stage.rules(stage.evil).replace("protocol: tcp", f'protocol: tcp, expires: "{in_an_hour}"')
    stage.write("coder", stage.policy("coder", stage.rules(stage.shop) + expiring, subject=subject(stage)))

    def start() -> None:
        line = [sys.executable, "-m", "e2e.agent_clock", str(ahead), "agent", "--config"]
        path = f"{stage.environment['PYTHONPATH']}:{Path(__file__).parents[1]}"
        environment = {"EXEAT_INSTANCE": INSTANCE, "PYTHONPATH": path}
        with (stage.directory / "out").open("a") as out:
            config = str(stage.directory / "exeat.yaml")
            stage.process = start_in(stage.bed, [*line, config], env=environment, stdout=out, stderr=out)
        stage.wait_until(stage.answers, 60)

    def reach(expected: str) -> bool:
        assert stage.run(lambda: say(stage.shop.address4), stage.top / "coder-1") == "hello"
        return bool(stage.run(lambda: say(stage.evil.address4), stage.top / "coder-1") == expected)

    start()
    assert reach("hello")
    ahead.write_text("7200")
    stage.wait_until(lambda: reach("EPERM"), 8)
    ahead.write_text("-7200")
    stage.wait_until(lambda: reach("hello"), 8)
    stage.kill()
    ahead.write_text("7200")
    start()
    assert reach("EPERM")
    stage.kill()
    ahead.write_text("0")
    start()
    assert reach("hello")
    assert stage.status()["in_control_ms"] < 30_000


def test_pins_that_somebody_removes_come_back(stage: AgentStage) -> None:
    """Enforcement never ends; the next agent finds everything, and the programs are the same."""
    stage.start()
    register(stage)
    hammer = start_traffic(stage.bed, stage.top / "coder-1", "hammer", everywhere(stage.shop, stage.evil))
    hammer.wait_until_up()
    unpin()
    took_s = stage.wait_until(lambda: "pins were removed" in complaints(stage), 10)
    is_enforced(stage)
    build = Instance(INSTANCE).build()
    stage.kill()
    stage.start()
    assert stage.status()["programs"] == build
    assert complaints(stage) == ""
    is_enforced(stage)
    assert hammer.finish()["connect PermissionError"] > 3
    assert stage.evil.count().is_untouched
    print(f"pins were back after {took_s:.1f} s")


def test_pins_removed_while_nobody_runs_end_enforcement_and_the_next_agent_says_so(stage: AgentStage) -> None:
    """It loads everything anew."""
    stage.start()
    register(stage)
    stage.kill()
    is_enforced(stage)
    unpin()
    stage.wait_until(lambda: stage.run(lambda: say(stage.evil.address4), stage.top / "mine") == "hello")
    stage.start()
    assert "nothing was enforced until this agent started" in complaints(stage)
    is_enforced(stage)


@pytest.mark.parametrize("parts", [("maps",), ("programs",), ("maps", "programs")])
def test_some_pins_removed_while_nobody_runs_leave_no_gap(stage: AgentStage, parts: tuple[str, ...]) -> None:
    """The links still have their programs, and these their maps, until others judge everybody."""
    stage.start()
    register(stage)
    hammer = start_traffic(stage.bed, stage.top / "mine", "hammer", everywhere(stage.shop, stage.evil))
    hammer.wait_until_up()
    stage.kill()
    unpin(*parts)
    is_enforced(stage)
    stage.start()
    for name in ("coder-1", "mine"):  # while two sets of programs judge, only what both allow passes
        stage.wait_until(lambda name=name: stage.run(lambda: say(stage.shop.address4), stage.top / name) == "hello", 10)  # type: ignore[misc]
    is_enforced(stage)
    assert hammer.finish()["connect PermissionError"] > 3
    assert stage.evil.count().is_untouched
    if "maps" in parts:
        assert "maps had lost their pins" in complaints(stage)
        homes = Instance(INSTANCE).directory.parents[1]
        stage.wait_until(lambda: len(list(homes.glob(f"*/{INSTANCE}"))) == 1)


def test_a_second_agent_refuses_and_harms_nobody(stage: AgentStage) -> None:
    """Also where both start in the same moment."""
    stage.start()
    before = stage.json("workloads", "coder-1")
    line = [*EXEAT, "agent", "--config", str(stage.directory / "exeat.yaml")]
    environment = {"EXEAT_INSTANCE": INSTANCE, **stage.environment}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    second = start_in(stage.bed, line, env=environment, **pipes)
    assert "an agent runs here already" in second.communicate(timeout=20)[1]
    assert second.returncode == 125
    is_enforced(stage, "coder-1")
    assert stage.json("workloads", "coder-1")["workloads"][0]["policy_id"] == before["workloads"][0]["policy_id"]
    stage.stop()
    several = [start_in(stage.bed, line, env=environment, **pipes) for _ in range(3)]
    stage.wait_until(lambda: sum(one.poll() is None for one in several) == 1, 20)
    stage.process = next(one for one in several if one.poll() is None)
    stage.wait_until(lambda: is_well(stage), 20)
    is_enforced(stage, "coder-1")


def test_signals_during_the_start_are_heeded_when_it_is_done(stage: AgentStage) -> None:
    """SIGHUP ends nothing; SIGTERM ends the agent as ever, and what it had pinned enforces on."""
    links = Instance(INSTANCE).directory / "maps"
    remove_instance(INSTANCE)  # so that the start takes long
    stage.start(wait=False)
    stage.wait_until(links.exists, 20)
    assert stage.process
    os.kill(stage.process.pid, signal.SIGHUP)
    stage.wait_until(lambda: is_well(stage), 60)
    is_enforced(stage, "coder-1")
    stage.stop()
    unpin()
    stage.start(wait=False)
    stage.wait_until(links.exists, 20)
    os.kill(stage.process.pid, signal.SIGTERM)
    assert stage.process.wait(60) == 0
    stage.bed.disown(stage.process)
    stage.process = None
    is_enforced(stage, "coder-1")
    stage.start()
    stage.write("coder", stage.policy("coder", stage.rules(stage.evil), subject=subject(stage)))
    assert stage.process
    os.kill(stage.process.pid, signal.SIGHUP)
    stage.wait_until(lambda: stage.run(lambda: say(stage.evil.address4), stage.top / "coder-1") == "hello")


def test_an_agent_killed_while_it_wrote_tables_opens_nothing_for_the_next(stage: AgentStage) -> None:
    """Half a table set belongs to nobody: its ids are not given again, and it is removed."""
    stage.start()
    stage.kill()
    half = Instance(INSTANCE)
    before = policies_left(half)
    die_before("_add_hosts", stage.top / "mine", f"{stage.evil.address4}/32")
    assert policies_left(half) == before
    half.close()
    stage.start()
    register(stage)
    is_enforced(stage)
    networks = Instance(INSTANCE)

    def owners() -> set[int]:
        keys = libbpf.keys(networks.map("networks"), sizeof(NetworkKey))
        return {int(NetworkKey.from_buffer_copy(key).policy_id) for key in keys}

    stage.wait_until(lambda: owners() <= policies_left(networks).keys())
    networks.close()
    assert stage.evil.count().connections == 0


def test_sockets_that_were_open_before_are_judged_though_an_agent_died_before_it_told_them(stage: AgentStage) -> None:
    """It had bound the workload; the next agent has every socket look again."""
    stage.start()
    cgroup = stage.top / "mine"
    where = {"address": stage.evil.address4}
    holder = start_traffic(stage.bed, cgroup, "hold", where)
    holder.wait_until_up()
    stage.kill()
    die_before("_new_epoch", cgroup)
    policy = stage.policy("coder", stage.rules(stage.shop))
    stage.write("coder", policy)
    stage.start()
    is_enforced(stage)
    echoes = holder.finish()
    assert echoes["failures"], "it still talks to whom its policy does not allow"
