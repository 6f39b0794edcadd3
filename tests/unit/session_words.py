"""Tokens as an orchestrator signs them, and as an attacker would like to."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from exeat.audit.signing import key_id, public_pem

HEADER = {"alg": "EdDSA", "typ": "JWT"}
SUBJECT = "coder-7"


def encoded(raw: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def as_json(value: Any) -> bytes:
    """As short as it can be; bytes are taken as they are."""
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


class Orchestrator:
    """One with a key of its own."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = key_id(self.public)
        self.pem = public_pem(self.public)

    def sign(self, header: Any, payload: Any) -> str:
        """A token of exactly these parts."""
        content = f"{encoded(as_json(header))}.{encoded(as_json(payload))}"
        return f"{content}.{encoded(self._key.sign(content.encode()))}"

    def token(self, *, header: dict[str, Any] | None = None, **changed: Any) -> str:
        """A good one, but for what is changed; None: left out."""
        return self.sign({**HEADER, **(header or {})}, claims(**changed))


def claims(**changed: Any) -> dict[str, Any]:
    """Those of a good token for SUBJECT, issued now, for an hour."""
    now = int(time.time())
    good = {
        "aud": "exeat", "sub": SUBJECT, "iat": now, "exp": now + 3600,
        "session": "s-42", "user": "alice", "tool": "shell", "run": "r-1",
    }  # fmt: skip
    return {name: value for name, value in (good | changed).items() if value is not None}


def write_keys(path: Path, *orchestrators: Orchestrator) -> None:
    """The file of those who may sign, put there as a whole."""
    draft = path.with_suffix(".new")
    draft.write_bytes(b"# who may sign sessions\n" + b"\n".join(one.pem for one in orchestrators))
    draft.replace(path)
