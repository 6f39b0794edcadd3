"""The contract is the protos: an agent in Go, made from them alone, keeps up with `exeat plane`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plane.certificates import authority
from plane.processes import PlaneProcess, plane_process

EXEAT = (sys.executable, "-m", "exeat.cli.main")
POLICY = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  subject: {{cgroups: [/{name}.slice], nodes: {{role: {role}}}}}
  egress:
  - {{name: one, hosts: [{host}]}}
"""


@pytest.fixture(scope="module")
def gopher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent in Go."""
    if missing := [tool for tool in ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc") if not shutil.which(tool)]:
        pytest.skip(f"{', '.join(missing)} is not installed: apt-get install golang-google-grpc-dev protoc-gen-go-grpc")
    directory = tmp_path_factory.mktemp("go")
    build = Path(__file__).parent / "other_language" / "build.sh"
    subprocess.run([build, directory], check=True, timeout=200)
    return directory / "agent"


@dataclass
class Stage:
    """A plane, an operator with a token, and the agent in Go."""

    plane: PlaneProcess
    directory: Path
    public_key: Path
    gopher: Path

    def ask(self, *arguments: str) -> Any:
        """`exeat plane ...`, read back."""
        line = [*EXEAT, "plane", *arguments, "--plane", f"http://127.0.0.1:{self.plane.web_port}", "-o", "json"]
        line += ["--token-file", str(self.directory / "token")]
        finished = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        assert finished.returncode == 0, (arguments, finished)
        return json.loads(finished.stdout)

    def apply(self, name: str, host: str, role: str = "go") -> None:
        """A policy of one host."""
        file = self.directory / f"{name}.yaml"
        file.write_text(POLICY.format(name=name, role=role, host=host))
        self.ask("policies", "apply", str(file), "--reason", "a test")

    @contextmanager
    def agent(self, node: str = "gopher", *more: str, named: str = "") -> Iterator[Iterator[dict[str, Any]]]:
        """Runs it; what it says, line by line. `named`: who it says it is, with that node's certificate."""
        access = self.plane.access(node)
        line = [self.gopher, "-endpoint", f"localhost:{self.plane.agents_port}", "-ca", access.ca]
        line += ["-certificate", access.certificate, "-key", access.key, "-node", named or node]
        line += ["-labels", "role=go", "-public-key", self.public_key, *more]
        process = subprocess.Popen(list(map(str, line)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        try:
            yield map(json.loads, process.stdout)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture
def stage(tmp_path: Path, gopher: Path) -> Iterator[Stage]:
    """All of it."""
    public = tmp_path / "plane.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "plane.key"], check=True)
    subprocess.run(["openssl", "pkey", "-in", tmp_path / "plane.key", "-pubout", "-out", public], check=True)
    process = PlaneProcess(tmp_path, authority(tmp_path / "tls"), f"sqlite:{tmp_path}/plane.db",
                           more=f"  signing_key: {tmp_path}/plane.key\n")  # fmt: skip
    with plane_process(process):
        line = [*EXEAT, "plane", "tokens", "add", "tester", "--role", "admin", "--config", str(process.config)]
        made = subprocess.run([*line, "-o", "json"], capture_output=True, text=True, timeout=30, check=True)
        (tmp_path / "token").write_text(json.loads(made.stdout)["token"])
        yield Stage(process, tmp_path, public, gopher)


def the_next(said: Iterator[dict[str, Any]], what: str) -> dict[str, Any]:
    """What comes first of a kind."""
    return next(line for line in said if line["said"] == what)


def test_an_agent_in_go_gets_signed_policies_and_refuses_what_it_will_not_take(stage: Stage) -> None:
    """Full state, then a delta; a NACK stands in `exeat plane nodes`, and the next good push clears it."""
    stage.apply("first", "a.example.com")
    stage.apply("elsewhere", "b.example.com", role="another")
    with stage.agent("gopher", "-refuse", "bad.example.com") as said:
        assert the_next(said, "welcome")["protocol"] == 1
        push = the_next(said, "push")
        assert (push["policies"], push["documents"], push["signed"]) == (["first"], 1, True)
        stage.apply("second", "c.example.com")
        delta = the_next(said, "push")
        assert (delta["policies"], delta["documents"]) == (["first", "second"], 1), "what it holds is not sent again"
        stage.apply("second", "bad.example.com")
        assert "refuses what says" in the_next(said, "nack")["why"]
        node = wait_for(lambda: [one for one in stage.ask("nodes")["nodes"] if "refuses what says" in json.dumps(one)])
        assert node[0]["name"] == "gopher"
        stage.apply("second", "good.example.com")
        assert the_next(said, "push")["policies"] == ["first", "second"]
        wait_for(lambda: "refuses what says" not in json.dumps(stage.ask("nodes")))


def test_an_agent_in_go_obeys_a_signed_command(stage: Stage) -> None:
    """And its answer reaches the operator who asked."""
    with stage.agent() as said:
        the_next(said, "welcome")
        wait_for(lambda: stage.ask("workloads")["workloads"])
        stage.ask("quarantine", "gopher/gopher", "--reason", "a test")
        command = the_next(said, "command")
        assert (command["what"], command["refusal"]) == ("set_mode", "")
        assert "tester" in command["by"]


def test_verdicts_from_go_are_stored_once_though_they_come_twice(stage: Stage) -> None:
    """Every batch but the first is sent again, as after a break."""
    with stage.agent("gopher", "-verdicts", "1000") as said:
        assert the_next(said, "report")["through"] == 0
        acks = [the_next(said, "ack")["through"] for _ in range(19)]
        assert acks == [100, *(through for first in range(200, 1001, 100) for through in (first, first))]
    with stage.agent("gopher", "-verdicts", "1000") as said:
        assert the_next(said, "report")["through"] == 1000, "another stream goes on where the first one ended"
    denials = stage.ask("denials", "--since", "1h", "--limit", "500")["denials"]
    assert sum(one["count"] for one in denials) == 1000
    assert {one["policy"] for one in denials} == {"gophers"}


def test_a_node_speaks_for_itself_only(stage: Stage) -> None:
    """Another node's name with this node's certificate is refused; its own name, over the same path, is not."""
    with stage.agent("gopher", named="badger") as said:
        end = the_next(said, "end")
        assert "PermissionDenied" in end["error"]
        assert "badger" in end["error"]
    with stage.agent("gopher") as said:
        assert the_next(said, "welcome")
    assert [node["name"] for node in stage.ask("nodes")["nodes"]] == ["gopher"]


def wait_for(find: Any, within_s: float = 10.0) -> Any:
    """What is found at last."""
    deadline_s = time.monotonic() + within_s
    while not (found := find()):
        assert time.monotonic() < deadline_s, "it did not come to be"
        time.sleep(0.1)
    return found
