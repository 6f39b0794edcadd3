"""The cache keeps what upstream said for as long as it may, and no longer; time is what the test says it is."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from exeat.dns.cache import Cache, lifetime_s
from exeat.dns.records import Kind, Rcode, Record, Reply

S = 1_000_000_000
DAY = 86_400
BEGIN = 5 * S


def address(ttl: int, name: str = "a.test") -> Record:
    """An address record."""
    return Record(name, Kind.A, ttl, b"\xcb\x00\x71\x01")


def alias(ttl: int) -> Record:
    """a.test is b.test."""
    return Record("a.test", Kind.CNAME, ttl, b"\x01b\x04test\x00")


def reply(*records: Record, rcode: int = Rcode.NOERROR, negative_ttl: int | None = None) -> Reply:
    """What upstream says."""
    return Reply(rcode, False, records, negative_ttl)


@pytest.mark.parametrize(
    ("what", "kept_s"),
    [
        (reply(address(300)), 300),
        (reply(address(300), address(20)), 20),
        (reply(alias(7), address(300, "b.test")), 7),
        (reply(address(1)), 1),
        (reply(address(0)), 1),
        (reply(address(DAY)), DAY),
        (reply(address(DAY + 1)), DAY),
        (reply(address(2**31 - 1)), DAY),
        (reply(rcode=Rcode.NXDOMAIN, negative_ttl=60), 60),
        (reply(rcode=Rcode.NXDOMAIN, negative_ttl=0), 1),
        (reply(rcode=Rcode.NXDOMAIN, negative_ttl=301), 300),
        (reply(rcode=Rcode.NXDOMAIN, negative_ttl=2**31 - 1), 300),
        (reply(rcode=Rcode.NXDOMAIN), 5),
        (reply(negative_ttl=30), 30),
        (reply(), 5),
        (reply(alias(400), negative_ttl=90), 90),
        (reply(alias(20), negative_ttl=90), 20),
        (reply(alias(20), rcode=Rcode.NXDOMAIN, negative_ttl=90), 20),
        (reply(alias(0), negative_ttl=90), 1),
        (reply(address(300), rcode=Rcode.SERVFAIL), 1),
        (reply(rcode=Rcode.REFUSED, negative_ttl=60), 1),
        (None, 1),
    ],
)
def test_an_answer_is_kept_so_long(what: Reply | None, kept_s: int) -> None:
    """To the nanosecond, and not a moment longer."""
    cache = Cache()
    cache.put("a.test", Kind.A, what, BEGIN)
    entry = cache.get("a.test", Kind.A, BEGIN + kept_s * S - 1)
    assert entry is not None
    assert entry.reply is what
    assert (entry.stored_ns, entry.expires_ns) == (BEGIN, BEGIN + kept_s * S)
    assert cache.get("a.test", Kind.A, BEGIN + kept_s * S) is None
    assert len(cache) == cache.size == 0


def test_any_counts_whatever_came_as_data() -> None:
    """A question for all kinds is answered by each."""
    assert lifetime_s(reply(alias(400)), Kind.ANY) == 400


def test_a_question_is_a_name_and_a_kind() -> None:
    """Neither alone finds an entry."""
    cache = Cache()
    cache.put("a.test", Kind.A, reply(address(300)), BEGIN)
    assert cache.get("a.test", Kind.A, BEGIN)
    assert cache.get("a.test", Kind.AAAA, BEGIN) is None
    assert cache.get("b.test", Kind.A, BEGIN) is None


def test_ttls_are_counted_down() -> None:
    """By whole seconds, never below nought, and from a day at most."""
    cache = Cache()
    cache.put("a.test", Kind.A, reply(alias(10), address(2**31 - 1, "b.test")), BEGIN)

    def ttls(after_ns: int) -> list[int]:
        entry = cache.get("a.test", Kind.A, BEGIN + after_ns)
        assert entry is not None
        return [record.ttl for record in entry.records(BEGIN + after_ns)]

    assert ttls(0) == [10, DAY]
    assert ttls(S - 1) == [10, DAY]
    assert ttls(3 * S) == [7, DAY - 3]
    assert ttls(10 * S - 1) == [1, DAY - 9]


def test_a_ttl_of_nought_is_told_as_such_to_the_herd() -> None:
    """Those who ask at the same moment share the answer; nobody is told to keep it."""
    cache = Cache()
    entry = cache.put("a.test", Kind.A, reply(address(0)), BEGIN)
    assert [record.ttl for record in entry.records(BEGIN + S // 2)] == [0]
    assert cache.put("b.test", Kind.A, None, BEGIN).records(BEGIN) == ()


def test_a_later_answer_takes_the_place_of_an_earlier_one() -> None:
    """Also a shorter-lived and a smaller one."""
    cache = Cache()
    cache.put("a.test", Kind.A, reply(address(300), address(300)), BEGIN)
    cache.put("a.test", Kind.A, reply(address(10)), BEGIN + S)
    assert cache.get("a.test", Kind.A, BEGIN + 12 * S) is None
    assert len(cache) == cache.size == 0


def test_the_least_recently_used_goes_first() -> None:
    """Used means asked for."""
    cache = Cache(limit=3)
    for name in ("a", "b", "c"):
        cache.put(name, Kind.A, reply(address(300)), BEGIN)
    assert cache.get("a", Kind.A, BEGIN)
    cache.put("d", Kind.A, reply(address(300)), BEGIN)
    assert [bool(cache.get(name, Kind.A, BEGIN)) for name in ("a", "b", "c", "d")] == [True, False, True, True]


def test_large_answers_leave_room_for_fewer() -> None:
    """Whoever answers 64 KiB to each of ten thousand names does not fill the machine's memory."""
    cache = Cache(limit_bytes=1 << 20)
    text = Record("a.test", Kind.TXT, 300, bytes(60_000))
    for number in range(100):
        cache.put(f"{number}.test", Kind.TXT, reply(text), BEGIN)
        assert cache.size <= 1 << 20
    assert len(cache) == 17
    cache.put("huge.test", Kind.TXT, reply(*[text] * 18), BEGIN)
    assert cache.get("huge.test", Kind.TXT, BEGIN) is None
    assert len(cache) == 17


def test_clear_forgets_all() -> None:
    """As when there are other upstreams."""
    cache = Cache()
    cache.put("a.test", Kind.A, reply(address(300)), BEGIN)
    cache.clear()
    assert cache.get("a.test", Kind.A, BEGIN) is None
    assert len(cache) == cache.size == 0


def test_it_agrees_with_a_slow_model_on_random_use() -> None:
    """Twenty thousand steps over few names, a small limit and a clock that goes on."""
    dice = random.Random(7)
    cache, model = Cache(limit=8), OrderedDict[str, tuple[Reply, int]]()
    now = 0
    for _ in range(20_000):
        now += dice.randrange(2 * S)
        name = f"{dice.randrange(20)}.test"
        if dice.random() < 0.4:
            answer = reply(address(dice.randrange(40)))
            cache.put(name, Kind.A, answer, now)
            model.pop(name, None)
            model[name] = (answer, now + max(1, answer.records[0].ttl) * S)
            if len(model) > 8:
                model.popitem(last=False)
        else:
            entry = cache.get(name, Kind.A, now)
            expected = model.get(name)
            if expected and expected[1] <= now:
                del model[name]
                expected = None
            elif expected:
                model.move_to_end(name)
            assert (entry and entry.reply) is (expected and expected[0])
        assert len(cache) == len(model)
