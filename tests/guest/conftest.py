"""One bed of guests, and one instance of the programs, for all packet tests of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bed import missing_capability
from guest.stage import GuestGuard, Stage


@pytest.fixture(scope="session")
def guard() -> Iterator[GuestGuard]:
    """The programs, loaded once."""
    if os.geteuid() != 0:
        pytest.skip("the enforcer is loaded and attached by root only")
    guard = GuestGuard()
    yield guard
    guard.close()


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Guests, router and servers; nobody judges."""
    if missing := missing_capability():
        pytest.skip(missing)
    with Stage() as stage:
        yield stage


@pytest.fixture
def judging(stage: Stage, guard: GuestGuard) -> Stage:
    """The same where `judged` works."""
    stage.guard = guard
    return stage


@pytest.fixture(autouse=True)
def _fresh_ends(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test hears the segments of another."""
    yield
    if "stage" in request.fixturenames:
        stage: Stage = request.getfixturevalue("stage")
        for guest in stage.guests:
            assert guest.link
            guest.link.read()
            guest.link.clients.clear()
            guest.link.others.clear()
