"""Roll-outs: the judge, and what it does with the plane's store, on both databases."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from exeat.core.rollout import is_chosen
from exeat.errors import Refused, StatusWord
from exeat.plane.nodes import nodes
from exeat.plane.policies import policies, rollouts
from exeat.plane.policies.assign import entries_for
from exeat.plane.policies.policies import Action, Plan, Source
from exeat.plane.policies.rollout_judge import SAMPLE_MIN, ChosenNode, Counted, Facts, Step, decide
from exeat.plane.store.database import Database, Tx
from plane.stores import KINDS, SECOND, T0, ack, change, come, nack, on_nodes, open_store, policy_text, tally

NAMES = [f"node-{at}" for at in range(20)]
PLAN = Plan((20, 60, 100), 60, 20)
FACTS = Facts(PLAN, 0, T0, (ChosenNode("a", True, True), ChosenNode("b", True, True)), Counted())
OLD, NEW = policy_text("p", "old.example"), policy_text("p", "new.example")
DROPPED, AUDIT, FORWARDED = 2, 3, 1


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A store with twenty nodes that have the old policy, and one roll-out that has just begun."""
    with open_store(request.param, tmp_path) as opened:
        with opened.writing() as tx:
            for name in NAMES:
                come(tx, name)
            policies.apply(tx, [("p", OLD)], change())
            take(tx, NAMES, T0)
            policies.apply(tx, [("p", NEW)], change(plan=PLAN))
        yield opened


def take(tx: Tx, names: list[str], at_ns: int) -> None:
    """These nodes get what they are to have, and take it."""
    placements = policies.placements(tx)
    labels = {node.name: node.effective_labels for node in nodes.nodes(tx)}
    for name in names:
        ack(tx, name, entries_for(name, labels[name], placements), at_ns)


def chosen(percent: int) -> list[str]:
    """Of the twenty."""
    return [name for name in NAMES if is_chosen(name, "p", percent)]


def look(database: Database, after_s: float) -> list[Step]:
    """What was done a while after T0."""
    return [decision.step for _, decision in rollouts.look(database, T0 + round(after_s * SECOND))]


def the_one(database: Database) -> rollouts.Rollout:
    """The latest."""
    with database.reading() as tx:
        return rollouts.rollouts(tx)[0]


def everybody_takes(database: Database, after_s: float) -> None:
    """What they are to have by now."""
    with database.writing() as tx:
        take(tx, NAMES, T0 + round(after_s * SECOND))


def test_a_stage_lasts_until_all_have_it_and_its_time_is_over() -> None:
    """Those that are away are not waited for."""
    end = T0 + 60 * SECOND
    waiting = (*FACTS.chosen, ChosenNode("c", True, False))
    assert decide(FACTS, end).step is Step.ADVANCE
    assert decide(FACTS, end - 1).step is Step.WAIT
    assert decide(replace(FACTS, chosen=waiting), end).why == "waits for 1 of 3 nodes: c"
    away = (*FACTS.chosen, ChosenNode("c", False, False))
    assert decide(replace(FACTS, chosen=away), end).step is Step.ADVANCE
    assert decide(replace(FACTS, stage=2), end).step is Step.FINISH
    assert decide(replace(FACTS, chosen=()), end).step is Step.ADVANCE


def test_a_refusal_stops_it_at_once() -> None:
    """One that has taken this policy before refused something else."""
    refused = (*FACTS.chosen, ChosenNode("c", True, False, "p:3: no such field"))
    decision = decide(replace(FACTS, chosen=refused), T0)
    assert (decision.step, decision.why) == (Step.STOP, "c refuses it: p:3: no such field")
    other = (*FACTS.chosen, ChosenNode("c", True, True, "q:3: no such field"))
    assert decide(replace(FACTS, chosen=other), T0).step is Step.WAIT


@pytest.mark.parametrize(
    ("tried", "denied", "is_stopped"),
    [
        (1000, 21, True),
        (1000, 20, False),
        (SAMPLE_MIN - 1, SAMPLE_MIN - 1, False),
        (SAMPLE_MIN, 2, True),
        (0, 0, False),
    ],
)
def test_too_many_denials_stop_it(tried: int, denied: int, is_stopped: bool) -> None:
    """More than 20 of 1,000; not by a handful of connections."""
    decision = decide(replace(FACTS, counted=Counted(tried, denied)), T0)
    assert (decision.step is Step.STOP) is is_stopped
    assert ("were denied" in decision.why) is is_stopped
    never = replace(FACTS, plan=replace(PLAN, max_per_mille=1000), counted=Counted(tried, tried))
    assert decide(never, T0).step is Step.WAIT


def test_a_rollout_goes_out_stage_by_stage(database: Database) -> None:
    """Node for node as the share grows, until all have it."""
    everybody_takes(database, 1)
    for stage, percent in enumerate(PLAN.stages):
        with database.reading() as tx:
            held = {
                name
                for name, all_of in nodes.all_holdings(tx).items()
                if all_of[0].revision == the_one(database).revision
            }
        assert (the_one(database).percent, held) == (percent, set(chosen(percent)))
        after_s = 61 * stage
        assert look(database, after_s + 30) == []
        assert look(database, after_s + 61) == [Step.FINISH if percent == 100 else Step.ADVANCE]
        everybody_takes(database, after_s + 62)
    done = the_one(database)
    assert (done.state, done.percent) == ("done", 100)
    assert look(database, 9999) == []
    with database.reading() as tx:
        (placement,) = policies.placements(tx)
        assert (placement.percent, placement.before) == (100, None)


def test_it_waits_for_a_node_that_is_there_and_not_for_one_that_has_gone(database: Database) -> None:
    """Nor for one that is retired."""
    slow, gone, retired, *quick = chosen(20)
    with database.writing() as tx:
        take(tx, quick, T0)
        nodes.gone(tx, gone, "plane-1", T0)
        nodes.retire(tx, retired)
    assert look(database, 100) == []
    with database.reading() as tx:
        progress = rollouts.progress(tx, the_one(database).id, T0 + 100 * SECOND)
        assert progress.decision.why == f"waits for 1 of {len(quick) + 2} nodes: {slow}"
        assert {node.name for node in progress.chosen if node.is_holding} == set(quick)
    with database.writing() as tx:
        take(tx, [slow], T0)
    assert look(database, 100) == [Step.ADVANCE]


def test_a_chosen_node_that_refuses_stops_it_and_another_one_does_not(database: Database) -> None:
    """The others go on with what they have."""
    other = next(name for name in NAMES if name not in chosen(20))
    with database.writing() as tx:
        nack(tx, other, "q:1: something else", T0 + 1)
    assert look(database, 2) == []
    with database.writing() as tx:
        nack(tx, chosen(20)[0], "p:3: no such field", T0 + 2)
    assert look(database, 3) == [Step.STOP]
    stopped = the_one(database)
    assert stopped.state == "stopped"
    assert stopped.why == f"{chosen(20)[0]} refuses it: p:3: no such field"
    everybody_takes(database, 4)
    assert look(database, 1000) == []
    with database.reading() as tx:
        (placement,) = policies.placements(tx)
        assert placement.percent == 20


def test_denials_on_chosen_nodes_under_this_policy_stop_it(database: Database) -> None:
    """And nothing else does: neither those before it nor elsewhere, nor under another policy, nor what is no try."""
    inside, outside = chosen(20)[0], next(name for name in NAMES if name not in chosen(20))
    later = T0 + 10 * SECOND
    with database.writing() as tx:
        tally(tx, inside, "p", "connect", FORWARDED, 92, later)
        tally(tx, inside, "q", "connect", DROPPED, 900, later)
        tally(tx, inside, "pp", "connect", DROPPED, 900, later)
        tally(tx, outside, "p", "connect", DROPPED, 900, later)
        tally(tx, inside, "p", "connect", DROPPED, 900, T0 - 3600 * SECOND)
        tally(tx, inside, "p", "query", FORWARDED, 100_000, later)
        tally(tx, inside, "p", "hello", FORWARDED, 900, later)
        tally(tx, inside, "a+p", "hello", AUDIT, 8, later)
        tally(tx, inside, "p", "query", DROPPED, 10, later)
        tally(tx, inside, "p", "packet", DROPPED, 2, later)
    assert look(database, 30) == []
    with database.reading() as tx:
        assert rollouts.progress(tx, the_one(database).id, T0).counted == Counted(1012, 20)
    with database.writing() as tx:
        tally(tx, inside, "p+z", "send", DROPPED, 3, later)
    assert look(database, 31) == [Step.STOP]
    assert "23 of 1,000 connections were denied on its nodes (23 of 1015); at most 20 may be" in the_one(database).why


def test_what_was_denied_before_a_stage_does_not_count_in_it(database: Database) -> None:
    """Also within the same hour. A stage that is resumed begins anew."""
    inside, number = chosen(20)[0], the_one(database).id
    with database.writing() as tx:
        tally(tx, inside, "p", "connect", DROPPED, 500, T0 + SECOND)
    assert look(database, 2) == [Step.STOP]
    with database.writing() as tx:
        rollouts.resume(tx, number, change(T0 + 3 * SECOND))
        take(tx, NAMES, T0 + 4 * SECOND)
        assert rollouts.progress(tx, number, T0).counted == Counted()
    assert look(database, 5) == []
    assert look(database, 64) == [Step.ADVANCE]
    with database.writing() as tx:
        take(tx, NAMES, T0 + 65 * SECOND)
        tally(tx, inside, "p", "connect", DROPPED, 500, T0 + 66 * SECOND)
    assert look(database, 67) == [Step.STOP]


def test_people_pause_resume_and_finish(database: Database) -> None:
    """Each only where it makes sense."""
    number = the_one(database).id
    everybody_takes(database, 1)
    with database.writing() as tx:
        rollouts.pause(tx, number, change(reason="lunch"))
        with pytest.raises(Refused) as caught:
            rollouts.pause(tx, number, change())
        assert caught.value.word is StatusWord.PRECONDITION
    assert (the_one(database).state, the_one(database).why) == ("stopped", "paused by alice: lunch")
    assert look(database, 9999) == []
    with database.writing() as tx:
        rollouts.resume(tx, number, change(T0 + 100 * SECOND))
        with pytest.raises(Refused):
            rollouts.resume(tx, number, change())
    assert look(database, 159) == []
    assert look(database, 160) == [Step.ADVANCE]
    with database.writing() as tx:
        rollouts.finish(tx, number, change(reason="enough"))
        for call in (rollouts.finish, rollouts.pause, rollouts.resume, rollouts.cancel):
            with pytest.raises(Refused, match=f"roll-out {number} of p is done"):
                call(tx, number, change())
        with pytest.raises(Refused) as caught:
            rollouts.pause(tx, 999, change())
        assert caught.value.word is StatusWord.NOT_FOUND
        assert policies.placements(tx)[0].percent == 100


def test_a_cancelled_rollout_is_as_if_it_had_not_been(database: Database) -> None:
    """Every node is to have the old revision, and the history says who wanted that."""
    number = the_one(database).id
    with database.writing() as tx:
        take(tx, NAMES, T0)
        rollouts.cancel(tx, number, change(reason="no good"))
        (placement,) = policies.placements(tx)
        assert (placement.version.revision, placement.percent) == (policies.read_all([("p", OLD)])[0].revision, 100)
        newest = policies.history(tx, "p")[0]
        assert (newest.action, newest.by) == (Action.ROLLBACK, "alice")
        assert newest.reason == f"roll-out {number} cancelled by alice: no good"
    assert the_one(database).state == "cancelled"


def test_a_first_rollout_that_is_cancelled_leaves_nothing(database: Database) -> None:
    """There was no such policy before."""
    with database.writing() as tx:
        placed = policies.apply(tx, [("q", policy_text("q"))], change(plan=PLAN))[0]
        take(tx, NAMES, T0)
        held = {name for name, all_of in nodes.all_holdings(tx).items() if any(one.name == "q" for one in all_of)}
        assert held == {name for name in NAMES if is_chosen(name, "q", 20)}
        rollouts.cancel(tx, placed.rollout, change())
        assert [one.name for one in policies.current(tx)] == ["p"]
        assert policies.history(tx, "q")[0].action is Action.REMOVE


def test_a_rollout_of_the_directorys_is_cancelled_there(database: Database) -> None:
    """The file would bring it back; pausing helps at once."""
    with database.writing() as tx:
        words = {"source": Source.DIRECTORY}
        policies.apply(tx, [("d", policy_text("d"))], change(**words))
        placed = policies.apply(tx, [("d", policy_text("d", "x.example"))], change(plan=PLAN, **words))[0]
        with pytest.raises(Refused, match="take its change back there"):
            rollouts.cancel(tx, placed.rollout, change())
        rollouts.pause(tx, placed.rollout, change())


def test_only_nodes_that_the_policy_is_for_are_waited_for(database: Database) -> None:
    """The others will never have it."""
    with database.writing() as tx:
        for name in NAMES[:10]:
            nodes.pin(tx, name, {"role": "sandbox"})
        text = policy_text("q", spec=on_nodes(role="sandbox"))
        placed = policies.apply(tx, [("q", text)], change(plan=Plan((100,), 0, 20)))[0]
        assert {node.name for node in rollouts.progress(tx, placed.rollout, T0).chosen} == set(NAMES[:10])
        take(tx, NAMES[:10], T0)
    assert look(database, 0) == [Step.FINISH]


def test_several_replicas_take_each_step_once(database: Database) -> None:
    """All of them see that it is due."""
    everybody_takes(database, 1)
    with ThreadPoolExecutor(6) as pool:
        steps = [step for taken in pool.map(lambda _: look(database, 61), range(12)) for step in taken]
    assert steps == [Step.ADVANCE]
    assert the_one(database).stage == 1
