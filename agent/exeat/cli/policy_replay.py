"""`exeat policy replay`: what a policy would have done to recorded traffic."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from exeat.cli.policy_files import add_output, policy_of, recorded_in, refuse_stdin_twice
from exeat.cli.policy_trial import refuse_without_root, trial
from exeat.cli.tables import table
from exeat.core.replay import Replay, Row, replay
from exeat.core.time_text import parse_time
from exeat.kernel.court import open_court


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "replay",
        help="judge recorded verdicts by another policy",
        description="Judges recorded traffic by a policy, by the judge in the kernel; nothing is sent. Exits with 0 if "
        "nothing would newly be denied, with 1 if something would. Needs root.",
    )
    parser.add_argument("policy", metavar="POLICY", help="the policy; - for standard input")
    parser.add_argument("verdicts", nargs="+", metavar="VERDICTS", help="lines of JSON; - for standard input")
    parser.add_argument("--at", type=_time, metavar="TIME", help="judge as of this time, not of now")
    add_output(parser)
    parser.set_defaults(act=act, parser=parser)


def act(options: argparse.Namespace) -> int:
    """Judges them."""
    refuse_stdin_twice(options, [options.policy, *options.verdicts])
    policy = policy_of(options.policy)
    recorded = recorded_in(options.verdicts)
    refuse_without_root("policy replay")
    with open_court() as court, trial(court, policy, options.at or datetime.now(UTC)) as tried:
        result = replay(recorded, tried)
    print(json.dumps(_json(result), indent=2) if options.output == "json" else "\n".join(_lines(result)))
    return 1 if result.newly_denied else 0


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _lines(result: Replay) -> list[str]:
    found = []
    for head, rows in (
        ("newly denied", result.newly_denied),
        ("newly allowed", result.newly_allowed),
        ("undecided: the verdicts do not say enough", result.undecided),
    ):
        if rows:
            found += [f"{head}:", *table((">COUNT", "DESTINATION", "WAS", "BECOMES"), list(map(_cells, rows))), ""]
    if result.not_judged:
        counted = ", ".join(f"{word} {count}" for word, count in result.not_judged)
        found.append(f"not judged again, because no rule decides it or another verdict says more: {counted}")
    parts = [
        f"{_sum(result.newly_denied)} newly denied",
        f"{_sum(result.newly_allowed)} newly allowed",
        f"{_sum(result.undecided)} undecided",
        f"{result.still_allowed} still allowed",
        f"{result.still_denied} still denied",
    ]
    return [*found, ", ".join(parts)]


def _sum(rows: tuple[Row, ...]) -> int:
    return sum(row.count for row in rows)


def _cells(row: Row) -> tuple[str, ...]:
    becomes = _by(row.now.reason.word, row.now.rule) if row.now else "?"
    return str(row.count), row.subject, _by(row.was.word, row.was_by), becomes


def _by(word: str, rule: str | None) -> str:
    return f"{word} by {rule}" if rule else word


def _json(result: Replay) -> dict[str, Any]:
    return {
        "newly_denied": [_row(row) for row in result.newly_denied],
        "newly_allowed": [_row(row) for row in result.newly_allowed],
        "undecided": [_row(row) for row in result.undecided],
        "still_allowed": result.still_allowed,
        "still_denied": result.still_denied,
        "not_judged": dict(result.not_judged),
    }


def _row(row: Row) -> dict[str, Any]:
    now = row.now
    return {
        "destination": row.subject,
        "count": row.count,
        "was": {"allowed": row.was_allowed, "reason": row.was.word, "rule": row.was_by},
        "becomes": {"allowed": now.is_allowed, "reason": now.reason.word, "rule": now.rule} if now else None,
    }
