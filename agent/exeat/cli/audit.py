"""`exeat audit verify`: whether the verdict log is what was written."""

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path

from exeat.audit import Verification, verify
from exeat.audit.chain import Head
from exeat.audit.files import log_files, number_of
from exeat.audit.keys import PUBLIC_SUFFIX, PublicKey
from exeat.audit.log import KEY
from exeat.core.problems import shown
from exeat.errors import ExeatError
from exeat.settings import LogSettings

_EPILOG = """\
exit status: 0 nothing is wrong; 1 something is; 2 wrong usage; 125 the log or the key cannot be read.
What a good log proves, and what it does not: docs/audit.md.
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    audit = commands.add_parser("audit", help="check the verdict log", description="Works on the verdict log.")
    actions = audit.add_subparsers(dest="action", required=True, metavar="ACTION")
    parser = actions.add_parser(
        "verify",
        help="check that no line of the log was changed",
        description="Checks every line, every signed checkpoint and every file of a verdict log, and says which line "
        "of which file was edited, removed, moved, put in or cut short.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("log", nargs="+", type=Path, metavar="DIRECTORY|FILE", help="a whole log, or some of its files")
    parser.add_argument(
        "--key",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="the public key; repeatable (default: audit.pub beside the log's directory, or the agent's)",
    )
    parser.add_argument(
        "--noted",
        metavar="SEQ:CHAIN",
        help="a line's number and hash, noted earlier in another place: it must be there",
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="how to show it")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Verifies."""
    files, is_whole = _files(options.log)
    keys = [_key(path) for path in options.key or [_usual_key(options.log[0])]]
    try:
        found = verify(files, keys, is_whole=is_whole, noted=_noted(options.noted))
    except OSError as error:
        raise ExeatError(f"{error.filename}: cannot be read: {error.strerror}") from error
    print(_as_json(found) if options.output == "json" else _as_text(found))
    return 0 if found.is_good else 1


def _files(given: list[Path]) -> tuple[list[Path], bool]:
    if len(given) == 1 and given[0].is_dir():
        files = log_files(given[0])
        if not files:
            raise ExeatError(f"{given[0]}: there is no verdict log in this directory")
        return files, True
    for path in given:
        if not path.is_file():
            raise ExeatError(f"{path}: give one directory, or the files of one log; this is neither")
    return sorted(given, key=lambda path: number_of(path) or float("inf")), False


def _usual_key(log: Path) -> Path:
    directory = (log if log.is_dir() else log.parent).resolve()
    beside = (directory.parent / KEY).with_suffix(PUBLIC_SUFFIX)
    agents = LogSettings().key.with_suffix(PUBLIC_SUFFIX)
    for path in (beside, agents):
        if path.exists():
            return path
    raise ExeatError(f"there is no public key at {beside} or {agents}; say with --key where it is")


def _key(path: Path) -> PublicKey:
    try:
        return PublicKey.of(path)
    except OSError as error:
        raise ExeatError(f"{path}: the key cannot be read: {error.strerror}") from error


def _noted(text: str | None) -> Head | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,19}):([0-9a-f]{64})", text)
    if not found:
        raise ExeatError(f"--noted {shown(text)}: write a line's number, a colon, and the 64 digits of its `chain`")
    return Head(int(found[1]), bytes.fromhex(found[2]))


def _as_json(found: Verification) -> str:
    said = asdict(found) | {"is_good": found.is_good, "head": f"{found.head.seq}:{found.head.chain.hex()}"}
    return json.dumps(said, indent=2)


def _as_text(found: Verification) -> str:
    lines = []
    for problem in found.problems:
        where = f"{problem.file}:{problem.line}" if problem.line else problem.file
        lines.append(f"WRONG  {where}: {problem.what}")
    if found.problem_count > len(found.problems):
        lines.append(f"WRONG  and {found.problem_count - len(found.problems)} more")
    lines += [f"said   {notice}" for notice in found.notices]
    span = f", {found.first_seq} to {found.head.seq}" if found.first_seq is not None else ""
    lines.append(f"{found.files} files, {found.lines} lines{span}: {found.verdicts} verdicts")
    lines.append(f"{found.checkpoints} checkpoints; not yet sealed: {found.unsealed} lines")
    lines.append(f"last line, to be noted elsewhere: {found.head.seq}:{found.head.chain.hex()}")
    lines.append("nothing is wrong" if found.is_good else f"{found.problem_count} things are wrong")
    return "\n".join("".join(letter if letter.isprintable() else "?" for letter in line) for line in lines)
