"""Tokens and roles: what a token opens, when it ends, and what the store knows of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exeat.errors import Refused, StatusWord
from exeat.plane.people import Person, Role, TokenWish, add, is_use_news, note_use, person_of, remove, tokens
from exeat.plane.store.database import Database
from plane.stores import KINDS, SECOND, T0, open_store

MINUTE = 60 * SECOND


@pytest.fixture(name="database", params=KINDS)
def a_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Either kind."""
    with open_store(request.param, tmp_path) as database:
        yield database


def test_a_token_says_who_asks_until_it_ends_or_is_removed(database: Database) -> None:
    """To the nanosecond, and by all of its characters."""
    with database.writing() as tx:
        token = add(tx, TokenWish("alice", Role.APPROVER, T0 + MINUTE), T0)
        endless = add(tx, TokenWish("ci", Role.VIEWER), T0)
    with database.reading() as tx:
        assert person_of(tx, token, T0 + MINUTE - 1) == Person("alice", Role.APPROVER, "token")
        assert person_of(tx, token, T0 + MINUTE) is None
        assert person_of(tx, endless, T0 + 10**6 * MINUTE) == Person("ci", Role.VIEWER, "token")
        for wrong in ("", token[:-1], token + "x", token.swapcase(), token.removeprefix("exeat_"), "\udcff", "é" * 40):
            assert person_of(tx, wrong, T0) is None, wrong
    with database.writing() as tx:
        remove(tx, "ci")
        assert person_of(tx, endless, T0) is None
        with pytest.raises(Refused, match="there is no token `ci`"):
            remove(tx, "ci")


def test_the_store_holds_no_token(database: Database) -> None:
    """Whoever reads it learns nothing that opens anything."""
    with database.writing() as tx:
        made = [add(tx, TokenWish(f"t{number}", Role.VIEWER), T0) for number in range(50)]
        everything = repr(tx.all("SELECT * FROM tokens"))
    assert len({*made}) == 50
    assert all(len(token) >= 43 + len("exeat_") for token in made)  # 256 bits in base64
    assert not any(token.removeprefix("exeat_") in everything for token in made)


def test_when_a_token_was_used_is_known_to_the_minute(database: Database) -> None:
    """So that not each request writes."""
    with database.writing() as tx:
        add(tx, TokenWish("alice", Role.VIEWER), T0)
        assert tokens(tx)[0].used_ns == 0
        for at_ns, is_news in ((T0, True), (T0 + 1, False), (T0 + MINUTE, False), (T0 + MINUTE + 1, True)):
            assert is_use_news(tx, "alice", at_ns) is is_news
            note_use(tx, "alice", at_ns)
        assert tokens(tx)[0].used_ns == T0 + MINUTE + 1


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        (TokenWish("", Role.VIEWER), StatusWord.INVALID),
        (TokenWish("Alice", Role.VIEWER), StatusWord.INVALID),
        (TokenWish("a b", Role.VIEWER), StatusWord.INVALID),
        (TokenWish("a/b", Role.VIEWER), StatusWord.INVALID),
        (TokenWish("a" * 64, Role.VIEWER), StatusWord.INVALID),
        (TokenWish("late", Role.VIEWER, T0), StatusWord.INVALID),
        (TokenWish("taken", Role.VIEWER), StatusWord.PRECONDITION),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(tmp_path: Path, wish: TokenWish, word: StatusWord) -> None:
    """And one that does is not."""
    with open_store("sqlite", tmp_path) as database, database.writing() as tx:
        add(tx, TokenWish("taken", Role.VIEWER), T0)
        with pytest.raises(Refused) as caught:
            add(tx, wish, T0)
        assert caught.value.word is word
        for name in ("a", "a" * 63, "alice@example.com", "ci-1.x_y"):
            add(tx, TokenWish(name, Role.ADMIN, T0 + 1), T0)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("wanted", Role)
def test_a_role_covers_itself_and_what_is_below(role: Role, wanted: Role) -> None:
    """viewer, approver, admin."""
    order = ["viewer", "approver", "admin"]
    is_enough = order.index(role) >= order.index(wanted)
    assert role.covers(wanted) is is_enough
    person = Person("alice", role, "token")
    if is_enough:
        person.need(wanted)
    else:
        with pytest.raises(Refused, match=f"alice is {role}, and this needs {wanted}"):
            person.need(wanted)
