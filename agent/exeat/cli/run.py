"""`exeat run`: puts a command under a policy."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from exeat.cli.token_file import token_in
from exeat.control.client import DEFAULT_SOCKET, SOCKET_VARIABLE, trouble_at
from exeat.core.allow_flag import parse_allow, parse_allow_cidr, parse_dns_upstream, warnings_of
from exeat.core.policy_file import read_policy
from exeat.core.server_text import gather_upstreams
from exeat.errors import LaunchError, PolicyError
from exeat.launch import invoking_identity, named_identity
from exeat.model.policy import Mode, Policy
from exeat.run import Run
from exeat.run import run as run_command

_EPILOG = """\
exit status: the command's own; 128+N if signal N ended it; 3 with --fail-on-deny if the command succeeded but
something was denied; 125 if exeat failed; 126 if the command cannot be executed; 127 if it was not found.
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "run",
        help="run a command under a policy",
        description="Runs a command that reaches what the policy names, and nothing else.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="exeat run [OPTIONS] -- COMMAND [ARGS...]",
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="the policy, as YAML (docs/policy.md)")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="HOST[:PORTS][/PROTO]",
        help="allow a host by name, e.g. api.example.com, '*.example.com:443,8443' or db.example.com:5432/tcp",
    )
    parser.add_argument(
        "--allow-cidr",
        action="append",
        default=[],
        metavar="CIDR[:PORTS][/PROTO]",
        help="allow a network, e.g. 203.0.113.0/24:443,8000-8010/tcp; may be given several times",
    )
    parser.add_argument(
        "--dns-upstream",
        action="append",
        default=[],
        metavar="[DOMAIN=]ADDRESS[:PORT]",
        help="ask this resolver (about this domain), instead of the host's own; repeatable",
    )
    parser.add_argument(
        "--learn",
        type=Path,
        metavar="FILE",
        help="let everything pass, and write a policy to FILE that allows what the command reached",
    )
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], help="instead of the policy's own mode")
    parser.add_argument("--fail-on-deny", action="store_true", help="exit with 3 if anything was denied")
    parser.add_argument("--verdicts", type=Path, metavar="FILE", help="append every verdict to FILE as a line of JSON")
    parser.add_argument("--user", metavar="NAME", help="run as this user (default: who called sudo)")
    parser.add_argument(
        "--session-file",
        type=Path,
        metavar="FILE",
        help="a signed session context (docs/sessions.md); the command is the workload that it is for",
    )
    parser.add_argument(
        "--no-agent", action="store_true", help="do not ask a running agent, but load programs for this command alone"
    )
    parser.add_argument("--quiet", action="store_true", help="show no denials and no summary")
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run, after --")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Runs the command."""
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise LaunchError("there is no command to run; put it after --")
    if os.geteuid() != 0:
        raise LaunchError("exeat run needs root, to load programs into the kernel: sudo exeat run ...")
    identity = named_identity(options.user) if options.user else invoking_identity(os.environ)
    wanted = Run(
        argv=argv,
        identity=identity,
        policy=_policy(options),
        verdicts_file=options.verdicts,
        fails_on_deny=options.fail_on_deny,
        is_quiet=options.quiet,
        learn_file=options.learn,
        session=token_in(options.session_file) if options.session_file else "",
    )
    socket = Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)
    trouble = trouble_at(socket)
    if wanted.session and (options.no_agent or options.learn or trouble):
        raise LaunchError(f"a session context is the agent's matter: {trouble or 'leave --no-agent and --learn out'}")
    if not options.no_agent and not options.learn and trouble is None:
        from exeat.run_by_agent import run_by_agent

        return run_by_agent(wanted, socket)
    return run_command(wanted)


def _policy(options: argparse.Namespace) -> Policy:
    policy = Policy(name="command-line")
    if options.policy:
        try:
            text = options.policy.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyError([f"{options.policy}: cannot be read: {error}"]) from error
        reading = read_policy(text, str(options.policy))
        policy = reading.policy
        for warning in () if options.quiet else reading.warnings:
            print(f"exeat: warning: {warning}", file=sys.stderr)
    rules = [parse_allow(text) for text in options.allow] + [parse_allow_cidr(text) for text in options.allow_cidr]
    for warning in () if options.quiet else (warning for rule in rules for warning in warnings_of(rule)):
        print(f"exeat: warning: {warning}", file=sys.stderr)
    policy = replace(policy, rules=policy.rules + tuple(rules))
    if options.dns_upstream:
        upstreams = gather_upstreams(parse_dns_upstream(text) for text in options.dns_upstream)
        policy = replace(policy, dns=replace(policy.dns, upstreams=upstreams))
    if options.learn:
        if options.mode not in (None, Mode.OPEN):
            raise LaunchError(f"--learn lets everything pass, --mode {options.mode} does not: leave one of them out")
        policy = replace(policy, mode=Mode.OPEN)
    return replace(policy, mode=Mode(options.mode)) if options.mode else policy
