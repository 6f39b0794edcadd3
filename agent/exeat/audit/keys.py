"""The key that signs checkpoints: Ed25519, made at the first start, in files that openssl reads as well."""

from __future__ import annotations

import base64
import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from exeat.audit.signing import Signer, private_pem, public_pem, seed_in
from exeat.errors import ExeatError
from exeat.whole_files import write_whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PUBLIC_SUFFIX = ".pub"


class SigningKey:
    """The private half."""

    def __init__(self, seed: bytes) -> None:
        self._signer = Signer(seed)
        self.id = sha256(self._signer.public).hexdigest()

    @classmethod
    def of(cls, path: Path) -> SigningKey:
        """The key in a file, made if there is none; its public half is put beside it."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(path, private_pem(os.urandom(32)), mode=0o600, is_synced=True)
        seed = seed_in(path.read_bytes())
        if seed is None:
            raise ExeatError(f"{path}: this is no Ed25519 key; restore it, or move it away for a new one")
        path.chmod(0o600)
        key = cls(seed)
        public, there = public_pem(key._signer.public), path.with_suffix(PUBLIC_SUFFIX)
        if not there.exists() or there.read_bytes() != public:
            write_whole(there, public, mode=0o644, is_synced=True)
        return key

    def sign(self, content: bytes) -> str:
        """A signature in base64."""
        return base64.b64encode(self._signer.sign(content)).decode()


class PublicKey:
    """What anybody may have."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public = public
        self.id = _id(public)

    @classmethod
    def of(cls, path: Path) -> PublicKey:
        """The key in a file."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            public = load_pem_public_key(path.read_bytes())
        except ValueError as error:
            raise ExeatError(f"{path}: this is no public key; give the audit.pub that belongs to the log") from error
        if not isinstance(public, Ed25519PublicKey):
            raise ExeatError(f"{path}: this is no Ed25519 key; give the audit.pub that belongs to the log")
        return cls(public)

    def has_signed(self, content: bytes, signature: str) -> bool:
        """Whether the signature is this key's for the content, and written in the only way there is to write it."""
        from cryptography.exceptions import InvalidSignature

        try:
            raw = base64.b64decode(signature, validate=True)
            self._public.verify(raw, content)
        except (InvalidSignature, ValueError):
            return False
        return base64.b64encode(raw).decode() == signature


def _id(public: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()
