"""`exeat completion`: what a shell needs to complete exeat's commands, made from the same parsers as `--help`."""

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

from exeat.control.client import DEFAULT_SOCKET, SOCKET_VARIABLE, connect
from exeat.v1 import agent_pb2 as pb

_SHELLS = ("bash", "zsh", "fish")
# A workload chooses some of these names. What a shell would read as more than a word is not offered.
_PLAIN_NAME = re.compile(r"[\w./@][\w./:@%+=-]*", re.ASCII)
_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "fish": "(__fish_complete_path)"}
_COMMANDS = {"bash": "_exeat_commands", "zsh": "_command_names -e", "fish": "(__fish_complete_command)"}
_INTERFACES = {"bash": "_exeat_interfaces", "zsh": "_exeat_interfaces", "fish": "(command ls /sys/class/net)"}
_WORKLOADS = {
    "bash": "_exeat_workloads",
    "zsh": "_exeat_workloads",
    "fish": "(exeat completion --names workloads 2>/dev/null)",
}
_POLICIES = {
    "bash": "_exeat_policies",
    "zsh": "_exeat_policies",
    "fish": "(exeat completion --names policies 2>/dev/null)",
}
_PREAMBLE = {
    "bash": """\
_exeat_matching() { local word; while IFS= read -r word; do [[ $word == "$1"* ]] && printf '%s\\n' "$word"; done; }
_exeat_workloads() { exeat completion --names workloads 2>/dev/null | _exeat_matching "$1"; }
_exeat_policies() { exeat completion --names policies 2>/dev/null | _exeat_matching "$1"; }
_exeat_interfaces() { command ls /sys/class/net 2>/dev/null | _exeat_matching "$1"; }
_exeat_commands() { compgen -c -- "$1"; }
""",
    "zsh": """\
_exeat_workloads() { compadd -- ${(f)"$(exeat completion --names workloads 2>/dev/null)"} }
_exeat_policies() { compadd -- ${(f)"$(exeat completion --names policies 2>/dev/null)"} }
_exeat_interfaces() { compadd -- ${(f)"$(command ls /sys/class/net 2>/dev/null)"} }
""",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "completion",
        help="print what a shell needs to complete these commands",
        description="Prints a script that has a shell complete exeat's commands, flags, files, and names of workloads "
        "and policies, which it asks the agent for.",
        epilog='in a shell: eval "$(exeat completion bash)", or fish: exeat completion fish | source',
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("shell", nargs="?", choices=_SHELLS, help="for which shell")
    what.add_argument("--names", choices=("workloads", "policies"), help="list the names that the scripts offer")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Prints it."""
    if options.names:
        for name in _names(options.names):
            print(name)
        return 0
    print(script_of(options.shell))
    return 0


def script_of(shell: str) -> str:
    """The script for a shell."""
    import shtab  # here: no other command needs it

    from exeat.cli.main import parser_of

    parser, _ = parser_of()
    _mark(parser)
    script: str = shtab.complete(parser, shell, preamble=_PREAMBLE.get(shell, ""))
    return script


def _mark(parser: argparse.ArgumentParser) -> None:
    """Says of every argument of a command, and of its own commands, what can stand there."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _mark(inner)
        elif (found := _completed_by(parser.prog, action)) is not None:
            action.complete = found  # type: ignore[attr-defined]


def _completed_by(prog: str, action: argparse.Action) -> dict[str, str] | None:
    if action.dest == "argv":
        return _COMMANDS
    if action.type is Path or "FILE" in str(action.metavar).split("|"):
        return _FILES
    if prog.startswith("exeat plane"):  # the plane's names would need its address and a token
        return None
    if action.dest == "workload":
        return _WORKLOADS
    if action.dest == "policy":
        return _POLICIES
    return _INTERFACES if action.dest == "interface" else None


def _names(kind: str) -> Iterator[str]:
    with connect(Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)) as agent:
        if kind == "workloads":
            found = [one.name for one in agent.list_workloads(pb.ListWorkloadsRequest()).workloads]
        else:
            found = [one.name for one in agent.get_status().policies]
    return (name for name in found if _PLAIN_NAME.fullmatch(name))
