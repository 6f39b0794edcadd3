"""What was asked for workloads, kept on disk: written whole, read back equal, and never half believed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exeat.agent.guest_said import GuestSaid
from exeat.agent.session_context import SessionContext
from exeat.agent.wishes import Allowance, Override, Registration, Wish, Wishes, read_wish, write_wish
from exeat.errors import ExeatError
from exeat.model.policy import Mode

TEXTS = some.text(some.characters(codec=None), max_size=20)
TIMES = some.integers(0, (1 << 64) - 1)
SAID = some.builds(
    GuestSaid,
    mac=TEXTS,
    addresses=some.lists(TEXTS, max_size=3).map(tuple),
    gateways=some.lists(TEXTS, max_size=3).map(tuple),
    gateway_mac=TEXTS,
    allows_dhcp=some.booleans(),
)
REGISTRATIONS = some.builds(
    Registration,
    name=TEXTS,
    source=TEXTS,
    labels=some.dictionaries(TEXTS, TEXTS, max_size=3),
    policies=some.lists(TEXTS, max_size=3).map(tuple),
    policy_text=TEXTS,
    until_ns=TIMES,
    by=TEXTS,
    guest=some.none() | SAID,
)
ALLOWANCES = some.builds(Allowance, id=TEXTS, destination=TEXTS, until_ns=TIMES, reason=TEXTS, by=TEXTS)
OVERRIDES = some.builds(Override, mode=some.sampled_from(Mode), until_ns=TIMES, reason=TEXTS, by=TEXTS)
SESSIONS = some.builds(
    SessionContext,
    token=TEXTS,
    digest=TEXTS,
    subject=TEXTS,
    issued_ns=TIMES,
    until_ns=TIMES,
    until_boot_ns=TIMES,
    by=TEXTS,
)
WISHES = some.builds(
    Wish,
    cgroup=TEXTS,
    registration=some.none() | REGISTRATIONS,
    allowances=some.lists(ALLOWANCES, max_size=3).map(tuple),
    override=some.none() | OVERRIDES,
    session=some.none() | SESSIONS,
)
ONE = Wish(
    "/a",
    Registration("one", labels={"agent": "coder"}, policies=("web",), until_ns=5, guest=GuestSaid("02::", ("::1",))),
    (Allowance("a1", "a.test", 7, "TICKET", "uid 0"),),
    Override(Mode.OPEN, 9),
    SessionContext("a.b.c", "d1", "one", 3, 8, 9, "uid 0"),
)


@given(WISHES)
def test_what_is_written_is_read_back(wish: Wish) -> None:
    """Names of cgroups may hold any byte, and reasons any character."""
    assert read_wish(write_wish(wish)) == wish


@given(some.data())
def test_a_changed_file_is_read_as_a_wish_or_refused(data: some.DataObject) -> None:
    """Never by another error; and what is read can be written."""
    fields = json.loads(write_wish(ONE))
    at = data.draw(some.sampled_from(["cgroup", "registration", "allowances", "override", "session"]))
    inner = fields[at] if isinstance(fields[at], dict) else None
    odd = data.draw(some.none() | some.booleans() | some.integers() | TEXTS | some.lists(TEXTS, max_size=2))
    if inner and data.draw(some.booleans()):
        inner[data.draw(some.sampled_from(sorted(inner)))] = odd
    else:
        fields[at] = odd
    try:
        read = read_wish(json.dumps(fields))
    except ExeatError:
        return
    assert read_wish(write_wish(read)) == read


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "{" * 5000, '{"cgroup": "/a"}', "NaN", '"\ud800"', "1" * 5000]
)
def test_what_is_no_wish_is_refused(text: str) -> None:
    """With a sentence."""
    with pytest.raises(ExeatError, match="it is no state of a workload"):
        read_wish(text)


def test_kept_and_found_by_the_next_agent(tmp_path: Path) -> None:
    """Dropped, it is not."""
    wishes = Wishes(tmp_path / "workloads")
    wishes.load()
    wishes.put(7, ONE)
    again = Wishes(tmp_path / "workloads")
    again.load()
    assert (again.ids(), again.of(7, "/a"), again.complaints) == ((7,), ONE, [])
    assert (tmp_path / "workloads" / "7.json").stat().st_mode & 0o077 == 0
    again.put(7, Wish("/a"))
    assert not list((tmp_path / "workloads").iterdir())
    assert again.of(7, "/b") == Wish("/b")


def test_what_cannot_be_read_is_set_aside_and_said(tmp_path: Path) -> None:
    """The others hold; a draft that a crash left does no harm."""
    kept = tmp_path / "workloads"
    wishes = Wishes(kept)
    wishes.load()
    wishes.put(7, ONE)
    whole = (kept / "7.json").read_bytes()
    (kept / "8.json").write_bytes(whole[: len(whole) // 2])
    (kept / "9.json").write_bytes(b"\xff")
    (kept / "nobody.json").write_bytes(whole)
    (kept / "10.json").mkdir()
    (kept / ".11.json.123").write_bytes(b"{")
    again = Wishes(kept)
    again.load()
    assert again.ids() == (7,)
    assert len(again.complaints) == 4
    assert (kept / "8.unreadable").exists()
    third = Wishes(kept)
    third.load()
    assert third.ids() == (7,)


def test_what_ends_is_found_by_its_clock(tmp_path: Path) -> None:
    """Registrations and allowances by the wall clock, modes by the boot clock, sessions by both."""
    wishes = Wishes(tmp_path)
    wishes.put(1, Wish("/a", Registration("one", until_ns=100)))
    wishes.put(2, Wish("/b", allowances=(Allowance("a", "a.test", 200, "", ""), Allowance("b", "b.test", 150, "", ""))))
    wishes.put(3, Wish("/c", override=Override(Mode.OPEN, 50)))
    wishes.put(4, Wish("/d", Registration("four"), override=Override(Mode.QUARANTINE)))
    assert wishes.ending(99, 49) == []
    assert wishes.ending(100, 0) == [1]
    assert wishes.ending(150, 50) == [1, 2, 3]
    wishes.put(2, Wish("/b"))
    assert wishes.ending(1 << 62, 1 << 62) == [1, 3]
    session = SessionContext("a.b.c", "d1", "four", 3, 80, 90, "")
    wishes.put(4, Wish("/d", override=Override(Mode.OPEN, 95), session=session))
    assert (wishes.ending(79, 0), wishes.ending(0, 0), wishes.ending(80, 0)) == ([], [], [4])
    assert 4 in wishes.ending(0, 90)
    wishes.put(4, Wish("/d", session=session.ended()))
    assert 4 not in wishes.ending(1 << 62, 1 << 62)


def test_what_an_agent_before_sessions_kept_is_read(tmp_path: Path) -> None:
    """An upgrade forgets nothing."""
    fields = json.loads(write_wish(Wish("/a", Registration("one"))))
    del fields["session"]
    assert read_wish(json.dumps(fields)) == Wish("/a", Registration("one"))
