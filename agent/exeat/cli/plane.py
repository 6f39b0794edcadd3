"""`exeat plane`: the control plane, and what operators ask of it."""

import argparse

from exeat.cli import (
    plane_allow,
    plane_approve,
    plane_denials,
    plane_mode,
    plane_nodes,
    plane_policies,
    plane_quarantine,
    plane_report,
    plane_rollouts,
    plane_serve,
    plane_tokens,
    plane_verdicts,
    plane_workloads,
)

_TOOLS = (
    plane_serve,
    plane_nodes,
    plane_workloads,
    plane_policies,
    plane_rollouts,
    plane_verdicts,
    plane_denials,
    plane_approve,
    plane_mode,
    plane_quarantine,
    plane_allow,
    plane_report,
    plane_tokens,
)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command and its own commands to the parser."""
    parser = commands.add_parser(
        "plane",
        help="the control plane: run it, and ask it about nodes, policies, verdicts and denials",
        description="The control plane of a fleet of agents. Exit codes: docs/exit-codes.md.",
    )
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    for module in _TOOLS:
        module.add(tools)
