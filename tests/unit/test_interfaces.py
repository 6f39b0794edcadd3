"""Which interfaces are workloads, as links come and go: what is asked of the parts that attach and write. No kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from exeat.agent.guest_said import GuestSaid
from exeat.agent.interface_ids import index_of, is_interface, workload_of
from exeat.agent.interfaces import Interfaces
from exeat.errors import KernelError
from exeat.kernel.network_links import LinkNews, NetworkLink

SAID = GuestSaid(mac="02:00:00:00:00:01")


def link(index: int, name: str, *, master: int = 0, is_ethernet: bool = True) -> NetworkLink:
    """As the kernel tells of one."""
    return NetworkLink(index, name, b"\2\0\0\0\0\1", is_ethernet, is_up=True, master=master, addresses=())


@dataclass
class Parts:
    """The other parts, as far as they are asked."""

    links: dict[int, NetworkLink] = field(default_factory=dict)
    news: LinkNews = field(default_factory=LinkNews)
    alive: set[int] = field(default_factory=set)
    pinned: set[int] = field(default_factory=set)
    tables: set[int] = field(default_factory=set)
    did: list[tuple[object, ...]] = field(default_factory=list)
    failure: Exception | None = None
    is_loaded = True
    uses_tcx = True

    # of NetworkLinks

    def of(self, index: int) -> NetworkLink | None:
        return self.links.get(index)

    def named(self, name: str) -> NetworkLink | None:
        return next((one for one in self.links.values() if one.name == name), None)

    def read(self) -> LinkNews:
        news, self.news = self.news, LinkNews()
        return news

    look = read

    # of GuestHooks and GuestTables

    def attached(self) -> set[int]:
        return self.alive

    def remnants(self) -> set[int]:
        return self.alive | self.pinned

    def known(self) -> set[int]:
        return self.tables

    # of Guests

    def start(self) -> None:
        self._do("start")

    def attend(self, index: int, said: GuestSaid | None) -> None:
        self._do("attend", index, said)
        self.alive.add(index)

    def leave(self, index: int) -> None:
        self._do("leave", index)
        self.alive.discard(index)

    def refresh(self, index: int) -> None:
        self._do("refresh", index)

    def _do(self, *what: object) -> None:
        self.did.append(what)
        if self.failure:
            raise self.failure

    # of Frames

    complaints: tuple[str, ...] = ()

    def heed(self, news: LinkNews) -> None:
        pass

    def mend(self, now_ns: int) -> None:
        pass

    # what a test tells

    def come(self, one: NetworkLink) -> None:
        (self.news.changed if one.index in self.links else self.news.came).add(one.index)
        self.links[one.index] = one

    def go(self, index: int) -> None:
        del self.links[index]
        self.news.went.add(index)

    def interfaces(self, *managed: str) -> Interfaces:
        """The real thing between these."""
        one = cast(Any, self)
        return Interfaces(one, one, one, one, one, managed)


def test_an_index_and_a_workload_are_each_others() -> None:
    """And no cgroup's id is taken for one."""
    assert (is_interface(workload_of(7)), index_of(workload_of(7))) == (True, 7)
    assert not is_interface(4001)


def test_who_comes_and_who_goes_is_told_by_name() -> None:
    """With an id as long as it is there."""
    parts = Parts()
    interfaces = parts.interfaces()
    parts.come(link(7, "tap0"))
    assert interfaces.read().came == {"tap0"}
    assert (interfaces.id_of("tap0"), interfaces.path_of(workload_of(7))) == (workload_of(7), "tap0")
    parts.go(7)
    assert interfaces.read().went == {"tap0"}
    assert (interfaces.id_of("tap0"), interfaces.path_of(workload_of(7)), interfaces.paths()) == (None, None, ())


def test_a_new_name_is_a_going_and_a_coming() -> None:
    """Of the same workload; other changes are neither."""
    parts = Parts()
    interfaces = parts.interfaces()
    parts.come(link(7, "tap0"))
    interfaces.read()
    parts.come(link(7, "tap0", master=3))
    news = interfaces.read()
    assert (news.came, news.went) == (set(), set())
    parts.come(link(7, "tap1"))
    news = interfaces.read()
    assert (news.came, news.went, news.replaced) == ({"tap1"}, {"tap0"}, set())
    assert interfaces.path_of(workload_of(7)) == "tap1"


def test_another_interface_under_the_same_index_is_told_as_such() -> None:
    """Between two looks one went, and another one came with its index and its name."""
    parts = Parts()
    interfaces = parts.interfaces()
    parts.come(link(7, "tap0"))
    interfaces.read()
    parts.go(7)
    parts.come(link(7, "tap0"))
    news = interfaces.read()
    assert (news.came, news.went, news.replaced) == ({"tap0"}, {"tap0"}, {workload_of(7)})


def test_it_is_attached_once_and_again_where_something_else_is_said() -> None:
    """The programs are loaded before the first."""
    parts = Parts()
    interfaces = parts.interfaces()
    parts.come(link(7, "tap0"))
    interfaces.read()
    for said in (None, None, SAID, SAID):
        interfaces.attend(workload_of(7), said)
    assert parts.did == [("start",), ("attend", 7, None), ("attend", 7, SAID)]
    interfaces.leave(workload_of(7))
    interfaces.leave(workload_of(7))
    assert parts.did[3:] == [("leave", 7)]


def test_what_changes_is_looked_at_again_only_where_there_are_guests() -> None:
    """A bridge as well: what it changes for its ports, the part that writes knows."""
    parts = Parts()
    interfaces = parts.interfaces()
    parts.come(link(3, "br0"))
    parts.come(link(7, "tap0", master=3))
    interfaces.read()
    parts.come(link(3, "br0", master=1))
    interfaces.read()
    assert parts.did == []
    interfaces.attend(workload_of(7), None)
    parts.come(link(3, "br0"))
    interfaces.read()
    assert parts.did[2:] == [("refresh", 3)]


def test_what_carries_no_ethernet_frames_is_refused_before_anything_is_loaded() -> None:
    """With a sentence that says what is judged."""
    parts = Parts()
    interfaces = parts.interfaces("tun*")
    parts.come(link(7, "tun0", is_ethernet=False))
    interfaces.read()
    with pytest.raises(KernelError, match="tun0 carries no Ethernet frames: exeat judges guests behind taps"):
        interfaces.attend(workload_of(7), None)
    assert parts.did == []


def test_what_failed_is_complained_about_and_tried_again() -> None:
    """Until it works; then there is no complaint."""
    parts = Parts()
    interfaces = parts.interfaces()
    parts.come(link(7, "tap0"))
    interfaces.read()
    interfaces.start()
    parts.failure = KernelError("no room")
    with pytest.raises(KernelError):
        interfaces.attend(workload_of(7), SAID)
    interfaces.mend(0)
    assert interfaces.complaints == ["tap0: no room"]
    parts.failure = None
    interfaces.mend(1)
    assert (interfaces.complaints, parts.did[-1]) == ([], ("attend", 7, SAID))


def test_what_could_not_be_let_go_is_let_go_later() -> None:
    """It is complained about meanwhile."""
    parts = Parts()
    interfaces = parts.interfaces()
    parts.come(link(7, "tap0"))
    interfaces.read()
    interfaces.attend(workload_of(7), None)
    parts.failure = KernelError("no memory")
    parts.go(7)
    interfaces.read()
    interfaces.leave(workload_of(7))
    assert (interfaces.complaints, interfaces.left) == (["interface 7: no memory"], {workload_of(7)})
    parts.failure = None
    interfaces.mend(1)
    assert (interfaces.complaints, interfaces.left, parts.did[-1]) == ([], set(), ("leave", 7))


def test_where_programs_were_taken_away_they_are_put_back() -> None:
    """Not at every look: the kernel is asked about each interface."""
    parts = Parts()
    interfaces = parts.interfaces()
    parts.come(link(7, "tap0"))
    interfaces.read()
    interfaces.attend(workload_of(7), None)
    interfaces.mend(1)
    parts.alive.clear()
    interfaces.mend(2)
    assert parts.did[2:] == []
    interfaces.mend(60 * 10**9)
    assert parts.did[2:] == [("attend", 7, None)]


def test_programs_that_cannot_be_loaded_are_not_tried_for_each_interface() -> None:
    """Compiling takes seconds, in which nothing else would be done."""
    parts = Parts(failure=KernelError("too old a kernel"))
    interfaces = parts.interfaces()
    for index in (7, 8):
        parts.come(link(index, f"tap{index}"))
    interfaces.read()
    for index in (7, 8):
        with pytest.raises(KernelError, match="too old a kernel"):
            interfaces.attend(workload_of(index), None)
    assert parts.did == [("start",)]


def test_what_could_not_be_loaded_is_tried_again_now_and_then() -> None:
    """Once a minute; and no more when it has worked."""
    parts = Parts(failure=KernelError("no memory"))
    interfaces = parts.interfaces("tap*")
    assert not interfaces.is_to_be_tried_again(1)
    interfaces.begin()
    interfaces.have_started()
    assert parts.did == [("start",)]
    assert [interfaces.is_to_be_tried_again(second * 10**9) for second in (1, 2, 60, 61)] == [True, False, False, True]
    parts.failure = None
    interfaces.start()
    assert not interfaces.is_to_be_tried_again(1 << 62)


def test_settings_name_whom_to_judge_without_a_policy() -> None:
    """By patterns."""
    interfaces = Parts().interfaces("tap-*", "veth0")
    names = ("tap-1", "veth0", "tap1", "veth01", "eth0")
    assert [name for name in names if interfaces.is_managed(name)] == ["tap-1", "veth0"]


@pytest.mark.parametrize(
    ("alive", "name", "is_another"),
    [(True, "tap0", False), (True, "renamed", False), (False, "tap0", True), (False, "other", True)],
)
def test_what_was_left_is_the_same_where_programs_are_still_attached(alive: bool, name: str, is_another: bool) -> None:
    """They end with their interface, so that an index that was given anew has none."""
    parts = Parts(alive={7} if alive else set(), pinned={7})
    parts.come(link(7, name))
    interfaces = parts.interfaces()
    interfaces.begin()
    assert interfaces.left == {workload_of(7)}
    assert interfaces.is_another(workload_of(7), "tap0") is is_another


def test_where_nothing_is_pinned_any_more_the_name_decides() -> None:
    """Somebody took all pins away: a registration is not lost with them, or its guest would be let go."""
    parts = Parts()
    parts.come(link(7, "tap0"))
    interfaces = parts.interfaces()
    interfaces.begin()
    assert not interfaces.is_another(workload_of(7), "tap0")
    assert interfaces.is_another(workload_of(7), "tap1")
    assert interfaces.is_another(workload_of(8), "tap0")


def test_what_was_left_and_is_attended_is_left_no_more() -> None:
    """What is not attended can be let go, though this agent never attached to it."""
    parts = Parts(alive={7, 8}, tables={7, 8})
    for index in (7, 8):
        parts.come(link(index, f"tap{index}"))
    interfaces = parts.interfaces()
    interfaces.begin()
    interfaces.attend(workload_of(7), None)
    assert interfaces.left == {workload_of(8)}
    interfaces.leave(workload_of(8))
    assert interfaces.left == set()
    assert parts.did[-1] == ("leave", 8)
