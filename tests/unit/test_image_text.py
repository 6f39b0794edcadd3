"""Which images a pattern covers."""

import pytest

from exeat.core.image_text import is_image_match, why_no_image

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("python", "python"),
        ("python", "python:3.12"),
        ("python", "docker.io/library/python:3.12"),
        ("docker.io/library/python", "python:latest"),
        ("docker.io/python", "python:3.12"),
        ("index.docker.io/library/python", "python"),
        ("python:latest", "python"),
        ("python:3.*", "python:3.12"),
        ("acme/agent", "docker.io/acme/agent:1"),
        ("ghcr.io/acme/*", "ghcr.io/acme/agent:1"),
        ("*.example.com/agent", "eu.example.com/agent"),
        ("localhost/agent", "localhost/agent:7"),
        ("localhost:5000/agent", "localhost:5000/agent@" + DIGEST),
        ("registry.example.com:5000/a/b/c:1", "registry.example.com:5000/a/b/c:1"),
        ("ghcr.io/acme/agent@" + DIGEST, "ghcr.io/acme/agent@" + DIGEST),
        ("ghcr.io/acme/agent:1@" + DIGEST, "ghcr.io/acme/agent@" + DIGEST),
        ("ghcr.io/acme/agent", "ghcr.io/acme/agent@" + DIGEST),
    ],
)
def test_a_pattern_covers_an_image_however_its_name_is_written(pattern: str, image: str) -> None:
    """Docker leaves out what is usual."""
    assert why_no_image(pattern) is None
    assert is_image_match(pattern, ("something/else:1", image))


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("python", "evil/python"),
        ("python", "ghcr.io/library/python"),
        ("python", "pythonx"),
        ("python:3.12", "python:3.13"),
        ("python:3.12", "python"),
        ("python:latest", "python@" + DIGEST),
        ("ghcr.io/acme/*", "ghcr.io/acme/team/agent"),
        ("ghcr.io/acme/*", "ghcr.io.evil.example/acme/agent"),
        ("ghcr.io/acme/agent@" + DIGEST, "ghcr.io/acme/agent@" + OTHER),
        ("ghcr.io/acme/agent@" + DIGEST, "ghcr.io/acme/agent:1"),
        ("ghcr.io/acme/agent@" + DIGEST, "ghcr.io/evil/agent@" + DIGEST),
        ("*", "acme/agent"),
        ("acme/agent", "localhost/acme/agent"),
        ("*.example.com/agent", "example.com/agent"),
    ],
)
def test_a_pattern_covers_no_other_image(pattern: str, image: str) -> None:
    """Above all nobody else's of the same last name."""
    assert not is_image_match(pattern, (image,))


@pytest.mark.parametrize("image", ["", ":", "@", "/", "//", "a//b", ":5", "a:b:c", "@" + DIGEST, "a@b@c", " ", "\n"])
def test_whatever_a_runtime_calls_an_image_is_looked_at(image: str) -> None:
    """It covers nothing, and breaks nothing."""
    assert not is_image_match("ghcr.io/acme/*", (image,))
    assert not is_image_match("python@" + DIGEST, (image,))


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("ghcr.io/acme/**", "`**` means nothing here"),
        ("python@sha256:abc", "in full"),
        ("python@sha256:*", "in full"),
        ("python@", "in full"),
        ("a b", "is no image"),
        ("", "is no image"),
        ("a//b", "is no image"),
        ("/a", "is no image"),
        ("python:", "is no image"),
        ("https://ghcr.io/acme/agent", "is no image"),
        ("x" * 513, "too long"),
    ],
)
def test_a_pattern_that_means_nothing_is_told(pattern: str, sentence: str) -> None:
    """Before it is in force."""
    why = why_no_image(pattern)
    assert why is not None
    assert sentence in why
