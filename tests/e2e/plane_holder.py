"""A plane beside a stage's agent: in the same namespace, in a process of its own, told what to say by files.

with open_plane(stage) as plane:             # and the stage's settings name it
    stage.start()
    plane.push({"coder": text}, serial=1)
    answer = plane.answer("1")
    plane.kill()
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from bed import start_in
from e2e.agent_stage import AgentStage
from exeat.v1 import plane_pb2 as pb
from unit.fake_plane import NODE, FakePlane, papers, push, signed
from unit.fleet_words import public_key

PORT = 9470
_TESTS = Path(__file__).parents[1]
SETTINGS = """\
  node: {{name: {node}, labels: {{role: sandbox}}}}
  plane:
    endpoints: ["127.0.0.1:{port}"]
    ca: {papers.ca}
    certificate: {papers.node[0]}
    key: {papers.node[1]}
    public_key: {public_key}
"""


@dataclass
class PlaneHolder:
    """What the tests see of it."""

    stage: AgentStage
    directory: Path
    process: subprocess.Popen[str] | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start(self) -> None:
        """Listens."""
        line = [sys.executable, "-m", "e2e.plane_holder", self.directory, *papers().server, papers().ca]
        environment = {"PYTHONPATH": str(_TESTS)}
        with (self.directory / "errors").open("a") as out:
            self.process = start_in(self.stage.bed, list(map(str, line)), env=environment, stdout=out, stderr=out)

    def kill(self) -> None:
        """As a crash does."""
        assert self.process
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.stage.bed.disown(self.process)
        self.process = None

    def say(self, response: pb.SyncResponse) -> None:
        """To the agent, now or as soon as it is there."""
        name = f"{next(self._numbers):06d}"
        draft = self.directory / f".{name}"
        draft.write_bytes(response.SerializeToString())
        draft.rename(self.directory / "out" / name)

    def push(self, texts: dict[str, str], serial: int, nonce: str = "", **how: Any) -> None:
        """What shall hold."""
        self.say(pb.SyncResponse(push=push(texts, serial, nonce or str(serial), **how)))

    def command(self, id_: str, **what: Any) -> None:
        """By alice, within a minute."""
        command = pb.Command(id=id_, node=NODE, by="alice", **what)
        command.expires.FromNanoseconds(time.time_ns() + 60 * 10**9)
        self.say(pb.SyncResponse(command=signed(command.SerializeToString(), what=b"exeat command v1\0")))

    def said(self, case: str) -> list[dict[str, Any]]:
        """Every message of a kind so far."""
        path = self.directory / "said"
        lines = path.read_text().splitlines() if path.exists() else []
        return [one[case] for line in lines if case in (one := json.loads(line))]

    def wait_for(self, case: str, within_s: float = 10.0, **fields: Any) -> dict[str, Any]:
        """The first message of a kind with these fields."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [one for one in self.said(case) if all(one.get(name) == is_ for name, is_ in fields.items())]
            return bool(found)

        self.stage.wait_until(is_there, within_s)
        return found[0]

    def answer(self, nonce: str) -> dict[str, Any]:
        """To a push."""
        return self.wait_for("answer", nonce=nonce)


@contextmanager
def open_plane(stage: AgentStage) -> Iterator[PlaneHolder]:
    """Runs; the stage's next agent will know it."""
    directory = stage.directory / "plane"
    (directory / "out").mkdir(parents=True)
    key = public_key(directory)
    with (stage.directory / "exeat.yaml").open("a") as settings:
        settings.write(SETTINGS.format(node=NODE, port=PORT, papers=papers(), public_key=key))
    holder = PlaneHolder(stage, directory)
    holder.start()
    try:
        yield holder
    finally:
        if holder.process:
            holder.kill()


async def _hold(directory: Path, chain: Path, key: Path, ca: Path) -> None:
    async with FakePlane(server=(chain, key), ca=ca, port=PORT) as plane:
        told = 0
        with (directory / "said").open("a") as said:
            while True:
                for path in sorted((directory / "out").iterdir()) if plane.streams else ():
                    await plane.say(pb.SyncResponse.FromString(path.read_bytes()))
                    path.unlink()
                for request in plane.said[told:]:
                    fields = MessageToDict(request, preserving_proto_field_name=True)
                    said.write(json.dumps(fields) + "\n")
                    said.flush()
                told = len(plane.said)
                await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(_hold(*map(Path, sys.argv[1:])))
