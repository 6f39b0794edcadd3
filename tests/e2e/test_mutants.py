"""Each escape twice: stopped by the enforcer as it is, and out of the one whose defence was taken away.

What a mutant shows is that the escape's own test would fail without that defence. Mutations that do not stand in each
other's way share one instance, because loading takes seconds.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import pytest

from bed import Bed, Host, Sniffer
from e2e.escape_ways import Scene
from e2e.escape_ways_of_state import JUDGEMENTS
from e2e.guard import Guard
from e2e.mutants import MUTATIONS, MutantGuard
from e2e.mutants_gate import DOORS, GATES, WAYS

# Each row is one instance: the defences it lacks.
INSTANCES: tuple[tuple[str, ...], ...] = (
    ("backstop", "kinds", "options", "foreign"),  # each stops what the others would let out
    ("backstop",),
    ("options",),
    JUDGEMENTS,
    ("address",),
    DOORS,
    GATES,
)


@dataclass
class Mutants:
    """Loads an instance when it is first asked for."""

    stack: ExitStack

    @cached_property
    def _loaded(self) -> dict[tuple[str, ...], Guard]:
        return {}

    def lacking(self, names: tuple[str, ...]) -> Guard:
        """The instance that lacks these defences."""
        if names not in self._loaded:
            guard = MutantGuard(*names)
            self.stack.callback(guard.close)
            self._loaded[names] = guard
        return self._loaded[names]


@pytest.fixture(scope="module")
def mutants(guard: Guard) -> Iterator[Mutants]:
    """The mutated instances, gone at the end of the module."""
    with ExitStack() as stack:
        yield Mutants(stack)


@pytest.fixture
def scene(bed: Bed, good: Host, evil: Host, wire: Sniffer) -> Callable[[Guard], Scene]:
    """Where an escape takes place."""
    return lambda guard: Scene(guard, bed, good, evil, wire)


@pytest.mark.parametrize("way", WAYS)
def test_it_does_not_get_out(guard: Guard, scene: Callable[[Guard], Scene], way: str) -> None:
    """With all defences."""
    assert not WAYS[way].escapes(scene(guard))


@pytest.mark.parametrize("way", WAYS)
def test_it_gets_out_without_the_defence(mutants: Mutants, scene: Callable[[Guard], Scene], way: str) -> None:
    """The same client, the same servers."""
    assert WAYS[way].escapes(scene(mutants.lacking(WAYS[way].without)))


def test_every_mutation_is_used() -> None:
    """And every way's instance is one of those above."""
    assert {name for names in INSTANCES for name in names} == MUTATIONS.keys()
    assert {way.without for way in WAYS.values()} == set(INSTANCES)
