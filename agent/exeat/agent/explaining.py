"""Which rule decides about a destination: asked of the judge in the kernel, by the tables that judge the workload."""

import re
from dataclasses import dataclass, replace
from socket import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

from exeat.agent.allowances import parse_destination
from exeat.agent.enforcer import Bound
from exeat.agent.interface_ids import is_interface
from exeat.agent.views import MODES
from exeat.core.port_text import EVERY_PORT, why_closed
from exeat.core.stories import STORIES
from exeat.dns.gate import boot_ns
from exeat.dns.records import Kind
from exeat.errors import PolicyError
from exeat.kernel.abi import Outcome
from exeat.kernel.tables import Tables
from exeat.kernel.telling import address_of
from exeat.model.names import PatternKind
from exeat.model.networks import mapped
from exeat.model.policy import Mode, PortRange, Protocol, Rule
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
_WITH_PORT = re.compile(r"(?P<host>.+):(?P<port>[0-9]{1,5})(?P<protocol>(/[a-z]+)?)")
_OWN_LOOPBACK = "what the workload itself listens on there is open to it all the same"


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
        mode=MODES[mode],
    )


def _question(destination: str) -> Rule:
    rule = _read(destination)
    if any(host.kind is not PatternKind.EXACT for host in rule.hosts):
        raise PolicyError([f"{destination}: ask about one host, not about a pattern"])
    if any(network.num_addresses != 1 for network in rule.cidrs):
        raise PolicyError([f"{destination}: ask about one address, not about a network"])
    if rule.ports == (EVERY_PORT,):  # none was given
        return replace(rule, ports=(PortRange(443, 443),))
    if rule.cidrs and rule.protocol is not Protocol.ICMP and rule.ports[0].first != rule.ports[0].last:
        raise PolicyError([f"{destination}: say which port, as in {destination}:443"])
    return rule


def _read(destination: str) -> Rule:
    """As a rule, though of a port that no rule may open: one may ask about it all the same."""
    match = _WITH_PORT.fullmatch(destination) if "[" in destination or destination.count(":") == 1 else None
    number = int(match["port"]) if match else 0
    asked = PortRange(number, number)
    if match is None or not why_closed(asked):
        return parse_destination(destination)
    return replace(parse_destination(f"{match['host']}:443{match['protocol']}"), ports=(asked,))


def _about_host(bound: Bound, rule: Rule, tables: Tables) -> list[_Found]:
    name = rule.hosts[0].name
    decision, places = bound.house.foretell(name, Kind.A)
    if decision.verdict in (Verdict.DROPPED, Verdict.AUDIT):
        return [_Found(None, decision.reason, False, decision.rule_id, f"the gate does not resolve {name}")]
    if not places:
        why = f"the gate resolves {name}, but the workload has not asked for it yet (or too long ago)"
        return [_Found(None, Reason.NAME_NOT_RESOLVED, False, decision.rule_id, why)]
    return [_judged(bound, rule, place, name, tables) for place in sorted(places)[:_ADDRESSES_MAX]]


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
    where = address_of(place)
    if answer.outcome is Outcome.DENY and where is not None and where.is_loopback and not is_interface(bound.id):
        return _Found(place, Reason.LOOPBACK_NOT_OWN, False, 0, _OWN_LOOPBACK)
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
