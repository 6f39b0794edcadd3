"""`exeat session`: for whom a workload works, by the signed word of its orchestrator."""

import argparse
import time
from pathlib import Path

from exeat.cli.agent_client import add_common, agent_of, is_json, show_json
from exeat.cli.tables import plain, several
from exeat.cli.times import left
from exeat.cli.token_file import token_in
from exeat.v1 import agent_pb2 as pb

_WORKLOAD = "its name, container id, cgroup or interface"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    session = commands.add_parser(
        "session",
        help="say for whom a workload works, signed",
        description="Gives a workload a session context that its orchestrator has signed, or ends it.",
    )
    actions = session.add_subparsers(dest="action", required=True, metavar="ACTION")
    parser = actions.add_parser(
        "set",
        help="give it a session context",
        description="Gives a workload a session context, in place of the one before. When it ends and no other has "
        "come, the workload is denied what only the context opened.",
    )
    parser.add_argument("workload", metavar="WORKLOAD", help=_WORKLOAD)
    parser.add_argument(
        "--token-file", type=Path, required=True, metavar="FILE", help="the signed token (docs/sessions.md); -: stdin"
    )
    add_common(parser)
    parser.set_defaults(act=act_set)
    parser = actions.add_parser(
        "end", help="end it", description="Ends a workload's session context. What was managed by it alone is let go."
    )
    parser.add_argument("workload", metavar="WORKLOAD", help=_WORKLOAD)
    add_common(parser)
    parser.set_defaults(act=act_end)


def act_set(options: argparse.Namespace) -> int:
    """Sets it."""
    request = pb.SetSessionRequest(workload=options.workload, token=token_in(options.token_file))
    with agent_of(options) as agent:
        answer = agent.set_session(request)
    if is_json(options):
        show_json(answer)
        return 0
    one = answer.workload
    ends = left(one.session_until, time.time())
    cut = several(answer.cut, "open connection")
    print(f"{plain(one.name)}: session {plain(one.who.session)}, ends {ends}; {cut} ended")
    return 0


def act_end(options: argparse.Namespace) -> int:
    """Ends it."""
    with agent_of(options) as agent:
        answer = agent.set_session(pb.SetSessionRequest(workload=options.workload))
    if is_json(options):
        show_json(answer)
    else:
        name, cut = plain(answer.workload.name), several(answer.cut, "open connection")
        print(f"{name} has no session context any more; {cut} ended")
    return 0
