"""Questions as verdicts: the first at once, repetitions as a number, and every one counted."""

from exeat.dns.tellings import DIFFERENT_MAX, QUIET_NS, Asked, Tellings
from exeat.model.verdicts import Reason, Verdict


def asked(name: str, verdict: Verdict = Verdict.DROPPED, count: int = 1, port: int = 1) -> Asked:
    """A question."""
    return Asked(verdict, Reason.NAME_NOT_ALLOWED, None, name, 1, 17, port, 40, count=count)


def test_the_first_is_told_at_once_and_the_rest_as_a_number() -> None:
    """When its time has come, and not before."""
    told: list[Asked] = []
    tellings = Tellings(told.append)
    for port in range(1000):
        tellings.note(asked("a.com", port=port), now_ns=port)
    tellings.tell_due(QUIET_NS - 1)
    assert [(one.name, one.count) for one in told] == [("a.com", 1)]
    tellings.tell_due(QUIET_NS)
    assert [(one.name, one.count, one.port) for one in told] == [("a.com", 1, 0), ("a.com", 999, 999)]
    assert tellings.counts[Verdict.DROPPED] == 1000


def test_after_a_quiet_time_it_is_news_again() -> None:
    """Nothing repeated, nothing told in between."""
    told: list[Asked] = []
    tellings = Tellings(told.append)
    tellings.note(asked("a.com"), 0)
    tellings.tell_due(QUIET_NS)
    tellings.note(asked("a.com"), QUIET_NS + 1)
    assert [one.count for one in told] == [1, 1]


def test_names_and_verdicts_are_told_apart() -> None:
    """A name that is allowed later is news."""
    told: list[Asked] = []
    tellings = Tellings(told.append)
    for one in (asked("a.com"), asked("b.com"), asked("a.com", Verdict.FORWARDED), asked("a.com")):
        tellings.note(one, 0)
    assert len(told) == 3


def test_the_end_tells_all_that_is_left() -> None:
    """What was counted in heaps too."""
    told: list[Asked] = []
    tellings = Tellings(told.append)
    tellings.note(asked("a.com"), 0)
    tellings.note(asked("a.com", count=41), 1)
    tellings.tell_due(None)
    assert [one.count for one in told] == [1, 41]
    assert sum(one.count for one in told) == tellings.counts[Verdict.DROPPED] == 42


def test_a_flood_of_different_names_is_told_one_by_one_and_bounded() -> None:
    """Memory ends, telling does not."""
    told: list[Asked] = []
    tellings = Tellings(told.append)
    for number in range(DIFFERENT_MAX + 100):
        tellings.note(asked(f"{number}.com"), 0)
    for _ in range(5):
        tellings.note(asked(f"{DIFFERENT_MAX + 50}.com"), 1)
    assert len(told) == DIFFERENT_MAX + 105
    assert sum(one.count for one in told) == tellings.counts[Verdict.DROPPED]
