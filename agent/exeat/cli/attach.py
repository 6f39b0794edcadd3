"""`exeat attach`: judges the guest behind an interface: a microVM's tap, the host side of a pod's veth."""

import argparse

from exeat.cli.agent_client import add_common
from exeat.cli.register import add_guest, add_policies, register


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "attach",
        help="judge the guest behind an interface",
        description="Puts the guest behind an Ethernet interface of this host, a tap or the host side of a veth, under "
        "policies: those named, those whose subject matches the interface or the labels, and one of its own. Without "
        "any, all is denied. When it has returned, the kernel judges every packet there. `exeat unregister` ends it.",
    )
    parser.add_argument("interface", metavar="INTERFACE", help="its name, as `ip link` shows it")
    parser.add_argument(
        "--name", default="", metavar="NAME", help="what people call it (default: the interface's name)"
    )
    add_guest(parser)
    add_policies(parser)
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Attaches to it."""
    return register(options, options.name or options.interface)
