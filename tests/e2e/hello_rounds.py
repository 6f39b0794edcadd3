"""Says generated hellos to the enforcer and compares what it does with what the oracle says, for test and fuzzer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from e2e.guard import Workload
from e2e.hello_client import HelloClient, Outcome, Talk, naming
from exeat.model.verdicts import Reason, Verdict
from hellos.generate import Case
from hellos.oracle import judge_hello

BATCH = 250
EACCES = 13
WATCH_HEADER = 11  # what the kernel wants to see of a record behind the hello, twin: flight.h


@dataclass(frozen=True)
class Mismatch:
    """A case on which kernel and oracle do not agree, with all that is needed to see it again."""

    case: Case
    story: str

    def __str__(self) -> str:
        return f"{self.case.label}: {self.story}\n{self.case.reading}\nstream: {self.case.stream.hex()}"


def rounds(client: HelloClient, workload: Workload, cases: Iterable[Case]) -> Iterator[list[Mismatch]]:
    """The mismatches of each batch. Its policy names exactly the names of its cases."""
    batch: list[Case] = []
    for case in cases:
        batch.append(case)
        if len(batch) == BATCH:
            yield round_of(client, workload, batch)
            batch = []
    if batch:
        yield round_of(client, workload, batch)


def round_of(client: HelloClient, workload: Workload, batch: list[Case]) -> list[Mismatch]:
    """One batch under one policy."""
    names = [case.reading.name for case in batch if case.reading.name]
    workload.switch(naming(*names, "unused.test"))
    for policy_id in workload.policy_ids[:-1]:  # or a long run would fill the tables
        workload.guard.tables.remove(policy_id)
    del workload.policy_ids[:-1]
    outcomes = client.say(workload, [Talk([case.stream] if case.stream else []) for case in batch])
    stories = [(case, tell(case, outcome)) for case, outcome in zip(batch, outcomes, strict=True)]
    return [Mismatch(case, story) for case, story in stories if story]


def tell(case: Case, outcome: Outcome) -> str:
    """What is wrong with an outcome; nothing: empty."""
    reading = case.reading
    behind = len(case.stream) - end_of_hello(case.stream) if reading.name else 0
    if 0 < behind < WATCH_HEADER and (outcome.error, outcome.told, outcome.got) == (0, (), b""):
        return ""  # held: too little is there of the record that begins behind the hello
    if not reading.is_allowed:
        return tell_denied(case, outcome)
    if behind and outcome.verdicts == [(Verdict.DROPPED, Reason.HELLO_INTERLEAVED)]:
        return "" if outcome.got == b"" and outcome.error == EACCES else f"leaked: {outcome.got.hex()}"
    if outcome.verdicts != [(Verdict.FORWARDED, Reason.NAME_ALLOWED)]:
        return f"the oracle allows it, the kernel said {outcome.verdicts}"
    if outcome.told[0].name.lower() != reading.name:
        return f"the kernel read the name {outcome.told[0].name!r}"
    if outcome.got != case.stream:
        return f"the client was told of {outcome.error}, and the server read {outcome.got.hex()}"
    return ""


def tell_denied(case: Case, outcome: Outcome) -> str:
    """What is wrong where nothing may leave."""
    if outcome.got:
        return f"{len(outcome.got)} bytes leaked: {outcome.got.hex()}"
    if case.reading.incomplete and not outcome.told:
        return ""
    if len(outcome.told) != 1 or outcome.error != EACCES:
        return f"the kernel said {outcome.verdicts}, and the client was told of {outcome.error}"
    verdict, reason = outcome.verdicts[0]
    if verdict is not Verdict.DROPPED or reason not in case.reading.reasons:
        return f"the kernel said {verdict.name} {reason.name}"
    return ""


def end_of_hello(stream: bytes) -> int:
    """Where the records of a whole, sound hello end."""
    end = 0
    while judge_hello(stream[:end]).incomplete:
        end += 5 + int.from_bytes(stream[end + 3 : end + 5], "big")
    return end
