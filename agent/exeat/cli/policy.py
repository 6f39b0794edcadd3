"""`exeat policy`: tools for those who write policies. Nothing here changes what any workload may reach."""

import argparse

from exeat.cli import policy_cases, policy_check, policy_diff, policy_propose, policy_replay, policy_show


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command and its own commands to the parser."""
    parser = commands.add_parser(
        "policy",
        help="check, show, compare, test, propose and replay policies",
        description="Tools for policies, before any workload is under them. Exit codes: docs/exit-codes.md.",
    )
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    for module in (policy_check, policy_show, policy_diff, policy_cases, policy_propose, policy_replay):
        module.add(tools)
