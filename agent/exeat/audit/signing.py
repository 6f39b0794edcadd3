"""Ed25519 by libcrypto, which the interpreter's own ssl module has loaded already.

`cryptography` would do the same for 10 of the agent's 60 MB. It verifies what is signed here, and signs what is
verified here, in other processes and in the tests, so that the two check each other.
"""

import base64
import ctypes
import re
import ssl
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p, create_string_buffer
from hashlib import sha256
from pathlib import Path

from exeat.errors import ExeatError

# What is signed begins with what it is, so that a signature is good for nothing else. docs/protocol.md tells them.
MANIFEST, COMMAND = b"exeat manifest v1\0", b"exeat command v1\0"
assert ssl.OPENSSL_VERSION  # imported for its library
_ED25519 = 1087  # NID of openssl/obj_mac.h
_SEED, _SIGNATURE = 32, 64
# RFC 8410 7: what stands before the key itself in its two forms.
_PRIVATE_DER = bytes.fromhex("302e020100300506032b657004220420")
_PUBLIC_DER = bytes.fromhex("302a300506032b6570032100")
_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----\s*")
_PUBLIC_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*")
_ID_DIGITS = 16  # of the protocol between agent and plane


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libcrypto.so.3")
    library.EVP_PKEY_new_raw_private_key.argtypes = [c_int, c_void_p, c_char_p, c_size_t]
    library.EVP_PKEY_new_raw_private_key.restype = c_void_p
    library.EVP_PKEY_get_raw_public_key.argtypes = [c_void_p, c_char_p, POINTER(c_size_t)]
    library.EVP_PKEY_new_raw_public_key.argtypes = [c_int, c_void_p, c_char_p, c_size_t]
    library.EVP_PKEY_new_raw_public_key.restype = c_void_p
    library.EVP_PKEY_free.argtypes = [c_void_p]
    library.EVP_MD_CTX_new.restype = c_void_p
    library.EVP_MD_CTX_free.argtypes = [c_void_p]
    library.EVP_DigestSignInit.argtypes = [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p]
    library.EVP_DigestSign.argtypes = [c_void_p, c_char_p, POINTER(c_size_t), c_char_p, c_size_t]
    library.EVP_DigestVerifyInit.argtypes = [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p]
    library.EVP_DigestVerify.argtypes = [c_void_p, c_char_p, c_size_t, c_char_p, c_size_t]
    return library


def _loaded() -> ctypes.CDLL:
    try:
        return _library()
    except OSError as error:
        raise ExeatError("libcrypto.so.3 is missing: apt-get install libssl3") from error


class Signer:
    """A private key."""

    def __init__(self, seed: bytes) -> None:
        self._crypto = _loaded()
        self._key = self._crypto.EVP_PKEY_new_raw_private_key(_ED25519, None, seed, len(seed))
        if not self._key:
            raise ExeatError("libcrypto takes no Ed25519 key: verdicts cannot be signed on this host")
        public, length = create_string_buffer(_SEED), c_size_t(_SEED)
        self._check(self._crypto.EVP_PKEY_get_raw_public_key(self._key, public, byref(length)))
        self.public = public.raw

    def sign(self, content: bytes) -> bytes:
        """A signature."""
        context = self._crypto.EVP_MD_CTX_new()
        signature, length = create_string_buffer(_SIGNATURE), c_size_t(_SIGNATURE)
        try:
            self._check(self._crypto.EVP_DigestSignInit(context, None, None, None, self._key))
            self._check(self._crypto.EVP_DigestSign(context, signature, byref(length), content, len(content)))
        finally:
            self._crypto.EVP_MD_CTX_free(context)
        return signature.raw

    def _check(self, result: int) -> None:
        if result != 1:
            raise ExeatError("libcrypto refused to sign: verdicts go on unsigned until it does")


class Verifier:
    """A public key."""

    def __init__(self, public: bytes) -> None:
        self.id = key_id(public)
        self._crypto = _loaded()
        self._key = self._crypto.EVP_PKEY_new_raw_public_key(_ED25519, None, public, len(public))
        if not self._key:
            raise ExeatError("libcrypto takes no Ed25519 key: nothing that is signed can be checked on this host")

    def __del__(self) -> None:
        if getattr(self, "_key", None):
            self._crypto.EVP_PKEY_free(self._key)

    @classmethod
    def of(cls, path: Path) -> "Verifier":
        """The key in a file, as `openssl pkey -pubout` writes it."""
        try:
            public = public_in(path.read_bytes())
        except OSError as error:
            raise ExeatError(f"{path}: {error.strerror}: put the public key there of who signs") from error
        if public is None:
            raise ExeatError(f"{path}: this is no public Ed25519 key: openssl pkey -in signing.key -pubout writes one")
        return cls(public)

    def has_signed(self, content: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's for the content."""
        context = self._crypto.EVP_MD_CTX_new()
        try:
            if self._crypto.EVP_DigestVerifyInit(context, None, None, None, self._key) != 1:
                raise ExeatError("libcrypto refuses to check signatures")
            return bool(
                len(signature) == _SIGNATURE
                and self._crypto.EVP_DigestVerify(context, signature, len(signature), content, len(content)) == 1
            )
        finally:
            self._crypto.EVP_MD_CTX_free(context)


def key_id(public: bytes) -> str:
    """By which a key is named beside its signature."""
    return sha256(public).hexdigest()[:_ID_DIGITS]


def seed_in(pem: bytes) -> bytes | None:
    """The 32 bytes of a key as `openssl genpkey -algorithm ed25519` writes it; None: this is no such key."""
    return _behind(_PRIVATE_DER, _PEM.fullmatch(pem))


def public_in(pem: bytes) -> bytes | None:
    """The 32 bytes of a public key as `openssl pkey -pubout` writes it; None: this is no such key."""
    return _behind(_PUBLIC_DER, _PUBLIC_PEM.fullmatch(pem))


def private_pem(seed: bytes) -> bytes:
    """The same the other way round."""
    return _pem("PRIVATE KEY", _PRIVATE_DER + seed)


def public_pem(public: bytes) -> bytes:
    """A public key."""
    return _pem("PUBLIC KEY", _PUBLIC_DER + public)


def _behind(beginning: bytes, match: re.Match[bytes] | None) -> bytes | None:
    try:
        der = base64.b64decode(match[1]) if match else b""
    except ValueError:
        return None
    return der[len(beginning) :] if der[:-_SEED] == beginning else None


def _pem(what: str, der: bytes) -> bytes:
    return f"-----BEGIN {what}-----\n{base64.b64encode(der).decode()}\n-----END {what}-----\n".encode()
