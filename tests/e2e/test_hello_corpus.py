"""Every captured first flight of a real client is judged by its own name, however it is cut into writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from e2e.guard import Guard
from e2e.hello_client import NODELAY, HelloClient, Talk, assert_allowed, assert_denied, client, hello_guard, naming
from exeat.model.verdicts import Reason
from hellos.build import writes
from hellos.corpus import Flight, flights
from hellos.oracle import judge_hello

__all__ = ["client", "hello_guard"]

SEED = 9001
NAMED = [flight for flight in flights() if flight.sni is not None]
WITH_ECH = [flight for flight in NAMED if judge_hello(flight.stream).has_ech]
EVERY_NAME = [flight.sni.lower() for flight in NAMED if flight.sni]


def as_captured(flight: Flight) -> Sequence[bytes]:
    """The segments that the client really made."""
    return flight.segments


def whole(flight: Flight) -> Sequence[bytes]:
    """In one write."""
    return [flight.stream]


def at_random(flight: Flight) -> Sequence[bytes]:
    """In four writes."""
    size = len(flight.stream)
    return writes(flight.stream, random.Random(f"{SEED} {flight.client} {size}").sample(range(size), 3))


def in_the_name(flight: Flight) -> Sequence[bytes]:
    """In two writes, cut in the middle of the name."""
    name = (flight.sni or "").encode()
    return writes(flight.stream, [flight.stream.find(name) + len(name) // 2])


@pytest.mark.parametrize("cut", [whole, as_captured, at_random, in_the_name])
def test_every_real_hello_is_allowed_where_its_name_is(
    hello_guard: Guard, client: HelloClient, cut: Callable[[Flight], Sequence[bytes]]
) -> None:
    """And the server reads exactly what the client wrote."""
    talks = [Talk(cut(flight), (NODELAY,)) for flight in NAMED]
    with hello_guard.workload(naming(*EVERY_NAME, allows_ech=True)) as workload:
        for flight, talk, outcome in zip(NAMED, talks, client.say(workload, talks), strict=True):
            assert_allowed(outcome, talk, flight.sni and flight.sni.lower())


@pytest.mark.parametrize("cut", [whole, as_captured, at_random, in_the_name])
def test_every_real_hello_is_denied_where_only_another_name_is_allowed(
    hello_guard: Guard, client: HelloClient, cut: Callable[[Flight], Sequence[bytes]]
) -> None:
    """The twin: same client, same server, same cuts."""
    talks = [Talk(cut(flight), (NODELAY,)) for flight in NAMED]
    with hello_guard.workload(naming("another.test", allows_ech=True)) as workload:
        for flight, outcome in zip(NAMED, client.say(workload, talks), strict=True):
            assert_denied(outcome, Reason.NAME_NOT_ALLOWED)
            assert outcome.told[0].name.lower() == (flight.sni or "").lower()


def test_every_real_hello_with_ech_is_denied_for_it_unless_the_rule_allows_ech(
    hello_guard: Guard, client: HelloClient
) -> None:
    """Its name is allowed; the twin with `ech: allow` is above."""
    assert len(WITH_ECH) > 40
    with hello_guard.workload(naming(*EVERY_NAME)) as workload:
        for outcome in client.say(workload, [Talk(as_captured(flight)) for flight in WITH_ECH]):
            assert_denied(outcome, Reason.ECH)


def test_every_real_hello_without_a_name_is_denied_for_that(hello_guard: Guard, client: HelloClient) -> None:
    """An address is no substitute for a name."""
    nameless = [flight for flight in flights() if flight.sni is None]
    assert nameless
    with hello_guard.workload(naming(*EVERY_NAME, allows_ech=True)) as workload:
        for outcome in client.say(workload, [Talk(as_captured(flight)) for flight in nameless]):
            assert_denied(outcome, Reason.SNI_MISSING)
