"""`exeat status`: what the agent holds and how it is."""

import argparse
import time
from collections.abc import Iterable

from exeat.cli.agent_client import add_common, agent_of, is_json, mode_word, show_json
from exeat.cli.tables import RED, YELLOW, coloured, plain, several, size, table
from exeat.cli.times import ago, left, shown_time
from exeat.v1 import agent_pb2 as pb

_DIGEST = 12  # characters of a digest that tell two apart
_NEARLY_FULL = 0.8


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "status",
        help="show what the agent holds and how it is",
        description="Shows the agent, its policies and what is not as it should be. Exits with 1 if anything is not.",
    )
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Shows it."""
    with agent_of(options) as agent:
        status = agent.get_status()
    if is_json(options):
        show_json(status)
    else:
        for line in _lines(status, time.time()):
            print(line)
    return 1 if status.complaints or any(policy.errors for policy in status.policies) else 0


def _lines(status: pb.GetStatusResponse, now: float) -> list[str]:
    up = ago(status.started, now).removesuffix(" ago")
    lines = [
        f"exeat {plain(status.version)}, up {up}, in control {status.in_control_ms} ms after its start",
        f"{several(status.workloads, 'workload')}, {several(status.table_sets, 'table set')}, "
        f"{size(status.resident_bytes)} resident",
        f"programs {plain(status.programs[:_DIGEST])}{_own_programs(status)}",
    ]
    if status.HasField("last_seen"):
        lines.append(
            f"before it an agent was last heard of {ago(status.last_seen, now)}; the kernel enforced in between"
        )
    lines.append(f"{status.lost_events} verdicts lost before they were read, {status.unwritten_verdicts} not written")
    if status.HasField("plane"):
        lines += _plane_lines(status.plane, now)
    lines += [coloured(f"! {plain(complaint)}", RED) for complaint in status.complaints]
    lines += ["", *policy_lines(status.policies)]
    if status.endings:
        rows = [
            [e.policy, e.rule or "(all of it)", left(e.expires, now), shown_time(e.expires)] for e in status.endings
        ]
        lines += ["", *table(("ENDS SOON", "RULE", "IN", "AT"), rows)]
    if status.tables:
        lines += ["", *_tables(status)]
    return lines


def _own_programs(status: pb.GetStatusResponse) -> str:
    if status.programs == status.own_programs:
        return ""
    return f", being replaced by {plain(status.own_programs[:_DIGEST])}"


def _plane_lines(plane: pb.PlaneStatus, now: float) -> list[str]:
    """Who it is, what it sent last, and what it has not been told yet."""
    who = f"plane {plain(plane.endpoint) or '(not tried yet)'}"
    since = ago(plane.since, now).removesuffix(" ago")
    if plane.state == "connected":
        name = f" ({plain(plane.name)}, exeat {plain(plane.version)})" if plane.name else ""
        line = f"{who}{name}: connected for {since} as {plain(plane.node)}"
    else:
        line = f"{who}: {plain(plane.state)} for {since}" + (f": {plain(plane.fault)}" if plane.fault else "")
    manifest = "it has not said yet what shall hold"
    if plane.serial:
        ends = f"ends {left(plane.expires, now)}" if plane.expires.seconds > now else "has expired, and holds on"
        manifest = f"its manifest {plane.serial} {ends}"
    signer = f"signed by key {plain(plane.key)}" if plane.key else "need not be signed"
    waiting = f"{several(plane.unreported, 'line')} of the log wait to be reported" if plane.unreported else ""
    return [line, "  " + "; ".join(filter(None, (manifest, signer, waiting)))]


def _policy_state(policy: pb.PolicyStatus) -> str:
    if policy.errors:
        return "rejected; the text before it is in force" if policy.revision else "rejected"
    return "overruled by the plane" if policy.overruled else "in force"


def policy_lines(policies: Iterable[pb.PolicyStatus]) -> list[str]:
    """One row each, and below them why a file is not in force."""
    rows: list[list[str]] = []
    colours: list[str | None] = []
    below: list[str] = []
    for policy in policies:
        source = policy.file or f"({policy.source})"
        rows.append([policy.name, mode_word(policy.mode), str(policy.workloads), _policy_state(policy), source])
        colours.append(RED if policy.errors else None)
        below += [coloured(f"! {plain(error)}", RED) for error in policy.errors]
        below += [coloured(f"? {plain(warning)}", YELLOW) for warning in policy.warnings]
    return [*table(("POLICY", "MODE", ">WORKLOADS", "STATE", "FILE"), rows, colours), *below] if rows else ["no policy"]


def _tables(status: pb.GetStatusResponse) -> list[str]:
    rows: list[list[str]] = []
    colours: list[str | None] = []
    for use in status.tables:
        share = use.used / use.max if use.max else 0.0
        rows.append([use.name, str(use.used), str(use.max), f"{share:.0%}"])
        colours.append(YELLOW if share >= _NEARLY_FULL else None)
    return table(("TABLE", ">USED", ">MAX", ">FULL"), rows, colours)
