"""What came is settled a little at a time; what fails for one workload is said, and keeps no other waiting."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from exeat.agent.arrivals import Arrivals
from exeat.agent.census import News
from exeat.agent.host import Host
from exeat.errors import KernelError


class Settling:
    """Host and looks in one: who was settled, followed and cut, and what breaks."""

    def __init__(self) -> None:
        self.settled: list[int] = []
        self.followed: list[int] = []
        self.cuts: list[set[int]] = []
        self.breaks: dict[int, Exception] = {}
        self.breaks_look: dict[int, Exception] = {}
        self.enforcer = SimpleNamespace(cut=lambda workloads: self.cuts.append(set(workloads)))

    def concerned(self, news: News) -> list[int]:
        """Their names are numbers here."""
        return sorted(int(path) for path in news.came)

    def settle(self, workloads: tuple[int, ...]) -> tuple[int, ...]:
        """One at a time."""
        for one in workloads:
            if one in self.breaks:
                raise self.breaks[one]
            self.settled.append(one)
        return workloads

    def follow(self, workload: int) -> None:
        """Has its gate listen."""
        if workload in self.breaks_look:
            raise self.breaks_look[workload]
        self.followed.append(workload)

    def arrivals(self) -> Arrivals:
        """Of these."""
        return Arrivals(cast(Host, cast(Any, self)), self.follow)


def came(*workloads: int) -> News:
    """These are new."""
    return News(came={str(one) for one in workloads})


@pytest.mark.parametrize("where", ["breaks", "breaks_look"])
@pytest.mark.parametrize("error", [OSError(24, "too many open files"), KernelError("the table is full")])
def test_one_that_fails_is_said_and_all_others_are_settled(
    where: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those that come later: nothing stops for ever."""

    async def storm() -> Settling:
        settling = Settling()
        getattr(settling, where).update({3: error, 500: error})
        arrivals = settling.arrivals()
        arrivals.take(came(*range(1000)))
        await asyncio.sleep(0.2)
        arrivals.take(came(2000))
        await asyncio.sleep(0.05)
        return settling

    with caplog.at_level(logging.ERROR, "exeat"):
        settling = asyncio.run(storm())
    assert settling.followed == [one for one in [*range(1000), 2000] if one not in (3, 500)]
    assert [record.getMessage().split()[1] for record in caplog.records] == ["3", "500"]


def test_what_runs_already_is_cut_once_for_all_that_became_known() -> None:
    """And what is new has nothing to be cut."""

    async def know() -> Settling:
        settling = Settling()
        arrivals = settling.arrivals()
        arrivals.take(came(1))
        arrivals.settle_soon(2)
        arrivals.settle_soon(3)
        await asyncio.sleep(0.3)
        return settling

    assert asyncio.run(know()).cuts == [{2, 3}]
