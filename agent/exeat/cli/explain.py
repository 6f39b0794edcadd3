"""`exeat explain`: which rule decides about a destination, or what is missing."""

import argparse
from ipaddress import ip_address

from exeat.cli.agent_client import add_common, agent_of, is_json, mode_word, show_json
from exeat.cli.tables import RED, YELLOW, coloured, plain
from exeat.v1 import agent_pb2 as pb
from exeat.v1 import verdict_pb2

_WORDS = {
    verdict_pb2.VERDICT_FORWARDED: ("allowed", None),
    verdict_pb2.VERDICT_DROPPED: ("denied", RED),
    verdict_pb2.VERDICT_AUDIT: ("would be denied", YELLOW),
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "explain",
        help="say which rule decides about a destination",
        description="Asks the tables in the kernel what would become of a connection, and sends nothing. "
        "Exits with 1 if it is, or would be, denied at any of the host's addresses.",
    )
    parser.add_argument("workload", metavar="WORKLOAD", help="its name or cgroup, or a part of it")
    parser.add_argument(
        "destination", metavar="HOST|IP[:PORT][/PROTO]", help="port 443 and tls where they are not given"
    )
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Explains it."""
    with agent_of(options) as agent:
        answer = agent.explain(pb.ExplainRequest(workload=options.workload, destination=options.destination))
    if is_json(options):
        show_json(answer)
    else:
        for one in answer.explanations:
            print(_line(one))
        print(f"the workload's mode is {mode_word(answer.mode)}")
    return 0 if all(one.verdict == verdict_pb2.VERDICT_FORWARDED for one in answer.explanations) else 1


def _line(one: pb.Explanation) -> str:
    word, colour = _WORDS.get(one.verdict, ("denied (exeat failed)", RED))
    where = f" at {ip_address(one.address)}" if one.address else ""
    policy = f"policy {one.policy}" if one.policy else ""
    rule = f"rule {one.rule}" if one.rule else ""
    by = "; ".join(filter(None, (reason_word(one.reason), policy, rule)))
    return f"{coloured(word, colour)}{where}: {plain(one.text)} [{plain(by)}]"


def reason_word(reason: int) -> str:
    """name_not_allowed ...; a newer agent's by its number."""
    found = verdict_pb2.Reason.DESCRIPTOR.values_by_number.get(reason)
    return found.name.removeprefix("REASON_").lower() if found and reason else f"reason {reason}"
