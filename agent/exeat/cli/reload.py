"""`exeat reload`: has the agent read the policy files again, now."""

import argparse

from exeat.cli.agent_client import add_common, agent_of, is_json, show_json
from exeat.cli.status import policy_lines
from exeat.cli.tables import several


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "reload",
        help="read the policy files again",
        description="Has the agent read its policy files again without waiting for a change. "
        "Exits with 1 if any of them was rejected; what was in force before it then still is.",
    )
    add_common(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Reloads."""
    with agent_of(options) as agent:
        answer = agent.reload()
    if is_json(options):
        show_json(answer)
    else:
        for line in policy_lines(answer.policies):
            print(line)
        print(f"{several(answer.switched, 'workload')} switched")
    return 1 if any(policy.errors for policy in answer.policies) else 0
