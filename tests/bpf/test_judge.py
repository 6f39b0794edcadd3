"""The judge in the kernel, asked by BPF_PROG_TEST_RUN, says what a judge says that loops over the rules."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import islice, product

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2e.guard import Guard, rule
from exeat.core.compile import compile_policy
from exeat.core.grants import SOMEWHERE, Change, Slot
from exeat.dns.gate import boot_ns
from exeat.kernel.abi import Outcome
from exeat.kernel.grants import GrantTables
from exeat.kernel.tables import Answer, Tables
from exeat.model.networks import Address, mapped
from exeat.model.policy import Policy, Rule
from exeat.model.tables import TableSet
from exeat.model.verdicts import Reason
from unit.naive_judge import NUMBERS, Granted, covers_name, may
from unit.rule_words import NOON
from unit.table_walk import slot_of
from unit.test_compile_properties import ATTEMPTS, GRANTED_ATTEMPTS, GrantedAttempts, Question

HOUR_NS = 3600 * 10**9
ENDED = st.lists(st.booleans(), min_size=12, max_size=12)  # which of the grants, in their order
QUESTIONS_MAX = 100


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


def pairs_of(table_set: TableSet, granted: Granted) -> list[tuple[str, Address, int]]:
    """Name, address and ports of all that a gate would grant: nothing for names that open nothing."""
    found = [(name, address, slot_of(table_set, 0, name).ports_id) for name in granted for address in granted[name]]
    return [pair for pair in found if pair[2]]


def change_of(pairs: list[tuple[str, Address, int]], ended: set[tuple[str, Address]]) -> Change:
    """What the gate would write for them, had it answered so long ago that some have ended."""
    now_ns = boot_ns()
    grants: list[tuple[str, bytes, int, int]] = []
    slots: dict[bytes, dict[int, int]] = {}
    for name, address, ports_id in pairs:
        until_ns = now_ns - 1 if (name, address) in ended else now_ns + HOUR_NS
        place = mapped(address)
        grants += [(name, place, ports_id, until_ns), (name, SOMEWHERE, ports_id, now_ns + HOUR_NS)]
        ports = slots.setdefault(place, {})
        ports[ports_id] = max(until_ns, ports.get(ports_id, 0))
    granted = tuple((place, tuple(Slot(*slot) for slot in ports.items())) for place, ports in slots.items())
    return Change(grants=tuple(grants), granted=granted)


def alive(granted: Granted, ended: set[tuple[str, Address]]) -> Granted:
    """Without what has ended."""
    return {name: [one for one in addresses if (name, one) not in ended] for name, addresses in granted.items()}


def about_grants(policy: Policy, granted: Granted) -> Iterator[Question]:
    """Where a rule's names lead, on its first ports: without a name, under each that was granted, and hidden."""
    for gated in policy.rules:
        addresses = {one for name in granted if covers_name(gated, name) for one in granted[name]}
        for address, ports in product(sorted(addresses, key=str) if not gated.cidrs else (), gated.ports[:2]):
            for name in (None, *granted):
                yield NUMBERS[gated.protocol], address, ports.first, name, name is not None and gated.allows_ech, 0


def answers(
    guard: Guard, attempts: GrantedAttempts, has_ended: list[bool]
) -> Iterator[tuple[Policy, Question, bool, Granted, Answer]]:
    """Each question as it is asked at a connection's begin and, with everything ended, of an open one."""
    (unshifted, questions), granted = attempts
    policy = in_our_time(unshifted)
    table_set = compile_policy(policy)
    pairs = pairs_of(table_set, granted)
    all_of_them = {(name, address) for name, address, _ in pairs}
    some = {(name, address) for (name, address, _), is_over in zip(pairs, has_ended, strict=False) if is_over}
    policy_id = guard.tables.add(table_set)
    try:
        for is_established, ended in ((False, some), (True, all_of_them)):
            GrantTables(guard.instance, policy_id).apply(change_of(pairs, ended))
            for question in [*questions, *islice(about_grants(policy, granted), QUESTIONS_MAX)]:
                protocol, address, port, name, has_ech, _ = question
                answer = guard.tables.ask(
                    policy_id,
                    protocol,
                    mapped(address),
                    port,
                    name=name or "",
                    has_ech=has_ech,
                    is_established=is_established,
                )
                yield policy, question, is_established, granted if is_established else alive(granted, ended), answer
    finally:
        guard.tables.remove(policy_id)


@given(GRANTED_ATTEMPTS, ENDED)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_kernel_says_what_the_policy_says_of_what_was_granted(
    guard: Guard, attempts: GrantedAttempts, has_ended: list[bool]
) -> None:
    """Names that lead to the same address, on the same ports, beside networks; ended grants open nothing new."""
    for policy, question, is_established, granted, answer in answers(guard, attempts, has_ended):
        protocol, address, port, name, has_ech, _ = question
        allowed, wants_name, rules = may(policy, protocol, address, port, name, has_ech, time.time_ns(), granted)
        told = question, is_established, answer
        assert (answer.outcome is Outcome.ALLOW) == allowed, told
        assert (answer.outcome is Outcome.ASK_NAME) == (wants_name and name is None and not allowed), told
        if allowed and not has_ech:
            assert answer.rule in rules, told


def test_the_grants_of_one_policy_are_not_another_s(guard: Guard) -> None:
    """Policies share the kernel's tables; and those of a removed one are gone from them."""
    address = bytes(10) + b"\xff\xff" + bytes((203, 0, 113, 7))
    table_set = compile_policy(Policy("hosts", (rule(hosts=("good.test",), ports=(7,)),)))
    one, two = guard.tables.add(table_set), guard.tables.add(table_set)
    ports_id = slot_of(table_set, 0, "good.test").ports_id
    slot = Slot(ports_id, boot_ns() + HOUR_NS)
    GrantTables(guard.instance, one).apply(Change(granted=((address, (slot,)),)))
    try:
        reasons = [guard.tables.ask(policy_id, 6, address, 7).reason for policy_id in (one, two)]
        assert reasons == [Reason.GRANTED, Reason.NOT_RESOLVED]
    finally:
        guard.tables.remove(one)
        guard.tables.remove(two)
    assert GrantTables(guard.instance, one).used(address) == 0
    GrantTables(guard.instance, two).apply(Change(granted=((address, (slot,)),)))
    assert guard.tables.ask(two, 6, address, 7).reason is Reason.NO_POLICY
    GrantTables(guard.instance, two).apply(Change(gone_granted=(address,)))


def test_a_name_passes_by_its_own_grant_on_its_own_rule_s_ports(guard: Guard) -> None:
    """Two names keep an address open: one that has ended, or is for another port, gets nothing from the other."""
    rules = (
        rule(hosts=("good.test", "old.test"), ports=(443,), protocol="tls"),
        rule(hosts=("other.test",), ports=(8443,), protocol="tls"),
    )
    table_set, address = compile_policy(Policy("hosts", rules)), ip_address("203.0.113.7")
    pairs = pairs_of(table_set, {name: [address] for name in ("good.test", "old.test", "other.test")})
    policy_id = guard.tables.add(table_set)
    try:
        GrantTables(guard.instance, policy_id).apply(change_of(pairs, {("old.test", address)}))

        def reason(name: str, port: int, **more: bool) -> Reason | None:
            return guard.tables.ask(policy_id, 6, mapped(address), port, name=name, **more).reason

        assert [reason("good.test", 443), reason("other.test", 8443)] == [Reason.NAME_ALLOWED] * 2
        assert [reason("good.test", 8443), reason("other.test", 443)] == [Reason.NAME_NOT_ALLOWED] * 2
        assert reason("old.test", 443) is Reason.GRANT_EXPIRED
        assert reason("old.test", 443, is_established=True) is Reason.NAME_ALLOWED
    finally:
        guard.tables.remove(policy_id)
