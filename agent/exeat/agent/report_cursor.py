"""How far the plane has this node's log, kept on disk."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from exeat.whole_files import write_whole


@dataclass(frozen=True, slots=True)
class Cursor:
    """The plane knows it better. What only this node knows is under which name it has told its log."""

    log: str  # made up; another one where numbers begin anew
    through: int
    lost: int = 0  # lines that were deleted unreported, in all


def new_cursor(after: int, lost: int = 0) -> Cursor:
    """Of a log that the plane does not know."""
    return Cursor(secrets.token_hex(8), after, lost)


def read_cursor(path: Path) -> Cursor | None:
    """What was kept; None where there is none, or none that can be read: then the log goes on under another name."""
    try:
        said = json.loads(path.read_bytes())
        cursor = Cursor(said["log"], said["through"], said["lost"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    is_good = isinstance(cursor.log, str) and type(cursor.through) is int and type(cursor.lost) is int
    return cursor if is_good and cursor.log and min(cursor.through, cursor.lost) >= 0 else None


def write_cursor(path: Path, cursor: Cursor, *, is_synced: bool) -> str:
    """Why it could not be written; empty: it was."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(cursor)).encode(), is_synced=is_synced)
    except OSError as error:
        return f"{path}: {error.strerror}: after a restart, verdicts may be reported twice or not at all"
    return ""
