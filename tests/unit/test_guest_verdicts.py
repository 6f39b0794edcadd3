"""Verdicts about guests: how they read, and that they are counted, proposed from and judged again like all others."""

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from exeat.core.propose import Learned
from exeat.core.replay import Recorded
from exeat.core.steps import step_of
from exeat.core.verdict_text import line_for_people
from exeat.model.policy import Protocol
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.policies.tried import is_try
from unit.record_words import any_record

NOBODY = Process(0, "", 0)
SITE, GUEST = ip_address("203.0.113.11"), ip_address("198.51.100.2")


def of_guest(**said: object) -> Record:
    """What its interface's programs tell."""
    return any_record(**{"hook": "guest", "workload": "tap0", "process": NOBODY, "source": GUEST, **said})


@pytest.mark.parametrize(
    ("one", "who"),
    [
        (of_guest(), "evil.test (tcp 203.0.113.11:443) by the guest (198.51.100.2): "),
        (of_guest(address=None, source=None, name=None, reason=Reason.LINK_PROTOCOL), "a frame by the guest: "),
        (of_guest(hook="query", detail=1), "evil.test (dns A) by the guest (198.51.100.2): "),
        (any_record(process=NOBODY), "evil.test (tcp 203.0.113.11:443) by the kernel: "),
        (any_record(process=NOBODY, workload="cgroup 8"), "evil.test (tcp 203.0.113.11:443) by the kernel: "),
        (any_record(process=NOBODY, hook="query", detail=1), "evil.test (dns A) by the kernel: "),
        (any_record(), "evil.test (tcp 203.0.113.11:443) by curl[1]: "),
    ],
)
def test_who_it_was_is_a_process_the_guest_or_the_kernel(one: Record, who: str) -> None:
    """Of a guest's processes nothing is known."""
    assert line_for_people(one).removeprefix("exeat: denied: ").startswith(who)


@pytest.mark.parametrize(
    ("one", "step"),
    [
        (of_guest(), "hello"),
        (of_guest(name=None, reason=Reason.SNI_MISSING), "hello"),
        (of_guest(name=None, reason=Reason.GRANTED), "connect"),
        (of_guest(name=None, protocol=17), "send"),
        (of_guest(name=None, protocol=1), "send"),
        (any_record(hook="packet"), "packet"),
    ],
)
def test_a_guests_verdicts_are_at_the_step_where_a_processs_would_be(one: Record, step: str) -> None:
    """By what they tell."""
    assert step_of(one) == step


def test_a_guests_connections_are_judged_again_by_another_policy() -> None:
    """Its hello by the name, where that was resolved; what its hello said is not told twice."""
    recorded = Recorded()
    begun, hello = of_guest(name=None, reason=Reason.OPEN_MODE), of_guest(reason=Reason.OPEN_MODE)
    asked = of_guest(hook="query", name="evil.test", verdict=Verdict.FORWARDED, reason=Reason.RESOLVED, detail=1)
    for one in (asked, begun, hello):
        recorded.add(one)
    assert recorded.attempts(begun) is None
    (attempt,) = recorded.attempts(hello) or ()
    assert (attempt.protocol, attempt.name, attempt.address) == (Protocol.TLS, "evil.test", SITE)


def test_what_a_guest_reached_becomes_a_rule() -> None:
    """One rule for a connection that is told of twice; datagrams are believed, as they were sent."""
    learned = Learned()
    opened = {"verdict": Verdict.FORWARDED, "reason": Reason.OPEN_MODE}
    learned.saw(of_guest(name=None, **opened), ("evil.test",))
    learned.saw(of_guest(**opened), ("evil.test",))
    learned.saw(of_guest(name=None, protocol=17, **opened), ("evil.test",))
    text = learned.policy_text("x", "vm", _noon())
    assert text.count("evil.test") == 2
    assert "protocol: tcp" not in text
    assert "protocol: udp" in text


def _noon() -> datetime:
    return datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("is_denied", [True, False])
def test_a_guests_verdict_stands_for_a_connection(is_denied: bool) -> None:
    """So that its rate of denials is one."""
    assert is_try("guest", is_denied)
