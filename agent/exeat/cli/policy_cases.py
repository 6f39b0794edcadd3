"""`exeat policy test`: cases of what must be allowed and denied, judged by the kernel."""

import argparse
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exeat.cli.policy_files import STDIN, add_output, name_of, policy_of, refuse_stdin_twice, text_of
from exeat.cli.policy_trial import refuse_without_root, trial
from exeat.cli.tables import plain, several
from exeat.core.cases import Case, Ruling, read_cases
from exeat.core.stories import STORIES
from exeat.errors import PolicyError
from exeat.kernel.court import open_court
from exeat.model.policy import Mode, Policy


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "test",
        help="judge cases of what must be allowed and denied",
        description="Judges cases by the judge in the kernel and the policy's compiled tables; nothing is sent and no "
        "workload is touched. Exits with 1 if a case came out otherwise than expected. Needs root.",
    )
    parser.add_argument("file", metavar="FILE", help="the cases (kind: PolicyTest), or with --cases the policy")
    parser.add_argument("--cases", metavar="CASES", help="the cases, for the policy in FILE; - for standard input")
    add_output(parser)
    parser.set_defaults(act=act, parser=parser)


def act(options: argparse.Namespace) -> int:
    """Judges the cases."""
    where = options.cases or options.file
    if options.cases:
        refuse_stdin_twice(options, [options.file, options.cases])
    tests = read_cases(text_of(where), name_of(where))
    if not options.cases and tests.policy is None:
        raise PolicyError([f"{name_of(where)}:1: there is no `policy`: write the policy's file, or use --cases"])
    policy = policy_of(options.file if options.cases else _beside(where, tests.policy or ""))
    refuse_without_root("policy test")
    results = _judged(policy, tests.cases)
    failed = sum(case.why_failed(ruling) is not None for case, ruling in results)
    if options.output == "json":
        print(json.dumps([_json(case, ruling) for case, ruling in results], indent=2))
    else:
        for case, ruling in results:
            if why := case.why_failed(ruling):
                print(plain(f"{name_of(where)}:{case.line}: {case.attempt}: {why}{_because(ruling)}"))
        if policy.mode in (Mode.MONITOR, Mode.OPEN):
            print(f"the policy's mode is {policy.mode}: what is `deny` here is let pass", file=sys.stderr)
        print(f"{several(len(results), 'case')}, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


def _beside(cases: str, policy: str) -> str:
    return policy if cases == STDIN else str(Path(cases).parent / policy)


def _judged(policy: Policy, cases: tuple[Case, ...]) -> list[tuple[Case, Ruling]]:
    """In the order of the cases; those of one moment together, because each moment has tables of its own."""
    now = datetime.now(UTC)
    by_moment: defaultdict[datetime, list[Case]] = defaultdict(list)
    for case in cases:
        by_moment[case.at or now].append(case)
    rulings: dict[int, Ruling] = {}
    with open_court() as court:
        for moment, together in by_moment.items():
            with trial(court, policy, moment) as tried:
                rulings |= {id(case): tried.attempt(case.attempt) for case in together}
    return [(case, rulings[id(case)]) for case in cases]


def _because(ruling: Ruling) -> str:
    by = f"rule {ruling.rule}" if ruling.rule else "no rule"
    return f" [{ruling.reason.word}, {by}: {STORIES[ruling.reason]}]"


def _json(case: Case, ruling: Ruling) -> dict[str, Any]:
    return {
        "line": case.line,
        "attempt": str(case.attempt),
        "expected": "allow" if case.is_allowed else "deny",
        "got": ruling.word,
        "reason": ruling.reason.word,
        "rule": ruling.rule,
        "failed": case.why_failed(ruling),
    }
