"""What becomes of a question, by the compiled policy alone."""

from dataclasses import replace

import pytest

from exeat.core.compile import compile_policy
from exeat.core.policy_file import read_policy
from exeat.dns.desk import Desk, Then
from exeat.dns.names import wire_of
from exeat.dns.records import Kind, Record
from exeat.model.policy import Mode
from exeat.model.verdicts import Reason, Verdict

NOW, LATER = 1_000, 10**15
WALL = 1_800_000_000 * 10**9
ADDRESS = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 7])
POLICY = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {name: desk}
spec:
  dns: {types: [TXT], tunnel: report}
  expires: "2030-01-01T00:00:00Z"
  egress:
  - {name: api, hosts: [api.example.com]}
  - {name: wide, hosts: ["**.wide.example"]}
  - {name: over, hosts: [over.example.com], expires: "2020-01-01T00:00:00Z"}
  - {name: db, hosts: [db.example.com], protocol: tcp, ports: [5432]}
  - {name: corp, hosts: [corp.example.com], cidrs: ["10.0.0.0/8"]}
  - {name: doh, hosts: ["**.quad9.net"]}
"""


def desk(mode: Mode = Mode.ENFORCE, tunnel: str = "report") -> Desk:
    """A desk under the policy above."""
    policy = replace(read_policy(POLICY.replace("tunnel: report", f"tunnel: {tunnel}"), "desk.yaml").policy, mode=mode)
    granted = {ADDRESS: ("api.example.com",)}
    return Desk(compile_policy(policy), policy.dns, lambda address, now_ns: granted.get(address, ()))


def decided(name: str, kind: int = Kind.A, mode: Mode = Mode.ENFORCE) -> tuple[Then, Verdict, Reason, str | None]:
    """What becomes of one question."""
    decision = desk(mode).decide(name, kind, WALL, NOW)
    return decision.then, decision.verdict, decision.reason, decision.rule


@pytest.mark.parametrize(
    ("name", "kind", "then", "reason", "rule"),
    [
        ("api.example.com", Kind.A, Then.FORWARD, Reason.RESOLVED, "api"),
        ("api.example.com", Kind.AAAA, Then.FORWARD, Reason.RESOLVED, "api"),
        ("api.example.com", Kind.CNAME, Then.FORWARD, Reason.RESOLVED, "api"),
        ("api.example.com", Kind.HTTPS, Then.EMPTY, Reason.RESOLVED, "api"),
        ("api.example.com", Kind.SVCB, Then.EMPTY, Reason.RESOLVED, "api"),
        ("api.example.com", Kind.TXT, Then.FORWARD, Reason.RESOLVED, "api"),
        ("api.example.com", Kind.MX, Then.EMPTY, Reason.QUERY_TYPE, "api"),
        ("api.example.com", Kind.NULL, Then.EMPTY, Reason.QUERY_TYPE, "api"),
        ("api.example.com", Kind.ANY, Then.EMPTY, Reason.QUERY_TYPE, "api"),
        ("a.wide.example", Kind.A, Then.FORWARD, Reason.RESOLVED, "wide"),
        ("a.wide.example", Kind.TXT, Then.EMPTY, Reason.QUERY_TYPE, "wide"),
        ("wide.example", Kind.A, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("evil.test", Kind.A, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("evil.test", Kind.HTTPS, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("api.example.com.evil.test", Kind.A, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("api\\046example.com", Kind.A, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("over.example.com", Kind.A, Then.REFUSE, Reason.RULE_EXPIRED, "over"),
        ("dns.quad9.net", Kind.A, Then.REFUSE, Reason.DOH_HOST, None),
        ("corp.example.com", Kind.A, Then.FORWARD, Reason.RESOLVED, "corp"),
        ("_postgresql._tcp.db.example.com", Kind.SRV, Then.FORWARD, Reason.RESOLVED, "db"),
        ("_postgresql._tcp.db.example.com", Kind.A, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("_postgresql._tcp.evil.test", Kind.SRV, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("_0123456789abcdef._tcp.db.example.com", Kind.SRV, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("_x._data.db.example.com", Kind.SRV, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("api.example.com", Kind.PTR, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
        ("", Kind.NS, Then.REFUSE, Reason.NAME_NOT_ALLOWED, None),
    ],
)
def test_a_question_is_decided_by_name_type_and_time(
    name: str, kind: int, then: Then, reason: Reason, rule: str | None
) -> None:
    """Refused ones are DROPPED, the others FORWARDED; a type that is not answered gets no data, not `no such name`."""
    verdict = Verdict.FORWARDED if reason is Reason.RESOLVED else Verdict.DROPPED
    assert decided(name, kind) == (then, verdict, reason, rule)


def test_monitor_forwards_and_says_what_would_be_denied() -> None:
    """Nothing breaks while a policy is being tried."""
    assert decided("evil.test", mode=Mode.MONITOR)[:3] == (Then.FORWARD, Verdict.AUDIT, Reason.NAME_NOT_ALLOWED)
    assert decided("api.example.com", mode=Mode.MONITOR)[:3] == (Then.FORWARD, Verdict.FORWARDED, Reason.RESOLVED)


def test_open_forwards_everything_but_what_hides_a_name() -> None:
    """Keys for Encrypted ClientHello would spoil the record."""
    assert decided("evil.test", mode=Mode.OPEN)[:3] == (Then.FORWARD, Verdict.FORWARDED, Reason.OPEN_MODE)
    assert decided("evil.test", Kind.HTTPS, Mode.OPEN)[:3] == (Then.EMPTY, Verdict.FORWARDED, Reason.OPEN_MODE)


def test_quarantine_and_an_expired_policy_refuse_every_name() -> None:
    """Also the allowed ones."""
    assert decided("api.example.com", mode=Mode.QUARANTINE)[0::2][:2] == (Then.REFUSE, Reason.QUARANTINED)
    late = desk().decide("api.example.com", Kind.A, WALL * 2, NOW)
    assert (late.then, late.reason) == (Then.REFUSE, Reason.POLICY_EXPIRED)


def test_a_gated_name_brings_its_ports_and_one_with_networks_brings_none() -> None:
    """The former is granted, the latter is judged by its networks."""
    one, other = (desk().decide(name, Kind.A, WALL, NOW) for name in ("api.example.com", "corp.example.com"))
    assert one.ports_id > 0
    assert other.ports_id == 0


def test_localhost_never_leaves_the_host() -> None:
    """RFC 6761; its types beyond addresses have no data."""
    told = desk().decide("localhost", Kind.A, WALL, NOW)
    assert (told.then, told.records[0].data) == (Then.TELL, bytes([127, 0, 0, 1]))
    assert desk().decide("a.localhost", Kind.AAAA, WALL, NOW).records[0].data == bytes(15) + b"\x01"
    assert desk().decide("localhost", Kind.TXT, WALL, NOW).then is Then.EMPTY


def test_reverse_names_are_answered_from_the_grants() -> None:
    """An address that was granted has its names, loopback has its own, any other has none."""
    told = desk().decide("7.113.0.203.in-addr.arpa", Kind.PTR, WALL, NOW)
    assert [record.data for record in told.records] == [wire_of("api.example.com")]
    assert desk().decide("1.0.0.127.in-addr.arpa", Kind.PTR, WALL, NOW).records[0].data == wire_of("localhost")
    other = desk().decide("8.113.0.203.in-addr.arpa", Kind.PTR, WALL, NOW)
    assert (other.then, other.verdict) == (Then.REFUSE, Verdict.DROPPED)


def test_a_services_targets_become_resolvable_for_as_long_as_the_answer_lasts() -> None:
    """For what the name allows that was asked, and for addresses only."""
    one = desk()
    service = one.decide("_postgresql._tcp.db.example.com", Kind.SRV, WALL, NOW)
    record = Record("_postgresql._tcp.db.example.com", Kind.SRV, 60, bytes(6) + wire_of("node1.cluster.test"))
    assert one.decide("node1.cluster.test", Kind.A, WALL, NOW).then is Then.REFUSE
    one.learn_targets((record,), service, NOW, LATER)
    target = one.decide("node1.cluster.test", Kind.A, WALL, NOW)
    assert (target.then, target.ports_id, target.rule) == (Then.FORWARD, service.ports_id, "db")
    assert one.decide("node1.cluster.test", Kind.TXT, WALL, NOW).reason is Reason.QUERY_TYPE
    assert one.decide("node1.cluster.test", Kind.A, WALL, LATER).then is Then.REFUSE


@pytest.mark.parametrize(
    ("tunnel", "then", "verdict", "reason"),
    [
        ("off", Then.FORWARD, Verdict.FORWARDED, Reason.RESOLVED),
        ("report", Then.FORWARD, Verdict.AUDIT, Reason.TUNNEL),
        ("block", Then.REFUSE, Verdict.DROPPED, Reason.TUNNEL),
    ],
)
def test_a_tunnel_is_overlooked_reported_or_blocked(tunnel: str, then: Then, verdict: Verdict, reason: Reason) -> None:
    """With what was measured in the verdict."""
    decision = desk(tunnel=tunnel).decide("a" * 50 + ".wide.example", Kind.A, WALL, NOW)
    assert (decision.then, decision.verdict, decision.reason) == (then, verdict, reason)
    assert ("50 characters" in decision.evidence) == (tunnel != "off")


def test_an_exact_name_is_no_tunnel_however_long() -> None:
    """Who wrote the rule wrote the name."""
    policy = read_policy(POLICY.replace("api.example.com", "a" * 50 + ".example.com"), "desk.yaml").policy
    one = Desk(compile_policy(policy), policy.dns, lambda address, now_ns: ())
    assert one.decide("a" * 50 + ".example.com", Kind.A, WALL, NOW).reason is Reason.RESOLVED
