"""`exeat allow`: opens one destination to one workload, for a time."""

import argparse
import sys
import time

from exeat.cli.agent_client import add_common, agent_of, is_json, show_json
from exeat.cli.tables import plain, several
from exeat.cli.times import left, span_argument
from exeat.v1 import agent_pb2 as pb


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "allow",
        help="open a destination to a workload for a time",
        description="Adds a rule to one workload that ends by itself, in the kernel, also when no agent runs; "
        "or takes one back with --end.",
        usage="exeat allow WORKLOAD HOST|IP|CIDR[:PORTS][/PROTO] --for 1h --reason TEXT\n"
        "       exeat allow WORKLOAD --end ID",
    )
    parser.add_argument("workload", metavar="WORKLOAD", help="its name or cgroup, or a part of it")
    parser.add_argument(
        "destination",
        nargs="?",
        metavar="HOST|IP|CIDR[:PORTS][/PROTO]",
        help="as --allow and --allow-cidr of exeat run take it, e.g. api.example.com or 203.0.113.0/24:5432",
    )
    parser.add_argument("--for", dest="for_s", type=span_argument, metavar="1h", help="how long, at most 30d")
    parser.add_argument("--reason", metavar="TEXT", help="shown with the rule and kept in the log")
    parser.add_argument("--end", metavar="ID", help="end this allowance now; exeat workloads WORKLOAD shows its id")
    add_common(parser)
    parser.set_defaults(act=act, usage_error=parser.error)


def act(options: argparse.Namespace) -> int:
    """Opens it, or ends an allowance."""
    if options.end is not None:
        if options.destination or options.for_s or options.reason:
            options.usage_error("--end ends what there is: leave the destination, --for and --reason out")
        return _end(options)
    missing = [
        word
        for word, value in (("HOST", options.destination), ("--for", options.for_s), ("--reason", options.reason))
        if not value
    ]
    if missing:
        options.usage_error(f"an allowance needs {', '.join(missing)}: its end and its reason are shown with it")
    request = pb.AllowRequest(
        workload=options.workload, destination=options.destination, for_s=options.for_s, reason=options.reason
    )
    with agent_of(options) as agent:
        answer = agent.allow(request)
    if is_json(options):
        show_json(answer)
        return 0
    for warning in answer.warnings:
        print(f"exeat: warning: {plain(warning)}", file=sys.stderr)
    rule = answer.rule
    print(f"allowed: {plain(rule.text)}; it ends {left(rule.expires, time.time())}")
    print(f"sooner: exeat allow {plain(options.workload)} --end {plain(rule.allowance)}")
    return 0


def _end(options: argparse.Namespace) -> int:
    with agent_of(options) as agent:
        answer = agent.disallow(pb.DisallowRequest(workload=options.workload, allowance=options.end))
    if is_json(options):
        show_json(answer)
    else:
        print(f"allowance {plain(options.end)} has ended; {several(answer.cut, 'open connection')} with it")
    return 0
