"""What libcrypto signs, `cryptography` and openssl verify: keys and signatures are the ones that everybody knows."""

import subprocess
from pathlib import Path

import pytest

from exeat.audit.keys import PublicKey, SigningKey
from exeat.audit.signing import Signer, Verifier, public_in, seed_in
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


def test_what_openssl_signs_we_verify_and_nothing_else(tmp_path: Path) -> None:
    """With the key that `openssl pkey -pubout` writes."""
    key, public, content = tmp_path / "a.key", tmp_path / "a.pem", tmp_path / "content"
    content.write_bytes(b"content")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    line = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", content]
    signature = subprocess.run(line, capture_output=True, check=True).stdout
    verifier = Verifier.of(public)
    assert verifier.has_signed(b"content", signature)
    assert not verifier.has_signed(b"contenu", signature)
    assert not verifier.has_signed(b"", signature)
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64), bytes([signature[0] ^ 1]) + signature[1:]):
        assert not verifier.has_signed(b"content", wrong)
    seed = seed_in(key.read_bytes())
    assert seed is not None
    assert public_in(public.read_bytes()) == Signer(seed).public
    assert not Verifier(Signer(b"\7" * 32).public).has_signed(b"content", signature)


def test_a_signature_that_counts_beyond_the_groups_order_is_none() -> None:
    """Else one signature could be written in two ways (RFC 8032 5.1.7)."""
    order = 2**252 + 27742317777372353535851937790883648493
    signer = Signer(b"\1" * 32)
    signature = signer.sign(b"content")
    other = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    verifier = Verifier(signer.public)
    assert verifier.has_signed(b"content", signature)
    assert not verifier.has_signed(b"content", other)


@pytest.mark.parametrize("algorithm", ["x25519", "ed448", "rsa", None])
def test_a_public_key_of_another_kind_is_refused(tmp_path: Path, algorithm: str | None) -> None:
    """With what to write instead."""
    path = tmp_path / "a.pem"
    if algorithm:
        made = subprocess.run(["openssl", "genpkey", "-algorithm", algorithm], capture_output=True, check=True)
        shown = subprocess.run(["openssl", "pkey", "-pubout"], input=made.stdout, capture_output=True, check=True)
        path.write_bytes(shown.stdout)
    with pytest.raises(ExeatError, match="no public Ed25519 key" if algorithm else "No such file"):
        Verifier.of(path)
