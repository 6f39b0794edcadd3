"""Which verdicts a filter lets through."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from exeat.core.filters import Filter, Target, parse_to
from exeat.model.record import Record
from exeat.model.verdicts import Verdict
from unit.record_words import any_record

HELLO = any_record(name="Api.Example.com", address=ip_address("203.0.113.10"), port=443)
SIXTH = any_record(name=None, address=ip_address("2001:db8::7"), port=5432)
OPTION = any_record(name=None, address=None, port=0)


@pytest.mark.parametrize(
    ("text", "record", "is_accepted"),
    [
        ("", HELLO, True),
        ("", OPTION, True),
        ("api.example.com", HELLO, True),
        ("API.example.COM.", HELLO, True),
        ("example.com", HELLO, False),
        (".example.com", HELLO, True),
        (".xample.com", HELLO, False),
        (".api.example.com", HELLO, False),
        ("api.example.com:443", HELLO, True),
        ("api.example.com:80", HELLO, False),
        ("api.example.com", SIXTH, False),
        ("203.0.113.10", HELLO, True),
        ("203.0.113.11", HELLO, False),
        ("203.0.113.0/24", HELLO, True),
        ("203.0.113.9/24:443", HELLO, True),
        ("203.0.113.0/24:80", HELLO, False),
        ("203.0.113.0/24", SIXTH, False),
        ("203.0.113.0/24", OPTION, False),
        ("2001:db8::/32", SIXTH, True),
        ("2001:db8:1::/48", SIXTH, False),
        ("[2001:db8::7]:5432", SIXTH, True),
        ("[2001:db8::7]:443", SIXTH, False),
        ("[2001:db8::7]", SIXTH, True),
        ("::/0", HELLO, False),
        (":443", HELLO, True),
        (":443", SIXTH, False),
        (":443", OPTION, False),
    ],
)
def test_a_destination(text: str, record: Record, is_accepted: bool) -> None:
    """By name, ending, address, network and port; each has its twin."""
    assert Filter(to=parse_to(text)).accepts(record) is is_accepted


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("*.example.com", "write one like"),
        ("https://example.com", "no port"),
        ("example.com:https", "no port"),
        ("example.com:0", "no port"),
        ("example.com:65536", "no port"),
        ("example.com:", "no port"),
        (":", "no port"),
        ("[2001:db8::7]:", "no port"),
        ("2001:db8::1:443", "may end in a port"),
        ("2001:db8:::", "no address"),
        ("[shop]:443", "no address"),
        ("10.0.0.0/33", "no address"),
        ("1.2.3", "no address"),
        ("shop/24", "no address"),
        ("a b", "write one like"),
        (".", "write one like"),
        ("\x1b[31m", "write one like"),
    ],
)
def test_what_is_no_destination_is_refused_with_an_example(text: str, sentence: str) -> None:
    """Nothing is guessed: a filter that fits nothing looks like silence."""
    with pytest.raises(ValueError, match=sentence):
        parse_to(text)


def test_all_that_is_given_must_hold() -> None:
    """Outcome, workload, destination."""
    wanted = Filter(frozenset({Verdict.DROPPED, Verdict.AUDIT}), "run-1", Target(port=443))
    assert wanted.accepts(HELLO)
    assert not wanted.accepts(any_record(verdict=Verdict.FORWARDED))
    assert not wanted.accepts(any_record(workload="/exeat.slice/run-2"))
    assert not wanted.accepts(SIXTH)
    assert Filter().accepts(any_record(verdict=Verdict.FORWARDED))


def test_a_whole_name_is_no_part_of_another() -> None:
    """tap1 is not tap10, for who means the one workload."""
    records = [any_record(workload="tap1"), any_record(workload="tap10")]
    assert [Filter(workload="tap1").accepts(record) for record in records] == [True, True]
    assert [Filter(workload="tap1", is_whole=True).accepts(record) for record in records] == [True, False]
