"""Recorded verdicts judged by another policy, here by the judge that loops over rules."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from exeat.core.cases import Attempt, Ruling
from exeat.core.replay import Recorded, Replay, replay
from exeat.core.resolvable import Resolvable
from exeat.model.networks import Address, mapped
from exeat.model.policy import Policy, Protocol, Rule
from exeat.model.record import Record
from exeat.model.verdicts import Reason, Verdict
from unit.naive_judge import NUMBERS, may, resolving_rules
from unit.record_words import any_record
from unit.rule_words import NOON_NS, rule, tables

SHOP, EVIL = ip_address("203.0.113.10"), ip_address("203.0.113.11")


@dataclass
class NaiveJudge:
    """A policy's judge, for reasons as coarse as allowed, wants a hello, denied."""

    policy: Policy

    @property
    def allows_icmp(self) -> bool:
        """By whatever rule."""
        return any(one.protocol is Protocol.ICMP for one in self.policy.rules)

    def question(self, name: str, kind: int) -> Ruling:
        """By whatever rule names it."""
        found = resolving_rules(self.policy, name)
        return Ruling(bool(found), Reason.RESOLVED if found else Reason.NAME_NOT_ALLOWED, None)

    def withholds(self, address: Address) -> bool:
        """By the tables' own list."""
        return Resolvable.is_special(mapped(address)) and not Resolvable(tables(*self.policy.rules)).allows_special(
            mapped(address)
        )

    def attempt(self, attempt: Attempt) -> Ruling:
        """First the name, then the connection."""
        assert attempt.address is not None
        granted = {}
        if attempt.name is not None and attempt.is_resolved:
            if not resolving_rules(self.policy, attempt.name):
                return Ruling(False, Reason.NAME_NOT_ALLOWED, None)
            granted = {attempt.name: [attempt.address]}
        said = attempt.name if attempt.protocol is Protocol.TLS else None
        number = NUMBERS[attempt.protocol]
        found = may(self.policy, number, attempt.address, attempt.port, said, attempt.has_ech, NOON_NS, granted)
        if found.needs_name and said is None:
            return Ruling(False, Reason.NOT_TLS, None)
        return Ruling(found.is_allowed, Reason.NETWORK_ALLOWED if found.is_allowed else Reason.NOT_RESOLVED, None)


def allowed(**said: Any) -> Record:
    """A hello that passed, but for what is said."""
    usual: dict[str, Any] = {"verdict": Verdict.FORWARDED, "reason": Reason.NAME_ALLOWED, "name": "shop.test"}
    return any_record(**{**usual, "address": SHOP, **said})


def asked(name: str, verdict: Verdict = Verdict.FORWARDED, reason: Reason = Reason.RESOLVED, **more: Any) -> Record:
    """A question for an address."""
    return any_record(hook="query", name=name, verdict=verdict, reason=reason, detail=1, protocol=17, port=53, **more)


def connected(reason: Reason, verdict: Verdict = Verdict.FORWARDED, **said: Any) -> Record:
    """A connect without a name."""
    return any_record(
        **{"hook": "connect", "name": None, "verdict": verdict, "reason": reason, "address": SHOP, **said}
    )


def replayed(records: list[Record], *rules: Rule) -> Replay:
    """What a policy of these rules makes of them."""
    recorded = Recorded()
    for record in records:
        recorded.add(record)
    return replay(recorded, NaiveJudge(Policy("candidate", rules)))


def counts(result: Replay) -> tuple[int, int, int, int, int]:
    """Newly denied, newly allowed, undecided, still allowed, still denied."""
    rows = (result.newly_denied, result.newly_allowed, result.undecided)
    return (*(sum(row.count for row in found) for found in rows), result.still_allowed, result.still_denied)  # type: ignore[return-value]


def test_a_hello_passes_where_its_name_is_allowed() -> None:
    """The twin is another name; equal ones are one row with their count."""
    records = [asked("shop.test"), allowed(), allowed(time_ns=7), asked("evil.test"), allowed(name="evil.test")]
    result = replayed(records, rule("", hosts="shop.test"))
    assert counts(result) == (2, 0, 0, 3, 0)
    assert [(row.subject, row.count) for row in result.newly_denied] == [
        ("evil.test (dns A)", 1),
        ("evil.test (tcp 203.0.113.10:443)", 1),
    ]
    assert counts(replayed(records, rule("", hosts="shop.test evil.test"))) == (0, 0, 0, 5, 0)


def test_what_was_denied_and_would_pass_is_newly_allowed() -> None:
    """Also what was only reported, in monitor mode."""
    denied = asked("new.test", Verdict.DROPPED, Reason.NAME_NOT_ALLOWED, count=5)
    reported = connected(Reason.PORT_NOT_ALLOWED, Verdict.AUDIT, port=8443)
    assert counts(replayed([denied, reported])) == (0, 0, 0, 0, 6)
    result = replayed([denied, reported], rule("", hosts="new.test"), rule("203.0.113.0/24", "8443"))
    assert counts(result) == (0, 6, 0, 0, 0)


def test_a_hello_with_an_address_from_elsewhere_gets_no_grant() -> None:
    """It was denied for that; a rule for its name changes nothing, one for its network and name does."""
    hello = any_record(reason=Reason.NAME_NOT_RESOLVED, name="shop.test", address=SHOP)
    assert counts(replayed([hello], rule("", hosts="shop.test"))) == (0, 0, 0, 0, 1)
    assert counts(replayed([hello], rule("203.0.113.0/24", hosts="shop.test"))) == (0, 1, 0, 0, 0)


def test_a_connection_without_a_name_may_have_been_by_each_name_that_was_resolved() -> None:
    """If all of them lead to the same, that is it; else it is undecided."""
    records = [asked("a.test"), asked("b.test"), connected(Reason.GRANTED, port=7)]
    both = rule("", "7", Protocol.TCP, hosts="a.test b.test")
    one = rule("", "7", Protocol.TCP, hosts="a.test")
    names = rule("", "443", hosts="a.test b.test")
    assert counts(replayed(records, both)) == (0, 0, 0, 3, 0)
    assert counts(replayed(records, one, names)) == (0, 0, 1, 2, 0)
    assert counts(replayed(records, names)) == (1, 0, 0, 2, 0)
    assert counts(replayed(records, names, rule("203.0.113.0/24", "7"))) == (0, 0, 0, 3, 0)
    assert counts(replayed(records[2:], both)) == (0, 0, 1, 0, 0)  # the question is not in the log


def test_what_a_hello_says_is_not_told_twice() -> None:
    """In open mode a connection is told when it begins, and again at its hello."""
    records = [asked("shop.test"), connected(Reason.OPEN_MODE), allowed(reason=Reason.OPEN_MODE)]
    result = replayed(records, rule("", hosts="shop.test"))
    assert counts(result) == (0, 0, 0, 2, 0)
    assert result.not_judged == (("open_mode", 1),)


def test_a_connection_whose_hello_is_unknown_is_undecided_where_one_is_wanted() -> None:
    """And what was no TLS stays denied."""
    hosts = rule("203.0.113.0/24", hosts="shop.test")
    assert counts(replayed([connected(Reason.NETWORK_ALLOWED)], hosts)) == (0, 0, 1, 0, 0)
    no_tls = connected(Reason.NOT_TLS, Verdict.DROPPED, hook="hello")
    assert counts(replayed([no_tls], hosts)) == (0, 0, 0, 0, 1)
    assert counts(replayed([no_tls], rule("203.0.113.0/24", "443"))) == (0, 1, 0, 0, 0)


def test_what_no_policy_decides_is_not_judged() -> None:
    """Raw sockets, options, broken hellos; an icmp socket is."""
    records = [
        any_record(hook="socket", reason=Reason.RAW_SOCKET, address=None, name=None, protocol=255),
        any_record(hook="option", reason=Reason.SOCKET_OPTION, address=None, name=None),
        any_record(reason=Reason.SNI_MALFORMED, name=None),
        any_record(hook="query", reason=Reason.QUERY_MALFORMED, name=None),
        any_record(verdict=Verdict.ERROR, reason=Reason.HELPER_FAILED),
        any_record(hook="socket", reason=Reason.ICMP_NOT_ALLOWED, address=None, name=None, protocol=1),
    ]
    result = replayed(records, rule("203.0.113.0/24", protocol=Protocol.ICMP))
    assert counts(result) == (0, 1, 0, 0, 0)
    assert sum(count for _, count in result.not_judged) == 5


def test_a_withheld_address_is_given_where_a_network_covers_it() -> None:
    """The name must be allowed, too."""
    withheld = asked("db.test", Verdict.DROPPED, Reason.ADDRESS_WITHHELD, address=ip_address("10.1.2.3"))
    hosts, network = rule("", hosts="db.test"), rule("10.0.0.0/8", "5432")
    assert counts(replayed([withheld], hosts)) == (0, 0, 0, 0, 1)
    assert counts(replayed([withheld], network)) == (0, 0, 0, 0, 1)
    assert counts(replayed([withheld], hosts, network)) == (0, 1, 0, 0, 0)
