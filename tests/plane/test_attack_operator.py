"""What operators do to their own plane by mistake: directories that are half there, stores that are gone or full,
roll-outs that nobody gets, clocks that are set back. Nothing of it may take a policy from a node.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from exeat.control.plane_channel import PlaneAway
from exeat.errors import Refused
from exeat.plane.nodes import nodes
from exeat.plane.nodes.node import Arrival
from exeat.plane.policies import policies, rollouts
from exeat.plane.policies.directory import PolicyDirectory
from exeat.plane.policies.policies import Plan
from exeat.plane.store.database import Database, StoreError, Tx
from exeat.plane.verdicts.collection import Collection
from exeat.v1 import plane_pb2 as pb
from plane.batches import batch
from plane.calling import NODE, calling, run
from plane.serving import Serving
from plane.simulated import SimulatedAgent, running
from plane.stores import KINDS, SECOND, T0, ack, change, come, on_nodes, open_store, policy_text


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store."""
    with open_store(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with two policies."""
    made = tmp_path / "policies"
    made.mkdir()
    for name in ("a", "b"):
        write(made / f"{name}.yaml", policy_text(name))
    return made


def write(path: Path, text: str) -> None:
    """A file that was written some time ago."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(T0, T0))


def names(database: Database) -> list[str]:
    """Of the policies that shall hold."""
    with database.reading() as tx:
        return [one.name for one in policies.current(tx)]


def look(directory: PolicyDirectory, database: Database, after_s: float) -> None:
    """So long after the files were written."""
    directory.look(database, T0 + round(after_s * SECOND))


@pytest.mark.parametrize("left", [".git/objects/pack", "lost+found", ".hidden", "team/deeper"])
def test_a_directory_without_a_file_is_empty_whatever_directories_are_in_it(
    database: Database, place: Path, left: str
) -> None:
    """A clone that has begun, a file system just made. With a README, somebody means it."""
    directory = PolicyDirectory(place)
    look(directory, database, 10)
    shutil.rmtree(place)
    (place / left).mkdir(parents=True)
    write(place / ".git" / "HEAD", "ref: refs/heads/main\n")
    look(directory, database, 20)
    assert names(database) == ["a", "b"]
    assert "the directory is empty, where 2 policies were" in directory.problems()[0]
    write(place / "README", "no policies any more")
    look(directory, database, 30)
    assert (names(database), directory.problems()) == ([], ())


@pytest.mark.parametrize("above", [0, 1])
def test_while_git_writes_files_nothing_changes(database: Database, place: Path, above: int) -> None:
    """It holds a lock meanwhile. One that git left behind when it died does not count."""
    directory = PolicyDirectory(place)
    look(directory, database, 10)
    lock = (place, place.parent)[above] / ".git" / "index.lock"
    write(lock, "")
    (place / "b.yaml").unlink()
    look(directory, database, 20)
    assert names(database) == ["a", "b"]
    write(place / "b.yaml", policy_text("b", "new.example.com"))
    lock.unlink()
    look(directory, database, 21)
    assert names(database) == ["a", "b"]
    write(lock, "")
    (place / "b.yaml").unlink()
    look(directory, database, 120)
    assert names(database) == ["a"]


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 << 20)


def _make_dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere.yaml")


def _make_loop(path: Path) -> None:
    path.symlink_to(path)


def _make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _make_half(path: Path) -> None:
    path.write_text(policy_text("c")[:60])


def _make_twin(path: Path) -> None:
    path.write_text(policy_text("a", "other.example.com"))


def _make_binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


@pytest.mark.parametrize(
    "make",
    [_make_fifo, _make_sparse, _make_dangling, _make_loop, _make_device, _make_half, _make_twin, _make_binary],
)
def test_one_odd_file_keeps_all_as_it_was_and_is_named(tmp_path: Path, place: Path, make: object) -> None:
    """Within a moment, however large it is or says that it is; when it is gone all goes on."""
    directory = PolicyDirectory(place)
    with open_store("sqlite", tmp_path) as database:
        look(directory, database, 10)
        assert callable(make)
        make(place / "odd.yaml")
        write(place / "c.yaml", policy_text("c"))
        now_ns = time.time_ns() + 10 * SECOND
        began_s = time.monotonic()
        directory.look(database, now_ns)
        assert time.monotonic() - began_s < 2
        assert names(database) == ["a", "b"]
        assert any("odd.yaml" in problem for problem in directory.problems())
        (place / "odd.yaml").unlink()
        directory.look(database, now_ns)
        assert (names(database), directory.problems()) == (["a", "b", "c"], ())


def test_a_plane_whose_store_was_lost_takes_nothing_from_nodes(tmp_path: Path) -> None:
    """An empty manifest would be newer than theirs. Once there are policies again, or nodes have none, all is well."""

    async def talk(plane: Serving) -> None:
        held = [pb.Holding(name="a", revision="f" * 64)]
        async with calling(plane) as agent:
            with pytest.raises(PlaneAway, match="Was it lost"):
                await agent.hello(serial=1_700_000_000_000, holdings=held)
        async with calling(plane, "new.test") as agent:
            await agent.hello("new.test")
            assert (await agent.take()).policies == []
        await plane.writing(policies.apply, [("test", policy_text("b"))], change(time.time_ns()))
        async with calling(plane) as agent:
            await agent.hello(serial=1_700_000_000_000, holdings=held)
            assert [one.name for one in (await agent.take()).policies] == ["b"]

    run(tmp_path, talk)


def test_policies_that_somebody_removed_stay_removed(database: Database) -> None:
    """That is no lost store: a node which comes back with them is told."""
    with database.writing() as tx:
        policies.apply(tx, [("test", policy_text("a"))], change())
        policies.remove(tx, "a", change())
        node = nodes.hello(
            tx, pb.Hello(node="n1", serial=5, holdings=[pb.Holding(name="a", revision="f" * 64)]), Arrival("p", T0)
        )
        assert node.acked == 5


def test_a_store_whose_file_was_removed_is_written_to_no_more(tmp_path: Path) -> None:
    """Nobody would find again what is written there. With the file back in its place all goes on."""
    with open_store("sqlite", tmp_path) as database:
        with database.writing() as tx:
            come(tx, "n1")
        path = tmp_path / "plane.db"
        path.rename(tmp_path / "aside")
        for ask in (database.writing, database.reading):
            for _ in range(2):
                with pytest.raises(StoreError, match="removed or replaced"), ask() as tx:
                    nodes.nodes(tx)
        assert not path.exists()
        path.write_bytes(b"")
        with pytest.raises(StoreError, match="removed or replaced"), database.writing() as tx:
            come(tx, "n2")
        (tmp_path / "aside").rename(path)
        with database.writing() as tx:
            come(tx, "n3")
            assert [node.name for node in nodes.nodes(tx)] == ["n1", "n3"]


def test_on_a_full_disk_nothing_is_acknowledged_and_nothing_lost(tmp_path: Path) -> None:
    """Policies, nodes and verdicts are refused in a sentence; with room again they are taken."""

    async def act(database: Database) -> None:
        collection = Collection(database)
        await collection.begin("n1", "a", 0)
        assert await collection.take("n1", "a", batch(1, 5)) == 5
        with database.writing() as tx:
            [[pages]] = tx.all("PRAGMA page_count")
            tx.all(f"PRAGMA max_page_count = {pages + 4}")
        many = batch(6, 400, name="x" * 200)
        with pytest.raises(StoreError, match="full"):
            await collection.take("n1", "a", many)
        with pytest.raises(StoreError, match="full"), database.writing() as tx:
            policies.apply(tx, [("test", policy_text("a", *[f"h{one}.test" for one in range(5000)]))], change())
        assert names(database) == []
        with database.writing() as tx:
            tx.all("PRAGMA max_page_count = 1000000")
        assert await collection.take("n1", "a", many) == 405
        await asyncio.to_thread(collection.close)
        with database.reading() as tx:
            assert tx.one("SELECT COUNT(*), MAX(number) FROM verdicts") == (405, 405)

    with open_store("sqlite", tmp_path) as database:
        asyncio.run(act(database))


def fill(tx: Tx, beginning: str) -> None:
    """With nodes, until no more fit in."""
    for number in range(10_000):
        nodes.add(tx, f"{beginning}-{number}")


def test_agents_of_a_plane_with_a_full_disk_stay_and_get_the_next_change(tmp_path: Path) -> None:
    """A node that is not known yet is asked to come back later."""

    async def talk(plane: Serving) -> None:
        agent, late = SimulatedAgent(NODE), SimulatedAgent("late.test")
        text = policy_text("a")
        await plane.writing(policies.apply, [("test", text)], change(time.time_ns()))
        async with running([agent], plane.access):
            async with asyncio.timeout(10):
                while not agent.holdings:
                    await asyncio.sleep(0.02)
            [[pages]] = await plane.writing(lambda tx: tx.all("PRAGMA page_count"))
            await plane.writing(lambda tx: tx.all(f"PRAGMA max_page_count = {pages}"))
            with pytest.raises(StoreError, match="full"):
                await plane.writing(fill, "n" * 200)
            for number in range(1000):  # what is left of the last page
                with suppress(StoreError):
                    await plane.writing(nodes.add, f"n{number}")
            async with running([late], plane.access):
                async with asyncio.timeout(10):
                    while not late.away:
                        await asyncio.sleep(0.02)
                assert "cannot be asked: come back later" in late.away[0]
                await plane.writing(lambda tx: tx.all("PRAGMA max_page_count = 1000000"))
                await plane.writing(policies.apply, [("test", policy_text("b"))], change(time.time_ns()))
                async with asyncio.timeout(20):
                    while not (set(agent.holdings) == set(late.holdings) == {"a", "b"}):
                        await asyncio.sleep(0.02)
            assert agent.away == []

    run(tmp_path, talk)


def test_a_roll_out_that_nobody_gets_comes_to_its_end(database: Database) -> None:
    """Stage by stage, as if there were somebody; whoever comes later gets what it brought."""
    plan = Plan(stages=(10, 100), soak_s=60)
    with database.writing() as tx:
        come(tx, "n1", {"role": "web"})
        policies.apply(tx, [("t", policy_text("p", spec=on_nodes(role="nobody")))], change(plan=plan))
    for after_s, state in ((30, "running"), (61, "running"), (100, "running"), (125, "done")):
        rollouts.look(database, T0 + after_s * SECOND)
        with database.reading() as tx:
            assert rollouts.rollouts(tx)[0].state == state, after_s


def test_a_clock_that_is_set_back_hurries_nothing_and_gives_no_number_twice(database: Database) -> None:
    """Serials go on upwards; a stage lasts as long as it should by the clock as it is now."""
    with database.writing() as tx:
        come(tx, "n1")
        policies.apply(tx, [("t", policy_text("p"))], change(plan=Plan(stages=(10, 100), soak_s=60)))
        before = nodes.next_serial(tx, "n1", T0)
        assert nodes.next_serial(tx, "n1", T0 - 3600 * SECOND) == before + 1
        [placement] = policies.placements(tx)
        ack(tx, "n1", (("p", placement.version.revision),), T0 - 3600 * SECOND)
    rollouts.look(database, T0 - 3600 * SECOND)
    with database.reading() as tx:
        assert rollouts.rollouts(tx)[0].stage == 0
    rollouts.look(database, T0 + 61 * SECOND)
    with database.reading() as tx:
        assert rollouts.rollouts(tx)[0].stage == 1


@pytest.mark.parametrize(
    "stages", [(), (0, 100), (100, 100), (50,), (101,), (-5, 100), (10, 5, 100), tuple(range(80, 101))]
)
def test_stages_that_lead_nowhere_change_no_policy(database: Database, stages: tuple[int, ...]) -> None:
    """The twin has one stage: everybody, after a soak."""
    with pytest.raises(Refused), database.writing() as tx:
        policies.apply(tx, [("t", policy_text("p"))], change(plan=Plan(stages=stages)))
    assert names(database) == []
    with database.writing() as tx:
        policies.apply(tx, [("t", policy_text("p"))], change(plan=Plan(stages=(100,))))
    assert names(database) == ["p"]
