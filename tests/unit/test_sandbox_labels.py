"""A pod of SIG Apps' agent-sandbox, and its Sandbox."""

from __future__ import annotations

import pytest

from exeat.core.sandbox_labels import NAME_HASH, name_hash, sandbox_of
from exeat.model.identity import Pod


@pytest.mark.parametrize(
    ("name", "expected"), [("", "811c9dc5"), ("a", "e40c292c"), ("foobar", "bf9cf968"), ("\0", "050c5d1f")]
)
def test_the_hash_is_fnv_1a(name: str, expected: str) -> None:
    """The values are those of its authors' test vectors."""
    assert name_hash(name) == expected


def test_a_pod_with_its_own_names_hash_is_its_sandboxs() -> None:
    """The controller calls the pod like the Sandbox."""
    assert sandbox_of(Pod("ml", "coder-1", "u", ((NAME_HASH, name_hash("coder-1")),))) == "coder-1"


@pytest.mark.parametrize("labels", [(), ((NAME_HASH, name_hash("coder-2")),), (("app", name_hash("coder-1")),)])
def test_a_pod_without_or_with_anothers_hash_names_no_sandbox(labels: tuple[tuple[str, str], ...]) -> None:
    """Adopted from a warm pool it kept its own name: nothing is guessed."""
    assert sandbox_of(Pod("ml", "coder-1", "u", labels)) == ""
