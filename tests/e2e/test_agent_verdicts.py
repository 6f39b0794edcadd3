"""`exeat verdicts` with a real agent: past and live without gap or double, filters, slow readers; and every command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bed import Finished, start_in
from e2e.agent_stage import EXEAT, AgentStage, open_agent_stage, say
from e2e.gatekeeper import look_up

FIRST, COUNT = 10_000, 4000  # ports: each verdict is known by its own
SLOWLY, QUICKLY = 5, 40  # verdicts between two rests of 5 ms
STOPPED_COUNT = 30_000  # more than a watcher's queue and the pipe take


@pytest.fixture(scope="module")
def stage() -> Iterator[AgentStage]:
    """One agent for the module, with three workloads under one policy."""
    with open_agent_stage() as stage:
        stage.write("coder", stage.policy("coder", stage.rules(stage.shop) + stage.names("a.shop.test")))
        for name in ("steady", "flood", "filters", "user"):
            stage.cgroup(name)
        stage.start()
        yield stage


SPEAK = """
import socket, sys, time
address, first, count, every = sys.argv[1], *map(int, sys.argv[2:])
for number in range(count):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try: sock.connect((address, first + number % 50000))
        except PermissionError: denied = True
    if number % every == 0: time.sleep(0.005)
"""


@contextmanager
def speaking(stage: AgentStage, cgroup: Path, count: int, every: int) -> "Iterator[subprocess.Popen[str]]":
    """Denied connects, each to the next port."""
    line = [sys.executable, "-c", SPEAK, stage.evil.address4, str(FIRST), str(count), str(every)]
    with stage.running(line, cgroup) as process:
        yield process


@contextmanager
def following(stage: AgentStage, *arguments: str) -> "Iterator[tuple[subprocess.Popen[str], Path, Path]]":
    """`exeat verdicts --follow`, and the files that it writes to."""
    out, said = (stage.directory / f"{name}-{time.monotonic_ns()}" for name in ("follow", "said"))
    with out.open("w") as stdout, said.open("w") as stderr:
        line = [*EXEAT, "verdicts", "--follow", "-o", "json", *arguments]
        environment = {"EXEAT_SOCKET": str(stage.socket)}
        process = start_in(stage.bed, line, env=environment, stdout=stdout, stderr=stderr)
    try:
        yield process, out, said
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        stage.bed.disown(process)


def told(file: Path) -> list[int]:
    """The ports in the lines that are whole."""
    lines = [line for line in file.read_text().split("\n")[:-1] if line]
    return [json.loads(line)["destination"]["port"] for line in lines]


def spoken(ports: list[int]) -> list[int]:
    """Those of the verdicts that `speaking` caused."""
    return [port for port in ports if port >= FIRST]


def lost(file: Path) -> int:
    """What a follower was told that it lost."""
    return sum(int(line.split()[1]) for line in file.read_text().splitlines())


def logged(stage: AgentStage, cgroup: Path) -> list[int]:
    """The ports in the log's files."""
    files = sorted((stage.directory / "log").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    assert files
    lines = (line for file in files for line in file.read_text().splitlines() if line.startswith('{"time"'))
    records = (json.loads(line) for line in lines)
    return [record["destination"]["port"] for record in records if record["workload"] == stage.path(cgroup)]


def test_between_past_and_live_nothing_is_missing_and_nothing_double(stage: AgentStage) -> None:
    """Four followers begin while verdicts come without a pause; each tells every one, once, as the log has it."""
    cgroup = stage.top / "steady"
    path = stage.path(cgroup)
    with speaking(stage, cgroup, COUNT, SLOWLY) as speaker:
        stage.wait_until(lambda: len(logged(stage, cgroup)) > 200)
        begun = []
        for _ in range(4):
            follower = following(stage, "--since", "10m", "--workload", path)
            begun.append((follower, follower.__enter__()))
            time.sleep(0.3)
        assert speaker.poll() is None, "the followers came too late to show anything"
        speaker.wait(60)
    wanted = list(range(FIRST, FIRST + COUNT))
    stage.wait_until(lambda: len(logged(stage, cgroup)) == COUNT)
    assert logged(stage, cgroup) == wanted
    try:
        for _, (_, out, said) in begun:
            stage.wait_until(lambda out=out: len(told(out)) >= COUNT, 20)
            assert told(out) == wanted
            assert not said.read_text()
    finally:
        for follower, _ in begun:
            follower.__exit__(None, None, None)


def test_a_follower_that_stops_reading_harms_nobody_and_is_told_what_it_lost(stage: AgentStage) -> None:
    """Neither the log nor another follower misses one meanwhile; afterwards the sums are right."""
    cgroup = stage.top / "flood"
    path = stage.path(cgroup)
    with (
        following(stage, "--workload", path) as (stopped, out, said),
        following(stage, "--workload", path) as (_, other_out, other_said),
    ):

        def are_live() -> bool:
            stage.run(lambda: say(stage.evil.address4, 9), cgroup)
            return bool(told(out) and told(other_out))

        stage.wait_until(are_live)
        stopped.send_signal(signal.SIGSTOP)
        before = int(stage.json("status").get("lost_events", 0))
        with speaking(stage, cgroup, STOPPED_COUNT, QUICKLY) as speaker:
            speaker.wait(90)
        stage.wait_until(lambda: len(spoken(logged(stage, cgroup))) == STOPPED_COUNT, 30)
        assert int(stage.json("status").get("lost_events", 0)) == before
        assert stage.run(lambda: say(stage.shop.address4), cgroup) == "hello"
        assert stage.exeat("workloads", "flood").stdout
        stage.wait_until(lambda: lost(other_said) + len(spoken(told(other_out))) == STOPPED_COUNT, 30)
        stopped.send_signal(signal.SIGCONT)
        stage.wait_until(lambda: lost(said) + len(spoken(told(out))) >= STOPPED_COUNT, 30)
        print(f"of {STOPPED_COUNT} verdicts the one that slept lost {lost(said)}, the one that read {lost(other_said)}")
        assert lost(said) > lost(other_said)
        assert lost(said) + len(spoken(told(out))) <= STOPPED_COUNT + 1  # shop's may be among the lost


def test_filters_take_what_they_name_and_nothing_else(stage: AgentStage) -> None:
    """By verdict, workload and destination; several verdicts are alternatives."""
    cgroup = stage.top / "filters"
    shop, evil = stage.shop.address4, stage.evil.address4
    for address, port in ((shop, 7), (evil, 7), (evil, 8)):
        stage.run(lambda address=address, port=port: say(address, port), cgroup)
    stage.run(lambda: look_up("a.shop.test"), cgroup)

    def found(*arguments: str) -> list[tuple[str, str | None, int]]:
        said = stage.exeat("verdicts", "--workload", stage.path(cgroup), "-o", "json", *arguments).stdout
        return [(one["verdict"], one["name"], one["destination"]["port"]) for one in map(json.loads, said.splitlines())]

    stage.wait_until(lambda: len(found()) == 4)
    assert found("--verdict", "dropped") == [("DROPPED", None, 7), ("DROPPED", None, 8)]
    assert len(found("--verdict", "DROPPED", "--verdict", "FORWARDED")) == 4
    assert found("--to", f"{evil}:8") == [("DROPPED", None, 8)]
    assert [one[2] for one in found("--to", "203.0.113.0/24")] == [7, 7, 8]
    assert [one[1] for one in found("--to", ".shop.test")] == ["a.shop.test"]
    assert found("--to", "a.evil.test") == []
    assert found("--since", "2026-01-01T00:00:00Z", "--verdict", "AUDIT") == []
    assert stage.exeat("verdicts", "--workload", "/nobody").stdout == ""
    lines = stage.exeat("verdicts", "--workload", "filters").stdout.splitlines()  # for people, and no colour in a pipe
    assert len(lines) == 4
    assert "\x1b" not in "".join(lines)
    assert any("denied: tcp" in line and line.endswith("; policy coder]") for line in lines)


# What a new user may type: the words, the status, and what is said.
TYPED = [
    ("status", 0, "exeat "),
    ("workloads", 0, "WORKLOAD"),
    ("workloads user", 0, "policies coder"),
    ("workloads nobody", 1, "there is no workload nobody"),
    ("workloads e", 1, "write more of it"),
    ("grants user", 0, ""),
    ("grants", 2, "usage"),
    ("explain user b.shop.test", 1, "[name_not_allowed; policy coder]"),
    ("explain user", 2, "usage"),
    ("explain user 999.1.1.1", 2, "exeat: "),
    ("mode user monitor --for 1h", 0, "user: monitor, until"),
    ("mode user policy", 0, "user: enforce"),
    ("mode user policy --for 1h", 2, "leave --for out"),
    ("mode user loose", 2, "invalid choice"),
    ("mode user open --for 0s", 2, "out of range"),
    ("allow user pypi.org", 2, "an allowance needs --for, --reason"),
    ("allow user pypi.org --for 31d --reason x", 2, "at most 30 days"),
    ("allow user https://pypi.org/ --for 1h --reason x", 2, "write `pypi.org`"),
    ("allow user pypi.org --for 1h --reason TICKET-1", 0, "allowed: tls pypi.org"),
    ("allow user --end nothing", 1, "has no allowance nothing"),
    ("quarantine user --lift", 1, "no quarantine to lift"),
    ("quarantine user --reason odd", 0, "user: quarantine"),
    ("quarantine user --lift", 0, "user: enforce"),
    ("register it", 2, "usage"),
    ("register it --cgroup nowhere", 2, "from a slash on"),
    ("register it --cgroup /nowhere", 1, "there is no cgroup /nowhere"),
    ("register it --cgroup /nowhere --pid 1", 2, "not allowed with"),
    ("register it --pid x", 2, "is no process id"),
    ("register it --cgroup /nowhere --policy-file /nowhere.yaml", 125, "/nowhere.yaml"),
    ("unregister user", 1, "was not registered"),
    ("unregister nobody", 1, "there is no workload nobody"),
    ("reload", 0, "coder"),
    ("verdicts --since yesterday", 2, "yesterday"),
    ("verdicts --to !!", 2, "is no destination"),
    ("verdicts --verdict PERHAPS", 2, "is no verdict"),
    ("top -n 0", 2, "usage"),
    ("nonsense", 2, "usage"),
]


def test_every_command_answers_a_new_user(stage: AgentStage) -> None:
    """The status that the documents promise, an answer or one sentence, and never a traceback."""
    wrong = []
    for typed, status, words in TYPED:
        finished = stage.exeat(*typed.split(), check=False)
        said = finished.stdout + finished.stderr
        if finished.returncode != status or words not in said or "Traceback" in said:
            wrong.append((typed, finished.returncode, said))
        if status and finished.stdout.strip() and "explain" not in typed:
            wrong.append((typed, "an error belongs on standard error", finished.stdout))
    assert not wrong, "\n".join(map(str, wrong))


def test_json_of_every_reading_command_can_be_read_back(stage: AgentStage) -> None:
    """Also where there is nothing to show."""
    for typed in ("status", "workloads", "workloads user", "grants user", "explain user a.shop.test", "reload"):
        assert isinstance(stage.json(*typed.split()), dict)


def test_top_ends_by_control_c_with_zero(stage: AgentStage) -> None:
    """As people end it."""
    line, environment = [*EXEAT, "top"], {"EXEAT_SOCKET": str(stage.socket)}
    process = start_in(stage.bed, line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=10)
    stage.bed.disown(process)
    assert (process.returncode, stderr) == (0, "")
    assert "ALLOWED/s" in stdout


def test_without_an_agent_every_command_says_so(stage: AgentStage) -> None:
    """And what to do."""
    for typed in (
        "status",
        "workloads",
        "verdicts",
        "grants user",
        "explain user a",
        "mode user open",
        "reload",
        "top",
    ):
        finished = alone(stage, typed)
        assert (finished.returncode, finished.stdout) == (4, ""), finished
        assert "systemctl start exeat" in finished.stderr


def alone(stage: AgentStage, typed: str) -> Finished:
    """A command with a socket that nobody has."""
    nowhere = stage.directory / "nowhere.sock"
    if not nowhere.exists():
        with socket.socket(socket.AF_UNIX) as unattended:
            unattended.bind(str(nowhere))
    return stage.exeat(*typed.split(), "--socket", str(nowhere), check=False)


def test_afterwards_the_log_is_whole(stage: AgentStage) -> None:
    """Every line follows from the one before, also after the agent has ended."""
    directory, key = str(stage.directory / "log"), str(stage.directory / "lib" / "audit.pub")
    stage.exeat("audit", "verify", directory, "--key", key)
    stage.stop()
    stage.exeat("audit", "verify", directory, "--key", key)
    file = max(Path(directory).glob("*.jsonl"), key=os.path.getsize)
    text = file.read_text()
    file.write_text(text.replace('"verdict":"DROPPED"', '"verdict":"FORWARDED"', 1))
    assert stage.exeat("audit", "verify", directory, "--key", key, check=False).returncode == 1
