"""Each attack of a guest twice: stopped by the programs as they are, and let out by those that lack a defence.

What a mutant shows is that the attack is a real one, which a real server takes, and that this defence is what stops it.
Mutations that do not stand in each other's way share one text, because compiling takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bed import Udp
from guest.mutants import MUTATIONS, MutantGuard
from guest.mutants_ways import CLOSED, OPEN, WAYS, Scene
from guest.packets import RawLink
from guest.stage import WAYS_MAC, WIRE_MAC, GuestGuard, Stage

pytestmark = pytest.mark.usefixtures("gate_addresses")

FAKES = ("checksum", "hops", "timestamp", "acknowledgement", "no acknowledgement", "tcp options", "length")
# Each row is one text: the defences it lacks.
TEXTS: tuple[tuple[str, ...], ...] = (
    (
        "source mac", "learnt once", "another's", "arp", "neighbours", "dhcp", "icmp", "ip options", "card", "order",
        "late answer", "elsewhere", "syn data", "flows", "question",
        "gateway's mac", "fragments",
    ),
    (
        "source address", "behind the hello", "acknowledged", "syn again", "answered", "ended", "generation",
        "gates", "gate's port", "ungranted",
    ),
    (*FAKES, "copies"),
    ("copies",),
    FAKES,
)  # fmt: skip
LAYERED = [name for name, (lacks, _) in WAYS.items() if len(lacks) > 1]


def text_without(lacks: tuple[str, ...]) -> tuple[str, ...]:
    """The row that lacks these, and as little else as there is."""
    return min((text for text in TEXTS if set(lacks) <= set(text)), key=len)


BY_TEXT = sorted(WAYS, key=lambda name: TEXTS.index(text_without(WAYS[name][0])))


@pytest.fixture(scope="module")
def scene(stage: Stage, guard: GuestGuard) -> Iterator[Scene]:
    """Where it takes place, with the programs as they are."""
    hosts = stage.network.hosts
    hosts.sysctl("net.ipv4.tcp_fastopen", 0x602)  # of all listeners, and without a cookie
    quick = stage.recorder(443)
    macs = (bytes.fromhex(mac.replace(":", "")) for mac in (WIRE_MAC, WAYS_MAC))
    network = RawLink(hosts, "wire", *macs)
    udp = stage.add("mutants.test", Udp(OPEN), Udp(CLOSED), Udp(53))
    yield Scene(stage, guard, stage.recorder(443), quick, udp, network)
    stage.guard = guard
    network.close()
    hosts.sysctl("net.ipv4.tcp_fastopen", 1)


@pytest.fixture(autouse=True)
def _fresh(scene: Scene) -> Iterator[None]:
    yield
    for server in (scene.tls, scene.quick):
        server.forget()


@pytest.fixture(scope="module")
def mutants() -> Iterator[MutantGuard]:
    """Programs that lack what they are told to; the first text is compiled at once."""
    mutants = MutantGuard(*TEXTS[0])
    yield mutants
    mutants.close()


@pytest.mark.parametrize("way", WAYS)
def test_it_does_not_get_out(scene: Scene, way: str) -> None:
    """With all defences."""
    _lacks, gets_out = WAYS[way]
    assert not gets_out(scene)


@pytest.mark.parametrize("way", BY_TEXT)
def test_it_gets_out_without_the_defence(scene: Scene, mutants: MutantGuard, way: str) -> None:
    """The same guest, the same servers."""
    lacks, gets_out = WAYS[way]
    mutants.lack(*text_without(lacks))
    assert gets_out(replace(scene, guard=mutants))


@pytest.mark.parametrize("text", [("copies",), FAKES], ids=["copies", "fakes"])
def test_each_of_two_layers_is_enough(scene: Scene, mutants: MutantGuard, text: tuple[str, ...]) -> None:
    """What a server drops is not read, and of what was read no other copy passes."""
    mutants.lack(*text)
    for way in LAYERED:
        _lacks, gets_out = WAYS[way]
        assert not gets_out(replace(scene, guard=mutants)), way


def test_every_mutation_is_used() -> None:
    """Each has a way that gets out without it."""
    assert {name for text in TEXTS for name in text} == MUTATIONS.keys()
    assert {name for lacks, _ in WAYS.values() for name in lacks} == MUTATIONS.keys()
