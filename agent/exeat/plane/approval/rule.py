"""From denials to the narrowest rule that allows what was denied; or a sentence why no rule can. Pure.

One host or one address, one port, one protocol. A name becomes a `tls` rule on the port of its ClientHello; where it
was only asked for, and nothing yet sent, port 443 is assumed, and said. An address becomes a network of itself alone.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import TypeVar

from exeat.core.port_text import NAMING_PORTS
from exeat.core.stories import STORIES
from exeat.errors import Refused, StatusWord
from exeat.model.names import HostPattern
from exeat.model.networks import SPECIAL_NETWORKS, Address
from exeat.model.policy import Policy, PortRange, Protocol, Rule
from exeat.model.verdicts import Reason
from exeat.plane.approval.aim import Aim, host_pattern, invalid

_T = TypeVar("_T")
_TLS_PORT = 443
_PROTOCOLS: dict[int, Protocol] = {1: Protocol.ICMP, 6: Protocol.TCP, 17: Protocol.UDP, 58: Protocol.ICMP}
_QUERY = "query"  # the hook; its port and protocol are those of the question, not of what was to come
_NAME_MAX = 100  # of the host in a rule's name, which has room for 128 characters
_R = Reason
_BY_RULE = frozenset(
    (
        *(_R.ADDRESS_NOT_ALLOWED, _R.PORT_NOT_ALLOWED, _R.NOT_RESOLVED, _R.NAME_NOT_ALLOWED, _R.LOOPBACK_NOT_OWN),
        *(_R.RULE_EXPIRED, _R.UNDECLARED, _R.DOH_HOST, _R.REVOKED, _R.ICMP_NOT_ALLOWED),
    )
)
# Where the reason's own story says what it is, but not what to do.
_INSTEAD = {
    _R.QUARANTINED: "find out why, then lift it: `exeat plane quarantine NODE/WORKLOAD --lift`",
    _R.POLICY_EXPIRED: "give the policy a later `expires`",
    _R.ECH: "write `ech: allow` into the rule for this host if the client cannot do without",
    _R.LIMIT_BYTES: "wait for the window's end, or raise the policy's limit",
    _R.LIMIT_CONNECTIONS: "wait for the window's end, or raise the policy's limit",
    _R.LIMIT_DESTINATIONS: "wait for the window's end, or raise the policy's limit",
    _R.ADDRESS_WITHHELD: "if it is meant to be there, approve the address, or write a rule with its network",
    _R.QUERY_TYPE: "name the type under `dns.types` of the policy",
    _R.NAME_ELSEWHERE: "have the program resolve the name before it connects",
    _R.NAME_NOT_RESOLVED: "have the program resolve the name before it connects",
}


@dataclass(frozen=True, slots=True)
class Denied:
    """Denials that are alike."""

    policy: str  # one, or several that hold together: `a+b`
    workload: str
    node: str
    hook: str
    port: int
    protocol: int  # IPPROTO_*
    reason: Reason
    count: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """The rule without name and end, and what its approver should know."""

    hosts: tuple[HostPattern, ...]
    address: Address | None
    port: int | None
    protocol: Protocol
    remarks: tuple[str, ...]


def wanted(aim: Aim, denials: Iterable[Denied], wildcard: str | None = None) -> Wanted:
    """What would allow it. `wildcard`: in place of the host, where somebody asks for it. Raises Refused."""
    found = list(denials)
    if not found:
        raise Refused(
            StatusWord.NOT_FOUND,
            f"nothing to {aim} was denied in this time: `exeat plane denials` lists what was; for what has not "
            "happened yet, write a rule into the policy",
        )
    fitting = [one for one in found if one.reason in _BY_RULE]
    if not fitting:
        raise Refused(StatusWord.PRECONDITION, why_no_rule(max(found, key=lambda one: one.count).reason))
    rest = sorted({one.reason for one in found if one.reason not in _BY_RULE})
    remarks = [f"{reason.word} will stay: {_instead(reason)}" for reason in rest]
    address = aim.address
    if address is None:
        return _named(aim, fitting, wildcard, remarks)
    if wildcard:
        raise invalid(f"a wildcard stands for names, and {aim.target} is an address: leave it out")
    return _addressed(aim, address, fitting, remarks)


def why_no_rule(reason: Reason) -> str:
    """What to do where approving does nothing."""
    return f"no rule can allow this ({reason.word}): {_instead(reason)}"


def can_rule(reason: Reason) -> bool:
    """Whether a rule may open what was denied for this reason."""
    return reason in _BY_RULE


def rule_of(want: Wanted, policy: Policy, expires: datetime) -> Rule:
    """With a name that the policy does not have yet, and an end that is not after the policy's own."""
    ports = () if want.port is None else (PortRange(want.port, want.port),)
    return Rule(
        name=_free_name(want, {rule.name for rule in policy.rules}),
        protocol=want.protocol,
        hosts=want.hosts,
        cidrs=() if want.address is None else (ip_network(want.address),),
        ports=ports,
        expires=min(expires, policy.expires) if policy.expires else expires,
    )


def _named(aim: Aim, fitting: list[Denied], wildcard: str | None, remarks: list[str]) -> Wanted:
    host = host_pattern(aim.target)
    if wildcard:
        wide = host_pattern(wildcard)
        if not wide.matches(host.name):
            raise invalid(f"{wide} does not cover {host}: write a wildcard that does, or leave it out")
        host = wide
    protocol = aim.protocol or Protocol.TLS
    if protocol is Protocol.ICMP:
        raise invalid("icmp carries no names: approve the address")
    ports = sorted({one.port for one in fitting if one.hook != _QUERY and one.port})
    port = aim.port or _only(ports, "port", aim)
    if port is None:
        if protocol is not Protocol.TLS:
            raise invalid(f"{aim.target} was only asked for: say the port, as in `{aim.target}:5432/{protocol}`")
        port = _TLS_PORT
        sentence = f"{aim.target} was only asked for: TLS on port {_TLS_PORT} is assumed; say another port if not"
        remarks = [*remarks, sentence]
    if protocol is not Protocol.TLS:
        remarks = [*remarks, f"{protocol} shows no name: whatever shares an address with {host} is open too"]
    if any(one.reason is Reason.DOH_HOST for one in fitting):
        remarks = [*remarks, STORIES[Reason.DOH_HOST]]
    _refuse_naming(port)
    return Wanted((host,), None, port, protocol, tuple(remarks))


def _addressed(aim: Aim, address: Address, fitting: list[Denied], remarks: list[str]) -> Wanted:
    if aim.protocol is Protocol.TLS:
        raise invalid(f"tls needs a name, and {address} is an address: approve the name, or write tcp if any will do")
    seen = sorted({_PROTOCOLS[one.protocol] for one in fitting if one.protocol in _PROTOCOLS})
    candidates: list[Protocol] = [aim.protocol] if aim.protocol else seen
    protocol = _only(candidates, "protocol", aim)
    if protocol is None:
        raise Refused(StatusWord.PRECONDITION, why_no_rule(Reason.PROTOCOL_NOT_JUDGED))
    if protocol is Protocol.ICMP:
        return Wanted((), address, None, protocol, tuple(remarks))
    alike = [one for one in fitting if _PROTOCOLS.get(one.protocol) is protocol]
    port = aim.port or _only(sorted({one.port for one in alike if one.port}), "port", aim)
    if port is None:
        raise invalid(f"say the port of {address}, as in `{Aim(aim.target, _TLS_PORT)}`")
    _refuse_naming(port)
    special = [(network.prefixlen, kind) for kind, network in SPECIAL_NETWORKS if address in network]
    if special:
        remarks = [*remarks, f"{address} is {max(special)[1]}: make sure that the workload is meant to reach it"]
    if protocol is Protocol.TCP:
        remarks = [*remarks, f"an address carries no name: whatever {address} serves on port {port} is open"]
    return Wanted((), address, port, protocol, tuple(remarks))


def _only(found: list[_T], what: str, aim: Aim) -> _T | None:
    if len(found) > 1:
        raise invalid(f"{aim} was denied with several {what}s ({', '.join(map(str, found))}): say which one")
    return found[0] if found else None


def _refuse_naming(port: int) -> None:
    if port in NAMING_PORTS:
        raise Refused(
            StatusWord.PRECONDITION,
            f"port {port} carries names around exeat's own resolver, and no rule opens it: have the program resolve in "
            "the ordinary way, on port 53",
        )


def _instead(reason: Reason) -> str:
    more = _INSTEAD.get(reason)
    return STORIES[reason] + (f"; {more}" if more else "")


def _free_name(want: Wanted, taken: set[str]) -> str:
    host = str(want.hosts[0]) if want.hosts else str(want.address)
    words = re.sub(r"[^a-z0-9]+", "-", host.replace("*", "any"))[:_NAME_MAX].strip("-")
    tail = [str(want.port)] if want.port else []
    plain = "-".join(("approved", words, *tail, *([] if want.protocol is Protocol.TLS else [want.protocol.value])))
    numbers = (f"{plain}-{number}" for number in range(2, len(taken) + 3))
    return plain if plain not in taken else next(name for name in numbers if name not in taken)
