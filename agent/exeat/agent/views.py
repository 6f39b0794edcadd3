"""What the agent shows of itself, as the messages of its API."""

from collections.abc import Collection, Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from exeat.agent.allowances import allowed_rule
from exeat.agent.enforcer import Bound
from exeat.agent.guest_said import GuestSaid
from exeat.agent.host import Host, wall_of
from exeat.agent.interface_ids import is_interface
from exeat.agent.shelf import Held, Shelf
from exeat.agent.wishes import Allowance, Registration, Wish
from exeat.control.convert import who_to_wire
from exeat.core.endings import Ending
from exeat.core.interface_text import parse_end
from exeat.dns.gate import boot_ns
from exeat.errors import ExeatError
from exeat.kernel.guests import Learnt
from exeat.kernel.tables import Tables
from exeat.kernel.telling import address_of
from exeat.model.policy import Mode, PortRange, Protocol, Rule
from exeat.model.verdicts import Verdict
from exeat.v1 import agent_pb2 as pb
from exeat.v1 import plane_pb2

_SECOND = 10**9
_SHOWN_MAX = 4  # hosts or networks of a rule in one line
MODES: Mapping[Mode, pb.Mode.ValueType] = {
    Mode.ENFORCE: pb.MODE_ENFORCE,
    Mode.MONITOR: pb.MODE_MONITOR,
    Mode.OPEN: pb.MODE_OPEN,
    Mode.QUARANTINE: pb.MODE_QUARANTINE,
}


def stamp(wall_ns: int) -> Timestamp:
    """A time on the wall clock."""
    return Timestamp(seconds=wall_ns // _SECOND, nanos=wall_ns % _SECOND)


def time_stamp(when: datetime) -> Timestamp:
    """The same of a datetime."""
    message = Timestamp()
    message.FromDatetime(when)
    return message


def workload_views(workloads: Collection[int], host: Host, tables: Tables) -> list[pb.Workload]:
    """All that is known of each."""
    learnt = host.roll.interfaces.learnt(workloads)
    return [_workload_view(host.enforcer.bound[one], host, tables, learnt.get(one)) for one in workloads]


def _workload_view(bound: Bound, host: Host, tables: Tables, learnt: Learnt | None) -> pb.Workload:
    now_ns = boot_ns()
    wish = host.wishes.of(bound.id, bound.path)
    registration, override = wish.registration, bound.override
    view = pb.Workload(
        name=_text(bound.name),
        cgroup="" if is_interface(bound.id) else _text(bound.path),
        id=bound.id,
        labels=_labels(bound, host),
        policies=_policies(bound, host),
        mode=MODES[bound.mode(now_ns)],
        source=registration.source if registration else "subject",
        since=stamp(wall_of(bound.since_ns)),
        who=who_to_wire(host.assigning.who(bound.id)),
        unknown=_text(host.assigning.why_unknown(bound.id)),
        traffic=_traffic(bound, tables),
        rules=_rules(bound, wish),
        policy_id=bound.table_set.policy_id,
        gates=len(bound.house.networks),
        limits=_limits(bound, tables),
    )
    if registration and registration.until_ns:
        view.until.CopyFrom(stamp(registration.until_ns))
    if wish.session:
        view.session_until.CopyFrom(stamp(wish.session.until_ns))
    if override and not 0 < override.until_ns <= now_ns:
        view.mode_reason = override.reason
        if override.until_ns:
            view.mode_until.CopyFrom(stamp(wall_of(override.until_ns)))
    if learnt:
        view.guest.CopyFrom(_guest(bound, registration, learnt, host.roll.interfaces.hook))
    return view


def _guest(bound: Bound, registration: Registration | None, learnt: Learnt, hook: str) -> pb.GuestState:
    """What was said of it, and what its programs found out."""
    said = (registration.guest if registration else None) or GuestSaid()
    addresses = [parse_end(text) for text in said.addresses]
    addresses += [address for raw in sorted(learnt.addresses) if (address := address_of(raw))]
    return pb.GuestState(
        interface=_text(bound.path),
        mac=said.mac.lower() or (learnt.mac.hex(":") if learnt.mac else ""),
        addresses=[address.packed for address in dict.fromkeys(addresses)],
        hook=hook,
    )


def workload_state(bound: Bound, host: Host) -> plane_pb2.WorkloadState:
    """What the plane is told of one."""
    now_ns = boot_ns()
    registration, override = host.registration(bound.id), bound.override
    state = plane_pb2.WorkloadState(
        name=_text(bound.name),
        cgroup=_text(bound.path),
        labels=_labels(bound, host),
        policies=_policies(bound, host),
        mode=MODES[bound.mode(now_ns)],
        source=registration.source if registration else "subject",
        since=stamp(wall_of(bound.since_ns)),
        who=who_to_wire(host.assigning.who(bound.id)),
    )
    if override and override.until_ns > now_ns:
        state.mode_until.CopyFrom(stamp(wall_of(override.until_ns)))
    return state


def policy_views(shelf: Shelf, users: Mapping[str, int]) -> list[pb.PolicyStatus]:
    """Every policy file, and what the plane gave."""
    return [_policy_view(held, users, shelf) for held in (*shelf.held, *shelf.given.held)]


def _policy_view(held: Held, users: Mapping[str, int], shelf: Shelf) -> pb.PolicyStatus:
    policy = held.policy
    is_overruled = shelf.is_overruled(held)
    view = pb.PolicyStatus(
        name=policy.name if policy else held.file,
        file=f"{shelf.directory}/{held.file}" if held.file else "",
        revision=held.revision,
        workloads=users.get(policy.name, 0) if policy and not is_overruled else 0,
        errors=held.errors,
        warnings=held.warnings,
        source="file" if held.file else "plane",
        overruled=is_overruled,
    )
    if policy:
        view.mode = MODES[policy.mode]
        view.accepted.CopyFrom(stamp(held.accepted_ns))
    return view


def ending_view(ending: Ending) -> pb.Ending:
    """What ends soon."""
    return pb.Ending(policy=ending.policy, rule=ending.rule or "", expires=time_stamp(ending.expires))


def allowance_view(allowance: Allowance) -> pb.RuleOrigin:
    """A rule for a time."""
    return pb.RuleOrigin(
        rule=f"allowed-{allowance.id}",
        expires=stamp(allowance.until_ns),
        text=_allowed_text(allowance),
        reason=f"{allowance.reason} ({allowance.by})" if allowance.by else allowance.reason,
        allowance=allowance.id,
    )


def rule_text(rule: Rule) -> str:
    """What a rule allows, in a line."""
    where = [str(host) for host in rule.hosts] + [str(network) for network in rule.cidrs]
    shown = ", ".join(where[:_SHOWN_MAX]) + (f" and {len(where) - _SHOWN_MAX} more" if len(where) > _SHOWN_MAX else "")
    if rule.hosts and rule.cidrs:
        shown = f"{', '.join(map(str, rule.hosts[:_SHOWN_MAX]))} in {', '.join(map(str, rule.cidrs[:_SHOWN_MAX]))}"
    besides = f" except {', '.join(map(str, rule.excepts[:_SHOWN_MAX]))}" if rule.excepts else ""
    return f"{rule.protocol} {shown}{besides}{_ports_text(rule.protocol, rule.ports)}"


def _ports_text(protocol: Protocol, ports: tuple[PortRange, ...]) -> str:
    return "" if protocol is Protocol.ICMP else f" port {','.join(map(str, ports))}"


def _allowed_text(allowance: Allowance) -> str:
    try:
        return rule_text(allowed_rule(allowance))
    except ExeatError:  # kept by another version, which read it otherwise
        return allowance.destination


def _labels(bound: Bound, host: Host) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in host.assigning.labels_of(bound.id).items()}


def _policies(bound: Bound, host: Host) -> list[str]:
    assigned = host.assigning.assigned(bound.id)
    return [policy.name for policy in assigned.policies] if assigned else []


def _rules(bound: Bound, wish: Wish) -> list[pb.RuleOrigin]:
    united = bound.table_set.united
    by_rule = {f"allowed-{one.id}": one for one in wish.allowances}
    views = []
    for rule, origin in zip(united.policy.rules, united.origins, strict=True):
        allowance = by_rule.get(rule.name) if not origin else None
        if allowance:
            views.append(allowance_view(allowance))
            continue
        view = pb.RuleOrigin(rule=rule.name, policy=origin, text=rule_text(rule))
        if rule.expires:
            view.expires.CopyFrom(time_stamp(rule.expires))
        views.append(view)
    return views


def _traffic(bound: Bound, tables: Tables) -> pb.Traffic:
    traffic, asked = tables.traffic(bound.id), bound.house.counts
    verdicts = {verdict: traffic.verdicts[verdict] + asked.get(verdict, 0) for verdict in Verdict}
    return pb.Traffic(
        packets_out=traffic.packets_out,
        bytes_out=traffic.bytes_out,
        packets_in=traffic.packets_in,
        bytes_in=traffic.bytes_in,
        forwarded=verdicts[Verdict.FORWARDED],
        dropped=verdicts[Verdict.DROPPED],
        audit=verdicts[Verdict.AUDIT],
        error=verdicts[Verdict.ERROR],
    )


def _limits(bound: Bound, tables: Tables) -> list[pb.LimitUse]:
    usage, limits = tables.usage(bound.id), bound.table_set.united.policy.limits
    views = []
    for name in ("bytes", "connections", "destinations"):
        used, limit = getattr(usage, name), getattr(limits, name)
        if limit is None or used.max is None:
            continue
        view = pb.LimitUse(name=name, used=used.count, max=used.max, then=limit.then.value)
        if used.ends_boot_ns:
            view.ends.CopyFrom(stamp(wall_of(used.ends_boot_ns)))
        views.append(view)
    return views


def _text(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
