"""A connection that could not be ended when it was denied is ended a little later, and nobody waits for ever."""

from collections import Counter

from exeat.agent.endings import Endings
from exeat.kernel.events import Event


def event_of(cookie: int, workload: int = 1) -> Event:
    """A denial of the connection with this cookie."""
    none = bytes(16)
    return Event(0, workload, cookie, 0, none, none, 1, 0, 1, 0, 0, 0, b"\0\1", b"\0\2", 1, 16, 1, 6, none, 0, b"")


class Namespaces:
    """The connections that can be ended so far."""

    def __init__(self) -> None:
        self.reachable: set[int] = set()
        self.ended: list[int] = []
        self.tries = 0
        self.count: Counter[int] = Counter()  # by workload

    def end(self, event: Event) -> bool:
        """As the enforcer does it."""
        self.tries += 1
        if event.cookie in self.reachable:
            self.ended.append(event.cookie)
        return event.cookie in self.reachable

    def join(self, workload: int, *cookies: int) -> None:
        """The agent is in one more, where these are."""
        self.count[workload] += 1
        self.reachable.update(cookies)

    def endings(self) -> Endings:
        """That end them."""
        return Endings(self.end, self.count.__getitem__)


def run_until(endings: Endings, now_s: float, end_s: float) -> None:
    """As the thread does it."""
    while now_s < end_s:
        now_s += max(0.001, min(endings.wait_s(now_s, 1.0), end_s - now_s))
        endings.end_waiting(now_s)


def test_one_that_is_found_is_not_looked_for_again() -> None:
    """And the thread sleeps as long as it likes."""
    there = Namespaces()
    there.join(1, 7)
    endings = there.endings()
    endings.end(event_of(7), 100.0)
    assert there.ended == [7]
    assert endings.wait_s(100.0, 1.0) == 1.0
    run_until(endings, 100.0, 200.0)
    assert there.tries == 1


def test_one_in_a_namespace_that_is_joined_later_is_ended_then() -> None:
    """Soon: the thread wakes up for it. Until the agent is somewhere else than before, nothing is looked for."""
    there = Namespaces()
    endings = there.endings()
    endings.end(event_of(7), 100.0)
    run_until(endings, 100.0, 100.4)
    assert (there.ended, there.tries) == ([], 1)
    assert endings.wait_s(100.4, 1.0) < 0.6
    there.join(1)  # not the one where it is
    run_until(endings, 100.4, 101.0)
    assert (there.ended, there.tries) == ([], 2)
    there.join(1, 7)
    run_until(endings, 101.0, 103.0)
    assert there.ended == [7]
    assert endings.wait_s(103.0, 1.0) == 1.0


def test_what_is_never_found_is_given_up() -> None:
    """It has ended by itself."""
    there = Namespaces()
    endings = there.endings()
    endings.end(event_of(7), 100.0)
    run_until(endings, 100.0, 105.0)
    there.join(1, 7)
    run_until(endings, 105.0, 110.0)
    assert there.ended == []


def test_who_is_denied_again_and_again_takes_no_place_of_another_and_little_time() -> None:
    """As a workload that closes each connection as soon as it was denied, while another one's waits to be ended."""
    there = Namespaces()
    there.join(1)
    endings = there.endings()
    for cookie in range(10_000):
        endings.end(event_of(cookie), 100.0)
    endings.end(event_of(77_777, workload=2), 100.0)
    before = there.tries
    there.join(2, 77_777)
    run_until(endings, 100.0, 110.0)
    assert there.ended == [77_777]
    assert there.tries - before == 1
    assert endings.wait_s(110.0, 1.0) == 1.0
    for cookie in range(100):  # its places are free again
        endings.end(event_of(cookie), 110.0)
    there.join(1, *range(100))
    run_until(endings, 110.0, 120.0)
    assert len(there.ended) == 1 + 32
