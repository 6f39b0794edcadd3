"""Nodes, their workloads and their commands in the plane's store, on both databases."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from exeat.errors import Refused, StatusWord
from exeat.plane.nodes import commands, nodes, workloads
from exeat.plane.nodes.node import AWAY_NS, Arrival, Beat, Node, Standing
from exeat.plane.store.database import Database, News, Topic
from exeat.v1 import agent_pb2, plane_pb2
from plane.stores import KINDS, SECOND, T0, ack, come, nack, open_store, said_hello

MS = T0 // 1_000_000
ARRIVAL = Arrival("plane-1", T0)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store."""
    with open_store(request.param, tmp_path) as opened:
        yield opened


def get(database: Database, name: str) -> Node:
    """One that is there."""
    with database.reading() as tx:
        found = nodes.node(tx, name)
    assert found is not None
    return found


def standing(database: Database, name: str, after_ns: int = 0) -> Standing:
    """A while after T0."""
    return get(database, name).standing(T0 + after_ns)


def test_a_node_that_comes_is_known_with_all_that_it_says(database: Database) -> None:
    """And the next one is not."""
    with database.writing() as tx:
        hello = said_hello("n1", {"role": "sandbox"}, at_ns=T0 + 90 * SECOND)
        nodes.hello(tx, hello, ARRIVAL)
    node = get(database, "n1")
    assert (node.labels, node.version, node.kernel, node.features) == (
        {"role": "sandbox"},
        "0.5.0",
        "6.1.0",
        ("cgroup2",),
    )
    assert (node.first_ns, node.seen_ns, node.replica, node.skew_ms) == (T0, T0, "plane-1", 90_000)
    assert node.is_connected
    with database.reading() as tx:
        assert nodes.node(tx, "n2") is None
        assert [one.name for one in nodes.nodes(tx)] == ["n1"]


def test_a_node_stands_as_its_last_word_says(database: Database) -> None:
    """From never to retired, as people see it."""
    with database.writing() as tx:
        nodes.add(tx, "n1")
    assert standing(database, "n1") is Standing.NEVER
    with database.writing() as tx:
        come(tx, "n1")
        nodes.next_serial(tx, "n1", T0)
    assert standing(database, "n1") is Standing.BEHIND
    with database.writing() as tx:
        ack(tx, "n1", (("p", "1"),))
    assert standing(database, "n1") is Standing.CURRENT
    with database.writing() as tx:
        nack(tx, "n1", "p:3: no such field")
    assert standing(database, "n1") is Standing.REFUSED
    assert get(database, "n1").fault == "p:3: no such field"
    with database.writing() as tx:
        ack(tx, "n1", (("p", "2"),))
    assert standing(database, "n1") is Standing.CURRENT
    assert standing(database, "n1", AWAY_NS + 1) is Standing.AWAY  # its replica died
    with database.writing() as tx:
        nodes.beat(tx, [Beat("n1", T0 + AWAY_NS, 5, 6, 7, ("so-so",))])
    assert standing(database, "n1", AWAY_NS + 1) is Standing.CURRENT
    node = get(database, "n1")
    assert (node.skew_ms, node.lost_events, node.unreported, node.complaints) == (5, 6, 7, ("so-so",))
    with database.writing() as tx:
        nodes.gone(tx, "n1", "plane-1", T0)
    assert standing(database, "n1") is Standing.AWAY
    with database.writing() as tx:
        nodes.retire(tx, "n1")
    assert standing(database, "n1") is Standing.RETIRED


def test_what_a_node_enforces_is_known_since_when(database: Database) -> None:
    """Of a policy that did not change, also when another one did; a NACK changes nothing."""
    with database.writing() as tx:
        come(tx, "n1")
        ack(tx, "n1", (("a", "1"), ("b", "1")), T0)
        ack(tx, "n1", (("a", "1"), ("b", "2")), T0 + 5)
        nack(tx, "n1", "no", T0 + 9)
    with database.reading() as tx:
        held = [(one.name, one.revision, one.since_ns) for one in nodes.holdings(tx, "n1")]
        assert held == [("a", "1", T0), ("b", "2", T0 + 5)]
        assert nodes.all_holdings(tx) == {"n1": nodes.holdings(tx, "n1")}
    with database.writing() as tx:
        ack(tx, "n1", (), T0 + 10)
    with database.reading() as tx:
        assert nodes.holdings(tx, "n1") == ()


def test_a_node_that_comes_back_with_what_it_had_keeps_its_times(database: Database) -> None:
    """One that has something else is believed: the store was brought back from a backup."""
    with database.writing() as tx:
        come(tx, "n1")
        ack(tx, "n1", (("a", "1"),), T0)
        serial = get_serial = nodes.nodes(tx)[0].serial
        hello = said_hello("n1", serial=serial)
        hello.holdings.add(name="a", revision="1")
        nodes.hello(tx, hello, Arrival("plane-2", T0 + 50))
        assert nodes.holdings(tx, "n1")[0].since_ns == T0
        hello.serial = serial + 1000
        hello.holdings[0].revision = "2"
        node = nodes.hello(tx, hello, Arrival("plane-2", T0 + 60))
        assert [(one.revision, one.since_ns) for one in nodes.holdings(tx, "n1")] == [("2", T0 + 60)]
        assert (node.serial, node.acked) == (get_serial + 1000, get_serial + 1000)
        assert nodes.next_serial(tx, "n1", T0) == get_serial + 1001  # above what the node has
        nodes.hello(tx, said_hello("n1"), Arrival("plane-2", T0 + 70))  # it was made anew
        assert nodes.holdings(tx, "n1") == ()


def test_a_serial_that_no_plane_gives_is_refused(database: Database) -> None:
    """It would leave no room for the next one."""
    with database.writing() as tx, pytest.raises(Refused, match="no plane has given"):
        nodes.hello(tx, said_hello("n1", serial=1 << 60), ARRIVAL)


def test_serials_are_given_once_by_several_writers(database: Database) -> None:
    """And are the time, where that is later."""
    with database.writing() as tx:
        come(tx, "n1")
        assert nodes.next_serial(tx, "n1", T0) == MS

    def give(_: int) -> int:
        with database.writing() as tx:
            return nodes.next_serial(tx, "n1", T0)

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(give, range(40)))
    assert sorted(given) == list(range(MS + 1, MS + 41))
    with database.writing() as tx:
        assert nodes.next_serial(tx, "n1", T0 + 3600 * SECOND) == MS + 3_600_000
        with pytest.raises(Refused):
            nodes.next_serial(tx, "nobody", T0)


def test_only_nodes_that_were_listed_come_in_where_that_is_wanted(database: Database) -> None:
    """And no retired one anywhere, until it is activated again."""
    listed = replace(ARRIVAL, is_listed_only=True)
    with database.writing() as tx:
        with pytest.raises(Refused, match="is not listed") as caught:
            nodes.hello(tx, said_hello("n1"), listed)
        assert caught.value.word is StatusWord.PERMISSION
        nodes.add(tx, "n1")
        assert nodes.hello(tx, said_hello("n1"), listed).is_connected
        nodes.retire(tx, "n1")
        with pytest.raises(Refused, match="is retired"):
            nodes.hello(tx, said_hello("n1"), ARRIVAL)
        nodes.activate(tx, "n1")
        assert nodes.hello(tx, said_hello("n1"), ARRIVAL).is_connected
        for call, name in ((nodes.add, "n1"), (nodes.add, "no name"), (nodes.retire, "n2"), (nodes.activate, "n2")):
            with pytest.raises(Refused):
                call(tx, name)


def test_pinned_labels_hold_over_what_the_node_says(database: Database) -> None:
    """A node cannot choose its policies where somebody has said what it is."""
    with database.writing() as tx:
        come(tx, "n1", {"role": "db", "zone": "west"})
        nodes.pin(tx, "n1", {"role": "sandbox"})
    assert get(database, "n1").effective_labels == {"role": "sandbox", "zone": "west"}
    with database.writing() as tx:
        come(tx, "n1", {"role": "admin"})
    assert get(database, "n1").effective_labels == {"role": "sandbox"}
    with database.writing() as tx:
        nodes.pin(tx, "n1", {})
        with pytest.raises(Refused, match="at most 64 labels"):
            nodes.pin(tx, "n1", {f"l{at}": "" for at in range(65)})
        with pytest.raises(Refused, match="at most 64 labels"):
            nodes.hello(tx, said_hello("n1", {"x" * 64: ""}), ARRIVAL)
    assert get(database, "n1").effective_labels == {"role": "admin"}


def test_only_who_took_a_node_in_can_say_that_it_has_gone(database: Database) -> None:
    """It may have come to another replica before the first one noticed."""
    with database.writing() as tx:
        come(tx, "n1")
        nodes.hello(tx, said_hello("n1"), Arrival("plane-2", T0))
        nodes.gone(tx, "n1", "plane-1", T0)
        assert nodes.nodes(tx)[0].is_connected
        nodes.forget_connections(tx, "plane-1")
        assert nodes.nodes(tx)[0].is_connected
        nodes.forget_connections(tx, "plane-2")
        assert not nodes.nodes(tx)[0].is_connected


def test_who_is_told_what(database: Database) -> None:
    """New labels change what a node is to have, the same ones do not."""
    heard: list[News] = []
    database.listen(lambda news: heard.append(news) if news.about or news.topic is Topic.POLICIES else None)
    time.sleep(0.5)  # PostgreSQL's listener begins by telling that everything may be news
    for labels, is_news in (({"role": "a"}, True), ({"role": "a"}, False), ({"role": "b"}, True)):
        heard.clear()
        with database.writing() as tx:
            come(tx, "n1", labels)
        assert (News(Topic.POLICIES) in heard) is is_news
        assert News(Topic.NODES, "n1") in heard


def test_what_an_agent_says_never_hurts_the_store(database: Database) -> None:
    """NUL characters, numbers beyond 63 bits, and more than anybody reads."""
    nul, most = "a\0b", (1 << 64) - 1
    hello = said_hello("n1", {"x": nul})
    hello.version, hello.kernel, hello.start, hello.protocol = nul, nul * 5000, nul, (1 << 32) - 1
    hello.features.extend([nul] * 1000)
    answer = plane_pb2.PolicyAnswer(is_accepted=True, took_ns=most, failures=[nul])
    workload = plane_pb2.WorkloadState(name=nul, cgroup=nul, labels={nul: nul}, policies=[nul], source=nul)
    workload.mode = 77  # type: ignore[assignment]
    with database.writing() as tx:
        nodes.hello(tx, hello, ARRIVAL)
        nodes.answered(tx, nodes.Answered("n1", 5, ((nul, nul),), T0), answer)
        nodes.answered(tx, nodes.Answered("n1", 6, (), T0), plane_pb2.PolicyAnswer(wants_all=True))
        nodes.beat(tx, [Beat("n1", T0, 0, most, most, (nul,))])
        workloads.put(tx, "n1", plane_pb2.WorkloadNews(workloads=[workload, workload], gone=[nul + "x"]))
        commands.ended(tx, "n1", plane_pb2.CommandResult(id=nul, refusal=nul), T0)
    node = get(database, "n1")
    assert (node.version, node.labels, node.lost_events) == ("a\\x00b", {"x": nul}, (1 << 63) - 1)
    assert len(node.kernel) < 8000
    assert node.fault == "it lacks documents and wants all of them"
    with database.reading() as tx:
        assert [(one.name, one.mode) for one in workloads.workloads(tx)] == [("a\\x00b", "77")]


def state(name: str, mode: "agent_pb2.Mode.ValueType" = agent_pb2.MODE_ENFORCE) -> plane_pb2.WorkloadState:
    """A workload as an agent tells of it."""
    said = plane_pb2.WorkloadState(name=name, cgroup=f"/{name}", labels={"agent": "x"}, policies=["p"], mode=mode)
    said.source = "subject"
    said.since.FromNanoseconds(T0)
    return said


def test_workloads_come_change_and_go(database: Database) -> None:
    """By node: the same name elsewhere is another one."""
    with database.writing() as tx:
        for node in ("n1", "n2"):
            workloads.put(tx, node, plane_pb2.WorkloadNews(is_all=True, workloads=[state("a"), state("b")]))
        changed = state("b", agent_pb2.MODE_QUARANTINE)
        changed.mode_until.FromNanoseconds(T0 + 9)
        workloads.put(tx, "n1", plane_pb2.WorkloadNews(workloads=[changed, state("c")], gone=["a"]))
    with database.reading() as tx:
        assert [one.name for one in workloads.workloads(tx, "n1")] == ["b", "c"]
        assert [(one.node, one.name) for one in workloads.workloads(tx)][2:] == [("n2", "a"), ("n2", "b")]
        one = workloads.workload(tx, "n1", "b")
        assert one is not None
        assert (one.mode, one.mode_until_ns, one.cgroup, one.labels) == ("quarantine", T0 + 9, "/b", {"agent": "x"})
        assert (one.policies, one.source, one.since_ns) == (("p",), "subject", T0)
        other = workloads.workload(tx, "n2", "b")
        assert other is not None
        assert (other.mode, other.mode_until_ns) == ("enforce", 0)
        assert workloads.workload(tx, "n1", "a") is None
    with database.writing() as tx:
        workloads.put(tx, "n1", plane_pb2.WorkloadNews(is_all=True))
        assert workloads.workloads(tx, "n1") == []
        assert len(workloads.workloads(tx)) == 2


def quarantine(node: str = "n1") -> plane_pb2.Command:
    """A wish."""
    request = agent_pb2.SetModeRequest(workload="a", mode=agent_pb2.MODE_QUARANTINE)
    return plane_pb2.Command(node=node, by="alice", set_mode=request)


def test_a_command_waits_is_sent_and_ends(database: Database) -> None:
    """Until its result is there, a node that comes back is sent it again."""
    heard: list[News] = []
    database.listen(lambda news: heard.append(news) if news.about else None)
    with database.writing() as tx:
        come(tx, "n1")
        come(tx, "n2")
        id = commands.ask(tx, quarantine(), T0, 60)
        other = commands.ask(tx, quarantine("n2"), T0, 60)
    assert News(Topic.COMMANDS, "n1") in heard
    with database.writing() as tx:
        (command,) = commands.waiting(tx, "n1", T0)
        assert (command.id, command.expires.ToNanoseconds(), command.by) == (id, T0 + 60 * SECOND, "alice")
        assert command.set_mode.mode == agent_pb2.MODE_QUARANTINE
        commands.sent(tx, [id])
        assert commands.waiting(tx, "n1", T0) == []
        assert commands.unanswered(tx, "n1", T0) == [command]
        result = plane_pb2.CommandResult(id=id, cut=3)
        assert not commands.ended(tx, "n2", result, T0 + 5)  # it was not asked of that node
        assert commands.ended(tx, "n1", result, T0 + 5)
        assert not commands.ended(tx, "n1", plane_pb2.CommandResult(id=id, refusal="again"), T0 + 6)
        assert commands.unanswered(tx, "n1", T0) == []
        found = commands.asked(tx, id)
        assert found is not None
        assert (found.state, found.result, found.ended_ns, found.has_ended) == ("done", result, T0 + 5, True)
        commands.ended(tx, "n2", plane_pb2.CommandResult(id=other, refusal="no such workload"), T0)
        assert [one.state for one in commands.latest(tx, "n2")] == ["refused"]
        assert len(commands.latest(tx)) == 2
    assert News(Topic.RESULTS, id) in heard


def test_a_command_that_nobody_took_expires(database: Database) -> None:
    """It is sent no more; a result that comes after all is kept."""
    with database.writing() as tx:
        come(tx, "n1")
        id, later = commands.ask(tx, quarantine(), T0, 60), commands.ask(tx, quarantine(), T0, 3600)
        after = T0 + 60 * SECOND
        assert [one.id for one in commands.waiting(tx, "n1", after)] == [later]
        assert not commands.has_expired(tx, after)  # an answer may be on its way
        assert commands.expire(tx, after) == 0
        after += 31 * SECOND
        assert commands.has_expired(tx, after)
        assert commands.expire(tx, after) == 1
        assert commands.expire(tx, after) == 0
        found = commands.asked(tx, id)
        assert found is not None
        assert found.state == "expired"
        assert commands.ended(tx, "n1", plane_pb2.CommandResult(id=id), after)
        assert commands.forget(tx, after + 1) == 1
        assert commands.asked(tx, id) is None
        assert commands.asked(tx, later) is not None


def test_a_command_that_makes_no_sense_is_refused(database: Database) -> None:
    """Its twin is taken."""
    with database.writing() as tx:
        come(tx, "n1")
        come(tx, "n2")
        nodes.retire(tx, "n2")
        nameless, nothing = quarantine(), plane_pb2.Command(node="n1", by="alice")
        nameless.by = ""
        for wish, within_s, word in (
            (quarantine("n3"), 60, StatusWord.NOT_FOUND),
            (quarantine("n2"), 60, StatusWord.PRECONDITION),
            (quarantine(), 3601, StatusWord.INVALID),
            (quarantine(), 0, StatusWord.INVALID),
            (nameless, 60, StatusWord.INVALID),
            (nothing, 60, StatusWord.INVALID),
        ):
            with pytest.raises(Refused) as caught:
                commands.ask(tx, wish, T0, within_s)
            assert caught.value.word is word
        for _ in range(256):
            commands.ask(tx, quarantine(), T0)
        with pytest.raises(Refused, match="256 commands wait for n1"):
            commands.ask(tx, quarantine(), T0)
