"""`exeat workloads`: who is judged, by what, and what came of it."""

import argparse
import time
from ipaddress import ip_address

from exeat.cli.agent_client import add_common, agent_of, is_json, mode_word, show_json
from exeat.cli.tables import RED, YELLOW, plain, several, size, table
from exeat.cli.times import ago, left
from exeat.v1 import agent_pb2 as pb

_CONTAINER_ID = 12  # as docker shows them
_INDEX = (1 << 32) - 1  # the part of a guest's id
_COLOURS = {pb.MODE_QUARANTINE: RED, pb.MODE_OPEN: YELLOW, pb.MODE_MONITOR: YELLOW}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "workloads",
        help="list who is judged, and by what",
        description="Lists every workload, or shows one with its rules and where each came from.",
    )
    parser.add_argument(
        "workload", nargs="?", default="", metavar="NAME", help="its name, cgroup or interface, or a part of it"
    )
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Lists them."""
    with agent_of(options) as agent:
        found = agent.list_workloads(pb.ListWorkloadsRequest(workload=options.workload))
    if is_json(options):
        show_json(found)
        return 0
    lines = _list(found) if not options.workload else [line for one in found.workloads for line in details(one)]
    for line in lines:
        print(line)
    return 0


def _list(found: pb.ListWorkloadsResponse) -> list[str]:
    if not found.workloads:
        return ["no workload: exeat register, exeat attach, or a policy whose subject matches a cgroup or an interface"]
    heads = ("WORKLOAD", "MODE", "POLICIES", "SOURCE", ">ALLOWED", ">DENIED", ">OUT", ">IN")
    rows = [
        [
            one.name,
            mode_word(one.mode),
            ",".join(one.policies) or "none: all is denied",
            one.source,
            str(one.traffic.forwarded),
            str(one.traffic.dropped + one.traffic.error),
            size(one.traffic.bytes_out),
            size(one.traffic.bytes_in),
        ]
        for one in found.workloads
    ]
    return table(heads, rows, [_COLOURS.get(one.mode) for one in found.workloads])


def details(one: pb.Workload) -> list[str]:
    """Everything that is known of one."""
    now = time.time()
    traffic = one.traffic
    facts = {
        "workload": one.name,
        **_place(one),
        **_who(one, now),
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(one.labels.items())) or "none",
        **_rights(one),
        "source": one.source + (f", ends {left(one.until, now)}" if one.HasField("until") else ""),
        "mode": _mode(one, now),
        "policies": ", ".join(one.policies) or "none: everything is denied",
        "since": ago(one.since, now),
        "verdicts": f"{traffic.forwarded} allowed, {traffic.dropped} denied, {traffic.audit} would be denied, "
        f"{traffic.error} denied by failures of exeat",
        "traffic": f"{size(traffic.bytes_out)} out in {traffic.packets_out} packets, "
        f"{size(traffic.bytes_in)} in, in {traffic.packets_in}",
        **{f"limit {limit.name}": _limit(limit, now) for limit in one.limits},
        "kernel": f"table set {one.policy_id}; its gate listens in {several(one.gates, 'network namespace')}",
    }
    width = max(map(len, facts))
    lines = [f"{name:{width}} {plain(value)}" for name, value in facts.items()]
    rows = [
        [rule.rule, rule.policy or f"allowance {rule.allowance}", _end(rule, now), rule.text, rule.reason]
        for rule in one.rules
    ]
    return [*lines, "", *table(("RULE", "FROM", "ENDS", "ALLOWS", "REASON"), rows)] if rows else [*lines, "", "no rule"]


def _place(one: pb.Workload) -> dict[str, str]:
    """Where it is; of a guest, who it may be."""
    if not one.HasField("guest"):
        return {"cgroup": f"{one.cgroup} (id {one.id})"}
    guest = one.guest
    addresses = [str(ip_address(address)) for address in guest.addresses]
    return {
        "interface": f"{guest.interface} (index {one.id & _INDEX}), judged by {guest.hook}",
        "guest": f"{guest.mac or 'no MAC address yet'}, {', '.join(addresses) or 'no address yet'}",
    }


def _who(one: pb.Workload, now: float) -> dict[str, str]:
    """What its systemd, its runtime and its orchestrator say of it."""
    who = one.who
    facts = {
        "unit": who.unit,
        "container": f"{who.container} ({who.container_id[:_CONTAINER_ID]}) of {who.image}" if who.container else "",
        "pod": f"{who.namespace}/{who.pod} ({who.pod_uid})" if who.pod else "",
        "sandbox": who.sandbox,
        "session": _session(one, now),
        "unknown": one.unknown,
    }
    return {name: text for name, text in facts.items() if text}


def _session(one: pb.Workload, now: float) -> str:
    """For whom it works; where it had a context that does not hold any more, that."""
    who = one.who
    if not one.HasField("session_until"):
        return ""
    if not who.session:
        has_ended = one.session_until.ToNanoseconds() <= now * 1e9
        return (
            f"none, it ended {ago(one.session_until, now)}" if has_ended else "none, its context does not hold any more"
        )
    words = " ".join(f"{key}={text}" for key in ("user", "tool", "run") if (text := getattr(who, key)))
    return f"{who.session} {words}".rstrip() + f", ends {left(one.session_until, now)}"


def _rights(one: pb.Workload) -> dict[str, str]:
    """Only where there are some."""
    held = ", ".join(one.rights)
    return {"rights": f"{held}: it can get around its policy (docs/threat-model.md)"} if held else {}


def _limit(limit: pb.LimitUse, now: float) -> str:
    used, most = (size(limit.used), size(limit.max)) if limit.name == "bytes" else (str(limit.used), str(limit.max))
    ends = f", anew {left(limit.ends, now)}" if limit.HasField("ends") else ""
    return f"{used} of {most}{ends}; then {limit.then}"


def _mode(one: pb.Workload, now: float) -> str:
    until = f", for {left(one.mode_until, now).removeprefix('in ')} more" if one.HasField("mode_until") else ""
    return mode_word(one.mode) + until + (f" ({one.mode_reason})" if one.mode_reason else "")


def _end(rule: pb.RuleOrigin, now: float) -> str:
    return left(rule.expires, now) if rule.HasField("expires") else "-"
