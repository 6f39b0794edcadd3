"""Who may sign session contexts: the public keys in a file, read anew when it changes."""

import os
import re
from pathlib import Path

from exeat.audit.signing import Verifier, public_in
from exeat.core.problems import shown
from exeat.core.session_token import SealedToken
from exeat.errors import ExeatError

_FILE_MAX = 64 << 10
_KEYS_MAX = 64
_BLOCK = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\s*", re.DOTALL)
_COMMENT = re.compile(rb"#[^\n]*(\n|\Z)|\s+")

_Seen = tuple[int, ...] | None  # what tells a file from the one before; None: there is none


class SessionKeys:
    """Without the file nobody may sign. What stands there and is no list of keys leaves those before it in force."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.complaint = ""
        self.generation = 0  # of the keys
        self._keys: dict[str, Verifier] = {}
        self._seen: _Seen = None  # at the last look
        self._tried: _Seen = ()  # the file that was read last, for better or worse

    @property
    def ids(self) -> tuple[str, ...]:
        """By which tokens name them."""
        return tuple(self._keys)

    def look(self, *, is_patient: bool) -> None:
        """Reads the file if it has changed; patiently: once it stays as it is, and is not being written any more."""
        try:
            found = os.stat(self.path)
            seen: _Seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        except (FileNotFoundError, NotADirectoryError):
            seen = None
        except OSError as error:
            self._tried = ()
            self._complain(error.strerror or str(error))
            return
        is_settled, self._seen = seen == self._seen, seen
        if seen != self._tried and (is_settled or not is_patient):
            self._take(seen)

    def why_not_signed(self, sealed: SealedToken) -> str:
        """Why nobody's signature is believed to be on a token; empty: it is signed."""
        if not self._keys:
            return f"no key may sign sessions here: {self.complaint or f'{self.path} is not there'}"
        if sealed.key and sealed.key not in self._keys:
            return f"the token is signed by key {shown(sealed.key)}, and here {', '.join(self._keys)} may sign"
        keys = [self._keys[sealed.key]] if sealed.key else list(self._keys.values())
        if any(key.has_signed(sealed.content, sealed.signature) for key in keys):
            return ""
        return f"the token was altered, or signed by another key than {', '.join(key.id for key in keys)}"

    def _take(self, seen: _Seen) -> None:
        try:
            keys = _keys_in(_read_of(self.path)) if seen else {}
        except OSError as error:  # tried again
            self._complain(error.strerror or str(error))
            return
        except (ValueError, ExeatError) as error:
            self._tried = seen
            self._complain(str(error))
            return
        self.complaint, self._tried = "", seen
        if keys.keys() != self._keys.keys():
            self._keys = keys
            self.generation += 1

    def _complain(self, why: str) -> None:
        holds = "the keys before it may still sign" if self._keys else "nobody may sign sessions"
        self.complaint = f"{self.path}: {why}; {holds}"


def _read_of(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(_FILE_MAX + 1)
    if len(text) > _FILE_MAX:
        raise ValueError(f"it has more than {_FILE_MAX} bytes")
    return text


def _keys_in(text: bytes) -> dict[str, Verifier]:
    blocks = _BLOCK.findall(text)
    if not 0 < len(blocks) <= _KEYS_MAX or _COMMENT.sub(b"", _BLOCK.sub(b"", text)):
        raise ValueError(f"this is no list of 1 to {_KEYS_MAX} public keys in PEM: openssl pkey -pubout writes each")
    found = [public_in(block) for block in blocks]
    if None in found:
        raise ValueError(f"key {found.index(None) + 1} in it is no Ed25519 key: openssl genpkey -algorithm ed25519")
    keys = [Verifier(public) for public in found if public]
    return {key.id: key for key in keys}
