"""The plane's policies: what shall hold, and what was changed, on both databases."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exeat.errors import PolicyError, Refused, StatusWord
from exeat.plane.policies import policies, rollouts
from exeat.plane.policies.policies import Action, Plan, Source
from exeat.plane.store.database import Database, News, Topic
from plane.stores import KINDS, SECOND, T0, change, on_nodes, open_store, policy_text


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store."""
    with open_store(request.param, tmp_path) as opened:
        yield opened


def revision_of(text: str) -> str:
    """As proto/exeat/v1/plane.proto says it."""
    return hashlib.sha256(text.encode()).hexdigest()


def apply(database: Database, *texts: str, **words: object) -> tuple[policies.Placed, ...]:
    """As files a, b, c ..."""
    named = [(f"{chr(97 + at)}.yaml", text) for at, text in enumerate(texts)]
    with database.writing() as tx:
        return policies.apply(tx, named, change(**words))  # type: ignore[arg-type]


def names(database: Database) -> list[str]:
    """Of the policies that shall hold."""
    with database.reading() as tx:
        return [one.name for one in policies.current(tx)]


def refusal(call: object, *args: object, **words: object) -> Refused:
    """What it is refused with."""
    with pytest.raises(Refused) as caught:
        call(*args, **words)  # type: ignore[operator]
    return caught.value


def test_an_applied_policy_holds_under_the_hash_of_its_text(database: Database) -> None:
    """With what lists ask of it, and an entry in the history."""
    text = policy_text("coder", "müller.example", spec=on_nodes(role="sandbox")) + "# a remark\r\n"
    (placed,) = apply(database, text)
    assert (placed.name, placed.before, placed.revision) == ("coder", "", revision_of(text))
    assert placed.is_change
    with database.reading() as tx:
        (held,) = policies.current(tx)
        assert (held.revision, held.source, held.changed_ns) == (revision_of(text), Source.STORE, T0)
        assert held.facts.nodes == (("role", "sandbox"),)
        assert (held.facts.mode, held.facts.rules, held.facts.size) == ("enforce", 1, len(text.encode()))
        assert policies.document(tx, held.revision) == text
        assert policies.documents(tx, [held.revision, "00"]) == {held.revision: text}
        (entry,) = policies.history(tx)
        assert (entry.name, entry.action, entry.by, entry.reason) == ("coder", Action.APPLY, "alice", "because")
        assert entry.id == placed.history_id


def test_the_same_text_again_is_no_change_and_no_news(database: Database) -> None:
    """Whoever applies all files each minute pushes nothing."""
    apply(database, policy_text("coder"))
    heard: list[News] = []
    with database.writing() as tx:
        tx.tell(News(Topic.NODES, "to hear something"))
        (again,) = policies.apply(tx, [("a", policy_text("coder"))], change())
        assert not again.is_change
        assert News(Topic.POLICIES) not in tx.news  # type: ignore[attr-defined]
        policies.apply(tx, [("a", policy_text("coder", "other.example"))], change())
        heard += tx.news  # type: ignore[attr-defined]
    assert News(Topic.POLICIES) in heard
    with database.reading() as tx:
        assert len(policies.history(tx)) == 2


def test_every_problem_of_every_file_is_told_and_nothing_holds(database: Database) -> None:
    """Also of two files that mean the same policy; the good one alone is taken."""
    good, bad = policy_text("good"), policy_text("bad", "*.com")
    with pytest.raises(PolicyError) as caught:
        apply(database, good, bad, bad.replace("egress", "egres"), policy_text("good", "x.example"))
    told = caught.value.problems
    assert list(dict.fromkeys(one.split(":")[0] for one in told)) == ["b.yaml", "c.yaml", "d.yaml"]
    assert told[-1] == "d.yaml:1: a.yaml is a policy named `good` too: leave one of them out"
    assert names(database) == []
    apply(database, good)
    assert names(database) == ["good"]


def test_all_together_must_fit_into_one_message(database: Database) -> None:
    """The last one that fits is taken."""
    texts = [policy_text(f"big-{at}") + "#" * ((1 << 20) - 1000) + "\n" for at in range(25)]
    assert len(apply(database, *texts[:24])) == 24
    assert "all policies together would have 25 MiB" in str(refusal(apply, database, texts[24]))
    assert len(names(database)) == 24


def test_what_no_database_can_keep_is_refused_before_it_comes_there() -> None:
    """NUL and half characters are no text of a policy."""
    for odd in ("\0", "\ud800"):
        with pytest.raises(PolicyError, match="odd:"):
            policies.read_all([("odd", policy_text("odd") + f"# {odd}\n")])
    assert policies.read_all([("even", policy_text("even") + "# é\n")])


def test_a_rollback_undoes_the_last_change_or_goes_to_a_revision(database: Database) -> None:
    """What is brought back is a change like others, and can be undone too."""
    texts = [policy_text("coder", f"v{at}.example") for at in range(3)]
    for text in texts:
        apply(database, text)
    one, two, three = map(revision_of, texts)

    def back(revision: str | None) -> str:
        with database.writing() as tx:
            return policies.rollback(tx, "coder", revision, change(T0 + 9)).revision

    assert back(None) == two
    assert back(None) == three
    assert back(one[:8]) == one
    with database.reading() as tx:
        newest = policies.history(tx, "coder", limit=1)[0]
        assert (newest.action, newest.before, newest.revision) == (Action.ROLLBACK, three, one)
        assert len(policies.history(tx, "coder")) == 6
        assert policies.history(tx, "other") == []
    assert refusal(back, "ffffffff").word is StatusWord.NOT_FOUND
    assert "at least 6" in str(refusal(back, one[:3]))
    assert "no revision" in str(refusal(back, "100% wrong"))


def test_there_is_nothing_before_the_first_revision(database: Database) -> None:
    """Nor for a policy that never was."""
    apply(database, policy_text("coder"))
    with database.writing() as tx:
        assert "remove it instead" in str(refusal(policies.rollback, tx, "coder", None, change()))
        assert refusal(policies.rollback, tx, "nobody", None, change()).word is StatusWord.NOT_FOUND


def test_a_removed_policy_can_be_brought_back(database: Database) -> None:
    """By undoing the removal."""
    apply(database, policy_text("coder"))
    with database.writing() as tx:
        assert policies.remove(tx, "coder", change()).revision == ""
    assert names(database) == []
    with database.writing() as tx:
        assert refusal(policies.remove, tx, "coder", change()).word is StatusWord.NOT_FOUND
        policies.rollback(tx, "coder", None, change())
    assert names(database) == ["coder"]
    with database.reading() as tx:
        assert [one.action for one in policies.history(tx)] == [Action.ROLLBACK, Action.REMOVE, Action.APPLY]


def test_a_removal_goes_everywhere_at_once(database: Database) -> None:
    """A plan is refused, not passed over."""
    apply(database, policy_text("coder"))
    with database.writing() as tx:
        assert "leave the roll-out out" in str(refusal(policies.remove, tx, "coder", change(plan=Plan())))


def test_a_policy_is_changed_only_where_it_is_kept(database: Database) -> None:
    """Each source refuses the other's, and takes its own."""
    apply(database, policy_text("ours"))
    apply(database, policy_text("theirs"), source=Source.DIRECTORY)
    other = [("x", policy_text("theirs", "x.example"))], [("x", policy_text("ours", "x.example"))]
    with database.writing() as tx:
        assert "change its file there" in str(refusal(policies.apply, tx, other[0], change()))
        assert "change its file there" in str(refusal(policies.remove, tx, "theirs", change()))
        directory = change(source=Source.DIRECTORY)
        assert "remove it there first" in str(refusal(policies.apply, tx, other[1], directory))
        assert policies.apply(tx, other[0], directory)[0].is_change
        assert policies.apply(tx, other[1], change())[0].is_change


def test_what_a_text_would_open_is_said_before_it_does(database: Database) -> None:
    """In the words of `exeat policy diff`."""
    apply(database, policy_text("coder", "a.example"))
    with database.reading() as tx:
        lines = policies.diff(tx, "coder", policy_text("coder", "a.example", "b.example"), T0)
        assert len(lines) == 1
        assert lines[0].startswith("opens b.example")
        assert policies.diff(tx, "coder", policy_text("coder", "a.example"), T0) == []
        assert policies.diff(tx, "new", policy_text("new", "c.example"), T0)[0].startswith("opens c.example")


def test_a_change_with_a_plan_begins_a_rollout_and_another_change_overtakes_it(database: Database) -> None:
    """Nodes that no roll-out has reached yet stay where they were before all of them."""
    plan = Plan((10, 100), 60, 5)
    old, mid, new = (policy_text("coder", f"v{at}.example") for at in range(3))
    first = apply(database, old, plan=plan)[0]
    second = apply(database, mid, plan=plan)[0]
    third = apply(database, new, plan=plan)[0]
    with database.reading() as tx:
        one, two, three = (rollouts.rollout(tx, placed.rollout) for placed in (first, second, third))
        assert (one.state, two.state, three.state) == ("cancelled", "cancelled", "running")
        assert [each.before for each in (one, two, three)] == ["", "", ""]  # no node but the chosen ones had any
        assert (three.plan, three.percent) == (plan, 10)
        (placement,) = policies.placements(tx)
        assert (placement.version.revision, placement.before, placement.percent) == (third.revision, None, 10)
    apply(database, old)  # at once
    with database.reading() as tx:
        assert rollouts.underway(tx) == {}
        (placement,) = policies.placements(tx)
        assert (placement.version.revision, placement.percent) == (first.revision, 100)


def test_the_old_revision_goes_on_where_a_rollout_has_not_come(database: Database) -> None:
    """On the nodes that it was for."""
    old, new = policy_text("coder", "v1.example", spec=on_nodes(role="a")), policy_text("coder", "v2.example")
    apply(database, old)
    apply(database, new, plan=Plan())
    with database.reading() as tx:
        (placement,) = policies.placements(tx)
        assert placement.before is not None
        assert (placement.before.revision, placement.before.subject.nodes) == (revision_of(old), (("role", "a"),))
    apply(database, old, plan=Plan())  # back: no node needs anything but this
    with database.reading() as tx:
        assert rollouts.underway(tx) == {}


@pytest.mark.parametrize(
    ("stages", "soak_s", "most"), [((), 1, 1), ((10, 50), 1, 1), ((50, 10, 100), 1, 1), ((0, 100), 1, 1),
                                   ((100,), -1, 1), ((100,), 1, 1001)]
)  # fmt: skip
def test_a_plan_that_makes_no_sense_is_refused(stages: tuple[int, ...], soak_s: int, most: int) -> None:
    """Its twin is taken."""
    assert refusal(Plan, stages, soak_s, most).word is StatusWord.INVALID
    assert Plan((1, 100), 0, 0).stages == (1, 100)


def test_changes_at_the_same_time_come_one_after_the_other(database: Database) -> None:
    """Each entry of the history begins where the one before ended, whoever was faster."""

    def one(at: int) -> None:
        apply(database, policy_text("coder", f"v{at}.example"), at_ns=T0 + at * SECOND)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(20)))
    with database.reading() as tx:
        entries = policies.history(tx, "coder")
        assert len(entries) == 20
        assert [entry.before for entry in entries] == [*(entry.revision for entry in entries[1:]), ""]
        assert policies.current(tx)[0].revision == entries[0].revision
