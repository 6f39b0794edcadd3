"""Verdicts pass through the API unchanged."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.control.convert import from_wire, to_wire
from exeat.core.verdict_text import json_line
from exeat.core.who_text import TEXTS
from exeat.errors import ExeatError
from exeat.model.identity import Who
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict
from exeat.v1 import verdict_pb2 as pb
from unit.record_words import any_record

U32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1)
ADDRESSES = st.one_of(st.none(), st.builds(IPv4Address, U32), st.builds(IPv6Address, st.integers(0, 2**128 - 1)))


@st.composite
def whos(draw: st.DrawFn) -> Who:
    """Whatever people call a workload."""
    texts = {key: draw(st.text(st.characters(codec="utf-8"), max_size=9)) for key in TEXTS}
    return Who(**texts, labels=tuple(sorted(draw(st.dictionaries(TEXT, TEXT, max_size=3)).items())))


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any that the agent can make: an end without an address has no port."""
    address, source = draw(ADDRESSES), draw(ADDRESSES)
    return Record(
        time_ns=draw(st.integers(0, 2**63 - 1)), verdict=draw(st.sampled_from(Verdict)), reason=draw(st.sampled_from(Reason)),  # noqa: E501
        hook=draw(TEXT), workload=draw(TEXT), policy=draw(TEXT), rule=draw(st.none() | TEXT),
        process=Process(draw(U32), draw(st.text(st.characters(codec="utf-8"))), draw(U32)), protocol=draw(U32),
        address=address, port=draw(st.integers(0, 65535)) if address else 0,
        source=source, source_port=draw(st.integers(0, 65535)) if source else 0,
        name=draw(st.none() | TEXT), bytes=draw(U32), detail=draw(U32), judged_ns=draw(st.integers(0, 2**64 - 1)),
        count=draw(U32), evidence=draw(st.none() | TEXT), who=draw(st.none() | whos()),
    )  # fmt: skip


@given(records())
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    """Through the bytes on the wire."""
    assert from_wire(pb.VerdictRecord.FromString(to_wire(record).SerializeToString())) == record


def test_every_field_of_a_line_is_a_field_of_the_message() -> None:
    """Nothing that the file of verdicts says is kept from who asks the agent."""
    fields = {field.name for field in pb.VerdictRecord.DESCRIPTOR.fields}
    assert {key.replace("judged_us", "judged_ns") for key in json.loads(json_line(any_record()))} == fields


def test_every_text_of_who_is_a_field_of_its_message() -> None:
    """In both, and in no other order of words."""
    assert [field.name for field in pb.Who.DESCRIPTOR.fields] == [*TEXTS, "labels"]
    assert [field.name for field in dataclasses.fields(Who)] == [*TEXTS, "labels"]


def test_text_that_is_no_unicode_is_escaped() -> None:
    """A cgroup may be called anything."""
    there = to_wire(replace(any_record(), workload="/a\udcff", process=Process(1, "\udc80", 0)))
    assert (there.workload, there.process.comm) == ("/a\\udcff", "\\udc80")


@pytest.mark.parametrize("wrong", [{"reason": 9999}, {"verdict": 9}, {"destination": pb.Endpoint(address=b"abc")}])
def test_a_verdict_of_a_newer_agent_is_an_error_with_a_way_out(wrong: dict[str, object]) -> None:
    """Not a traceback."""
    message = to_wire(any_record())
    message.MergeFrom(pb.VerdictRecord(**wrong))  # type: ignore[arg-type]
    with pytest.raises(ExeatError, match="update it"):
        from_wire(message)
