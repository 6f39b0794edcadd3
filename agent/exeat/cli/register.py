"""`exeat register`: puts a cgroup, or the guest behind an interface, that exists already under a policy."""

import argparse
import sys
from pathlib import Path

from exeat.cli.agent_client import add_common, agent_of, is_json, show_json
from exeat.cli.tables import plain
from exeat.cli.times import span_argument
from exeat.cli.token_file import token_in
from exeat.cli.workloads import details
from exeat.errors import PolicyError
from exeat.v1 import agent_pb2 as pb

_TEXT_MAX = 16 << 20
_PID_MAX = 1 << 22


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "register",
        help="put a cgroup or an interface under a policy",
        description="Puts a cgroup and all below it, or the guest behind an interface, under policies: those named, "
        "those whose subject matches the labels, and one of its own. When it has returned, the kernel judges.",
    )
    parser.add_argument("name", metavar="NAME", help="what people call it; unique")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--cgroup", metavar="PATH", help="below the cgroup2 mount, e.g. /agents.slice/coder-1.scope")
    target.add_argument("--pid", type=_pid, metavar="N", help="the cgroup of this process")
    target.add_argument("--interface", metavar="NAME", help="a guest's: a tap, or the host side of a veth")
    add_guest(parser)
    add_policies(parser)
    add_common(parser)
    parser.set_defaults(act=act)


def add_policies(parser: argparse.ArgumentParser) -> None:
    """What the workload comes under."""
    parser.add_argument(
        "--label",
        type=_label,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="policies select by it; repeatable",
    )
    parser.add_argument(
        "--policy", action="append", default=[], metavar="NAME", help="one of the agent's, by name; repeatable"
    )
    parser.add_argument("--policy-file", type=Path, metavar="FILE", help="a policy for this workload alone, as YAML")
    parser.add_argument(
        "--ttl",
        type=span_argument,
        default=0,
        metavar="1h",
        help="then the registration ends (default: with the cgroup or interface)",
    )
    parser.add_argument(
        "--session-file", type=Path, metavar="FILE", help="a signed session context (docs/sessions.md); -: stdin"
    )


def add_guest(parser: argparse.ArgumentParser) -> None:
    """What is known of the guest behind an interface."""
    guest = parser.add_argument_group(
        "the guest", "What is not said is learnt: from this host's addresses, and from the guest's first frames."
    )
    guest.add_argument("--mac", default="", metavar="MAC", help="the only one that it may send from")
    guest.add_argument(
        "--address", action="append", default=[], metavar="A", help="the only ones that it may send from; repeatable"
    )
    guest.add_argument(
        "--gateway",
        action="append",
        default=[],
        metavar="A",
        help="whom it may look for, beside this host's own addresses there; repeatable",
    )
    guest.add_argument(
        "--gateway-mac", default="", metavar="MAC", help="a router's to whom it may send, beside this host's own"
    )
    guest.add_argument("--no-dhcp", action="store_true", help="it may not ask for an address by DHCP")


def act(options: argparse.Namespace) -> int:
    """Registers it."""
    return register(options, options.name)


def register(options: argparse.Namespace, name: str) -> int:
    """Asks the agent for it, and shows what came of it."""
    request = pb.RegisterRequest(
        name=name,
        labels=dict(options.label),
        ttl_s=options.ttl,
        policies=options.policy,
        policy_text=_policy_text(options.policy_file) if options.policy_file else "",
        session=token_in(options.session_file) if options.session_file else "",
    )
    for target in ("cgroup", "pid", "interface"):
        if value := getattr(options, target, None):
            setattr(request, target, value)
    guest = pb.Guest(
        mac=options.mac,
        addresses=options.address,
        gateways=options.gateway,
        gateway_mac=options.gateway_mac,
        no_dhcp=options.no_dhcp,
    )
    if guest.ByteSize():
        request.guest.CopyFrom(guest)
    with agent_of(options) as agent:
        answer = agent.register(request)
    if is_json(options):
        show_json(answer)
        return 0
    for warning in answer.warnings:
        print(f"exeat: warning: {plain(warning)}", file=sys.stderr)
    for line in details(answer.workload):
        print(line)
    return 0


def _policy_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError([f"{path}: cannot be read: {error}"]) from error
    if len(text.encode()) > _TEXT_MAX:
        raise PolicyError([f"{path}: has more than 16 MiB, which is the most that a policy may have"])
    return text


def _pid(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and 0 < int(text) <= _PID_MAX):
        raise argparse.ArgumentTypeError(f"`{text}` is no process id: write a number, as ps shows it")
    return int(text)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"`{text}` is no label: write one like agent=coder")
    return key, value
