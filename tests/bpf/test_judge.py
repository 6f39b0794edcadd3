"""The judge in the kernel, asked by BPF_PROG_TEST_RUN, says what a judge says that loops over the rules."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings

from e2e.guard import Guard, rule
from exeat.core.compile import compile_policy
from exeat.kernel.abi import Outcome
from exeat.kernel.tables import Tables
from exeat.model.networks import mapped
from exeat.model.policy import Policy, Rule
from exeat.model.verdicts import Reason
from unit.naive_judge import may
from unit.rule_words import NOON
from unit.test_compile_properties import ATTEMPTS, Question


def in_our_time(policy: Policy) -> Policy:
    """The same policy, its ends a day ago or a day ahead: the kernel's clock cannot be set."""
    now = datetime.now(UTC)

    def shifted(end: datetime | None) -> datetime | None:
        return end and now + (timedelta(days=1) if end > NOON else timedelta(days=-1))

    def shifted_rule(one: Rule) -> Rule:
        return replace(one, expires=shifted(one.expires))

    return replace(policy, expires=shifted(policy.expires), rules=tuple(map(shifted_rule, policy.rules)))


def asked(tables: Tables, policy_id: int, question: Question) -> tuple[bool, bool, int]:
    """Whether it is allowed, whether a name is wanted first, and by which rule."""
    protocol, address, port, name, has_ech, _ = question
    answer = tables.ask(policy_id, protocol, mapped(address), port, name=name or "", has_ech=has_ech)
    return answer.outcome is Outcome.ALLOW, answer.outcome is Outcome.ASK_NAME, answer.rule


@given(ATTEMPTS)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_kernel_says_what_the_policy_says(guard: Guard, attempt: tuple[Policy, list[Question]]) -> None:
    """From YAML's meaning to the program's answer, for policies whose rules meet and questions at their edges."""
    policy = in_our_time(attempt[0])
    policy_id = guard.tables.add(compile_policy(policy))
    try:
        for question in attempt[1]:
            protocol, address, port, name, has_ech, _ = question
            allowed, wants_name, rules = may(policy, protocol, address, port, name, has_ech, time.time_ns())
            is_allowed, is_asked, by = asked(guard.tables, policy_id, question)
            assert is_allowed == allowed, question
            assert is_asked == (wants_name and name is None and not allowed), question
            if is_allowed and not has_ech:
                assert by in rules, question
    finally:
        guard.tables.remove(policy_id)


def test_a_removed_policy_leaves_no_entry_and_allows_nothing(guard: Guard) -> None:
    """Ids are never used again while an entry of theirs is left."""
    policy = Policy("gone", (rule("203.0.113.0/24", ports=(443,)),))
    policy_id = guard.tables.add(compile_policy(policy))
    address = bytes(10) + b"\xff\xff" + bytes((203, 0, 113, 7))
    assert guard.tables.ask(policy_id, 6, address, 443).outcome is Outcome.ALLOW
    guard.tables.remove(policy_id)
    answer = guard.tables.ask(policy_id, 6, address, 443)
    assert (answer.outcome, answer.reason) == (Outcome.DENY, Reason.NO_POLICY)


def test_two_policies_do_not_see_each_other(guard: Guard) -> None:
    """All of them share the kernel's tables."""
    address = bytes(10) + b"\xff\xff" + bytes((203, 0, 113, 7))
    one = guard.tables.add(compile_policy(Policy("one", (rule("203.0.113.0/24", ports=(443,)),))))
    two = guard.tables.add(compile_policy(Policy("two", (rule("203.0.113.0/24", ports=(80,)),))))
    assert [guard.tables.ask(one, 6, address, port).outcome for port in (443, 80)] == [Outcome.ALLOW, Outcome.DENY]
    assert [guard.tables.ask(two, 6, address, port).outcome for port in (443, 80)] == [Outcome.DENY, Outcome.ALLOW]
    guard.tables.remove(one)
    guard.tables.remove(two)
