"""One bed of guests, and one instance of the programs, for all packet tests of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bed import missing_capability
from exeat.interface_settings import GATE_ADDRESSES
from exeat.kernel.local_addresses import put_on_loopback, take_off_loopback
from guest.stage import GuestGuard, Recorder, Stage


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


@pytest.fixture(scope="module")
def judging(stage: Stage, guard: GuestGuard) -> Stage:
    """The same where `judged` works."""
    stage.guard = guard
    return stage


@pytest.fixture(scope="module")
def server4(stage: Stage) -> Recorder:
    """A server of TLS over IPv4, as far as it knows."""
    return stage.recorder(443)


@pytest.fixture(scope="module")
def gate_addresses(stage: Stage) -> Iterator[None]:
    """Where gates listen is the host's own."""
    router = stage.network.router
    for address in GATE_ADDRESSES:
        router.call(lambda address=address: put_on_loopback(address))
    yield
    for address in GATE_ADDRESSES:
        router.call(lambda address=address: take_off_loopback(address))


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
