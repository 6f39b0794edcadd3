"""A connection that could not be ended when it was denied is ended a little later, and nobody waits for ever."""

from exeat.agent.endings import Endings
from exeat.kernel.events import Event


def event_of(cookie: int) -> Event:
    """A denial of the connection with this cookie."""
    none = bytes(16)
    return Event(0, 1, cookie, 0, none, none, 1, 0, 1, 0, 0, 0, b"\0\1", b"\0\2", 1, 16, 1, 6, none, 0, b"")


class Namespaces:
    """The connections that can be ended so far."""

    def __init__(self) -> None:
        self.reachable: set[int] = set()
        self.ended: list[int] = []
        self.tries = 0

    def end(self, event: Event) -> bool:
        """As the enforcer does it."""
        self.tries += 1
        if event.cookie in self.reachable:
            self.ended.append(event.cookie)
        return event.cookie in self.reachable


def test_one_that_is_found_is_not_looked_for_again() -> None:
    """And the thread sleeps as long as it likes."""
    there = Namespaces()
    there.reachable.add(7)
    endings = Endings(there.end)
    endings.end(event_of(7), 100.0)
    assert there.ended == [7]
    assert endings.wait_s(100.0, 1.0) == 1.0
    endings.end_waiting(200.0)
    assert there.tries == 1


def test_one_in_a_namespace_that_is_reached_later_is_ended_then() -> None:
    """It is looked for soon, and the thread wakes up for that."""
    there = Namespaces()
    endings = Endings(there.end)
    endings.end(event_of(7), 100.0)
    now_s = 100.0
    for _ in range(3):
        wait_s = endings.wait_s(now_s, 1.0)
        assert 0 < wait_s < 0.3
        now_s += wait_s
        endings.end_waiting(now_s)
    assert there.ended == []
    there.reachable.add(7)
    now_s += endings.wait_s(now_s, 1.0)
    endings.end_waiting(now_s)
    assert there.ended == [7]
    assert endings.wait_s(now_s, 1.0) == 1.0


def test_what_is_never_found_is_given_up_and_many_of_it_keep_nothing_else_waiting() -> None:
    """As when a workload closes each connection as soon as it was denied."""
    there = Namespaces()
    endings = Endings(there.end)
    for cookie in range(10_000):
        endings.end(event_of(cookie), 100.0)
    first = there.tries
    for tenth in range(1, 100):
        endings.end_waiting(100.0 + tenth / 10)
    assert there.tries - first <= 256 * 6
    assert endings.wait_s(110.0, 1.0) == 1.0
    assert there.ended == []
