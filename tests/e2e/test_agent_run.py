"""`exeat run` where an agent runs: the same promises, by the agent's programs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bed import Finished, run_in
from e2e.agent_stage import EXEAT, AgentStage, open_agent_stage

PYTHON = "/usr/bin/python3"
SAY = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 7), 5) as sock:
        sock.sendall(b"hello")
        said = b""
        while not said.endswith(b"hello"):
            said += sock.recv(100)
        print("said hello")
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[AgentStage]:
    """One agent for all: it has no policies of its own."""
    with open_agent_stage() as stage:
        stage.start()
        (stage.directory / "run.yaml").write_text(stage.policy("run", stage.rules(stage.shop), subject="/nowhere"))
        stage.directory.chmod(0o755)
        yield stage


def run(stage: AgentStage, *argv: str, options: tuple[str, ...] = ()) -> Finished:
    """`exeat run` to its end."""
    line = [
        "env",
        "-uGRPC_VERBOSITY",
        "-uGRPC_ENABLE_FORK_SUPPORT",
        *EXEAT,
        "run",
        "--policy",
        str(stage.directory / "run.yaml"),
    ]
    line += [*options, "--", *argv]
    return run_in(stage.bed, line, env={"EXEAT_SOCKET": str(stage.socket)}, timeout=60)


def test_a_command_reaches_what_its_policy_names_and_nothing_else(stage: AgentStage) -> None:
    """And is told so, with a summary of what the kernel counted; the agent forgets it at the end."""
    stage.evil.reset()
    allowed = run(stage, PYTHON, "-c", SAY, stage.shop.address4)
    denied = run(stage, PYTHON, "-c", SAY, stage.evil.address4)
    assert allowed.stdout == "said hello\n", allowed
    assert denied.stdout == "Operation not permitted\n", denied
    assert "1 allowed, 0 denied" in allowed.stderr
    assert "0 allowed, 1 denied (1 different)" in denied.stderr
    assert f"denied: tcp {stage.evil.address4}:7" in denied.stderr
    assert stage.evil.count().connections == 0
    assert stage.json("workloads").get("workloads", []) == []


def test_verdicts_are_written_down_and_a_denial_can_fail_the_job(stage: AgentStage) -> None:
    """As without an agent."""
    file = stage.directory / "verdicts.jsonl"
    options = ("--verdicts", str(file), "--fail-on-deny", "--quiet")
    finished = run(stage, PYTHON, "-c", SAY, stage.evil.address4, options=options)
    assert finished.returncode == 3
    assert finished.stderr == ""
    assert [json.loads(line)["reason"] for line in file.read_text().splitlines()] == ["address_not_allowed"]
    assert run(stage, "sh", "-c", "exit 7").returncode == 7


def test_nothing_of_ours_stands_in_the_commands_environment(stage: AgentStage) -> None:
    """What is set for gRPC is set for us."""
    environment = run(stage, "env").stdout
    assert "GRPC_VERBOSITY" not in environment
    assert "GRPC_ENABLE_FORK_SUPPORT" not in environment


def test_it_starts_without_compiling(stage: AgentStage) -> None:
    """A compiler needs two seconds and more."""
    run(stage, "true")
    took = min(run(stage, "true").duration for _ in range(3))
    assert took < 1.5, took


def test_an_agent_that_dies_meanwhile_changes_nothing_for_the_command(stage: AgentStage) -> None:
    """The kernel judges on; the next agent finds the registration and tells what was denied."""
    flag = Path(stage.directory / "go")
    wait = f"until [ -e {flag} ]; do sleep 0.05; done; {PYTHON} -c '{SAY}' {stage.evil.address4}"
    from bed import start_in

    line = [*EXEAT, "run", "--policy", str(stage.directory / "run.yaml"), "--", "sh", "-c", wait]
    process = start_in(stage.bed, line, env={"EXEAT_SOCKET": str(stage.socket)}, stdout=-1, stderr=-1)
    stage.wait_until(lambda: bool(stage.json("workloads").get("workloads")), 20)
    stage.kill()
    flag.touch()
    time.sleep(1)
    stage.start()
    out, err = process.communicate(timeout=30)
    assert out == "Operation not permitted\n"
    assert "1 denied" in err
    assert stage.evil.count().connections == 0
