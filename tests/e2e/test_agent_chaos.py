"""Agents are killed at random moments under traffic, by builds that differ, while policies change.

Not one byte arrives where no policy ever allowed it, nothing arrives where a policy closed it, and no connection breaks
that every policy allows. EXEAT_CHAOS_S sets for how long (12 s if it is not set), EXEAT_CHAOS_SEED repeats a run.
"""

import hashlib
import os
import random
import time
from collections.abc import Iterator
from ctypes import sizeof
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bed import Host, Tcp, Tls, Udp
from e2e.agent_builds import as_it_is, changed_programs, in_haste
from e2e.agent_stage import INSTANCE, AgentStage, open_agent_stage, say
from e2e.agent_traffic import Traffic, all_was_allowed, everywhere, start_traffic
from e2e.guard import remove_cgroup
from exeat.errors import ExeatError
from exeat.kernel import libbpf
from exeat.kernel.entries import NetworkKey
from exeat.kernel.instance import Instance
from exeat.kernel.takeover import policies_left

DURATION_S = float(os.environ.get("EXEAT_CHAOS_S", "12"))
SEED = int(os.environ.get("EXEAT_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
HOLDERS = 3
MANY = 3000  # names of a large policy: it takes a while to write, and to remove
QUIET_S = 0.3  # so long nothing may arrive where a change has closed
ACKNOWLEDGED_S = 5.0
BAD = {"sent", "answered", "I am a.shop.test", "I am a.evil.test", "I am vault"}


@dataclass
class Chaos:
    """One run of it."""

    stage: AgentStage
    vault: Host  # never allowed
    cafe: Host  # allowed at times
    builds: list[dict[str, str]]
    dice: random.Random
    deadline: float
    text: str = ""
    is_open: bool = False
    is_closed_since: int | None = None  # how many connections the cafe had counted by then
    kills: int = 0
    changes: int = 0
    acknowledged: int = 0
    upgrades: int = 0
    visitors: int = 0
    in_control_ms: list[int] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    hammered: dict[str, int] = field(default_factory=dict)

    def where(self, **more: object) -> dict[str, object]:
        """What traffic must know."""
        return everywhere(self.stage.shop, self.vault, self.cafe, **more)

    def change(self) -> None:
        """Another policy, which allows what is held and now and then the cafe; perhaps a large one, or a bad file."""
        stage, number = self.stage, self.changes
        self.check_closed()
        names = ["a.shop.test", *(f"h{n}-{number}.filler.test" for n in range(self.dice.choice((0, 5, MANY))))]
        hosts = [stage.shop, self.cafe] if self.dice.random() < 0.5 else [stage.shop]
        self.text = stage.policy("coder", stage.rules(*hosts) + stage.names(*names))
        self.is_open = self.cafe in hosts
        self.is_closed_since = None
        stage.write("coder", self.text)
        self.changes += 1

    def acknowledge(self) -> None:
        """Waits until the agent says that the policy is in force; from then on the cafe is closed, if it should be."""
        revision = hashlib.sha256(self.text.encode()).hexdigest()
        until = min(time.monotonic() + ACKNOWLEDGED_S, self.deadline)
        while time.monotonic() < until:
            try:
                with self.stage.client() as client:
                    status = client.get_status()
            except ExeatError:
                time.sleep(0.02)
                continue
            if [policy.revision for policy in status.policies] == [revision]:
                self.acknowledged += 1
                if not self.is_open:
                    self.is_closed_since = self.cafe.count().connections
                    time.sleep(QUIET_S)
                    self.check_closed()
                return
            time.sleep(0.01)

    def check_closed(self) -> None:
        """Nothing has arrived at the cafe since it was closed."""
        if self.is_closed_since is not None:
            assert self.cafe.count().connections == self.is_closed_since

    def live(self) -> None:
        """One agent's life: started, perhaps left alone until it is in control, killed."""
        stage, dice = self.stage, self.dice
        stage.environment = dice.choice(self.builds)
        began = time.monotonic()
        stage.start(wait=False)
        lasts_s = dice.choice((dice.uniform(0, 0.8), dice.uniform(0, 3), dice.uniform(0, 3), dice.uniform(3, 6)))
        while time.monotonic() < min(began + lasts_s, self.deadline):
            act = dice.choice((self.change, self.acknowledge, self.visit, self.pause, self.pause))
            act()
        self.look()
        if dice.random() < 0.4:  # right into the application of a policy
            self.change()
            time.sleep(dice.uniform(0, 0.15))
        died = time.monotonic()
        stage.kill()
        self.kills += 1
        if dice.random() < 0.5:
            self.change()  # nobody sees it yet
        time.sleep(dice.uniform(0, 0.2))
        self.gaps_s.append(time.monotonic() - died)

    def pause(self) -> None:
        """Lets the agent go on."""
        time.sleep(self.dice.uniform(0, 0.2))

    def visit(self) -> None:
        """A cgroup comes below a workload, does what is denied, and goes."""
        top = self.dice.choice(sorted(self.stage.top.glob("holder-*")))
        cgroup = top / f"visitor-{self.visitors}"
        cgroup.mkdir()
        self.visitors += 1
        traffic = start_traffic(self.stage.bed, cgroup, "hammer", self.where())
        traffic.wait_until_up()
        self.pause()
        self.hammer_has_ended(traffic)
        remove_cgroup(cgroup)

    def look(self) -> None:
        """Notes how the agent does, if it answers."""
        try:
            with self.stage.client() as client:
                status = client.get_status()
        except ExeatError:
            return
        self.in_control_ms.append(status.in_control_ms)
        self.upgrades += status.programs == status.own_programs

    def hammer_has_ended(self, traffic: Traffic) -> None:
        """Nothing that is denied has worked."""
        told: dict[str, int] = traffic.finish()
        for word, count in told.items():
            self.hammered[word] = self.hammered.get(word, 0) + count
        wrong = {word: count for word, count in told.items() if word.partition(" ")[2] in BAD}
        assert wrong.keys() <= {"cafe sent", "allowed sent", "allowed-name I am a.shop.test"}, told
        assert all_was_allowed(told), told


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Chaos]:
    """A stage, hosts beside it, and a second build."""
    with open_agent_stage(keeps_programs=False) as stage:
        vault = stage.bed.add("vault", Tls(names=("a.evil.test",)), Tcp(7), Udp(5000))
        cafe = stage.bed.add("cafe", Tcp(7))
        builds = [in_haste(as_it_is(tmp_path / "one")), in_haste(changed_programs(tmp_path / "other"))]
        stage.environment = builds[0]
        print(f"EXEAT_CHAOS_SEED={SEED}")
        dice = random.Random(SEED)
        yield Chaos(stage, vault, cafe, builds, dice, time.monotonic() + DURATION_S)


@pytest.mark.timeout(DURATION_S + 180)
def test_killed_and_upgraded_at_random_nothing_leaks_and_nothing_breaks(chaos: Chaos) -> None:
    """The hosts count what arrived; the clients count every echo."""
    stage = chaos.stage
    cgroups = [stage.cgroup(f"holder-{number}") for number in range(HOLDERS)]
    kill_in_the_first_start(chaos)
    chaos.change()
    stage.environment = chaos.builds[1]
    stage.start()
    chaos.deadline = time.monotonic() + ACKNOWLEDGED_S
    chaos.acknowledge()
    where = chaos.where(name="a.shop.test")
    holders = [start_traffic(stage.bed, cgroup, "hold", where) for cgroup in cgroups]
    for holder in holders:
        holder.wait_until_up()  # they resolve the name by which the others come
    hammers = [start_traffic(stage.bed, cgroup, "hammer", where) for cgroup in cgroups]
    for hammer in hammers:
        hammer.wait_until_up()
    chaos.deadline = time.monotonic() + DURATION_S
    stage.kill()
    while time.monotonic() < chaos.deadline:
        chaos.live()
    told = [holder.finish() for holder in holders]
    for hammer in hammers:
        chaos.hammer_has_ended(hammer)
    print(chaos.kills, "kills", chaos.changes, "changes", chaos.acknowledged, "acknowledged", chaos.upgrades, "current")
    print(chaos.visitors, "visitors; in control ms", chaos.in_control_ms, "; held", told, "; hammered", chaos.hammered)
    assert all(holder["failures"] == [] and holder["plain"] > 50 and holder["tls"] > 50 for holder in told), told
    assert chaos.vault.count().is_untouched
    assert "a.evil.test" not in stage.shop.count().sni
    assert {asked.name.lower() for asked in stage.resolver.questions()} <= {"a.shop.test"}
    assert chaos.kills >= DURATION_S / 8
    chaos.check_closed()
    settled(chaos, cgroups)


def kill_in_the_first_start(chaos: Chaos) -> None:
    """Before anything is enforced: what is half pinned is completed by the next."""
    for _ in range(2):
        chaos.stage.start(wait=False)
        time.sleep(chaos.dice.uniform(0.3, 3))
        chaos.stage.kill()


def settled(chaos: Chaos, cgroups: list[Path]) -> None:
    """An agent that is left alone has everything in order at last: the twin of all that was denied is allowed."""
    stage = chaos.stage
    stage.environment = chaos.builds[0]
    chaos.text = stage.policy("coder", stage.rules(stage.shop, chaos.cafe) + stage.names("a.shop.test"))
    stage.write("coder", chaos.text)
    stage.start()
    stage.wait_until(lambda: _is_current(stage), 30)
    status = stage.json("status")
    assert status.get("complaints", []) == []
    assert int(status["workloads"]) == HOLDERS
    for cgroup in cgroups:
        assert stage.run(lambda: say(chaos.cafe.address4), cgroup) == "hello"
        assert stage.run(lambda: say(chaos.vault.address4), cgroup) == "EPERM"
    kernel = Instance(INSTANCE)
    try:
        stage.wait_until(lambda: len(policies_left(kernel)) == 1, 20)  # all that killed agents left is removed
        stage.wait_until(lambda: _owners(kernel) == set(policies_left(kernel)), 20)
    finally:
        kernel.close()


def _is_current(stage: AgentStage) -> bool:
    status = stage.json("status")
    return bool(status["programs"] == status["own_programs"])


def _owners(kernel: Instance) -> set[int]:
    keys = libbpf.keys(kernel.map("networks"), sizeof(NetworkKey))
    return {int(NetworkKey.from_buffer_copy(key).policy_id) for key in keys}
