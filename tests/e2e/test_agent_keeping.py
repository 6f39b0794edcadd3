"""Listeners that systemd keeps: a question that is asked while no agent runs waits, and the next agent answers it."""

import array
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bed import start_in
from e2e.agent_stage import EXEAT, INSTANCE, AgentStage, open_agent_stage
from e2e.gatekeeper import look_up


class Systemd:
    """What of systemd the agent talks to: a notification socket that keeps descriptors."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.kept: dict[str, list[int]] = {}
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            text, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(4 * 253))
            lines = dict(line.partition("=")[::2] for line in text.decode().splitlines())
            self.said.append(text.decode())
            fds = array.array("i")
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(data)
            if lines.get("FDSTORE") == "1":
                self.kept.setdefault(lines["FDNAME"], []).extend(fds)
            elif lines.get("FDSTOREREMOVE") == "1":
                for fd in self.kept.pop(lines["FDNAME"], []):
                    os.close(fd)


@pytest.fixture
def stage() -> Iterator[AgentStage]:
    """A stage of its own."""
    with open_agent_stage() as stage:
        yield stage


def start(stage: AgentStage, systemd: Systemd) -> None:
    """Starts the agent as systemd does: with what it kept, from descriptor 3 on."""
    names = [name for name, fds in systemd.kept.items() for _ in fds]
    fds = [fd for fds in systemd.kept.values() for fd in fds]
    moves = " ".join(f"{place}<&{fd}" for place, fd in enumerate(fds, 3))
    given = f"LISTEN_PID=$$ LISTEN_FDS={len(fds)} LISTEN_FDNAMES={':'.join(names)}" if fds else ""
    script = f'exec {moves}; {given} exec "$@"' if fds else 'exec "$@"'
    line = ["bash", "-c", script, "systemd", *EXEAT, "agent", "--config", str(stage.directory / "exeat.yaml")]
    env = {"NOTIFY_SOCKET": str(systemd.path), "EXEAT_INSTANCE": INSTANCE}
    before = len(systemd.said)
    with (stage.directory / "out").open("a") as out:
        stage.process = start_in(stage.bed, line, env=env, stdout=out, stderr=out, pass_fds=fds)
    stage.wait_until(lambda: any("READY=1" in said for said in systemd.said[before:]), 60)


def test_a_question_waits_for_the_next_agent(stage: AgentStage) -> None:
    """It is answered by policy, at the same port; a denied one too."""
    systemd = Systemd(stage.directory)
    stage.write("coder", stage.policy("coder", stage.names("a.shop.test")))
    cgroup = stage.cgroup("coder-1")
    start(stage, systemd)
    assert stage.run(lambda: look_up("a.shop.test"), cgroup) == [stage.shop.address4]
    assert [len(fds) for fds in systemd.kept.values()] == [4]
    stage.kill()
    answers: list[object] = []
    asking = [
        threading.Thread(target=lambda name=name: answers.append(stage.run(lambda: look_up(name), cgroup)))  # type: ignore[misc]
        for name in ("b.shop.test", "a.shop.test")
    ]
    for one in asking:
        one.start()
    time.sleep(0.5)
    assert answers == []
    start(stage, systemd)
    for one in asking:
        one.join(20)
    assert sorted(answers, key=str) == [[stage.shop.address4], []]
    assert {asked.name for asked in stage.resolver.questions()} == {"a.shop.test"}


def test_a_workload_that_has_gone_is_kept_no_more(stage: AgentStage) -> None:
    """Neither while the agent runs nor when it comes back."""
    systemd = Systemd(stage.directory)
    stage.write("coder", stage.policy("coder", stage.names("a.shop.test")))
    first, second = stage.cgroup("coder-1"), stage.cgroup("coder-2")
    start(stage, systemd)
    stage.wait_until(lambda: len(systemd.kept) == 2)
    first.rmdir()
    stage.wait_until(lambda: len(systemd.kept) == 1)
    assert stage.process
    os.kill(stage.process.pid, signal.SIGTERM)
    stage.process.wait(20)
    assert any("STOPPING=1" in said for said in systemd.said)
    assert len(systemd.kept) == 1
    second.rmdir()
    start(stage, systemd)
    stage.wait_until(lambda: not systemd.kept)
