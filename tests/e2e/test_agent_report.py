"""A real agent, a real kernel and the real plane: every verdict comes to its store once, whoever was away meanwhile."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bed import start_in
from e2e.agent_stage import EXEAT, AgentStage, open_agent_stage, say
from e2e.plane_holder import PORT
from e2e.plane_holder import SETTINGS as AGENT_SETTINGS
from exeat.audit.files import log_files
from exeat.v1 import verdict_pb2
from unit.fake_plane import NODE, papers

FIRST = 20_000  # ports: each denied connect is known by its own
MOST = 40_000  # more of them than fall within the test, each to a port of its own
PAUSE_S = 0.002
BACK_S = 75.0  # an agent waits longer each time, at random: up to a minute
SETTINGS = """\
apiVersion: exeat.dev/v1
kind: PlaneSettings
spec:
  name: plane-1
  agents: {{listen: "127.0.0.1:{port}", certificate: {papers.server[0]}, key: {papers.server[1]}, ca: {papers.ca}}}
  web: {{listen: "127.0.0.1:9471"}}
  store: sqlite:{store}
  signing_key: {key}
"""
SPEAK = """
import select, socket, sys
address, first, most, pause = sys.argv[1], *map(float, sys.argv[2:])
said = 0
while said < most and not select.select([sys.stdin], [], [], pause)[0]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try: sock.connect((address, int(first) + said))
        except PermissionError: said += 1
        else: sys.exit("not denied")
print(said)
"""


@dataclass
class RealPlane:
    """`exeat plane serve` beside the agent, with a store in a file."""

    stage: AgentStage
    process: "subprocess.Popen[str] | None" = None

    @property
    def store(self) -> Path:
        """The file."""
        return self.stage.directory / "plane" / "plane.db"

    def prepare(self) -> None:
        """Its settings, and the agent's."""
        place = self.store.parent
        place.mkdir()
        key = place / "plane.key"
        text = SETTINGS.format(port=PORT, papers=papers(), store=self.store, key=key)
        (place / "plane.yaml").write_text(text)
        public_key = key.with_suffix(".pub")
        with (self.stage.directory / "exeat.yaml").open("a") as settings:
            settings.write(AGENT_SETTINGS.format(node=NODE, port=PORT, papers=papers(), public_key=public_key))

    def start(self) -> None:
        """Returns at once."""
        line = [*EXEAT, "plane", "serve", "--config", str(self.store.parent / "plane.yaml")]
        with (self.store.parent / "out").open("a") as out:
            self.process = start_in(self.stage.bed, line, stdout=out, stderr=out)

    def kill(self) -> None:
        """As a crash does."""
        assert self.process
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.stage.bed.disown(self.process)
        self.process = None

    def verdicts(self) -> list[tuple[int, verdict_pb2.VerdictRecord]]:
        """All that are stored, with their numbers, as they came."""
        return [(row[0], verdict_pb2.VerdictRecord.FromString(row[1])) for row in self._ask("number, body", "verdicts")]

    def counted(self) -> int:
        """In the tallies."""
        return sum(row[0] for row in self._ask("count", "tallies"))

    def logs(self) -> list[tuple[int, int]]:
        """Of each log of the node: how far, and how many lines were lost."""
        return [(row[0], row[1]) for row in self._ask("through, lost", "logs")]

    def _ask(self, columns: str, table: str) -> list[tuple[int, bytes]]:
        if not self.store.exists():
            return []
        with closing(sqlite3.connect(self.store, timeout=10)) as connection:
            try:
                order = "ORDER BY id" if table == "verdicts" else ""
                return connection.execute(f"SELECT {columns} FROM {table} WHERE node = ? {order}", (NODE,)).fetchall()
            except sqlite3.OperationalError:  # it has just begun
                return []


@pytest.fixture
def stage() -> Iterator[AgentStage]:
    """A stage of its own for each test."""
    with open_agent_stage() as stage:
        stage.write("coder", stage.policy("coder", stage.rules(stage.shop)))
        yield stage


@pytest.fixture
def plane(stage: AgentStage) -> Iterator[RealPlane]:
    """One that runs, and that the stage's agents know."""
    plane = RealPlane(stage)
    plane.prepare()
    plane.start()
    stage.wait_until(lambda: plane.store.with_name("plane.pub").exists(), 20)
    try:
        yield plane
    finally:
        if plane.process:
            plane.kill()


@contextmanager
def speaking(stage: AgentStage, cgroup: Path, count: int, first: int = FIRST) -> "Iterator[subprocess.Popen[str]]":
    """Denied connects, each to the next port."""
    line = [sys.executable, "-c", SPEAK, stage.evil.address4, *map(str, (first, count, PAUSE_S))]
    with stage.running(line, cgroup, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process


def ended(speaker: "subprocess.Popen[str]") -> int:
    """Has it end, unless it has; how many there were."""
    said, _ = speaker.communicate(timeout=60)
    assert speaker.returncode == 0
    return int(said)


def logged(stage: AgentStage) -> list[int]:
    """Numbers of the verdicts in the agent's log."""
    lines = [line for path in log_files(stage.directory / "log") for line in path.read_bytes().splitlines()]
    return [json.loads(line)["seq"] for line in lines if line.startswith(b'{"time":"')]


def unreported(stage: AgentStage) -> int:
    """By the agent's own count."""
    return int(stage.json("status")["plane"]["unreported"])


def all_is_there(stage: AgentStage, plane: RealPlane) -> bool:
    """Whether the plane has the log to its end."""
    return stage.json("status")["plane"]["state"] == "connected" and unreported(stage) == 0


def test_verdicts_come_to_the_plane_as_they_fall(stage: AgentStage, plane: RealPlane) -> None:
    """Allowed and denied, under the numbers of the agent's log, within a second or two."""
    cgroup = stage.cgroup("coder-1")
    stage.start()
    stage.wait_until(lambda: all_is_there(stage, plane), BACK_S)
    assert stage.run(lambda: (say(stage.shop.address4), say(stage.evil.address4)), cgroup) == ("hello", "EPERM")
    took_s = stage.wait_until(lambda: len(plane.verdicts()) >= 2)
    assert took_s < 3
    found = {(record.verdict, record.destination.port, record.workload) for _, record in plane.verdicts()}
    workload = stage.path(cgroup)
    assert found == {(verdict_pb2.VERDICT_FORWARDED, 7, workload), (verdict_pb2.VERDICT_DROPPED, 7, workload)}
    assert [number for number, _ in plane.verdicts()] == logged(stage)


def test_a_plane_that_was_killed_has_every_verdict_once_in_the_end(stage: AgentStage, plane: RealPlane) -> None:
    """Killed in the middle of it, away for seconds, killed again while it catches up: no gap, and no duplicate."""
    cgroup, late = stage.cgroup("coder-1"), 200
    stage.start()
    stage.wait_until(lambda: all_is_there(stage, plane), BACK_S)
    with speaking(stage, cgroup, MOST) as speaker:
        stage.wait_until(lambda: len(plane.verdicts()) > 300, 20)
        plane.kill()
        allowed = [stage.run(lambda: say(stage.shop.address4), cgroup) for _ in range(5)]
        assert allowed == ["hello"] * 5, "enforced as before"
        assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
        stage.wait_until(lambda: unreported(stage) > 1500, 30)
        had = len(plane.verdicts())
        plane.start()
        stage.wait_until(lambda: len(plane.verdicts()) > had, BACK_S)
        plane.kill()
        count = ended(speaker)
    assert count < MOST, "they fell until then"
    with speaking(stage, cgroup, late, FIRST + count) as speaker:
        assert speaker.wait(60) == 0
    stage.wait_until(lambda: unreported(stage) >= late)  # nobody was there who could have taken them
    plane.start()
    stage.wait_until(lambda: all_is_there(stage, plane), BACK_S)
    stored = plane.verdicts()
    ports = Counter(r.destination.port for _, r in stored if r.verdict == verdict_pb2.VERDICT_DROPPED)
    assert ports == Counter(range(FIRST, FIRST + count + late)) + Counter([7])
    assert sum(record.verdict == verdict_pb2.VERDICT_FORWARDED for _, record in stored) == 5
    assert [number for number, _ in stored] == logged(stage)
    assert plane.counted() == len(stored)
    assert [lost for _, lost in plane.logs()] == [0]
    status = stage.json("status")
    assert status["plane"].get("lost", "0") == "0"
    assert status.get("complaints", []) == []


def test_an_agent_that_was_killed_reports_what_fell_meanwhile(stage: AgentStage, plane: RealPlane) -> None:
    """The kernel judges on without it, and its ring keeps what it judged; the next agent goes on in the same log."""
    cgroup, count = stage.cgroup("coder-1"), 1200
    stage.start()
    stage.wait_until(lambda: all_is_there(stage, plane), BACK_S)
    with speaking(stage, cgroup, count) as speaker:
        stage.wait_until(lambda: len(plane.verdicts()) > 200, 20)
        plane.kill()
        stage.kill()
        plane.start()
        stage.start()
        assert speaker.wait(60) == 0
    stage.wait_until(lambda: all_is_there(stage, plane), BACK_S)
    stored = plane.verdicts()
    assert [number for number, _ in stored] == logged(stage)
    ports = Counter(record.destination.port for _, record in stored)
    # What it had taken out of the ring and not yet written when it was killed went with it.
    assert ports <= Counter(range(FIRST, FIRST + count))
    assert ports.total() > count - 100
    assert len(plane.logs()) == 1
