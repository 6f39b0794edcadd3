"""The same bytes are judged alike, whether a process of this host says them or a guest behind an interface.

Both paths run in one instance: a client in a cgroup writes to its socket, and a raw client behind the interface sends
segments. The words of both are compared, and neither server reads a denied name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from e2e.guard import Guard, Told, Workload
from e2e.hello_client import HelloClient, Talk, client, hello_guard, naming
from e2e.hello_rounds import end_of_hello
from exeat.model.verdicts import Reason, Verdict
from guest.packets import Offload
from guest.stage import GuestWorkload, Recorder, Stage
from hellos.corpus import flights
from hellos.generate import Case, cases, table_cases
from hellos.oracle import judge_hello

__all__ = ["client", "hello_guard"]

SEED, COUNT = 4811, 1200
WATCH_HEADER = 11  # what is read of a record behind the hello, twin: flight.h
HOLD_BYTES = 16384  # what is kept of a guest's stream, headers of records included; twin: limits.h
Words = list[tuple[Verdict, Reason, str]]


@pytest.fixture(scope="module")
def server(stage: Stage) -> Recorder:
    """Whom the guest greets."""
    return stage.recorder(443)


@pytest.fixture(scope="module")
def pair(stage: Stage, hello_guard: Guard, server: Recorder) -> Iterator[tuple[Workload, GuestWorkload]]:
    """A cgroup and a guest under equal policies."""
    stage.guard = hello_guard  # type: ignore[assignment]
    with hello_guard.workload(naming("unused.test")) as local, stage.judged(naming("unused.test")) as guest:
        yield local, guest


def words_of(told: Sequence[Told]) -> Words:
    """What the operator reads of it."""
    return [(one.verdict, one.reason, one.name.lower()) for one in told]


def said_by_the_guest(
    stage: Stage, server: Recorder, guest: GuestWorkload, streams: Sequence[bytes], offload: Offload
) -> Iterator[tuple[Words, bytes]]:
    """What was told of each, and what the server read."""
    for stream in streams:
        raw = stage.raw(server, offload=offload)
        assert raw.connect()
        raw.push(stream, tries=1, patience_s=0.002)
        heard = server.of(raw)
        assert heard
        yield words_of(guest.told()), heard.data


def is_held(case: Case, words: Words) -> bool:
    """On a socket the whole write waits where too little is there of the record behind the hello."""
    behind = len(case.stream) - end_of_hello(case.stream) if case.reading.name else 0
    return 0 < behind < WATCH_HEADER and words == []


def compare(
    stage: Stage,
    server: Recorder,
    pair: tuple[Workload, GuestWorkload],
    client: HelloClient,
    batch: list[Case],
    offload: Offload,
) -> list[str]:
    """What is different, in words."""
    names = [case.reading.name for case in batch if case.reading.name] or ["unused.test"]
    for workload in pair:
        workload.switch(naming(*names))
    local, guest = pair
    server.forget()
    guest.begin_anew()
    outcomes = client.say(local, [Talk([case.stream] if case.stream else []) for case in batch])
    streams = [case.stream for case in batch]
    found = []
    for case, outcome, (words, read) in zip(
        batch, outcomes, said_by_the_guest(stage, server, guest, streams, offload), strict=True
    ):
        expected = words_of(outcome.told)
        if case.reading.name and end_of_hello(case.stream) > HOLD_BYTES:
            expected = [(Verdict.DROPPED, Reason.HELLO_TOO_LONG, "")]
        if words[:1] != expected[:1] and not is_held(case, expected):
            found.append(f"{case.label}: a socket {expected}, the guest {words}\n{case.stream.hex()}")
        elif expected and expected[0][0] is Verdict.FORWARDED and not case.stream.startswith(read):
            found.append(f"{case.label}: the guest's server read {read.hex()}")
        elif (not expected or expected[0][0] is Verdict.DROPPED) and not is_harmless(case.stream, read):
            found.append(f"{case.label}: the guest's server read a whole hello\n{read.hex()}")
    return found


def is_harmless(stream: bytes, read: bytes) -> bool:
    """Nothing, or a begin of what was said that is no whole hello."""
    return stream.startswith(read) and (read == b"" or judge_hello(read).incomplete or judge_hello(read).is_allowed)


def in_batches(all_cases: list[Case], size: int = 250) -> Iterator[list[Case]]:
    """So many at once, under one policy."""
    for at in range(0, len(all_cases), size):
        yield all_cases[at : at + size]


CORPUS = [Case(f"{i} {flight.client}", flight.stream, judge_hello(flight.stream)) for i, flight in enumerate(flights())]


@pytest.mark.parametrize("offload", [Offload.NONE, Offload.SEGMENTS], ids=lambda one: one.name.lower())
@pytest.mark.parametrize("kind", ["table", "corpus", "generated"])
def test_a_guest_s_hello_is_judged_as_a_process_s(
    stage: Stage, server: Recorder, pair: tuple[Workload, GuestWorkload], client: HelloClient, kind: str,
    offload: Offload,
) -> None:  # fmt: skip
    """Rows written by hand, real clients, and made ones, sound and spoilt."""
    every = {"table": list(table_cases()), "corpus": CORPUS, "generated": list(cases(SEED, COUNT))}[kind]
    found = [story for batch in in_batches(every) for story in compare(stage, server, pair, client, batch, offload)]
    assert not found, f"{len(found)} differ\n" + "\n\n".join(found[:5])
