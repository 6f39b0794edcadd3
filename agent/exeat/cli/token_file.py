"""Signed session contexts as commands take them."""

import sys
from pathlib import Path

from exeat.core.session_token import TOKEN_MAX
from exeat.errors import ExeatError


def token_in(path: Path) -> str:
    """The token in a file, or on standard input. Raises ExeatError."""
    try:
        if path == Path("-"):
            raw = sys.stdin.buffer.read(2 * TOKEN_MAX)
        else:
            with path.open("rb") as file:
                raw = file.read(2 * TOKEN_MAX)
        token = raw.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ExeatError(f"{path}: cannot be read as a token: {error}") from error
    if not token:
        raise ExeatError(f"{path}: is empty: put a signed token there (docs/sessions.md)")
    return token
