"""What the gate and the agent stand for, twice: it holds as they are, and not without the defence behind it."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, Host, Manner
from bed.services import Zone
from e2e.agent_stage import AgentStage, open_agent_stage, say
from e2e.escapes import Steps, ask, dial, got, says, tcp
from e2e.gatekeeper import fresh_resolver, keep_gate, look_up
from e2e.guard import Guard, rule
from e2e.mutants_agent import AGENT_MUTATIONS, GATE_MUTATIONS, mutated_build, open_door
from exeat.model.policy import DnsSettings, Tunnel, TunnelLimits
from unit.fake_agent import fake_agent
from unit.test_control_door import ask_as

NOBODY = 65534


@dataclass
class Scene:
    """An enforcer, a network, a host that is allowed by name, and one that is not."""

    guard: Guard
    bed: Bed
    good: Host
    evil: Host

    def run(
        self, zone: dict[str, Any], client: Callable[[], Any], dns: DnsSettings | None = None, **manner: Any
    ) -> Any:
        """A client that may reach good.test, and all below it."""
        resolver = fresh_resolver(self.bed, zone)
        resolver.behave(Manner(**manner) if manner else None, "good.test")
        with keep_gate(
            self.guard, self.bed, resolver, rule(hosts=("good.test", "*.good.test"), ports=(7,)), dns=dns
        ) as kept:
            return kept.run(client)


def no_address_inside(scene: Scene) -> bool:
    """Is told for a name outside."""
    return bool(scene.run({"good.test": ["10.0.0.1"]}, lambda: look_up("good.test")) == [])


def no_address_of_others(scene: Scene) -> bool:
    """Is opened because it stood beside the answer."""
    scene.run(
        {"good.test": [scene.good.address4]},
        lambda: [look_up("good.test"), dial(scene.evil.address4)],
        answers=(f"evil.test. 300 IN A {scene.evil.address4}",),
    )
    return scene.evil.count().is_untouched


def no_name_too_many(scene: Scene) -> bool:
    """Is asked for below a wildcard."""
    dns = DnsSettings(tunnel=Tunnel.BLOCK, tunnel_limits=TunnelLimits(names_per_minute=3))
    names = [f"n{number}.good.test" for number in range(4)]
    told = scene.run({"*.good.test": [scene.good.address4]}, lambda: [look_up(name) for name in names], dns)
    assert told[0] == [scene.good.address4]
    return bool(told[3] == [])


def open_when_answered(scene: Scene) -> bool:
    """Whoever connects at once is let through."""
    said = scene.run({"good.test": [scene.good.address4]}, lambda: [look_up("good.test"), dial(scene.good.address4)][1])
    return bool(said == says(scene.good, b"hello"))


def granted_with_every_answer(scene: Scene) -> bool:
    """Also where its grant had to make room for others since."""
    zone: Zone = {
        "good.test": [scene.good.address4],
        "a.good.test": ["203.0.113.201"],
        "b.good.test": ["203.0.113.202"],
    }
    names = ("good.test", "a.good.test", "b.good.test", "good.test")
    said = scene.run(
        zone, lambda: [[look_up(name) for name in names], dial(scene.good.address4)][1], DnsSettings(max_grants=2)
    )
    return bool(said == says(scene.good, b"hello"))


PROMISES = {
    "withholding": no_address_inside,
    "chain": no_address_of_others,
    "tunnel": no_name_too_many,
    "grant first": open_when_answered,
    "forgetting": granted_with_every_answer,
}


@pytest.fixture
def scene(guard: Guard, bed: Bed, good: Host, evil: Host) -> Scene:
    """Where a promise is kept, or not."""
    return Scene(guard, bed, good, evil)


@pytest.mark.parametrize("defence", PROMISES)
def test_the_gate_keeps_its_promise(scene: Scene, defence: str) -> None:
    """With all defences."""
    assert PROMISES[defence](scene)


@pytest.mark.parametrize("defence", PROMISES)
def test_the_gate_does_not_without_its_defence(scene: Scene, defence: str) -> None:
    """The same client, the same servers."""
    with GATE_MUTATIONS[defence]():
        assert not PROMISES[defence](scene)


@pytest.fixture(scope="module")
def stage() -> Iterator[AgentStage]:
    """For one agent after another: the programs are compiled once."""
    with open_agent_stage(keeps_programs=False) as stage:
        stage.cgroup("coder-1")
        yield stage


def switch(stage: AgentStage, host: Host) -> None:
    """The policy allows this host alone, before anybody looks again."""
    stage.write("coder", stage.policy("coder", stage.rules(host)))


def reaches(stage: AgentStage, host: Host) -> bool:
    """Whether the workload does."""
    return bool(stage.run(lambda: say(host.address4), stage.top / "coder-1") == "hello")


def succeed(stage: AgentStage) -> None:
    """Another agent takes over, of the build to be tried."""
    stage.kill()
    stage.start()


def connections_end(stage: AgentStage) -> bool:
    """With the policy that allowed them; idle ones too."""

    def client(pause: Callable[[], None]) -> Any:
        with tcp(stage.shop.address4) as sock:
            sock.connect((stage.shop.address4, 7))
            first = ask(sock)
            pause()
            sock.settimeout(1)
            return first, [got(lambda: sock.recv(100)) for _ in range(2)][-1]

    succeed(stage)
    with Steps(stage.bed, client, stage.top / "coder-1") as steps:
        switch(stage, stage.evil)
        stage.wait_until(lambda: reaches(stage, stage.evil))
        steps.go_on()
    assert isinstance(steps.result[0], bytes)
    return bool(steps.result[1] != "TIMEOUT")


def a_new_policy_counts(stage: AgentStage) -> bool:
    """Though it was written while no agent ran."""
    stage.kill()
    switch(stage, stage.evil)
    stage.start()
    return not reaches(stage, stage.shop)


AGENT_PROMISES = {"cut": connections_end, "key": a_new_policy_counts}


@pytest.mark.parametrize("is_whole", [True, False], ids=["with it", "without it"])
@pytest.mark.parametrize("defence", AGENT_PROMISES)
def test_the_agent_keeps_its_promise_by_this_defence(stage: AgentStage, defence: str, is_whole: bool) -> None:
    """And not without it."""
    switch(stage, stage.shop)
    with tempfile.TemporaryDirectory(prefix="exeat-mutant-") as place:
        stage.environment = mutated_build(Path(place, "whole"), ())
        stage.start()
        try:
            stage.wait_until(lambda: reaches(stage, stage.shop))
            if not is_whole:
                stage.environment = mutated_build(Path(place, "lacking"), (defence,))
            assert AGENT_PROMISES[defence](stage) == is_whole
        finally:
            stage.kill()


def test_only_the_door_keeps_strangers_out() -> None:
    """Where the mode of the socket does not."""
    with tempfile.TemporaryDirectory(prefix="exeat-door-") as place:
        Path(place).chmod(0o755)
        path = Path(place, "agent.sock")
        with fake_agent(path, "no-such-group"):
            path.chmod(0o666)
            assert ask_as(path, NOBODY, NOBODY).startswith("Refused ")
            with open_door():
                assert ask_as(path, NOBODY, NOBODY).startswith("answered ")


def test_every_mutation_is_used() -> None:
    """And the other way round."""
    assert PROMISES.keys() == GATE_MUTATIONS.keys()
    assert AGENT_PROMISES.keys() == AGENT_MUTATIONS.keys()
