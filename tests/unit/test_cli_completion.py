"""What shells offer: every command, every flag and every choice of `--help`, files, and names that the agent says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from exeat.cli.manual import Command, every_command, whole
from exeat.v1 import agent_pb2 as pb
from unit.fake_agent import Running, fake_agent
from unit.shell_words import bash_offers, fish_offers, zsh_offers

COMMANDS = [command for command, _above in every_command(whole())]
SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks a shell what it offers at the end of each line."""

    shell: str
    script: Path
    environment: Mapping[str, str]
    scratch: Path

    def __call__(self, lines: Sequence[str]) -> list[set[str]]:
        """For each line, in its order."""
        if self.shell == "bash":
            return bash_offers(self.script, lines, self.environment)
        if self.shell == "fish":
            return fish_offers(self.script, lines, self.environment)
        return zsh_offers(self.script, lines, self.environment, self.scratch)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `exeat` as a program, each shell's script, and one file to complete."""
    found = tmp_path_factory.mktemp("shells")
    program = found / "bin" / "exeat"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m exeat.cli.main "$@"\n')
    program.chmod(0o755)
    for shell in SHELLS:
        printed = subprocess.run([program, "completion", shell], check=True, capture_output=True, text=True, timeout=60)
        (found / shell).write_text(printed.stdout)
    (found / "policy-of-mine.yaml").touch()
    return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """An agent that has two workloads and a policy."""
    with fake_agent(tmp_path / "agent.sock") as agent:
        yield agent


@pytest.fixture(params=SHELLS)
def ask(request: pytest.FixtureRequest, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """One of the shells, in a directory with a file to complete."""
    shell: str = request.param
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")
    monkeypatch.chdir(place)
    environment: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if name not in ("TERM", "LS_COLORS")},
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "EXEAT_SOCKET": str(tmp_path / "agent.sock"),
    }
    return Ask(shell, place / shell, environment, tmp_path)


def flags_of(command: Command) -> set[str]:
    """The long ones, out of what `--help` prints on the left."""
    return set(re.findall(r"^  (?:-\w(?: \S+)?, )?(--[a-z-]+)", command.parser.format_help(), re.MULTILINE))


def test_every_flag_is_offered(ask: Ask) -> None:
    """Of every command and of its own commands; and none that it does not have."""
    offered = ask([f"{command.parser.prog} --" for command in COMMANDS])
    assert len(offered) == len(COMMANDS)
    assert {command.page: flags_of(command) for command in COMMANDS} == {
        command.page: {word for word in words if word.startswith("--")}
        for command, words in zip(COMMANDS, offered, strict=True)
    }
    assert "--fail-on-deny" in offered[[command.page for command in COMMANDS].index("exeat-run")]


def test_every_command_is_offered(ask: Ask) -> None:
    """And no file where a command stands. (In zsh, shtab offers the commands of a command's commands as well.)"""
    having = [command for command in COMMANDS if command.inner]
    offered = ask([f"{command.parser.prog} " for command in having])
    expected = [{one.parser.prog.rsplit(" ", 1)[1] for one in command.inner} for command in having]
    verbs = {one.parser.prog.split()[-1] for one in COMMANDS}
    for words, wanted in zip(offered, expected, strict=True):
        assert wanted <= words <= (verbs if ask.shell == "zsh" else wanted)


def test_what_a_flag_takes_is_offered(ask: Ask) -> None:
    """A choice, a file, an interface, a command."""
    modes, files, interfaces, commands = ask(
        ["exeat run --mode ", "exeat policy check pol", "exeat attach l", "exeat run -- unshar"]
    )
    assert modes == {"enforce", "monitor", "open", "quarantine"}
    assert files == {"policy-of-mine.yaml"}
    assert "lo" in interfaces
    assert "unshare" in commands


def test_names_are_asked_of_the_agent(ask: Ask, running: Running) -> None:
    """Workloads where a workload stands, policies where a policy does."""
    workloads, some, policies = ask(["exeat mode ", "exeat grants cod", "exeat register new --policy "])
    assert workloads == {"coder-7", "builder"}
    assert some == {"coder-7"}
    assert policies == {"coding-agent"}


def test_without_an_agent_no_name_is_offered_and_nothing_complains(ask: Ask) -> None:
    """A line that somebody types must stay theirs."""
    assert ask(["exeat mode "]) == [set()]


def test_a_name_that_a_shell_would_read_as_more_than_a_word_is_not_offered(ask: Ask, running: Running) -> None:
    """A workload may choose its cgroup's name."""
    hostile = ["$(touch pwned)", "`id`", "a;b", "a b", "-rf", "~root", "=ls", "x\nbuilder-2", "a*", "x'y", "\x1b[31m"]
    running.agent.workloads = {name: pb.Workload(name=name) for name in [*hostile, "/a.slice/fine-1.scope"]}
    (offered,) = ask(["exeat quarantine "])
    assert offered == {"/a.slice/fine-1.scope"}
    assert not Path("pwned").exists()


def test_completion_needs_a_shell_that_it_knows(place: Path) -> None:
    """Wrong usage, with the choices."""
    done = subprocess.run([place / "bin" / "exeat", "completion", "tcsh"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "bash" in done.stderr
