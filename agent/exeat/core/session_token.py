"""Session contexts as they travel: a JWT (RFC 7519) in compact form, signed by Ed25519 (RFC 8037). Pure.

The order in which one is judged: `open_token` takes it apart, its key's owner says whether the signature is right, and
only then `read_claims` looks at what was signed and `why_not` at whether it is meant for here and now. There is one
algorithm, a token brings no key along, and whatever could be read in two ways (a claim twice, base64 with odd bits, a
character that nobody sees) is refused. ValueError says what is wrong and what to write instead.
"""

import base64
import json
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from exeat.core.problems import shown
from exeat.model.identity import Session

TOKEN_MAX = 8192
ALGORITHM = "EdDSA"
LIFE_MAX_S = 24 * 3600
SKEW_S = 60  # by which an orchestrator's clock may be ahead
_TEXT_MAX = 253
_AUDIENCES_MAX = 16
_SECOND = 10**9
_TIME_END_S = 253_402_300_800  # the year 10000, where times end in protobuf
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_HEADER = ("alg", "typ", "kid")


@dataclass(frozen=True, slots=True)
class SealedToken:
    """A token whose signature nobody has checked yet."""

    key: str  # the id of the key that signed it, as it says itself; empty: it does not
    content: bytes  # what is signed
    signature: bytes
    payload: bytes  # of the content: the claims


@dataclass(frozen=True, slots=True)
class Claims:
    """What a signed token says."""

    subject: str  # the workload that it is for
    audiences: tuple[str, ...]
    session: Session
    issued_ns: int  # these by the wall clock
    not_before_ns: int

    @property
    def until_ns(self) -> int:
        """When it ends."""
        return self.session.until_ns


def open_token(text: str) -> SealedToken:
    """Takes a token apart. Raises ValueError."""
    if len(text) > TOKEN_MAX:
        raise ValueError(f"the token has {len(text)} characters, of which at most {TOKEN_MAX} are read")
    match = _COMPACT.fullmatch(text)
    if match is None:
        raise ValueError("this is no token: it has three parts of letters, digits, - and _, with dots in between")
    header = _object(_decoded(match[1], "header"), "header")
    if header.get("alg") != ALGORITHM:
        raise ValueError(f"the token's `alg` is {_quoted(header.get('alg'))}: sign it by Ed25519, with `{ALGORITHM}`")
    if odd := [name for name in header if name not in _HEADER]:
        raise ValueError(f"the token's header has {shown(odd[0])}, which is not taken: only {', '.join(_HEADER)} are")
    if "typ" in header and header["typ"] != "JWT":
        raise ValueError(f"the token's `typ` is {_quoted(header['typ'])}: write `JWT`, or leave it out")
    key = header.get("kid", "")
    if not isinstance(key, str) or ("kid" in header and not key):
        raise ValueError("the token's `kid` is no key's id: write one, or leave it out")
    content, signature = f"{match[1]}.{match[2]}".encode(), _decoded(match[3], "signature")
    return SealedToken(key, content, signature, _decoded(match[2], "payload"))


def read_claims(payload: bytes) -> Claims:
    """What a token says. Raises ValueError."""
    claims = _object(payload, "payload")
    issued_ns, until_ns = _time(claims, "iat"), _time(claims, "exp")
    if until_ns <= issued_ns:
        raise ValueError("the token's `exp` is not later than its `iat`")
    return Claims(
        subject=_text(claims, "sub", "the name, container id, pod uid or cgroup of the workload that it is for"),
        audiences=_audiences(claims),
        session=Session(
            session=_text(claims, "session", "the session's own id"),
            user=_optional_text(claims, "user"),
            tool=_optional_text(claims, "tool"),
            run=_optional_text(claims, "run"),
            until_ns=until_ns,
        ),
        issued_ns=issued_ns,
        not_before_ns=max(issued_ns, _time(claims, "nbf") if "nbf" in claims else 0),
    )


def why_not(claims: Claims, audience: str, names: Collection[str], wall_ns: int) -> str:
    """Why a signed token does not hold for a workload with these names now; empty: it does."""
    if audience not in claims.audiences:
        meant = ", ".join(map(shown, claims.audiences))
        return f"the token's `aud` is {meant}, and here it must be {shown(audience)}"
    if claims.subject not in names:
        return f"the token is for workload {shown(claims.subject)}, and this is {' or '.join(map(shown, names))}"
    if claims.until_ns <= wall_ns:
        return f"the token has expired, at {_moment(claims.until_ns)}; by this clock it is {_moment(wall_ns)}"
    if claims.not_before_ns > wall_ns + SKEW_S * _SECOND:
        begins = _moment(claims.not_before_ns)
        return f"the token does not hold before {begins}; by this clock it is {_moment(wall_ns)}"
    if claims.until_ns > wall_ns + LIFE_MAX_S * _SECOND:
        return f"the token lasts until {_moment(claims.until_ns)}: let it expire within {LIFE_MAX_S // 3600} hours"
    return ""


def claimed_subject(text: str) -> str:
    """The workload that a token says it is for, which nobody has checked. Raises ValueError."""
    return read_claims(open_token(text).payload).subject


def _decoded(part: str, what: str) -> bytes:
    """Written in the only way there is to write it."""
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raw = b""
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != part.encode():
        raise ValueError(f"the token's {what} is no base64url (RFC 4648 5, without padding)")
    return raw


def _object(raw: bytes, what: str) -> dict[str, Any]:
    """A JSON object in which nothing stands twice."""
    try:
        read = json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except _TwiceError as error:
        raise ValueError(f"the token's {what} has {shown(error.name)} twice: write it once") from None
    except (ValueError, RecursionError):
        raise ValueError(f"the token's {what} is no JSON in UTF-8") from None
    if not isinstance(read, dict):
        raise ValueError(f"the token's {what} is no JSON object")
    return read


class _TwiceError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for name, value in pairs:
        if name in read:
            raise _TwiceError(name)
        read[name] = value
    return read


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number in JSON")


def _time(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or not is_number or not 0 < value < _TIME_END_S:
        raise ValueError(f"the token has no `{name}` that is a time: write seconds since 1970, as a number")
    return int(value) * _SECOND + int(value % 1 * _SECOND)


def _audiences(claims: dict[str, Any]) -> tuple[str, ...]:
    given = claims.get("aud")
    listed = given if isinstance(given, list) else [given]
    if not 0 < len(listed) <= _AUDIENCES_MAX or not all(isinstance(one, str) and _is_plain(one) for one in listed):
        raise ValueError("the token has no `aud` that is a text: write the audience of the agent's settings")
    return tuple(listed)


def _text(claims: dict[str, Any], name: str, example: str) -> str:
    if name not in claims:
        raise ValueError(f"the token has no `{name}`: write {example}")
    return _checked(claims, name)


def _optional_text(claims: dict[str, Any], name: str) -> str:
    return _checked(claims, name) if name in claims else ""


def _checked(claims: dict[str, Any], name: str) -> str:
    value = claims[name]
    if not isinstance(value, str) or not _is_plain(value):
        raise ValueError(
            f"the token's `{name}` is {_quoted(value)}: write 1 to {_TEXT_MAX} printable characters (in NFC), "
            "without a space at either end"
        )
    return value


def _is_plain(text: str) -> bool:
    """What looks alike is alike, as far as that can be seen to: no marks that are not shown, one way to write each."""
    is_seen = 0 < len(text) <= _TEXT_MAX and text.isprintable() and text.strip(" ") == text
    return is_seen and unicodedata.is_normalized("NFC", text)


def _quoted(value: object) -> str:
    return shown(value) if isinstance(value, str) else "no text"


def _moment(wall_ns: int) -> str:
    return f"{datetime.fromtimestamp(wall_ns // _SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}"
