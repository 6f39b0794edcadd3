"""Which rule decides about a destination: asked of the judge in the kernel, by the tables that judge the workload."""

import time
from dataclasses import dataclass
from socket import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

from exeat.agent.enforcer import Bound
from exeat.agent.host import parse_destination
from exeat.core.stories import STORIES
from exeat.dns.gate import boot_ns
from exeat.dns.records import Kind
from exeat.errors import PolicyError
from exeat.kernel.abi import Outcome
from exeat.kernel.tables import Tables
from exeat.kernel.telling import address_of
from exeat.model.names import PatternKind
from exeat.model.networks import mapped
from exeat.model.policy import Mode, Protocol, Rule
from exeat.model.verdicts import Reason, Verdict
from exeat.v1 import agent_pb2 as pb
from exeat.v1 import verdict_pb2

_NUMBERS = {
    Protocol.TLS: int(IPPROTO_TCP),
    Protocol.TCP: int(IPPROTO_TCP),
    Protocol.UDP: int(IPPROTO_UDP),
    Protocol.ICMP: int(IPPROTO_ICMP),
}
_ADDRESSES_MAX = 64


@dataclass(frozen=True, slots=True)
class _Found:
    """What the judge says of one address."""

    address: bytes | None
    reason: Reason
    is_allowed: bool
    rule: int
    text: str


def explain(bound: Bound, destination: str, tables: Tables) -> pb.ExplainResponse:
    """The answer to HOST|ADDRESS[:PORT][/PROTO]. Raises PolicyError where that means nothing."""
    rule = _question(destination)
    mode = bound.mode(boot_ns())
    found = _about_host(bound, rule, tables) if rule.hosts else [_about_address(bound, rule, tables)]
    return pb.ExplainResponse(
        explanations=[_explanation(one, bound, mode) for one in found],
        mode=pb.Mode.ValueType({Mode.ENFORCE: 1, Mode.MONITOR: 2, Mode.OPEN: 3, Mode.QUARANTINE: 4}[mode]),
    )


def _question(destination: str) -> Rule:
    rule = parse_destination(destination)
    if any(host.kind is not PatternKind.EXACT for host in rule.hosts):
        raise PolicyError([f"{destination}: ask about one host, not about a pattern"])
    if any(network.num_addresses != 1 for network in rule.cidrs):
        raise PolicyError([f"{destination}: ask about one address, not about a network"])
    if rule.cidrs and rule.protocol is not Protocol.ICMP and rule.ports[0].first != rule.ports[0].last:
        raise PolicyError([f"{destination}: say which port, as in {destination}:443"])
    return rule


def _about_host(bound: Bound, rule: Rule, tables: Tables) -> list[_Found]:
    name = rule.hosts[0].name
    desk = bound.house.desk
    decision = desk.decide(name, Kind.A, time.time_ns(), boot_ns())
    if decision.verdict is Verdict.DROPPED:
        return [_Found(None, decision.reason, False, decision.rule_id, f"the gate does not resolve {name}")]
    places = sorted(bound.table_set.ledger.addresses_of(name, boot_ns()))[:_ADDRESSES_MAX]
    if not places:
        why = f"the gate resolves {name}, but the workload has not asked for it yet (or too long ago)"
        return [_Found(None, Reason.NAME_NOT_RESOLVED, False, decision.rule_id, why)]
    return [_judged(bound, rule, place, name, tables) for place in places]


def _about_address(bound: Bound, rule: Rule, tables: Tables) -> _Found:
    return _judged(bound, rule, mapped(rule.cidrs[0].network_address), "", tables)


def _judged(bound: Bound, rule: Rule, place: bytes, name: str, tables: Tables) -> _Found:
    port = rule.ports[0].first if rule.ports else 0
    protocol = _NUMBERS[rule.protocol]
    asked = name if rule.protocol is Protocol.TLS else ""
    answer = tables.ask(bound.table_set.policy_id, protocol, place, port, name=asked)
    reason = answer.reason or Reason.NAME_ALLOWED
    if answer.outcome is Outcome.ASK_NAME:
        return _Found(
            place, reason, True, answer.rule, "a connection is allowed; its ClientHello must then name a host"
        )
    return _Found(place, reason, answer.outcome is Outcome.ALLOW, answer.rule, "")


def _explanation(found: _Found, bound: Bound, mode: Mode) -> pb.Explanation:
    verdict, reason = (Verdict.FORWARDED if found.is_allowed else Verdict.DROPPED), found.reason
    if mode is Mode.QUARANTINE:
        verdict, reason = Verdict.DROPPED, Reason.QUARANTINED
    elif not found.is_allowed and mode is Mode.MONITOR:
        verdict = Verdict.AUDIT
    elif not found.is_allowed and mode is Mode.OPEN:
        verdict, reason = Verdict.FORWARDED, Reason.OPEN_MODE
    united = bound.table_set.united
    is_rule = 0 < found.rule <= len(united.origins)
    text = STORIES[found.reason] + (f"; {found.text}" if found.text else "")
    view = pb.Explanation(
        verdict=verdict_pb2.Verdict.ValueType(verdict),
        reason=verdict_pb2.Reason.ValueType(reason),
        rule=united.policy.rules[found.rule - 1].name if is_rule else "",
        policy=united.origins[found.rule - 1] if is_rule else united.policy.name,
        text=text,
    )
    address = address_of(found.address) if found.address else None
    if address is not None:
        view.address = address.packed
    return view
