"""What libcrypto signs, `cryptography` and openssl verify: keys and signatures are the ones that everybody knows."""

import subprocess
from pathlib import Path

import pytest

from exeat.audit.keys import PublicKey, SigningKey
from exeat.audit.signing import seed_in
from exeat.errors import ExeatError


def test_a_signature_is_good_for_what_was_signed_and_nothing_else(tmp_path: Path) -> None:
    """By another implementation."""
    key = SigningKey.of(tmp_path / "a.key")
    public = PublicKey.of(tmp_path / "a.pub")
    signature = key.sign(b"content")
    assert public.has_signed(b"content", signature)
    assert not public.has_signed(b"contenu", signature)
    assert key.id == public.id


def test_openssl_reads_our_keys_and_we_read_openssls(tmp_path: Path) -> None:
    """The files are PKCS #8 and SubjectPublicKeyInfo in PEM."""
    SigningKey.of(tmp_path / "a.key")
    shown = subprocess.run(["openssl", "pkey", "-in", tmp_path / "a.key", "-pubout"], capture_output=True, check=True)
    assert shown.stdout == (tmp_path / "a.pub").read_bytes()
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "b.key"], check=True)
    signature = SigningKey.of(tmp_path / "b.key").sign(b"x")
    assert PublicKey.of(tmp_path / "b.pub").has_signed(b"x", signature)


@pytest.mark.parametrize("text", [b"", b"-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n", b"\0" * 64])
def test_what_is_no_key_is_refused_and_left_as_it_is(tmp_path: Path, text: bytes) -> None:
    """It may be the only copy of something."""
    path = tmp_path / "a.key"
    path.write_bytes(text)
    assert seed_in(text) is None
    with pytest.raises(ExeatError, match="no Ed25519 key"):
        SigningKey.of(path)
    assert path.read_bytes() == text


def test_a_key_of_another_kind_is_no_key_of_ours(tmp_path: Path) -> None:
    """X25519 looks much the same, and signs nothing."""
    made = subprocess.run(["openssl", "genpkey", "-algorithm", "x25519"], capture_output=True, check=True)
    assert seed_in(made.stdout) is None
