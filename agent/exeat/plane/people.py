"""Who may ask the plane for what: tokens, and the roles that they carry.

A token is 256 random bits, shown once. The store holds its SHA-256: a copy of the store opens nothing, and nothing is
gained by trying, so no slow hash is needed.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum

from exeat.core.problems import shown
from exeat.errors import Refused, StatusWord
from exeat.plane.store.database import Tx

_PREFIX = "exeat_"  # so that whoever looks for secrets in a repository finds it
_BYTES = 32
_NAME = re.compile(r"[a-z0-9]([a-z0-9._@-]{0,61}[a-z0-9])?")
_USED_STEP_NS = 60 * 1_000_000_000  # when it was used is known to the minute: not every request is a write


class Role(StrEnum):
    """What somebody may do; each may do what those before it may."""

    VIEWER = "viewer"  # sees everything, changes nothing
    APPROVER = "approver"  # turns denials into rules; sets modes, quarantines, allows for a time
    ADMIN = "admin"  # changes policies, nodes and tokens

    def covers(self, wanted: "Role") -> bool:
        """Whether this is at least as much."""
        order = list(Role)
        return order.index(self) >= order.index(wanted)


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks."""

    name: str
    role: Role
    via: str  # token, or oidc

    def need(self, wanted: Role) -> None:
        """Raises Refused unless the role is enough."""
        if not self.role.covers(wanted):
            sentence = f"{self.name} is {self.role}, and this needs {wanted}: ask an admin for a token with that role"
            raise Refused(StatusWord.PERMISSION, sentence)


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token, which is not the token."""

    name: str
    role: Role
    made_ns: int
    expires_ns: int  # 0: never
    used_ns: int  # to the minute; 0: never

    def is_expired(self, now_ns: int) -> bool:
        """Whether its time is over."""
        return 0 < self.expires_ns <= now_ns


@dataclass(frozen=True, slots=True)
class TokenWish:
    """A token to be made."""

    name: str
    role: Role
    expires_ns: int = 0  # 0: never


def add(tx: Tx, wish: TokenWish, now_ns: int) -> str:
    """Makes a token and returns it, for the only time."""
    if not _NAME.fullmatch(wish.name):
        sentence = (
            f"{shown(wish.name)} is no name of a token: write at most 63 small letters, digits, `.`, `_`, `@`, `-`"
        )
        raise Refused(StatusWord.INVALID, sentence)
    if 0 < wish.expires_ns <= now_ns:
        raise Refused(StatusWord.INVALID, f"the token {wish.name} would have ended already: give a later end")
    if tx.one("SELECT 1 FROM tokens WHERE name = ?", wish.name):
        sentence = f"there is a token {wish.name} already: remove it first, or name this one otherwise"
        raise Refused(StatusWord.PRECONDITION, sentence)
    token = _PREFIX + secrets.token_urlsafe(_BYTES)
    columns = "name, role, hash, made_ns, expires_ns, used_ns"
    values = (wish.name, wish.role.value, _hash(token), now_ns, wish.expires_ns, 0)
    tx.do(f"INSERT INTO tokens ({columns}) VALUES (?, ?, ?, ?, ?, ?)", *values)
    return token


def tokens(tx: Tx) -> list[Token]:
    """Every token, by name."""
    rows = tx.all("SELECT name, role, made_ns, expires_ns, used_ns FROM tokens ORDER BY name")
    return [Token(name, Role(role), made_ns, expires_ns, used_ns) for name, role, made_ns, expires_ns, used_ns in rows]


def remove(tx: Tx, name: str) -> None:
    """Whoever holds it is nobody from now on."""
    if not tx.do("DELETE FROM tokens WHERE name = ?", name):
        raise Refused(StatusWord.NOT_FOUND, f"there is no token {shown(name)}: `exeat plane tokens list` lists them")


def person_of(tx: Tx, token: str, now_ns: int) -> Person | None:
    """Whose token it is; None for one that is unknown or whose time is over."""
    if not token.startswith(_PREFIX):
        return None
    wanted = _hash(token)
    row = tx.one("SELECT name, role, hash, expires_ns FROM tokens WHERE hash = ?", wanted)
    # The database compares hashes as it likes: who knows how far two agree knows nothing of the token behind them. The
    # last word is a comparison that tells nothing at all.
    if row is None or not hmac.compare_digest(row[2], wanted) or 0 < row[3] <= now_ns:
        return None
    return Person(row[0], Role(row[1]), "token")


def is_use_news(tx: Tx, name: str, now_ns: int) -> bool:
    """Whether note_use() would write something: ask before beginning a transaction that keeps others waiting."""
    return tx.one("SELECT 1 FROM tokens WHERE name = ? AND used_ns < ?", name, now_ns - _USED_STEP_NS) is not None


def note_use(tx: Tx, name: str, now_ns: int) -> None:
    """So that a token that nobody uses can be found."""
    tx.do("UPDATE tokens SET used_ns = ? WHERE name = ? AND used_ns < ?", now_ns, name, now_ns - _USED_STEP_NS)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
