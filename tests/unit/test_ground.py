"""Where a plane's bundle meets the host: the shelf beside the files, and the way back where enforcement fails."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exeat.agent.bundles import Bundle, judge
from exeat.agent.ground import HostGround, held_of
from exeat.agent.shelf import Given, Shelf
from exeat.agent.trust import Trust
from exeat.agent.views import policy_views
from exeat.agent.workload_news import WorkloadTeller
from exeat.errors import KernelError
from exeat.v1 import plane_pb2 as pb
from unit.fake_plane import NODE, push
from unit.fleet_words import policy


def bundle(texts: dict[str, str], serial: int = 1) -> Bundle:
    """As a plane would have sent it."""
    return judge(push(texts, serial), NODE, Trust(None), None, time.time_ns())


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """With one file, `alpha`."""
    directory = tmp_path / "policies.d"
    directory.mkdir()
    (directory / "alpha.yaml").write_text(policy("alpha", "file.test"))
    shelf = Shelf(directory, tmp_path / "accepted")
    shelf.read()
    return shelf


def hosts(shelf: Shelf) -> dict[str, str]:
    """The host of each policy in force."""
    return {name: str(held.policy.rules[0].hosts[0]) for name, held in shelf.in_force.items() if held.policy}


def test_files_and_plane_add_up_and_of_one_name_the_planes_holds(shelf: Shelf) -> None:
    """Whichever came first; and when the plane's goes, the file's holds."""
    assert shelf.give(Given(held_of(bundle({"alpha": policy("alpha", "plane.test"), "beta": policy("beta")}))))
    assert hosts(shelf) == {"alpha": "plane.test", "beta": "a.shop.test"}
    views = {(view.name, view.source): view for view in policy_views(shelf, {"alpha": 3, "beta": 2})}
    assert (views["alpha", "file"].overruled, views["alpha", "file"].workloads) == (True, 0)
    assert (views["alpha", "plane"].overruled, views["alpha", "plane"].workloads) == (False, 3)
    assert views["alpha", "file"].file.endswith("/policies.d/alpha.yaml")
    assert views["beta", "plane"].file == ""
    (shelf.directory / "beta.yaml").write_text(policy("beta", "file.test"))
    assert not shelf.read()  # it changes nothing that is in force
    assert hosts(shelf)["beta"] == "a.shop.test"
    assert shelf.give(Given())
    assert hosts(shelf) == {"alpha": "file.test", "beta": "file.test"}


def test_the_same_again_is_no_change(shelf: Shelf) -> None:
    """A manifest that is only renewed switches no workload."""
    assert shelf.give(Given(held_of(bundle({"beta": policy("beta")}))))
    assert not shelf.give(Given(held_of(bundle({"beta": policy("beta")}, 2))))


def test_the_same_text_from_the_plane_is_a_change(shelf: Shelf) -> None:
    """The plane has decided for which nodes it is; a file looks at this node's labels."""
    text = policy("alpha", "file.test")
    assert shelf.give(Given(held_of(bundle({"alpha": text}))))
    held = shelf.in_force["alpha"]
    assert held.policy is not None
    assert held.policy.subject.nodes == ()
    assert held.policy.subject.cgroups == ("/agents.slice/*",)


@pytest.mark.parametrize(
    ("given", "is_known"),
    [(Given(), True), (Given(is_known=False), False), (Given(is_whole=False), False)],
)
def test_what_a_plane_may_have_wanted_is_not_taken_for_nothing(shelf: Shelf, given: Given, is_known: bool) -> None:
    """Until it is known, workloads that nobody names stay as the kernel has them."""
    shelf.give(given)
    assert shelf.is_readable is is_known


class Applying:
    """An Application whose kernel a test controls."""

    def __init__(self, shelf: Shelf) -> None:
        self.host: Any = SimpleNamespace(shelf=shelf, failures={}, release_left=self._release, enforcer=None)
        self.applied: list[dict[str, str]] = []
        self.releases = 0
        self.fails = 0

    def apply(self, _began: float) -> int:
        """Notes what would be enforced."""
        self.applied.append(hosts(self.host.shelf))
        if self.fails:
            self.fails -= 1
            raise KernelError("the map is full")
        return 2

    def _release(self) -> None:
        self.releases += 1


def test_a_bundle_is_enforced_then_nobodys_workloads_are_let_go(shelf: Shelf) -> None:
    """And one that changes nothing is not enforced again."""
    applying = Applying(shelf)
    ground = HostGround(applying, SimpleNamespace())  # type: ignore[arg-type]
    assert ground.enforce(bundle({"beta": policy("beta")})).switched == 2
    assert (len(applying.applied), applying.releases) == (1, 1)
    assert ground.enforce(bundle({"beta": policy("beta")}, 2)).switched == 0
    assert len(applying.applied) == 1
    applying.host.failures = {7: "/a stays as it was: no room"}
    assert ground.enforce(bundle({}, 3)).failures == ("/a stays as it was: no room",)


def test_where_enforcement_fails_the_bundle_before_is_enforced_again(shelf: Shelf) -> None:
    """All or nothing."""
    applying = Applying(shelf)
    ground = HostGround(applying, SimpleNamespace())  # type: ignore[arg-type]
    ground.enforce(bundle({"beta": policy("beta")}))
    applying.fails = 1
    with pytest.raises(KernelError):
        ground.enforce(bundle({"beta": policy("beta", "worse.test")}, 2))
    assert [applied["beta"] for applied in applying.applied] == ["a.shop.test", "worse.test", "a.shop.test"]
    assert hosts(shelf)["beta"] == "a.shop.test"
    assert applying.releases == 1


def test_what_was_damaged_on_disk_is_enforced_when_it_comes_whole(shelf: Shelf) -> None:
    """Also where the policies are the same: workloads that were left alone meanwhile are taken now."""
    applying = Applying(shelf)
    ground = HostGround(applying, SimpleNamespace())  # type: ignore[arg-type]
    shelf.give(Given(held_of(bundle({"beta": policy("beta")})), is_whole=False))
    ground.enforce(bundle({"beta": policy("beta")}, 2))
    assert len(applying.applied) == 1
    assert shelf.is_readable


def test_what_does_not_fit_into_one_message_comes_with_the_next() -> None:
    """All of it arrives, and no message is larger than a plane must take."""
    states = {f"w{n}": pb.WorkloadState(name=f"w{n}", labels={"x": "y" * 30_000}) for n in range(200)}
    teller, told = WorkloadTeller(), []
    while news := teller.news(states):
        assert news.ByteSize() < 4 << 20
        assert news.is_all == (not told)
        told += [state.name for state in news.workloads]
    assert told == list(states)
