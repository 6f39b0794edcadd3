"""What ends soon is told 14, 3 and 1 days before, each once, whatever restarts and clocks do."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.endings import Ending, count_within, due, upcoming
from exeat.model.policy import Policy, Rule
from unit.rule_words import NOON

DAY = timedelta(days=1)


def told_over(policies: list[Policy], moments: list[datetime]) -> list[tuple[str, str | None, int]]:
    """Who is told at these moments, one after the other, by an agent that restarts after each."""
    state, heard = "{}", []
    for now in moments:
        answer = due(upcoming(policies, now), json.loads(state), now)
        state = json.dumps(answer.told)
        heard += [(ending.policy, ending.rule, ending.days) for ending in answer.notices]
    return heard


def test_each_threshold_is_told_once() -> None:
    """Looked at every hour for twenty days, from before the first threshold to behind the end."""
    policy = Policy("p", expires=NOON + 15 * DAY)
    hours = [NOON + timedelta(hours=hour) for hour in range(24 * 20)]
    assert told_over([policy], hours) == [("p", None, 14), ("p", None, 3), ("p", None, 1)]


def test_the_thresholds_are_exact() -> None:
    """14 days are within 14 days; a microsecond more is not."""
    policy = Policy("p", expires=NOON + 14 * DAY)
    assert upcoming([policy], NOON) == (Ending("p", None, NOON + 14 * DAY, 14),)
    assert upcoming([policy], NOON - timedelta(microseconds=1)) == ()
    assert [ending.days for ending in upcoming([policy], NOON + 11 * DAY)] == [3]
    assert [ending.days for ending in upcoming([policy], NOON + 13 * DAY)] == [1]
    assert upcoming([policy], NOON + 14 * DAY) == ()


def test_what_is_first_seen_late_is_told_once() -> None:
    """An agent that was off for a fortnight does not tell three times."""
    assert told_over([Policy("p", expires=NOON + timedelta(hours=5))], [NOON, NOON]) == [("p", None, 1)]


def test_a_rule_is_told_if_it_ends_before_its_policy() -> None:
    """What ends with the policy is said by the policy."""
    rules = (Rule("early", expires=NOON + DAY), Rule("with", expires=NOON + 2 * DAY), Rule("own"))
    policy = Policy("p", rules=rules, expires=NOON + 2 * DAY)
    found = [(ending.rule, ending.days) for ending in upcoming([policy], NOON)]
    assert found == [("early", 1), (None, 3)]
    assert [ending.rule for ending in upcoming([replace(policy, expires=None)], NOON)] == ["early", "with"]


def test_what_has_ended_is_not_told() -> None:
    """Neither a rule nor what a policy that has ended would still hold; the twin is a second before."""
    policy = Policy("p", rules=(Rule("r", expires=NOON),), expires=NOON + DAY)
    assert [ending.rule for ending in upcoming([policy], NOON)] == [None]
    assert [ending.rule for ending in upcoming([policy], NOON - timedelta(seconds=1))] == ["r", None]
    assert upcoming([policy], NOON + DAY) == ()


def test_what_was_prolonged_is_told_anew() -> None:
    """It is another ending."""
    told = due(upcoming([Policy("p", expires=NOON + DAY)], NOON), {}, NOON).told
    prolonged = upcoming([Policy("p", expires=NOON + 10 * DAY)], NOON)
    assert [ending.days for ending in due(prolonged, told, NOON).notices] == [14]
    assert due(upcoming([Policy("p", expires=NOON + DAY)], NOON), told, NOON).notices == ()


def test_a_policy_that_is_away_for_a_while_is_not_told_again() -> None:
    """As between the start of an agent and the reading of its policies."""
    policies = [Policy("p", expires=NOON + 2 * DAY)]
    state = due(upcoming(policies, NOON), {}, NOON).told
    state = due((), state, NOON).told
    assert due(upcoming(policies, NOON), state, NOON).notices == ()


@given(st.lists(st.integers(-400, 400), max_size=30))
def test_a_clock_that_jumps_tells_nobody_twice(hours: list[int]) -> None:
    """Back over a threshold, or over the end and back within a month."""
    heard = told_over([Policy("p", expires=NOON)], [NOON + timedelta(hours=hour) for hour in hours])
    days = [day for _, _, day in heard]
    assert days == sorted(set(days), reverse=True)


def test_the_state_does_not_grow_for_ever() -> None:
    """What ended long ago goes, and so does what nobody wrote."""
    policy = Policy("p", expires=NOON + DAY)
    told = due(upcoming([policy], NOON), {}, NOON).told
    assert due((), told, NOON + 40 * DAY).told == {}
    garbage = {"": 1, "no time p": 1, "2026-06-02T12:00:00 p": 1, "9999-12-31T23:59:59+00:00 p": 1, "x" * 99: 7}
    assert due((), garbage, NOON).told == {}


def test_a_rule_with_a_blank_in_its_name_is_told_apart() -> None:
    """Names of rules are text."""
    policy = Policy("p", rules=(Rule("a b", expires=NOON + DAY), Rule("a", expires=NOON + DAY)), expires=None)
    assert len(due(upcoming([policy], NOON), {}, NOON).told) == 2


def test_counts_are_within() -> None:
    """Who ends within one day ends within fourteen."""
    policies = [Policy(f"p{days}", expires=NOON + days * DAY) for days in (1, 2, 3, 10, 20)]
    assert count_within(upcoming(policies, NOON)) == {1: 1, 3: 3, 14: 4}
    assert count_within(()) == {1: 0, 3: 0, 14: 0}


@pytest.mark.parametrize("end", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
def test_ends_at_the_edges_of_the_calendar_break_nothing(end: datetime) -> None:
    """A policy may say 9999."""
    policies = [Policy("p", expires=end)]
    assert due(upcoming(policies, NOON), {}, NOON).notices == ()
    just_before = end - DAY if end.year > 1 else NOON
    assert due(upcoming(policies, just_before), {}, NOON).told.keys() <= {f"{end.isoformat()} p"}
