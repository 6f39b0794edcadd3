"""`exeat policy show`: a policy as people read it, or as JSON that is a policy again."""

import argparse
import json
from datetime import UTC, datetime

from exeat.cli.policy_files import add_output, policy_of
from exeat.cli.tables import plain, table
from exeat.core.policy_text import policy_document, policy_head, policy_rows

_HEADS = ("RULE", "PROTOCOL", "DESTINATION", "PORTS", "UNTIL")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "show",
        help="show a policy",
        description="Shows a policy. As JSON it holds all of the policy, and every command reads it as a policy file.",
    )
    parser.add_argument("file", metavar="FILE", help="a policy; - for standard input")
    add_output(parser)
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Shows it."""
    policy = policy_of(options.file)
    if options.output == "json":
        print(json.dumps(policy_document(policy), indent=2, ensure_ascii=False))
    else:
        now = datetime.now(UTC)
        head = policy_head(policy, now)
        width = max(len(name) for name, _ in head)
        print("".join(f"{name:{width}}  {plain(value)}\n" for name, value in head))
        rows = policy_rows(policy, now)
        print("\n".join(table(_HEADS, rows)) if rows else "no rules: everything is denied")
    return 0
