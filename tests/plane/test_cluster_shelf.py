"""What is known of the cluster's objects: whatever comes in whichever order, nothing is lost that may be there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from exeat.plane.cluster.enforcing import Enforcing
from exeat.plane.cluster.objects import Garbled, Key, Kind, Outcome, Reason
from exeat.plane.cluster.pace import Pace
from exeat.plane.cluster.shelf import DOUBTED_S, Doubtful, Seen, Shelf, read_event, read_list
from exeat.plane.cluster.status import Differs, difference, status_of
from plane.cluster_api import RULES, rules

KIND = Kind.NAMESPACED
T0 = datetime(2026, 11, 22, tzinfo=UTC)
T1 = datetime(2026, 11, 23, tzinfo=UTC)


def said(name: str, version: int, uid: str = "u", spec: Any = None, namespace: str = "ml", **more: Any) -> Any:
    """An object."""
    metadata = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": str(version), "generation": 1}
    return {"metadata": metadata, "spec": RULES if spec is None else spec, **more}


def key(name: str, namespace: str = "ml") -> Key:
    """Of such an object."""
    return Key(KIND, namespace, name)


def listed(shelf: Shelf, version: int, *objects: Any, at_s: float = 0.0) -> None:
    """A list comes."""
    shelf.take_list(read_list(KIND, objects), str(version), at_s)


def told(shelf: Shelf, word: str, one: Any) -> bool:
    """An event comes."""
    return shelf.take(read_event(KIND, {"type": word, "object": one}))


@pytest.fixture
def shelf() -> Shelf:
    """Two objects, as of version 100."""
    made = Shelf(KIND)
    assert not made.is_complete
    listed(made, 100, said("a", 90), said("b", 95))
    return made


def names(shelf: Shelf) -> list[str]:
    """Of the objects."""
    return sorted(one.name for one in shelf.seen)


def test_events_follow_the_list(shelf: Shelf) -> None:
    """Each moves the version on, a bookmark too, so that the next watch begins there."""
    assert shelf.is_complete
    assert told(shelf, "ADDED", said("c", 101))
    assert told(shelf, "MODIFIED", said("a", 102, spec=rules("new.example.com")))
    assert told(shelf, "DELETED", said("b", 103))
    assert names(shelf) == ["a", "c"]
    assert "new.example.com" in shelf.seen[key("a")].text
    assert not told(shelf, "BOOKMARK", {"metadata": {"resourceVersion": "150"}})
    assert shelf.version == "150"


def test_a_change_of_nothing_but_the_status_is_none(shelf: Shelf) -> None:
    """Else each status that is written would have everything looked at again."""
    assert not told(shelf, "MODIFIED", said("a", 101, status={"policy": "x"}))
    assert shelf.seen[key("a")].status == {"policy": "x"}
    assert told(shelf, "MODIFIED", said("a", 102, spec=rules("b.example.com")))


def test_what_is_told_again_after_what_came_later_changes_nothing(shelf: Shelf) -> None:
    """Nor does the watch begin earlier than it was; versions that are no numbers are believed."""
    assert told(shelf, "MODIFIED", said("a", 120, spec=rules("new.example.com")))
    assert not told(shelf, "MODIFIED", said("a", 110, spec=rules("old.example.com")))
    assert not told(shelf, "DELETED", said("a", 110))
    assert "new.example.com" in shelf.seen[key("a")].text
    assert shelf.version == "120"
    odd = said("a", 0, spec=rules("odd.example.com"))
    odd["metadata"]["resourceVersion"] = "opaque"
    assert told(shelf, "MODIFIED", odd)


def test_a_deletion_is_of_the_object_that_was_meant(shelf: Shelf) -> None:
    """One by the same name that was made since stays."""
    assert told(shelf, "ADDED", said("a", 110, uid="second"))
    assert not told(shelf, "DELETED", said("a", 111, uid="first"))
    assert names(shelf) == ["a", "b"]
    assert told(shelf, "DELETED", said("a", 112, uid="second"))
    assert names(shelf) == ["b"]


def test_a_list_replaces_all_at_once_or_nothing(shelf: Shelf) -> None:
    """What is no object in it, or no version of it, spoils it as a whole."""
    with pytest.raises(Garbled):
        listed(shelf, 110, said("c", 105), {"metadata": {"name": "d"}})
    for version in ("", None, 110, "a" * 101, "1\n"):
        with pytest.raises(Garbled):
            shelf.take_list([], version, 0.0)
    assert names(shelf) == ["a", "b"]
    listed(shelf, 110, said("c", 105))
    assert names(shelf) == ["c"]


@pytest.mark.parametrize(
    "event", [None, [], "x", {}, {"type": "BOOKMARK"}, {"type": "BOOKMARK", "object": {"metadata": {}}}, {"type": "X"}]
)
def test_what_is_no_event_is_told(event: Any) -> None:
    """Whoever watches begins with a list again."""
    with pytest.raises(Garbled):
        read_event(KIND, event)


def test_an_older_list_is_believed_only_when_it_stays_so(shelf: Shelf) -> None:
    """A server that lags behind would take policies away; a cluster that was brought back is what there is."""
    for at_s in (10.0, 10.0 + DOUBTED_S - 1):
        with pytest.raises(Doubtful, match="of version 50, and 100 is known already"):
            listed(shelf, 50, at_s=at_s)
    assert names(shelf) == ["a", "b"]
    listed(shelf, 101, said("a", 90), at_s=20.0)
    with pytest.raises(Doubtful):
        listed(shelf, 50, at_s=1000.0)
    listed(shelf, 51, said("z", 40), at_s=1000.0 + DOUBTED_S)
    assert (names(shelf), shelf.version) == (["z"], "51")


def test_a_namespace_cannot_fill_the_planes_memory() -> None:
    """Its objects beyond some megabytes are known to be there, and no more; others' have their room."""
    shelf = Shelf(KIND)
    large = [f"host-{at:05}.example.com" for at in range(20_000)]
    objects = [said(f"n{at}", 10, spec=rules(*large)) for at in range(11)]
    listed(shelf, 100, *objects, said("small", 11, namespace="other"))
    crowded = [one for one in shelf.seen.values() if one.unfit]
    assert (len(shelf.seen), len(crowded)) == (12, 3)
    assert all(one.unfit and one.unfit.reason is Reason.TOO_LARGE and not one.text for one in crowded)
    assert shelf.seen[key("small", "other")].text
    assert not shelf.wants_list
    assert told(shelf, "DELETED", objects[0])
    assert shelf.wants_list
    listed(shelf, 101, *objects[1:])
    assert sum(1 for one in shelf.seen.values() if one.unfit) == 2
    assert not shelf.wants_list


def test_a_namespace_that_changes_all_the_time_goes_on_at_a_walk() -> None:
    """It may bring in all it has at once; large documents count for more; others have a pace of their own."""
    pace = Pace()
    assert sum(pace.take("ml", 1000, 0.0) for _ in range(1000)) == 500
    assert pace.take("other", 1000, 0.0)
    assert not pace.take("ml", 1000, 9.0)
    assert pace.take("ml", 1000, 10.5)
    assert not pace.take("ml", 1000, 11.0)
    assert sum(pace.take("big", 1 << 20, 0.0) for _ in range(100)) == 7
    assert sum(pace.take(f"n{at}", 1, 20.0) for at in range(2000)) == 2000
    assert not pace.take("big", 1 << 20, 21.0)


def seen_with(status: Any = None, generation: int = 3) -> Seen:
    """An object that has this status."""
    return Seen(key("a"), "u", "90", generation, status or {}, "text", "f" * 64)


OK = Outcome(Reason.ACCEPTED)
BAD = Outcome(Reason.INVALID, "spec.egress: no")


def test_a_status_says_what_became_of_the_object() -> None:
    """What is refused keeps what held; what waits has not been looked at yet."""
    status = status_of(seen_with(), OK, Enforcing("e" * 64, 4, 3, 12), T0)
    assert (status["revision"], status["nodes"], status["enforcing"], status["workloads"]) == ("e" * 12, 4, 3, 12)
    assert (status["observedGeneration"], status["policy"]) == (3, "ml--a")
    accepted, enforced = status["conditions"]
    assert (accepted["status"], accepted["reason"], accepted["observedGeneration"]) == ("True", "Accepted", 3)
    assert (enforced["status"], enforced["reason"]) == ("False", "NodesBehind")
    assert enforced["message"] == f"3 of 4 nodes enforce revision {'e' * 12}"
    assert enforced["lastTransitionTime"] == "2026-11-22T00:00:00Z"

    status = status_of(seen_with(), BAD, Enforcing("e" * 64, 4, 4, 0), T0)
    assert status["conditions"][0]["message"] == f"spec.egress: no\nrevision {'e' * 12} stays in force"
    assert [one["status"] for one in status["conditions"]] == ["False", "True"]

    status = status_of(seen_with(), BAD, None, T0)
    assert (status["revision"], status["conditions"][1]["reason"]) == (None, "NotAccepted")

    waiting = status_of(seen_with({"observedGeneration": 2}), Outcome(Reason.PENDING, "it waits"), None, T0)
    assert waiting["observedGeneration"] == 2

    refused = status_of(seen_with(), OK, Enforcing("e" * 64, 2, 1, 0, ("web-1: too many",)), T0)["conditions"][1]
    assert (refused["reason"], refused["message"][-15:]) == ("NodesRefused", "web-1: too many")
    nobody = status_of(seen_with(), OK, Enforcing("e" * 64, 0, 0, 0), T0)["conditions"][1]
    assert (nobody["status"], nobody["reason"]) == ("Unknown", "NoNodes")


def test_a_status_is_written_again_only_where_it_differs() -> None:
    """Mere numbers are told apart; a time changes with its word alone."""
    wanted = status_of(seen_with(), OK, Enforcing("e" * 64, 4, 3, 12), T0)
    there = seen_with(wanted)
    assert difference(status_of(there, OK, Enforcing("e" * 64, 4, 3, 12), T1), there) is Differs.NOT
    numbers = status_of(there, OK, Enforcing("e" * 64, 5, 3, 13), T1)
    assert difference(numbers, there) is Differs.COUNTS
    done = status_of(there, OK, Enforcing("e" * 64, 4, 4, 12), T1)
    assert difference(done, there) is Differs.YES
    assert [one["lastTransitionTime"][:10] for one in done["conditions"]] == ["2026-11-22", "2026-11-23"]
    assert difference(status_of(seen_with(wanted, 4), OK, None, T0), seen_with(wanted, 4)) is Differs.YES


@pytest.mark.parametrize("conditions", [None, "x", [None], [{"type": []}], [{"type": "Accepted"}], {"a": 1}, [[]]])
def test_a_status_that_somebody_else_has_written_is_put_right(conditions: Any) -> None:
    """Whatever they wrote."""
    there = seen_with({"conditions": conditions, "nodes": "many", "policy": ["x"]})
    assert difference(status_of(there, OK, Enforcing("e" * 64, 4, 3, 12), T0), there) is Differs.YES
