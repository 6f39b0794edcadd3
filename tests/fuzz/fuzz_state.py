"""Made-up state and a storm of cgroups: PYTHONPATH=tests python tests/fuzz/fuzz_state.py [seconds] [seed]

1. What the agent reads from disk (wishes, the memory of table sets, settings), mutated: read, or refused with a
   sentence; nothing else is raised.
2. As root: a real agent, while four processes make and remove 1,000 cgroups in a loop and policies change. At the end
   its workloads are those of the tree, its memory is back, and it holds no more descriptors than before.

Prints the seed and the numbers; exits 1 on a failure.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import Process
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

import psutil  # noqa: E402

from bed import missing_capability  # noqa: E402
from e2e.agent_stage import AgentStage, open_agent_stage, say  # noqa: E402
from exeat.agent.session_context import SessionContext  # noqa: E402
from exeat.agent.wishes import Allowance, Override, Registration, Wish, read_wish, write_wish  # noqa: E402
from exeat.errors import ExeatError  # noqa: E402
from exeat.model.policy import Mode  # noqa: E402
from exeat.settings import read_settings  # noqa: E402

CGROUPS, STORMERS = 1000, 4
GROWTH_MAX = 24 << 20
SETTLED_S = 30.0
WISH = write_wish(
    Wish(
        "/agents.slice/coder-1.scope",
        Registration("coder-1", labels={"agent": "coder"}, policies=("coder",), policy_text="x: y", until_ns=1 << 60),
        (Allowance("a1b2c3d4", "api.example.com:443/tls", 1 << 60, "TICKET-7", "uid 0"),),
        Override(Mode.OPEN, 1 << 50, "set-up", "uid 0"),
        SessionContext("a.b.c", "ab" * 32, "coder-1", 1 << 50, 1 << 60, 1 << 51, "uid 0"),
    )
)
SETTINGS = """\
apiVersion: exeat.dev/v1
kind: AgentSettings
spec:
  policies: /srv/policies
  log: {directory: /var/log/exeat, max_bytes: 64Mi, keep: 8}
  api: {socket: /run/exeat/agent.sock, group: exeat}
  metrics: {listen: "[::1]:9469"}
"""
WORDS = [
    "null",
    "{}",
    "[]",
    '""',
    "-1",
    "1e999",
    "NaN",
    "true",
    "\ud800",
    "\0",
    "9" * 400,
    "[" * 2000,
    ": ",
    "&a *a",
    "\t",
]


def mutated(text: str, dice: random.Random) -> str:
    """The text with a few changes."""
    for _ in range(dice.randrange(1, 4)):
        at, length = dice.randrange(len(text) + 1), dice.randrange(12)
        match dice.randrange(4):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + text[at + length :]
            case 2:
                text = text[:at] + dice.choice(WORDS) + text[at + length :]
            case _:
                text = text[:at] + chr(dice.choice((dice.randrange(128), dice.randrange(0xD800)))) + text[at + 1 :]
    return text


def end_of(read: Callable[[], object]) -> str:
    """How reading ended."""
    try:
        read()
    except ExeatError as error:
        return "refused" if str(error) else "refused without a word"
    return "read"


def read_state(dice: random.Random) -> Counter[str]:
    """One round of each kind of file."""
    ends: Counter[str] = Counter()
    text = mutated(WISH, dice)
    ends["wish " + end_of(lambda: write_wish(read_wish(text)).encode())] += 1
    settings = mutated(SETTINGS, dice)
    ends["settings " + end_of(lambda: read_settings(settings, "exeat.yaml"))] += 1
    return ends


def read_memory(dice: random.Random, place: Path) -> Counter[str]:
    """What the agent remembers of its table sets: anything may stand there, and it starts all the same."""
    from exeat.agent.sets import Sets

    memory = place / "sets.json"
    memory.write_bytes(
        mutated(json.dumps({"clock": 1 << 60, "sets": {"ab" * 32: 7}}), dice).encode(errors="surrogatepass")
    )
    sets = Sets(None, None, memory)  # type: ignore[arg-type]  # it touches neither for this
    sets.take_over({7}, {})
    return Counter({"memory read": 1})


def storm(top: Path, seed: int, until: float) -> None:
    """Makes its share of cgroups and removes it, again and again; leaves a few."""
    dice = random.Random(seed)
    while time.monotonic() < until:
        made = [top / f"storm-{seed}-{number}" for number in range(CGROUPS // STORMERS)]
        for one in made:
            one.mkdir(exist_ok=True)
        dice.shuffle(made)
        for one in made:
            one.rmdir()
    for number in range(3):
        (top / f"left-{seed}-{number}").mkdir(exist_ok=True)


def weather(stage: AgentStage, seconds: float, dice: random.Random) -> list[str]:
    """A storm around a running agent; what is wrong afterwards."""
    stage.write("coder", stage.policy("coder", stage.rules(stage.shop)))
    steady = stage.cgroup("steady")
    stage.start()
    assert stage.process
    agent = psutil.Process(stage.process.pid)
    warm = Process(target=storm, args=(stage.top, 99, time.monotonic() + 3))
    warm.start()
    warm.join()
    settle(stage)
    before = (agent.memory_info().rss, agent.num_fds())
    until = time.monotonic() + seconds
    stormers = [Process(target=storm, args=(stage.top, number, until)) for number in range(STORMERS)]
    for one in stormers:
        one.start()
    changes, slowest, wrong = 0, 0.0, []
    while any(one.is_alive() for one in stormers):
        port = dice.choice((8, 9, 10))
        began = time.monotonic()
        stage.write("coder", stage.policy("coder", stage.rules(stage.shop) + stage.rules(stage.shop, port=port)))
        wanted = ("hello", "ECONNREFUSED", "EPERM")
        while tried(stage, steady, port) != wanted:
            if time.monotonic() - began > 20:
                return [f"a change of policy was not enforced within 20 s in the storm: {tried(stage, steady, port)}"]
        slowest, changes = max(slowest, time.monotonic() - began), changes + 1
    for one in stormers:
        one.join()
    settled = settle(stage)
    after = (agent.memory_info().rss, agent.num_fds())
    there = {f"/{stage.top.name}/{one.name}" for one in stage.top.iterdir() if one.is_dir()}
    known = {one["cgroup"] for one in stage.json("workloads")["workloads"]}
    print(
        f"storm: {changes} policies applied, slowest {slowest:.2f} s; settled {settled:.1f} s after it; {len(known)} "
        f"workloads; memory {before[0] >> 20} -> {after[0] >> 20} MiB; descriptors {before[1]} -> {after[1]}"
    )
    if known != there:
        wrong.append(f"the census is not the tree: {len(known - there)} too many, {len(there - known)} too few")
    if after[0] - before[0] > GROWTH_MAX:
        wrong.append(f"memory grew by {(after[0] - before[0]) >> 20} MiB")
    more = len(there) - 1 - 3  # a workload's gate holds listeners for as long as it lives; three were there before
    per_gate = 5
    if after[1] > before[1] + more * per_gate:
        wrong.append(f"{after[1] - before[1]} descriptors more, for {more} workloads more")
    if stage.evil.count().connections:
        wrong.append("a connection arrived that no policy allows")
    complaints = stage.json("status").get("complaints", [])
    return wrong + [f"status complains: {one}" for one in complaints]


def tried(stage: AgentStage, cgroup: Path, port: int) -> tuple[str, str, str]:
    """The steady port, the changing one, and a host that no policy names."""
    shop, evil = stage.shop.address4, stage.evil.address4
    return stage.run(lambda: (say(shop), say(shop, port), say(evil)), cgroup)


def settle(stage: AgentStage) -> float:
    """Waits until the agent knows what there is and has collected what has gone."""
    began = time.monotonic()
    while time.monotonic() - began < SETTLED_S:
        there = sum(one.is_dir() for one in stage.top.iterdir())
        status = stage.json("status")
        if int(status["workloads"]) == there and int(status["table_sets"]) <= 1:
            break
        time.sleep(0.2)
    took = time.monotonic() - began
    time.sleep(2)
    return took


def main() -> int:
    """Runs."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbits(32)
    print(f"seed {seed}")
    dice, ends = random.Random(seed), Counter[str]()
    deadline = time.monotonic() + seconds / 2
    with tempfile.TemporaryDirectory(prefix="exeat-fuzz-") as place:
        while time.monotonic() < deadline:
            ends += read_state(dice) + read_memory(dice, Path(place))
    print(", ".join(f"{end}: {count}" for end, count in sorted(ends.items())))
    wrong = ["something was refused without a word"] if any("without" in end for end in ends) else []
    if missing := missing_capability() or (None if os.geteuid() == 0 else "it needs root"):
        print(f"no storm: {missing}")
    else:
        with open_agent_stage(keeps_programs=False) as stage:
            wrong += weather(stage, seconds / 2, dice)
    for sentence in wrong:
        print(f"failed: {sentence}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
