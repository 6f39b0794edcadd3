"""The same slice of work in each setting, round after round; only slices of one round are compared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.place import OFF, Client

Slice = Callable[[str], Sequence[float]]  # does one slice of work in a setting; a cost for each piece of it


class Compared(Protocol):
    """Where the same work is done in several settings."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Which; the base is among them."""

    def client(self, setting: str) -> Client:
        """Who does it."""

    def forget_events(self) -> None:
        """Between two slices."""


@dataclass(frozen=True)
class Paired:
    """By setting, for each round: the slice's cost relative to that of the same round in the base's setting."""

    ratios: dict[str, list[float]]
    extra: dict[str, list[float]]  # difference of the slices' medians
    plain: list[float]  # the base's own: each slice's median


def paired(settings: Iterable[str], rounds: int, work: Slice, between: Callable[[], None], base: str = OFF) -> Paired:
    """Measures; a first round, in which caches fill and connections open, does not count."""
    order = list(settings)
    others = [setting for setting in order if setting != base]
    found = Paired({setting: [] for setting in others}, {setting: [] for setting in others}, [])
    for number in range(rounds + 1):
        turn = number % len(order)
        cost = {}
        for setting in order[turn:] + order[:turn]:
            between()
            cost[setting] = statistics.median(work(setting))
        if number == 0:
            continue
        found.plain.append(cost[base])
        for setting in found.ratios:
            found.ratios[setting].append(cost[setting] / cost[base])
            found.extra[setting].append(cost[setting] - cost[base])
    return found
