"""What becomes of a question, before anybody is asked: a pure decision by the compiled policy. Time is an argument."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from exeat.core.doh_hosts import known_doh_hosts
from exeat.core.names import host_of_service
from exeat.core.resolvable import Found, Resolvable
from exeat.core.tunnel import TunnelWatch
from exeat.dns.names import address_of_reverse, name_at, wire_of
from exeat.dns.records import Kind, Record
from exeat.model.networks import mapped_bytes
from exeat.model.policy import DnsSettings, Mode, Tunnel
from exeat.model.tables import NEVER, HostSlot, TableSet
from exeat.model.verdicts import Reason, Verdict

LOCAL_TTL_S = 60
TARGETS_MAX = 1024  # of SRV answers, per workload: beyond, the oldest is forgotten
_SRV_TARGET_AT = 6  # behind priority, weight and port; RFC 2782
_FORWARDED_KINDS = (Kind.A, Kind.AAAA, Kind.CNAME, Kind.SRV)
_LOOPBACK: dict[int, bytes] = {Kind.A: bytes([127, 0, 0, 1]), Kind.AAAA: bytes(15) + b"\x01"}


class Then(Enum):
    """What the gate does with a question."""

    REFUSE = "no such name"
    EMPTY = "no data"
    TELL = "an answer of its own"
    FORWARD = "an upstream resolver's answer"


@dataclass(frozen=True, slots=True)
class Decision:
    """Is told as a verdict, whatever becomes of it."""

    then: Then
    verdict: Verdict
    reason: Reason
    rule: str | None = None
    ports_id: int = 0  # what a granted address may be used for; 0: nothing is granted
    rule_id: int = 0
    withholds: bool = True  # private addresses are taken out
    records: tuple[Record, ...] = ()
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class _Target:
    slot: HostSlot
    until_ns: int
    service: str  # whose answer named it


class Desk:
    """Decides for one workload under one policy."""

    def __init__(
        self,
        table_set: TableSet,
        dns: DnsSettings,
        names_at: Callable[[bytes, int], tuple[str, ...]],
        *,
        resolvable: Resolvable | None = None,  # of the same table set, where many desks share it
        mode: Mode | None = None,  # in place of the policy's own
    ) -> None:
        self.policy_name = table_set.policy_name
        self.mode = mode or table_set.mode
        self.resolvable = resolvable or Resolvable(table_set)
        self._table_set = table_set
        self._types = frozenset(dns.types)
        self._names_at = names_at
        self._targets: dict[str, _Target] = {}
        self._tunnel = None if dns.tunnel is Tunnel.OFF else TunnelWatch(dns.tunnel_limits)
        self._blocks_tunnels = dns.tunnel is Tunnel.BLOCK

    def decide(self, name: str, kind: int, wall_ns: int, boot_ns: int) -> Decision:
        """The decision on a well-formed question; `wall_ns` ends rules, `boot_ns` ends grants."""
        if self.mode is Mode.QUARANTINE:
            return self._refuse(Reason.QUARANTINED)
        if wall_ns >= self._table_set.until:
            return self._refuse(Reason.POLICY_EXPIRED)
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 6.3: never leaves the host
            return self._told(tuple(self._local(name, kind)))
        if kind == Kind.PTR:
            return self._reverse(name, boot_ns)
        found = self._find(name, kind, boot_ns)
        rule = self._rule(found)
        if found is None or found.is_doh or wall_ns >= found.slot.until:
            return self._deny(_why(found), rule, kind)
        if kind in (Kind.HTTPS, Kind.SVCB):  # they would carry keys for Encrypted ClientHello, and other addresses
            return Decision(Then.EMPTY, Verdict.FORWARDED, Reason.RESOLVED, rule)
        if kind not in _FORWARDED_KINDS and not (kind in self._types and found.is_exact):
            return self._deny(Reason.QUERY_TYPE, rule, kind, then=Then.EMPTY)
        decision = Decision(
            Then.FORWARD,
            Verdict.FORWARDED,
            Reason.RESOLVED,
            rule,
            found.slot.ports_id,
            found.slot.rule,
            withholds=self.mode is Mode.ENFORCE,
        )
        return decision if found.is_exact else self._watched(decision, name, boot_ns)

    def learn_targets(self, records: tuple[Record, ...], decision: Decision, boot_ns: int, until_ns: int) -> None:
        """An SRV answer names hosts: they become resolvable, for what the name that was asked allows."""
        for record in records:
            if record.kind != Kind.SRV or decision.ports_id == 0:
                continue
            target = name_at(record.data, _SRV_TARGET_AT)
            self._targets.pop(target, None)
            slot = HostSlot(NEVER, 0, decision.rule_id, decision.ports_id)
            self._targets[target] = _Target(slot, until_ns, record.name)
        while len(self._targets) > TARGETS_MAX:
            del self._targets[next(iter(self._targets))]

    def inherit(self, before: "Desk", boot_ns: int) -> None:
        """Takes over the targets that were learnt under the policy before, of services that this one allows too."""
        for target, known in before._targets.items():
            found = self._find(known.service, Kind.SRV, boot_ns)
            if found and not found.is_doh and found.slot.ports_id:
                slot = HostSlot(NEVER, 0, found.slot.rule, found.slot.ports_id)
                self._targets[target] = _Target(slot, known.until_ns, known.service)

    def ports_id_of(self, name: str, boot_ns: int) -> int | None:
        """What an address may be used for once this name leads there; None: the name is denied."""
        found = self._find(name, Kind.A, boot_ns)
        return found.slot.ports_id if found and not found.is_doh else None

    def _find(self, name: str, kind: int, boot_ns: int) -> Found | None:
        found = self.resolvable.find(name)
        if found:
            return found
        host = host_of_service(name) if kind == Kind.SRV else None
        if host:  # a service of a name that is allowed; the labels in front are free text, so they are watched
            found = self.resolvable.find(host)
            return replace(found, is_exact=False) if found else None
        target = self._targets.get(name)
        if target and boot_ns < target.until_ns:  # it was chosen by who answers for the name: no way past a policy
            return Found(target.slot, is_exact=False, is_doh=known_doh_hosts().covers(name))
        return None

    def _reverse(self, name: str, boot_ns: int) -> Decision:
        """What an address is called: answered from the grants, because a reverse name can carry data out as well."""
        address = address_of_reverse(name)
        names = self._names_at(address, boot_ns) if address else ()
        if address in (mapped_bytes(_LOOPBACK[Kind.A]), _LOOPBACK[Kind.AAAA]):
            names = ("localhost",)
        if not names:
            return self._deny(Reason.NAME_NOT_ALLOWED, None, Kind.PTR)
        return self._told(tuple(Record(name, Kind.PTR, LOCAL_TTL_S, wire_of(one)) for one in names[:8]))

    def _local(self, name: str, kind: int) -> list[Record]:
        data = _LOOPBACK.get(kind)
        return [Record(name, kind, LOCAL_TTL_S, data)] if data else []

    def _told(self, records: tuple[Record, ...]) -> Decision:
        return Decision(Then.TELL if records else Then.EMPTY, Verdict.FORWARDED, Reason.RESOLVED, records=records)

    def _watched(self, decision: Decision, name: str, boot_ns: int) -> Decision:
        evidence = self._tunnel.look(name, boot_ns) if self._tunnel else None
        if evidence is None:
            return decision
        if self._blocks_tunnels and self.mode is Mode.ENFORCE:
            then, verdict = Then.REFUSE, Verdict.DROPPED
        else:
            then, verdict = Then.FORWARD, Verdict.AUDIT
        return replace(decision, then=then, verdict=verdict, reason=Reason.TUNNEL, evidence=str(evidence))

    def _rule(self, found: Found | None) -> str | None:
        if found is None or not 0 < found.slot.rule <= len(self._table_set.rule_names):
            return None
        return self._table_set.rule_names[found.slot.rule - 1]

    def _refuse(self, reason: Reason) -> Decision:
        return Decision(Then.REFUSE, Verdict.DROPPED, reason)

    def _deny(self, reason: Reason, rule: str | None, kind: int, *, then: Then = Then.REFUSE) -> Decision:
        """Denied in `enforce`; in the other modes it is asked all the same, save for what would hide a name."""
        if self.mode is Mode.ENFORCE:
            return Decision(then, Verdict.DROPPED, reason, rule)
        verdict, told = (Verdict.FORWARDED, Reason.OPEN_MODE) if self.mode is Mode.OPEN else (Verdict.AUDIT, reason)
        is_hiding = kind in (Kind.HTTPS, Kind.SVCB)
        return Decision(Then.EMPTY if is_hiding else Then.FORWARD, verdict, told, rule, withholds=False)


def _why(found: Found | None) -> Reason:
    if found is None:
        return Reason.NAME_NOT_ALLOWED
    return Reason.DOH_HOST if found.is_doh else Reason.RULE_EXPIRED
