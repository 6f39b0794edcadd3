"""Who is signed in by token: a cookie that names the session, its end and the token, sealed.

The token itself is not in it. It is looked up at each request: whose token was removed, has ended or lost its role is
out, or less, at once. A session that was signed out of is remembered until its end.
"""

import json
import secrets
from dataclasses import dataclass

from exeat.plane.people import Person, tokens
from exeat.plane.store.database import Tx
from exeat.plane.web.sealing import Seal

LIFE_S = 12 * 3600
_PURPOSE = "session"
_ENDED = "console.ended."  # a setting for each session that was ended before its time
_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody at a browser."""

    id: str
    person: Person
    ends_s: int  # 0: whoever signed them in will tell


def begin(seal: Seal, tx: Tx, person: Person, now_ns: int) -> str:
    """The cookie of a new session. `person` has just shown a token."""
    made_ns = next(token.made_ns for token in tokens(tx) if token.name == person.name)
    parts = [secrets.token_urlsafe(16), now_ns // _S + LIFE_S, person.name, made_ns]
    return seal.closed(_PURPOSE, json.dumps(parts))


def session_of(seal: Seal, tx: Tx, cookie: str, now_ns: int) -> Session | None:
    """Whose cookie it is; None if it is nobody's (any more)."""
    text = seal.opened(_PURPOSE, cookie)
    if text is None:
        return None
    name: str
    id_, ends_s, name, made_ns = json.loads(text)
    if ends_s * _S <= now_ns or tx.one("SELECT 1 FROM settings WHERE name = ?", _ENDED + id_):
        return None
    # A token of the same name that was made later is another one.
    token = next((one for one in tokens(tx) if one.name == name and one.made_ns == made_ns), None)
    if token is None or token.is_expired(now_ns):
        return None
    return Session(id_, Person(token.name, token.role, "token"), ends_s)


def end(tx: Tx, session: Session, now_ns: int) -> None:
    """Whoever has copied the cookie has nothing from now on."""
    tx.do(
        "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
        _ENDED + session.id,
        str(session.ends_s),
    )
    for name, value in tx.all("SELECT name, value FROM settings WHERE name LIKE ?", _ENDED + "%"):
        if int(value) * _S <= now_ns:
            tx.do("DELETE FROM settings WHERE name = ?", name)
