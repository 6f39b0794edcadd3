"""The reader of hellos itself, asked by BPF_PROG_TEST_RUN without sockets: the table, real clients and made hellos."""

import pytest

from e2e.guard import Guard
from exeat.kernel import libbpf
from exeat.kernel.abi import HelloAnswer
from exeat.model.verdicts import Reason
from hellos.build import Hello, records
from hellos.corpus import flights
from hellos.generate import cases
from hellos.oracle import Reading, judge_hello
from hellos.table import rows

SEED = 4711
LEAST, MOST = 16, 3400  # room for the answer, and what the kernel's test run takes as one linear packet
TABLE = [row for row in rows() if LEAST <= len(row.stream) <= MOST]


def ask(guard: Guard, stream: bytes) -> HelloAnswer:
    """What the kernel's reader says of a stream."""
    status, answer = libbpf.test_run(guard.instance.program("on_hello_question"), stream)
    assert status == 0
    return HelloAnswer.from_buffer_copy(answer.ljust(len(bytes(HelloAnswer())), b"\0"))


def agrees(answer: HelloAnswer, reading: Reading) -> bool:
    """Whether the answer is right; ECH is told, for the policy decides on it."""
    if answer.ret_is_incomplete:
        return reading.incomplete
    if answer.ret_reason:
        return Reason(answer.ret_reason) in reading.reasons
    told = (bool(answer.ret_has_ech), bool(answer.ret_has_early_data), answer.ret_name_length)
    return reading.is_allowed and told == (reading.has_ech, reading.has_early_data, len(reading.name or ""))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.label.encode("unicode_escape").decode())
def test_a_row_of_the_table_is_read_as_it_is_written_there(guard: Guard, row) -> None:
    """Its reason, or its flags and the length of its name."""
    reading = judge_hello(row.stream, ech_allowed=True)
    assert agrees(ask(guard, row.stream), reading)
    assert reading.reasons <= row.reasons


def test_real_clients_are_read_with_their_names(guard: Guard) -> None:
    """All that fit into a test run."""
    for flight in flights():
        if len(flight.stream) <= MOST:
            assert agrees(ask(guard, flight.stream), judge_hello(flight.stream, ech_allowed=True)), flight.client


def test_generated_hellos_are_read_as_the_oracle_reads_them(guard: Guard) -> None:
    """3,000 of them take a second: no connection is made."""
    for case in cases(SEED, 3000):
        if LEAST <= len(case.stream) <= MOST:
            assert agrees(ask(guard, case.stream), judge_hello(case.stream, ech_allowed=True)), case


def test_every_prefix_of_a_hello_is_incomplete_and_says_what_it_needs(guard: Guard) -> None:
    """Never more than would complete the record or its header: nobody is held for bytes that do not come."""
    stream = b"".join(records(Hello(grease=True).message(), [1, 3, 4, 60, 61]))
    for size in range(LEAST, len(stream)):
        answer = ask(guard, stream[:size])
        assert (answer.ret_is_incomplete, answer.ret_reason) == (1, 0)
        assert size < answer.ret_need <= len(stream)
    answer = ask(guard, stream + b"more behind it")
    assert (answer.ret_is_incomplete, answer.ret_reason, answer.ret_consumed) == (0, 0, len(stream))
