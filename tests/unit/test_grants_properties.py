"""The grants' book against one written down naively: the kernel's tables always say the same."""

from collections import defaultdict
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from exeat.core.grants import CONNECT_WITHIN_NS, SLOTS, Grants
from unit.naive_grants import NaiveGrants, Tables, rebased

SECOND = 1_000_000_000
NOW = 1000 * SECOND


def _never(address: bytes) -> int:
    return 0


def _no(address: bytes) -> bool:
    return False


NAMES = st.sampled_from([f"{letter}.test" for letter in "abcdefgh"])
ADDRESSES = st.sampled_from([bytes(15) + bytes([number]) for number in range(10)])
MOMENTS = st.integers(0, 4).map(lambda steps: steps * CONNECT_WITHIN_NS // 2)


class Step(NamedTuple):
    """One grant, or, without a name, one collection while some addresses are in use."""

    wait_ns: int
    name: str | None
    addresses: list[bytes]
    ports_id: int
    lasts_ns: int


ENDS = st.integers(0, 20).map(lambda steps: steps * CONNECT_WITHIN_NS // 4)
GRANTED = st.builds(Step, MOMENTS, NAMES, st.lists(ADDRESSES, max_size=5), st.integers(1, 11), ENDS)
COLLECTED = st.builds(Step, MOMENTS, st.none(), st.lists(ADDRESSES, max_size=5), st.just(0), st.just(0))


def _crowd(address: bytes, size: int, lasts_ns: int) -> list[Step]:
    """Names with a set of ports each, at one address: by chance its slots would seldom all be taken."""
    return [Step(0, f"n{number}.test", [address], number, lasts_ns) for number in range(1, size + 1)]


CROWDS = st.builds(_crowd, ADDRESSES, st.integers(1, SLOTS + 3), ENDS)
STEPS = st.lists((GRANTED | COLLECTED).map(lambda step: [step]) | CROWDS, max_size=40).map(
    lambda parts: [step for part in parts for step in part]
)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 40), STEPS)
def test_the_tables_always_say_what_a_naive_book_says(limit: int, steps: list[Step]) -> None:
    """Whatever is granted and collected, evicted and refused, in whatever order."""
    book, naive, tables = Grants(limit), NaiveGrants(limit), Tables()
    now_ns = NOW
    last_connect: dict[bytes, int] = defaultdict(int)
    for step in steps:
        now_ns += step.wait_ns
        if step.name:
            asked = step.name, step.addresses, step.ports_id, now_ns + step.lasts_ns, now_ns, last_connect.__getitem__
            change = book.grant(*asked)
            assert (set(change.evicted), set(change.refused)) == naive.grant(*asked)
            assert not {(step.name, address) for address in step.addresses} & set(change.gone_grants)
        else:
            last_connect |= dict.fromkeys(step.addresses, now_ns)
            change = book.expire(now_ns, step.addresses.__contains__)
            naive.expire(now_ns, step.addresses.__contains__)
        tables.write(change)
        assert tables == naive.tables()
        naive.check(book, now_ns)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(GRANTED, max_size=40),
    st.dictionaries(NAMES, st.integers(0, 11)),
    st.integers(1, 40),
    st.lists(GRANTED, max_size=10),
)
def test_a_rebased_book_goes_on_as_its_tables_say(
    before: list[Step], allowed: dict[str, int], limit: int, after: list[Step]
) -> None:
    """Under the new policy's limit and ports; what it collects in the end is all that was written."""
    book, now_ns = Grants(64), NOW
    for step in before:
        if step.name:
            book.grant(step.name, step.addresses, step.ports_id, now_ns + step.lasts_ns, now_ns, _never)
    now_ns += 3 * CONNECT_WITHIN_NS
    moved, change = rebased(book, allowed.get, limit, now_ns)
    tables = Tables()
    tables.write(change)
    assert {name for name, _ in tables.grants} <= {name for name, ports_id in allowed.items() if ports_id}
    assert all(ports_id == allowed[name] for (name, _), (ports_id, _) in tables.grants.items())
    for step in after:
        if step.name:
            until_ns = now_ns + step.lasts_ns
            tables.write(moved.grant(step.name, step.addresses, step.ports_id, until_ns, now_ns, _never))
        assert len(moved) <= limit
    tables.write(moved.expire(now_ns + 60 * SECOND, _no))
    assert tables == Tables()
    assert len(moved) == 0
