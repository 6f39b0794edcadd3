"""The grants' book: what it grants, extends, evicts and collects, and that the kernel's tables follow it."""

import time
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from exeat.core.grants import CONNECT_WITHIN_NS, SLOTS, SOMEWHERE, Change, Grants, Slot
from exeat.model.networks import mapped
from unit.naive_grants import Tables, rebased

SECOND = 1_000_000_000
NOW = 1000 * SECOND
LATER = NOW + 600 * SECOND
A, B, C, D = (mapped(ip_address(f"203.0.113.{number}")) for number in range(1, 5))
WEB, DATABASE = 7, 8  # sets of ports


def never_used(address: bytes) -> int:
    """No connection used any address."""
    return 0


def is_unused(address: bytes) -> bool:
    """No connection is open."""
    return False


class Book:
    """A book and the tables that its changes were written to."""

    def __init__(self, limit: int = 64) -> None:
        self.grants = Grants(limit)
        self.tables = Tables()

    def grant(
        self,
        name: str,
        *addresses: bytes,
        ports_id: int = WEB,
        until_ns: int = LATER,
        now_ns: int = NOW,
        used: Callable[[bytes], int] = never_used,
    ) -> Change:
        """Grant, and write what changed."""
        change = self.grants.grant(name, addresses, ports_id, until_ns, now_ns, used)
        assert set(change.evicted) <= set(change.gone_grants)
        self.tables.write(change)
        return change

    def expire(self, now_ns: int, is_in_use: Callable[[bytes], bool] = is_unused) -> Change:
        """Collect, and write what changed."""
        change = self.grants.expire(now_ns, is_in_use)
        self.tables.write(change)
        return change

    def names(self) -> set[str]:
        """The names that have a grant at some address."""
        return {name for name, address in self.tables.grants if address != SOMEWHERE}


def slots(*pairs: tuple[int, int]) -> frozenset[Slot]:
    """Slots, in whatever order."""
    return frozenset(Slot(*pair) for pair in pairs)


def test_a_grant_is_written_under_its_addresses_and_somewhere() -> None:
    """The kernel can then tell a name at the wrong address from one never resolved."""
    book = Book()
    change = book.grant("a.test", A, B)
    assert book.tables.grants == {
        ("a.test", A): (WEB, LATER),
        ("a.test", B): (WEB, LATER),
        ("a.test", SOMEWHERE): (WEB, LATER),
    }
    assert book.tables.granted == {A: slots((WEB, LATER)), B: slots((WEB, LATER))}
    assert change == Change(change.grants, change.granted)
    assert len(book.grants) == 2


def test_a_grant_that_lasts_as_long_is_not_written_again() -> None:
    """Most answers come out of the cache: they must cost no write."""
    book = Book()
    assert book.grant("a.test", A, B)
    assert not book.grant("a.test", A, B)
    assert not book.grant("a.test", B, until_ns=LATER - 1)
    assert book.tables.grants["a.test", B] == (WEB, LATER)
    assert book.grant("a.test", B, until_ns=LATER + 1)


def test_a_name_without_addresses_was_not_resolved() -> None:
    """An answer with no address opens nothing and says nothing."""
    book = Book()
    assert not book.grant("a.test")
    assert not book.grants.is_resolved("a.test", NOW)
    book.grant("a.test", A)
    assert book.grants.is_resolved("a.test", NOW)


def test_a_later_end_extends_only_what_it_is_about() -> None:
    """The other address keeps its own end; the name was resolved until the later one."""
    book = Book()
    book.grant("a.test", A, B)
    change = book.grant("a.test", B, until_ns=LATER + 5)
    assert change.grants == (("a.test", B, WEB, LATER + 5), ("a.test", SOMEWHERE, WEB, LATER + 5))
    assert change.granted == ((B, (Slot(WEB, LATER + 5),)),)
    assert book.tables.grants["a.test", A] == (WEB, LATER)


def test_an_address_has_a_slot_for_each_set_of_ports_with_the_latest_end() -> None:
    """A connect gives no name: what any name there may do is what the address may be used for."""
    book = Book()
    book.grant("web.test", A, until_ns=LATER)
    book.grant("www.test", A, until_ns=LATER + 9)
    book.grant("old.test", A, until_ns=LATER - 9)
    book.grant("db.test", A, ports_id=DATABASE)
    assert book.tables.granted[A] == slots((WEB, LATER + 9), (DATABASE, LATER))


def test_a_shared_address_is_not_written_for_a_name_that_adds_nothing_to_it() -> None:
    """A thousand names of one content network cost one write each, not two."""
    book = Book()
    book.grant("web.test", A)
    assert book.grant("www.test", A).granted == ()
    assert book.grant("late.test", A, until_ns=LATER + 1).granted == ((A, (Slot(WEB, LATER + 1),)),)


def test_another_set_of_ports_takes_the_names_place() -> None:
    """One name has one set of ports at a time, and the slot of the old one closes if no other name has it."""
    book = Book()
    book.grant("a.test", A)
    book.grant("a.test", A, ports_id=DATABASE)
    assert book.tables.grants["a.test", A] == book.tables.grants["a.test", SOMEWHERE] == (DATABASE, LATER)
    assert book.tables.granted[A] == slots((DATABASE, LATER))


def test_more_sets_of_ports_than_an_address_has_slots_are_refused() -> None:
    """The answer must not lead where no connect would pass. At another address the same name is granted."""
    book = Book()
    for number in range(1, SLOTS + 1):
        assert not book.grant(f"n{number}.test", A, ports_id=number).refused
    change = book.grant("next.test", A, B, ports_id=SLOTS + 1)
    assert change.refused == (A,)
    assert ("next.test", A) not in book.tables.grants
    assert book.tables.grants["next.test", B] == (SLOTS + 1, LATER)
    assert not book.grant("last.test", A, ports_id=SLOTS).refused
    only = book.grant("only.test", A, ports_id=SLOTS + 2)
    assert only
    assert only.refused == (A,)
    assert not book.grants.is_resolved("only.test", NOW)


def test_the_address_that_means_somewhere_is_refused() -> None:
    """An answer of `::` would otherwise be a grant that says something else."""
    book = Book()
    assert book.grant("a.test", SOMEWHERE, A).refused == (SOMEWHERE,)
    assert set(book.tables.granted) == {A}


def test_a_grant_without_ports_is_a_mistake() -> None:
    """0 means "no slot" to the kernel."""
    with pytest.raises(AssertionError):
        Book().grant("a.test", A, ports_id=0)


def test_an_end_is_the_first_moment_that_is_too_late() -> None:
    """As the kernel compares."""
    book = Book()
    book.grant("b.test", A)
    book.grant("a.test", A)
    assert book.grants.names_at(A, LATER - 1) == ("a.test", "b.test")
    assert book.grants.is_resolved("a.test", LATER - 1)
    assert book.grants.names_at(A, LATER) == ()
    assert not book.grants.is_resolved("a.test", LATER)
    assert book.grants.names_at(B, NOW) == ()


def test_what_ended_is_collected() -> None:
    """From both tables, and nothing before its end."""
    book = Book()
    book.grant("a.test", A, B)
    book.grant("b.test", B, until_ns=LATER + 5)
    assert not book.expire(LATER - 1)
    change = book.expire(LATER)
    assert set(change.gone_grants) == {("a.test", A), ("a.test", B), ("a.test", SOMEWHERE)}
    assert change.gone_granted == (A,)
    assert change.evicted == ()
    assert book.tables.granted == {B: slots((WEB, LATER + 5))}
    assert not book.expire(LATER)


def test_a_slot_ends_with_the_names_that_are_left() -> None:
    """When the name that lasted longest goes, the address is not open for its time any longer."""
    book = Book(limit=2)
    book.grant("long.test", A, until_ns=LATER + 9)
    book.grant("short.test", A, now_ns=NOW + 1)
    book.grant("new.test", B, now_ns=NOW + 2)
    assert book.names() == {"short.test", "new.test"}
    assert book.tables.granted[A] == slots((WEB, LATER))


def test_what_an_open_connection_uses_stays_until_it_closes() -> None:
    """A policy change must find the grant by which the connection is allowed."""
    book = Book()
    book.grant("a.test", A, B)
    change = book.expire(LATER, lambda address: address == A)
    assert set(change.gone_grants) == {("a.test", B)}
    assert book.tables.granted == {A: slots((WEB, LATER))}
    assert not book.expire(LATER + 1, lambda address: address == A)
    assert book.expire(LATER + 2).gone_granted == (A,)
    assert book.tables == Tables()


def test_what_ended_in_use_and_is_granted_again_lives_on() -> None:
    """Until its new end, and not a moment longer."""
    book = Book()
    book.grant("a.test", A)
    book.expire(LATER, lambda address: True)
    book.grant("a.test", A, until_ns=LATER + 10, now_ns=LATER)
    assert not book.expire(LATER + 9)
    assert book.grants.names_at(A, LATER + 9) == ("a.test",)
    assert book.expire(LATER + 10).gone_granted == (A,)


def test_open_connections_are_only_asked_about_when_something_ended() -> None:
    """A walk through the sockets costs; and an address is asked about once, whatever its names."""
    book = Book()
    asked: list[bytes] = []

    def note(address: bytes) -> bool:
        asked.append(address)
        return False

    book.grant("a.test", A)
    book.grant("b.test", A)
    book.expire(LATER - 1, note)
    assert asked == []
    book.expire(LATER, note)
    assert asked == [A]


def test_beyond_the_limit_the_longest_unused_goes() -> None:
    """And each is told, because a program may still mean to use it."""
    book = Book(limit=3)
    last_connect = {A: NOW + 30, B: NOW + 10, C: NOW + 20}
    for name, address in (("a.test", A), ("b.test", B), ("c.test", C)):
        book.grant(name, address)
    change = book.grant("d.test", D, now_ns=NOW + CONNECT_WITHIN_NS, used=lambda address: last_connect.get(address, 0))
    assert change.evicted == (("b.test", B),)
    assert set(change.gone_grants) == {("b.test", B), ("b.test", SOMEWHERE)}
    assert book.names() == {"a.test", "c.test", "d.test"}


def test_what_was_never_used_goes_before_what_was() -> None:
    """However long ago; among those the oldest."""
    book = Book(limit=3)
    book.grant("used.test", A)
    book.grant("old.test", B)
    book.grant("new.test", C)
    change = book.grant("d.test", D, now_ns=NOW + CONNECT_WITHIN_NS, used=lambda address: 1 if address == A else 0)
    assert change.evicted == (("old.test", B),)


def test_what_was_resolved_a_moment_ago_counts_as_used_then() -> None:
    """Its program has not had the time to connect; a second later it has."""
    for age_ns, gone in ((CONNECT_WITHIN_NS - 1, "used.test"), (CONNECT_WITHIN_NS, "fresh.test")):
        book = Book(limit=2)
        book.grant("used.test", A, now_ns=NOW - 60 * SECOND)
        book.grant("fresh.test", B)
        change = book.grant("c.test", C, now_ns=NOW + age_ns, used=lambda address: NOW - 9 if address == A else 0)
        assert [name for name, _ in change.evicted] == [gone]


def test_what_ended_goes_before_anything_alive_and_is_not_told() -> None:
    """Even if a connection used it a moment ago: the living have a claim."""
    book = Book(limit=2)
    book.grant("ended.test", A, until_ns=NOW + 1)
    book.grant("alive.test", B)
    change = book.grant("c.test", C, now_ns=NOW + 1, used=lambda address: NOW if address == A else 0)
    assert set(change.gone_grants) == {("ended.test", A), ("ended.test", SOMEWHERE)}
    assert change.evicted == ()
    assert book.names() == {"alive.test", "c.test"}


def test_a_name_granted_again_is_no_longer_the_oldest() -> None:
    """An extension is a sign of life."""
    book = Book(limit=2)
    book.grant("a.test", A)
    book.grant("b.test", B)
    book.grant("a.test", A, until_ns=LATER + 1)
    assert book.grant("c.test", C).evicted == (("b.test", B),)


def test_what_is_being_granted_is_never_evicted_by_itself() -> None:
    """Its other address, unused and oldest of all, stays; what cannot fit at all is refused."""
    book = Book(limit=2)
    book.grant("a.test", A)
    book.grant("b.test", B)
    change = book.grant("a.test", A, C, D)
    assert change.evicted == (("b.test", B),)
    assert change.refused == (D,)
    assert {address for _, address in book.tables.grants} == {A, C, SOMEWHERE}


def test_a_flood_of_names_costs_each_the_same() -> None:
    """Room is made for a sixteenth of the limit at once, so that few names make the book look at all addresses."""
    asked = 0

    def count(address: bytes) -> int:
        nonlocal asked
        asked += 1
        return 0

    limit, names = 4096, 100_000
    grants = Grants(limit)
    began = time.process_time()
    for number in range(names):
        address = (number + 1).to_bytes(16, "big")
        change = grants.grant(f"n{number}.test", [address], WEB, LATER, NOW + number, count)
        assert len(grants) <= limit
        assert len(change.evicted) in (0, limit // 16)
    assert asked <= (names / (limit // 16) + 1) * (limit + 1)
    assert time.process_time() - began < 20  # it takes about one; a walk for each name would take ten minutes


def test_a_flood_of_names_at_one_address_costs_each_the_same() -> None:
    """The slots of the address are recounted once for each batch that goes."""
    grants = Grants(4096)
    began = time.process_time()
    for number in range(50_000):
        grants.grant(f"n{number}.test", [A], WEB, LATER + number, NOW + number, never_used)
    assert time.process_time() - began < 20


def test_the_book_forgets_what_it_evicted() -> None:
    """A grant may last a day: what a flood left behind must not stay in memory so long."""
    grants = Grants(16)
    for number in range(20_000):
        grants.grant(f"n{number}.test", [A], WEB, LATER, NOW, never_used)
    assert len(grants._ends) < 4096


def test_an_answer_out_of_the_cache_costs_microseconds() -> None:
    """Loosely: four addresses that last already."""
    grants = Grants(4096)
    addresses = [A, B, C, D]
    grants.grant("a.test", addresses, WEB, LATER, NOW, never_used)
    began = time.process_time()
    for _ in range(10_000):
        assert not grants.grant("a.test", addresses, WEB, LATER, NOW, never_used)
    assert (time.process_time() - began) / 10_000 < 50e-6  # it takes about 1.5


def test_a_policy_change_keeps_the_names_still_allowed() -> None:
    """With the new policy's sets of ports, written whole, because the tables know them by the policy."""
    book = Book()
    book.grant("kept.test", A, B)
    book.grant("gone.test", B, C)
    moved, change = rebased(book.grants, {"kept.test": 3}.get, 64, NOW)
    tables = Tables()
    tables.write(change)
    assert tables.grants == {("kept.test", address): (3, LATER) for address in (A, B, SOMEWHERE)}
    assert tables.granted == {A: slots((3, LATER)), B: slots((3, LATER))}
    assert change == Change(change.grants, change.granted)
    assert len(moved) == 2
    assert moved.names_at(C, NOW) == ()
    assert moved.expire(LATER, is_unused).gone_granted == (A, B)
    assert len(book.grants) == 4


def test_a_policy_change_keeps_what_ended_in_use() -> None:
    """The open connection is judged by it."""
    book = Book()
    book.grant("a.test", A)
    book.expire(LATER, lambda address: True)
    moved, change = rebased(book.grants, lambda name: WEB, 64, LATER + 1)
    assert change.grants == (("a.test", A, WEB, LATER), ("a.test", SOMEWHERE, WEB, LATER))
    assert moved.expire(LATER + 2, is_unused).gone_granted == (A,)


def test_a_policy_with_a_lower_limit_keeps_the_living_and_the_latest() -> None:
    """What has no room is told, if it was alive."""
    book = Book()
    for name, address in (("old.test", B), ("mid.test", C), ("new.test", D)):
        book.grant(name, address)
    book.grant("ended.test", A, until_ns=NOW + 1)
    moved, change = rebased(book.grants, lambda name: WEB, 2, NOW + 1)
    assert change.evicted == (("old.test", B),)
    assert {name for name, *_ in change.grants} == {"mid.test", "new.test"}
    assert moved.grant("next.test", [A], WEB, LATER, NOW + 1, never_used).evicted == (("mid.test", C),)


def test_a_policy_change_remembers_until_when_a_name_was_resolved() -> None:
    """Even if the address that lasted longest was evicted since."""
    book = Book(limit=2)
    book.grant("a.test", A, until_ns=LATER + 9)
    book.grant("a.test", B)
    book.grant("c.test", C)
    assert book.names() == {"a.test", "c.test"}
    moved, _ = rebased(book.grants, lambda name: WEB, 2, NOW)
    assert moved.names_at(A, NOW) == ()
    assert moved.is_resolved("a.test", LATER + 8)
    assert not moved.is_resolved("c.test", LATER + 8)


def test_a_policy_that_parts_too_many_names_at_an_address_refuses_the_oldest() -> None:
    """Under the old policy they shared a set of ports, under the new one each has its own."""
    book = Book()
    names = [f"n{number}.test" for number in range(SLOTS + 1)]
    for name in names:
        book.grant(name, A)
    _, change = rebased(book.grants, lambda name: names.index(name) + 1, 64, NOW)
    assert change.refused == (A,)
    assert {name for name, *_ in change.grants} == set(names[1:])
