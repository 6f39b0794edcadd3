"""The cluster's policies in the store: by one replica, beside people's and never over them, and only so many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exeat.errors import Refused
from exeat.plane.cluster import lease, placing
from exeat.plane.cluster.document import document_of, read_document
from exeat.plane.cluster.enforcing import enforcing
from exeat.plane.cluster.objects import Item, Key, Kind, Outcome, Reason
from exeat.plane.cluster.placing import Fresh
from exeat.plane.nodes import nodes
from exeat.plane.policies import policies
from exeat.plane.policies.policies import Source
from exeat.plane.store.database import Database
from plane.cluster_api import rules
from plane.stores import KINDS, SECOND, T0, ack, change, come, nack, open_store, policy_text

WHO = "plane-1 x"


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store, in which plane-1 leads."""
    with open_store(request.param, tmp_path) as opened:
        with opened.writing() as tx:
            assert lease.take(tx, WHO, T0, is_alone=False)
        yield opened


def fresh(namespace: str, name: str, *hosts: str, generation: int = 1) -> Fresh:
    """An object that was read."""
    kind = Kind.NAMESPACED if namespace else Kind.CLUSTER
    spec = rules(*(hosts or ("a.example.com",)), **({} if namespace else {"subject": {"cgroups": ["/a"]}}))
    key = Key(kind, namespace, name)
    return Fresh(key, generation, read_document(key, document_of(Item(key, "u", "1", generation, {}, spec))))


def put(database: Database, *some: Fresh, known: tuple[Fresh, ...] = (), who: str = WHO) -> list[Outcome]:
    """Makes them hold."""
    owners = {one.key.policy: one.key for one in (*some, *known)}
    with database.writing() as tx:
        outcomes = placing.place(tx, who, some, owners, T0)
    return [outcomes[one.key] for one in some]


def names(database: Database, source: Source = Source.CLUSTER) -> list[str]:
    """Of the policies from there."""
    with database.reading() as tx:
        return [one.name for one in policies.current(tx) if one.source is source]


def test_policies_come_change_and_go(database: Database) -> None:
    """The history says of which object they are."""
    assert put(database, fresh("ml", "coder"), fresh("", "base")) == [Outcome(Reason.ACCEPTED)] * 2
    assert put(database, fresh("ml", "coder", "b.example.com", generation=2))[0].reason is Reason.ACCEPTED
    with database.writing() as tx:
        placing.remove(tx, WHO, ["base", "nobody"], T0)
    assert names(database) == ["ml--coder"]
    with database.reading() as tx:
        told = [(one.name, one.by, one.reason) for one in policies.history(tx)]
    assert told == [
        ("base", "cluster", "its object is gone"),
        ("ml--coder", "cluster", "EgressPolicy ml/coder, generation 2"),
        ("base", "cluster", "ClusterEgressPolicy base, generation 1"),
        ("ml--coder", "cluster", "EgressPolicy ml/coder, generation 1"),
    ]


def test_what_people_have_put_there_stays_theirs(database: Database) -> None:
    """A name that they have is refused to an object, and the other way round, each with where to go."""
    with database.writing() as tx:
        policies.apply(tx, [("x", policy_text("ml--coder"))], change())
        policies.apply(tx, [("x", policy_text("base"))], change(source=Source.DIRECTORY))
    taken, also, free = put(database, fresh("ml", "coder"), fresh("", "base"), fresh("ml", "free"))
    assert (taken.reason, also.reason, free.reason) == (Reason.NAME_TAKEN, Reason.NAME_TAKEN, Reason.ACCEPTED)
    assert "a policy named ml--coder is kept in the plane's store" in taken.message
    assert "in the plane's directory of policies" in also.message
    with database.writing() as tx:
        placing.remove(tx, WHO, ["ml--coder", "base"], T0)
    assert names(database, Source.STORE) == ["ml--coder"]
    with (
        pytest.raises(Refused, match="ml--free is kept as an object of the cluster: change it there"),
        database.writing() as tx,
    ):
        policies.apply(tx, [("x", policy_text("ml--free"))], change())
    with pytest.raises(Refused, match="as an object of the cluster"), database.writing() as tx:
        policies.remove(tx, "ml--free", change())
    put(database, fresh("ml", "free", "other.example.com"))
    with pytest.raises(Refused, match="as an object of the cluster"), database.writing() as tx:
        policies.rollback(tx, "ml--free", None, change())
    assert names(database) == ["ml--free"]


def test_a_namespace_has_only_so_much_room(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have theirs; what becomes smaller always fits, and what held stays."""
    monkeypatch.setattr(placing, "NAMESPACE_BYTES", 2500)
    monkeypatch.setattr(placing, "NAMESPACE_POLICIES", 3)
    hosts = [f"host-{at:02}.example.com" for at in range(40)]
    large = fresh("ml", "large", *hosts)
    assert 1050 < large.draft.facts.size < 1200
    a, b, c = put(database, large, fresh("ml", "second", *hosts), fresh("ml", "third", *hosts))
    assert [a.reason, b.reason, c.reason] == [Reason.ACCEPTED, Reason.ACCEPTED, Reason.TOO_LARGE]
    assert "those of namespace ml would have more than" in c.message
    known = (large, fresh("ml", "second"), fresh("ml", "third"))
    assert put(database, fresh("ml", "large", *hosts, "one-more.example.com"), known=known)[0].reason is Reason.ACCEPTED
    grown = fresh("ml", "large", *(f"other{at}.example.com" for at in range(80)))
    assert put(database, grown, known=known)[0].reason is Reason.TOO_LARGE
    smaller, one_more, too_many = put(
        database, fresh("ml", "large"), fresh("ml", "third"), fresh("ml", "fourth"), known=known
    )
    assert (smaller.reason, one_more.reason) == (Reason.ACCEPTED, Reason.ACCEPTED)
    assert "namespace ml would have more than 3 policies" in too_many.message
    assert put(database, fresh("other", "x", *hosts), known=known)[0].reason is Reason.ACCEPTED
    assert put(database, fresh("", "base", *hosts), known=known)[0].reason is Reason.ACCEPTED


def test_all_namespaces_together_leave_room_for_people(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who applies policies by command must not be kept out by tenants."""
    hosts = [f"host-{at:02}.example.com" for at in range(40)]
    monkeypatch.setattr(placing, "CLUSTER_BYTES", 2500)
    found = put(database, *(fresh(f"n{at}", "x", *hosts) for at in range(3)))
    assert [one.reason for one in found] == [Reason.ACCEPTED, Reason.ACCEPTED, Reason.TOO_LARGE]
    monkeypatch.setattr(placing, "CLUSTER_POLICIES", 3)
    found = put(database, fresh("n3", "x"), fresh("n4", "x"))
    assert [one.reason for one in found] == [Reason.ACCEPTED, Reason.TOO_LARGE]
    with database.writing() as tx:
        policies.apply(tx, [("x", policy_text("by-people"))], change())


def test_only_the_replica_that_leads_writes(database: Database) -> None:
    """Clocks say who may take over; that the other one no longer writes is certain without them."""
    with database.writing() as tx:
        assert not lease.take(tx, "plane-2 y", T0 + 14 * SECOND, is_alone=False)
        assert lease.take(tx, WHO, T0 + 10 * SECOND, is_alone=False)
        assert not lease.take(tx, "plane-2 y", T0 + 20 * SECOND, is_alone=False)
        assert lease.take(tx, "plane-2 y", T0 + 26 * SECOND, is_alone=False)
        assert not lease.take(tx, WHO, T0 + 27 * SECOND, is_alone=False)
    with pytest.raises(lease.Lost):
        put(database, fresh("ml", "coder"))
    with pytest.raises(lease.Lost), database.writing() as tx:
        placing.remove(tx, WHO, ["x"], T0)
    assert names(database) == []
    assert put(database, fresh("ml", "coder"), who="plane-2 y")[0].reason is Reason.ACCEPTED
    with database.writing() as tx:
        lease.release(tx, WHO)
        assert not lease.take(tx, WHO, T0 + 28 * SECOND, is_alone=False)
        lease.release(tx, "plane-2 y")
        assert lease.take(tx, WHO, T0 + 28 * SECOND, is_alone=False)
        assert lease.take(tx, "after a crash", T0 + 29 * SECOND, is_alone=True)


def test_how_far_a_policy_has_come_is_what_nodes_say(database: Database) -> None:
    """Those that have not been heard of for an hour, or were retired, keep nobody waiting."""
    ours = fresh("ml", "coder")
    put(database, ours, fresh("ml", "other"))
    entries = (("ml--coder", ours.draft.revision),)
    now_ns = T0 + 10 * SECOND
    with database.writing() as tx:
        for name in ("has", "behind", "refuses", "long-gone", "retired"):
            come(tx, name, at_ns=T0 - 2 * 3600 * SECOND if name == "long-gone" else T0)
        nodes.add(tx, "never-came")
        nodes.retire(tx, "retired")
        ack(tx, "has", entries)
        nodes.next_serial(tx, "behind", T0)
        nack(tx, "refuses", "ml--other:3: a secret of theirs\nml--coder:7: too new for this node")
        columns = ("node", "name", "cgroup", "labels", "policies", "mode", "mode_until_ns", "source", "since_ns")
        for at in range(3):
            listed = '["ml--coder", "base"]' if at else "[]"
            tx.append("workloads", columns, [("has", f"w{at}", "/w", "{}", listed, "enforce", 0, "subject", 0)])
        policies.apply(tx, [("x", policy_text("by-people"))], change())
    with database.reading() as tx:
        found = enforcing(tx, now_ns)
    assert set(found) == {"ml--coder", "ml--other"}
    coder = found["ml--coder"]
    assert (coder.nodes, coder.enforcing, coder.workloads) == (3, 1, 2)
    assert coder.refusals == ("refuses: ml--coder:7: too new for this node",)
    assert found["ml--other"].enforcing == 0
